"""The sample model with the sample data, all the way: what `make demo` promises."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.cleanup import prepare
from passes.cost import model_cost
from samples.benchmarks.penni_accuracy import needed_bytes
from samples.make_data import unpack_samples
from toolchain import cli

SAMPLES = Path(__file__).parents[2] / "samples"
MODEL = SAMPLES / "models" / "resnet20_cifar10.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    list(unpack_samples(SAMPLES / "data", out))
    return out


def run(capsys, *arguments: object) -> dict:
    assert cli.run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_three_tenths_of_the_parameters_keep_the_accuracy(folder, capsys) -> None:
    small = folder / "small.onnx"
    options = ["--pass", "penni:params=0.3", "--calib", folder / "calib.npz", "-o", small]
    result = run(capsys, "transform", MODEL, *options)
    before, after = result["input"], result["output"]
    assert after["parameters"] <= 0.3 * before["parameters"]
    assert after["macs"] < before["macs"]
    assert after["nbytes"] <= 1.1 * needed_bytes(small)
    assert after["nbytes"] < 0.36 * before["nbytes"]
    score = run(capsys, "eval", small, "--data", folder / "eval.npz", "--baseline", MODEL)
    assert score["drop_points"] <= 1.5  # one image is 0.1; the full test set shows 0.5


@pytest.mark.parametrize(("form", "macs"), [("penni", 0.42), ("pairs", 0.49)])
def test_trained_models_keep_the_accuracy_and_lack_what_they_say(
    form, macs, folder, capsys
) -> None:
    trained = MODEL.with_name(f"resnet20_cifar10_{form}.onnx")
    before, after = (model_cost(prepare(ir.load(path))) for path in (MODEL, trained))
    assert after.parameters <= 0.25 * before.parameters
    assert after.macs <= macs * before.macs
    assert trained.stat().st_size <= 1.1 * needed_bytes(trained)
    score = run(capsys, "eval", trained, "--data", folder / "eval.npz", "--baseline", MODEL)
    assert score["drop_points"] <= 1.0  # the full test set shows 0.3 and 0.8


def test_the_trained_pairs_keep_the_accuracy_in_8_bits(folder, capsys) -> None:
    pairs, fast = MODEL.with_name("resnet20_cifar10_pairs.onnx"), folder / "escalate.onnx"
    options = ["--pass", "escalate", "--calib", folder / "calib.npz", "-o", fast]
    result = run(capsys, "transform", pairs, *options)
    assert 9 * result["output"]["nbytes"] < MODEL.stat().st_size
    score = run(capsys, "eval", fast, "--data", folder / "eval.npz", "--baseline", pairs)
    assert score["drop_points"] <= 0.5  # the full test set shows 0.1


def test_a_run_without_data_is_honest_about_it(folder, capsys) -> None:
    small = folder / "blind.onnx"
    result = run(capsys, "transform", MODEL, "--pass", "penni", "-o", small)
    assert result["calibration"] is None
    assert "no calibration data" in result["plans"][0]["notes"][0]
    score = run(capsys, "eval", small, "--data", folder / "eval.npz", "--baseline", MODEL)
    assert score["drop_points"] <= 1.5


@pytest.mark.slow
def test_errors_of_svd_are_predicted_within_two_per_cent(folder, capsys) -> None:
    options = ["--pass", "svd:rank=8,refit=false", "--calib", folder / "calib.npz"]
    result = run(capsys, "transform", MODEL, *options, "-o", folder / "svd.onnx")
    applied = [layer for layer in result["plans"][0]["layers"] if layer["action"] == "apply"]
    assert len(applied) > 10
    for layer in applied:  # drawn anew, and from the maps that onnxruntime computes
        assert layer["measured_error"] == pytest.approx(layer["predicted_error"], rel=0.02)


@pytest.mark.slow
def test_two_thirds_of_the_macs_keep_the_accuracy(folder, capsys) -> None:
    small = folder / "svd.onnx"
    options = ["--pass", "svd:macs=0.667,multiple=1", "--calib", folder / "calib.npz", "-o", small]
    result = run(capsys, "transform", MODEL, *options)
    assert result["output"]["macs"] <= 0.667 * result["input"]["macs"]
    score = run(capsys, "eval", small, "--data", folder / "eval.npz", "--baseline", MODEL)
    assert score["drop_points"] <= 1.0  # the full test set shows 0.1


def test_a_budget_knows_what_large_errors_do(folder, capsys) -> None:
    """Of the last block a small error does nothing, and a large one loses 36 points."""
    small = folder / "channel.onnx"
    images = np.load(folder / "calib.npz")["input"][:128]
    np.savez(folder / "few.npz", input=images)
    options = ["--pass", "svd:macs=0.55,form=channel,multiple=1", "--calib", folder / "few.npz"]
    run(capsys, "transform", MODEL, *options, "-o", small)
    score = run(capsys, "eval", small, "--data", folder / "eval.npz", "--baseline", MODEL)
    assert score["drop_points"] <= 5  # the full test set shows 3.4


@pytest.mark.slow
def test_fitting_what_remains_makes_up_for_removed_channels(folder, capsys) -> None:
    scores = {}
    for repair in ("true", "false"):
        small = folder / "tprune.onnx"
        options = ["--pass", f"tprune:params=0.7,repair={repair}", "--calib", folder / "calib.npz"]
        result = run(capsys, "transform", MODEL, *options, "-o", small)
        assert result["output"]["parameters"] <= 0.7 * result["input"]["parameters"]
        score = run(capsys, "eval", small, "--data", folder / "eval.npz", "--baseline", MODEL)
        scores[repair] = score["drop_points"]
    assert scores["true"] <= 5 < 30 <= scores["false"]
