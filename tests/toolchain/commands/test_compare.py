import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.helpers import classifier, images, parse, save, with_noise
from toolchain.cli import run
from toolchain.model_io import sha256_of


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A classifier, and one with another first weight."""
    other = with_noise(classifier(), "conv_weight")
    return save(classifier(), tmp_path / "a.onnx"), save(other, tmp_path / "b.onnx")


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert run(["compare", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def expected_relative(models: tuple[Path, Path], x: Any) -> float:
    y, z = (onnxruntime.InferenceSession(str(path)).run(None, {"input": x})[0] for path in models)
    return float(np.linalg.norm(z - y) / np.linalg.norm(y))


def test_json_has_the_errors_that_onnxruntime_gives(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, input=images(40))
    result = document(capsys, *models, "--data", data)
    assert result["schema"] == "optc-compare/1"
    assert [model["sha256"] for model in result["models"]] == [sha256_of(path) for path in models]
    assert (result["data"]["path"], result["data"]["samples"]) == (str(data), 40)
    [output] = result["outputs"]
    expected = expected_relative(models, images(40))
    assert output["name"] == "logits"
    assert output["relative_l2"] == pytest.approx(expected, rel=1e-4)
    assert output["sqnr_db"] == pytest.approx(-20 * np.log10(expected), rel=1e-4)
    assert output["samples"] == 40
    assert result["layers"] == []
    assert result["environment"]["threads"] == "1"


def test_a_model_equals_itself(
    models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    [output] = document(capsys, models[0], models[0], "--max-rel", "0")["outputs"]
    assert (output["max_abs"], output["sqnr_db"], output["top1_agreement"]) == (0, None, 1)


def test_text_goes_to_stderr_with_layers_and_outputs(
    models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *map(str, models), "--samples", "8", "--per-layer"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "note: no data given: random inputs, seed 0" in captured.err
    lines = [line.split() for line in captured.err.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["A"], ["B"])] == [
        ["A", str(models[0])],
        ["B", str(models[1])],
    ]
    starts = [line[:2] for line in lines if line]
    assert ["conv", "Conv"] in starts and ["fc", "Gemm"] in starts
    assert captured.err.endswith("8 samples of random; errors are of B against A\n")


def test_layers_are_in_the_json(
    models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    layers = document(capsys, *models, "--per-layer", "--samples", "8")["layers"]
    assert [layer["layer"] for layer in layers] == ["conv", "fc"]
    assert all(layer["fidelity"]["relative_l2"] > 1e-3 for layer in layers)


@pytest.mark.parametrize(("factor", "code"), [(0.99, 5), (1.01, 0)])
def test_an_error_above_the_tolerance_has_exit_code_five(
    models: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    factor: float,
    code: int,
) -> None:
    np.savez(tmp_path / "d.npz", input=images(4))
    limit = factor * expected_relative(models, images(4))
    arguments = [*map(str, models), "--data", str(tmp_path / "d.npz"), "--max-rel", repr(limit)]
    assert run(["compare", *arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out)["outputs"][0]["name"] == "logits"
    assert ("output 'logits': relative L2 error" in captured.err) == (code == 5)


def test_a_model_that_gives_no_numbers_fails_any_tolerance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { z = Abs (x) y = %s (%s) }"
    first = save(parse(text % ("Sqrt", "z")), tmp_path / "a.onnx")
    second = save(parse(text % ("Sqrt", "x")), tmp_path / "b.onnx")
    assert run(["compare", str(first), str(second), "--max-rel", "1e9", "--json"]) == 5
    [output] = json.loads(capsys.readouterr().out)["outputs"]
    assert output["relative_l2"] is output["max_abs"] is None


def test_random_inputs_follow_seed_samples_and_dims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = "g (float[N, S] x) => (float[N, S] y) { y = %s (x) }"
    models = [save(parse(graph % op), tmp_path / f"{op}.onnx") for op in ("Relu", "Identity")]
    common = [*models, "--samples", "5", "--dim", "S=3"]
    first, again, other = (
        document(capsys, *common, "--seed", seed)["outputs"][0] for seed in ("1", "1", "2")
    )
    assert first == again != other
    assert first["samples"] == 5


def test_a_fixed_batch_wins_over_a_dynamic_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = save(classifier(), tmp_path / "free.onnx")
    fixed = save(classifier(batch="4"), tmp_path / "fixed.onnx")
    for pair in ((free, fixed), (fixed, free)):
        result = document(capsys, *pair, "--samples", "8", "--per-layer", "--max-rel", "1e-6")
        assert result["outputs"][0]["samples"] == 8


def test_layers_of_models_with_external_weights_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w", size_threshold=0)
    plain = save(classifier(), tmp_path / "plain.onnx")
    layers = document(capsys, path, plain, "--per-layer", "--samples", "4")["layers"]
    assert [layer["fidelity"]["max_abs"] for layer in layers] == [0, 0]


def other_inputs(tmp_path: Path) -> Path:
    model = parse("g (float[N, 3, 8, 8] image) => (float[N, 3, 8, 8] y) { y = Relu (image) }")
    return save(model, tmp_path / "inputs.onnx")


def other_outputs(tmp_path: Path) -> Path:
    model = classifier()
    model.graph.node[-1].output[0] = model.graph.output[0].name = "scores"
    return save(model, tmp_path / "outputs.onnx")


def more_classes(tmp_path: Path) -> Path:
    return save(classifier(classes=11), tmp_path / "classes.onnx")


def other_type(tmp_path: Path) -> Path:
    model: onnx.ModelProto = parse(
        "g (double[N, 3, 8, 8] input) => (double[N, 3, 8, 8] logits) { logits = Neg (input) }"
    )
    return save(model, tmp_path / "double.onnx")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (other_inputs, "inputs are 'image', those of"),
        (other_outputs, "the second model has no output 'logits' (has: scores)"),
        (more_classes, "'logits' has shape (32, 10) in the first model and (32, 11)"),
        (other_type, "onnxruntime cannot run it"),
        (lambda folder: folder / "none.onnx", "no such file"),
    ],
)
def test_models_that_do_not_fit_together_have_exit_code_three(
    models: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    second: Any,
    message: str,
) -> None:
    assert run(["compare", str(models[0]), str(second(tmp_path)), "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_data_that_does_not_fit_has_exit_code_three(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "d.npz", image=images(2))
    assert run(["compare", *map(str, models), "--data", str(tmp_path / "d.npz")]) == 3
    assert "no array named 'input'" in capsys.readouterr().err
