"""What is measured of tiny models; how long it takes is never looked at."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import toolchain.bench
from tests.helpers import classifier, parse, save
from toolchain.bench import (
    BenchConfig,
    Candidate,
    aggregate_profile,
    bench,
    feeds_of,
    measure,
    probe,
    profile,
)
from toolchain.commands.options import open_model
from toolchain.errors import UnreadableError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.bench, "TURN_SECONDS", 0.0001)


def candidate(model: onnx.ModelProto, path: Path) -> Candidate:
    opened = open_model(save(model, path))
    return Candidate(path=path, inputs=opened.inputs, nbytes=opened.summary.nbytes)


def test_models_are_measured_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.bench, "probe", lambda *_: (10, 0.5))
    candidates = [candidate(classifier(seed), tmp_path / f"{seed}.onnx") for seed in (0, 1)]
    done: list[tuple[int, int]] = []
    first, second = bench(
        candidates,
        BenchConfig(rounds=7, warmup=0.001),
        lambda index, total, _what: done.append((index, total)),
    )
    assert done == [(index, 7) for index in range(1, 8)]
    assert [first.path, second.path] == [str(each.path) for each in candidates]
    for result, own in zip((first, second), candidates, strict=True):
        assert result.nbytes == own.path.stat().st_size
        assert result.latency.runs % 7 == 0
        assert 0 < result.latency.p10 <= result.latency.median <= result.latency.p90
        assert (result.peak_bytes, result.create_seconds) == (10, 0.5)
    assert (first.speedup.ratio, first.speedup.low, first.speedup.high) == (1, 1, 1)
    assert second.speedup.ratio == first.latency.median / second.latency.median


@pytest.mark.parametrize(("threads", "slept"), [(1, 0), (2, 2 * 4), (0, 2 * 4)])
def test_a_turn_on_several_threads_begins_once_those_before_sleep(
    threads: int, slept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake = 0.0  # seconds of processor time that another thread still takes
    used = 0.0
    sleeps = 0

    def sleep(seconds: float) -> None:
        nonlocal awake, used, sleeps
        sleeps += 1
        used += min(awake, seconds)
        awake = max(0.0, awake - seconds)

    def run(_feeds: object) -> None:
        nonlocal awake
        awake = 3 * toolchain.bench.REST_SECONDS

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "process_time", lambda: used)
    config = BenchConfig(threads=threads, rounds=2, warmup=0.001)
    measure([run], [{}], config, lambda *_: None)
    assert sleeps == slept


def test_the_time_limit_leaves_at_least_five_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain.bench, "probe", lambda *_: (10, 0.5))
    rounds: list[int] = []
    bench(
        [candidate(classifier(), tmp_path / "m.onnx")],
        BenchConfig(rounds=1000, seconds=0, warmup=0.001),
        lambda index, _total, _what: rounds.append(index),
    )
    assert rounds == [1, 2, 3, 4, 5]


def test_feeds_are_equal_for_equal_inputs_and_follow_batch_and_dims(tmp_path: Path) -> None:
    model = parse("g (float[N, 3, H, 8] x) => (float[N, 3, H, 8] y) { y = Relu (x) }")
    one, two = (candidate(model, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    config = BenchConfig(batch=4, dims={"H": 5})
    assert feeds_of(one, config)["x"].shape == (4, 3, 5, 8)
    np.testing.assert_array_equal(feeds_of(one, config)["x"], feeds_of(two, config)["x"])
    fixed = candidate(classifier(batch="2"), tmp_path / "c.onnx")
    assert feeds_of(fixed, config)["input"].shape == (2, 3, 8, 8)


def test_memory_of_a_model_holds_at_least_its_large_activations(tmp_path: Path) -> None:
    # 32 MiB in and as much out; the interpreter alone does not need it after the start.
    model = parse("g (float[N, 8388608] x) => (float[N, 8388608] y) { y = Neg (x) }")
    large = candidate(model, tmp_path / "m.onnx")
    peak_bytes, create_seconds = probe(large, {"x": np.ones((1, 8388608), np.float32)}, 1)
    assert 2**25 <= peak_bytes < 2**29
    assert create_seconds > 0


def test_a_failing_probe_is_one_line_with_the_reason(tmp_path: Path) -> None:
    one = candidate(classifier(), tmp_path / "m.onnx")
    with pytest.raises(
        UnreadableError, match=r"m\.onnx: measuring its memory failed: .*invalid dim"
    ):
        probe(one, {"input": np.ones((1, 3, 5, 5), np.float32)}, 1)


def test_profile_has_the_operators_that_ran(tmp_path: Path) -> None:
    ops = profile(candidate(classifier(), tmp_path / "m.onnx"), BenchConfig())
    nodes = {op.op_type: op.nodes for op in ops}
    assert nodes.get("Gemm", nodes.get("FusedGemm")) == 1
    assert any("Conv" in name for name in nodes)
    assert sum(op.share for op in ops) == pytest.approx(1)
    assert [op.share for op in ops] == sorted((op.share for op in ops), reverse=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def kernel(name: str, op: str, microseconds: float) -> dict[str, Any]:
    return {"name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": op}}


def test_profile_sums_kernel_times_only() -> None:
    events = [
        {"name": "session_initialization", "dur": 9999},
        {"name": "c1_fence_before", "dur": 9999, "args": {"op_name": "Conv"}},
        {"name": "model_run", "dur": 9999, "args": {}},
        kernel("c1", "Conv", 3000),
        kernel("r", "Relu", 4000),
        kernel("c2", "Conv", 5000),
        kernel("c1", "Conv", 3000),
        kernel("c2", "Conv", 5000),
    ]
    conv, relu = aggregate_profile(events, 2)
    assert (conv.op_type, conv.nodes, conv.milliseconds, conv.share) == ("Conv", 2, 8, 0.8)
    assert (relu.op_type, relu.nodes, relu.milliseconds, relu.share) == ("Relu", 1, 2, 0.2)


def test_profile_without_kernels_is_empty() -> None:
    assert aggregate_profile([{"name": "model_run", "dur": 1}], 1) == []
