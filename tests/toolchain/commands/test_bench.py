"""The command around the measurements; how long anything takes is never looked at."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolchain.bench
import toolchain.commands.bench
from tests.helpers import classifier, save
from toolchain.bench import BenchConfig, BenchResult, Candidate
from toolchain.bench_statistics import Speedup, latency, speedup
from toolchain.cli import run
from toolchain.commands.bench import check_gates
from toolchain.errors import GateError


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """Two classifiers, the second with the larger file."""
    first = save(classifier(), tmp_path / "a.onnx")
    return str(first), str(save(classifier(classes=1000), tmp_path / "b.onnx"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.bench, "TURN_SECONDS", 0.0001)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up times: 6 ms a run of the first model, 4 ms of the others."""

    def fake(
        candidates: Sequence[Candidate], config: BenchConfig, _progress: object
    ) -> list[BenchResult]:
        times = [np.full((config.rounds, 2), 6.0 if not i else 4.0) for i in range(len(candidates))]
        return [
            BenchResult(
                path=str(candidate.path),
                latency=latency(own),
                speedup=speedup(times[0], own, config.seed),
                peak_bytes=3_000_000,
                create_seconds=0.25,
                nbytes=candidate.nbytes,
            )
            for candidate, own in zip(candidates, times, strict=True)
        ]

    monkeypatch.setattr(toolchain.commands.bench, "bench", fake)


@pytest.mark.usefixtures("quick")
def test_json_of_a_real_measurement(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *models, "--rounds", "5", "--batch", "2", "--profile", "--json"]) == 0
    captured = capsys.readouterr()
    result: Any = json.loads(captured.out)
    assert "bench 5/5 rounds" in captured.err
    assert result["schema"] == "optc-bench/1"
    assert result["config"] == {
        "threads": 1,
        "batch": 2,
        "rounds": 5,
        "warmup": 0.3,
        "seconds": None,
        "seed": 0,
        "dims": {},
    }
    first, second = result["models"]
    assert [first["path"], second["path"]] == list(models)
    assert (first["speedup"], first["speedup_95"]) == (1, [1, 1])
    low, high = second["speedup_95"]
    assert low <= second["speedup"] <= high
    for each in (first, second):
        assert 0 < each["p10_ms"] <= each["median_ms"] <= each["p90_ms"]
        assert each["runs"] % 5 == 0
        assert each["peak_bytes"] > 0
        assert sum(op["share"] for op in each["profile"]) == pytest.approx(1)
    assert result["environment"]["threads"] == "1"


@pytest.mark.usefixtures("measured")
def test_text_goes_to_stderr_with_ratios_against_the_first(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *models, "--rounds", "3", "--threads", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    size = Path(models[1]).stat().st_size / 1000
    first, second = (line.split() for line in lines[1:3])
    assert first[:7] == [models[0], "6.00", "6.00", "6.00", "0.0000", "1", "–"]
    assert second[:9] == [models[1], *["4.00"] * 3, "0.0000", "1.50×", "1.50", "to", "1.50"]
    assert second[9:] == [f"{size:.1f}", "kB", "3.00", "MB", "250"]
    assert "threads 2, batch 1; 6 timed runs of the first model" in lines[-1]


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("gate", "limit", "code", "message"),
    [
        ("--min-speedup", "1.6", 6, "is 1.50× as fast, --min-speedup is 1.6"),
        ("--min-speedup", "1.5", 0, ""),
        ("--max-size", "1", 6, "of the size, --max-size is 1"),
        ("--max-size", "100", 0, ""),
    ],
)
def test_a_missed_gate_has_exit_code_six_and_still_shows_the_numbers(
    models: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    gate: str,
    limit: str,
    code: int,
    message: str,
) -> None:
    assert run(["bench", *models, gate, limit, "--json"]) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out)["models"][1]["speedup"] == 1.5
    assert message in captured.err
    assert (models[1] in captured.err) == (code == 6)


@pytest.mark.usefixtures("measured")
def test_the_last_model_is_the_one_that_gates_look_at(models: tuple[str, str]) -> None:
    assert run(["bench", *models, models[0], "--max-size", "1"]) == 0


@pytest.mark.parametrize("gate", ["--min-speedup", "--max-size"])
def test_gates_need_a_model_to_compare_with(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str], gate: str
) -> None:
    assert run(["bench", models[0], gate, "1"]) == 2
    assert "compare the last model with the first" in capsys.readouterr().err


@pytest.mark.parametrize("gate", ["--min-speedup", "--max-size"])
@pytest.mark.parametrize("limit", ["nan", "inf", "-1"])
def test_limits_are_finite_and_not_negative(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str], gate: str, limit: str
) -> None:
    assert run(["bench", *models, gate, limit]) == 2
    assert gate in capsys.readouterr().err


def test_a_time_that_is_not_known_misses_a_gate() -> None:
    times = latency(np.full((3, 2), 4.0))
    unknown = BenchResult(
        path="m.onnx",
        latency=times,
        speedup=Speedup(ratio=math.nan, low=math.nan, high=math.nan),
        peak_bytes=1,
        create_seconds=0.25,
        nbytes=1,
    )
    with pytest.raises(GateError, match="--min-speedup is 1"):
        check_gates([unknown, unknown], 1, None)


def test_a_missing_model_has_exit_code_three_before_anything_is_timed(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", models[0], "none.onnx", "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "optc: error: none.onnx: no such file\n"
