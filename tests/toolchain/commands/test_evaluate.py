import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.helpers import images, parse, save, with_noise
from toolchain.cli import run

SAMPLES = 50


def linear(batch: str = "N") -> onnx.ModelProto:
    """Scores that are random sums of pixels, so that random images fall into all classes."""
    return parse(
        f"""net (float[{batch}, 3, 8, 8] input) => (float[{batch}, 10] logits) {{
            flat = Flatten (input)
            logits = MatMul (flat, weight)
        }}""",
        {"weight": np.random.default_rng(0).standard_normal((192, 10)).astype(np.float32)},
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(linear(), tmp_path / "m.onnx")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A worse one."""
    return save(with_noise(linear(), "weight", 0.5), tmp_path / "other.onnx")


@pytest.fixture
def data(model: Path, tmp_path: Path) -> Path:
    """Images with the classes that `model` sees in them, save for the first ten."""
    x = images(SAMPLES)
    labels = logits(model, x).argmax(-1)
    labels[:10] = (labels[:10] + 1) % 10
    np.savez(tmp_path / "d.npz", input=x, labels=labels)
    return tmp_path / "d.npz"


def logits(path: Path, x: Any) -> Any:
    return onnxruntime.InferenceSession(str(path)).run(None, {"input": x})[0]


def right(path: Path, data: Path) -> int:
    arrays = np.load(data)
    return int(np.sum(logits(path, arrays["input"]).argmax(-1) == arrays["labels"]))


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert run(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_share_that_onnxruntime_gets_right(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = document(capsys, model, "--data", data)
    assert result["schema"] == "optc-eval/1"
    assert (result["samples"], result["correct"], result["top1"]) == (50, 40, 0.8)
    assert 0.8 <= result["top5"] <= 1
    assert (result["output"], result["baseline"], result["drop_points"]) == ("logits", None, None)
    assert (result["data"]["path"], result["data"]["samples"]) == (str(data), 50)
    assert result["model"]["path"] == str(model)


def test_the_drop_is_in_percentage_points(
    model: Path, other: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = document(capsys, other, "--data", data, "--baseline", model)
    correct = right(other, data)
    assert 0 < correct < 40
    assert (result["correct"], result["baseline"]["correct"]) == (correct, 40)
    assert result["drop_points"] == pytest.approx(100 * (40 - correct) / SAMPLES)


@pytest.mark.parametrize("above", [False, True])
def test_a_drop_above_the_gate_has_exit_code_six(
    model: Path, other: Path, data: Path, capsys: pytest.CaptureFixture[str], above: bool
) -> None:
    drop = 100 * (40 - right(other, data)) / SAMPLES
    gate = drop - 0.01 if above else drop
    arguments = ["--data", str(data), "--baseline", str(model), "--max-drop", repr(gate)]
    assert run(["eval", str(other), *arguments, "--json"]) == (6 if above else 0)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["drop_points"] == pytest.approx(drop)
    assert ("points below the baseline's, --max-drop allows" in captured.err) == above


@pytest.mark.parametrize("swapped", [False, True])
def test_text_goes_to_stderr_and_says_which_is_better(
    model: Path, other: Path, data: Path, capsys: pytest.CaptureFixture[str], swapped: bool
) -> None:
    pair = (model, other) if swapped else (other, model)
    assert run(["eval", str(pair[0]), "--data", str(data), "--baseline", str(pair[1])]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    points = 100 * (40 - right(other, data)) / SAMPLES
    side = "above" if swapped else "below"
    assert lines[-1] == f"top-1 is {points:.2f} points {side} the baseline's"
    assert any(line.startswith(f"{pair[1]} (baseline)") for line in lines)
    assert any("80.00 %" in line and line.endswith("40 of 50") for line in lines)


def test_equal_models_are_called_equal(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(model), "--data", str(data), "--baseline", str(model)]) == 0
    assert capsys.readouterr().err.endswith("top-1 equals the baseline's\n")


def test_samples_limit_what_is_scored(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = document(capsys, model, "--data", data, "--samples", "12")
    assert (result["samples"], result["correct"]) == (12, 2)
    assert result["data"]["samples"] == 12


def test_a_gate_without_baseline_is_wrong_usage(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(model), "--data", str(data), "--max-drop", "1"]) == 2
    assert "give it with --baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"input": images(2)}, [], "no array named 'labels'"),
        ({"input": images(2), "labels": [0, 10]}, [], "'labels' go from 0 to 10"),
        ({"input": images(2), "labels": [0, 1]}, ["--output", "x"], "no output named 'x'"),
        ({"inputs": images(2), "labels": [0, 1]}, [], "no array named 'input'"),
    ],
)
def test_data_that_does_not_fit_has_exit_code_three(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arrays: dict[str, Any],
    arguments: list[str],
    message: str,
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    assert run(["eval", str(model), "--data", str(tmp_path / "bad.npz"), *arguments]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_a_fixed_batch_leaves_out_the_rest_and_says_so(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = save(linear(batch="8"), tmp_path / "fixed.onnx")
    assert run(["eval", str(fixed), "--data", str(data), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["samples"] == 48
    assert "fixed to batches of 8: 2 samples left out" in captured.err
