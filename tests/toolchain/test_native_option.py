"""The option --native of the commands that run models."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.helpers import classifier, images, save
from tests.runtimes.native.layers import library, random_layer
from toolchain import cli


@pytest.fixture
def decomposed(tmp_path: Path) -> Path:
    """A model with one optc node: input x, output y."""
    model = random_layer(0, shape=(6, 4, 3)).model()
    for value in model.graph.input:
        value.type.tensor_type.shape.CopyFrom(
            onnx.helper.make_tensor_type_proto(1, ["N", 4, 8, 8]).tensor_type.shape
        )
    for value in model.graph.output:
        value.type.tensor_type.shape.CopyFrom(
            onnx.helper.make_tensor_type_proto(1, ["N", 6, 8, 8]).tensor_type.shape
        )
    return save(model, tmp_path / "decomposed.onnx")


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("OPTC_CACHE", str(tmp_path / "cache"))


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    assert cli.run([*map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


BENCH = ("--rounds", "2")


def test_bench_uses_and_states_the_native_kernels(
    decomposed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library()
    assert str(run_json(capsys, "bench", decomposed, *BENCH)["optc_operators"]).startswith(
        "native kernels ("
    )
    assert cli.run(["bench", str(decomposed), *BENCH]) == 0
    assert "optc operators run as native kernels" in capsys.readouterr().err


def test_no_native_uses_the_standard_operators(
    decomposed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = run_json(capsys, "bench", decomposed, *BENCH, "--no-native")
    assert document["optc_operators"] == "standard ONNX operators"


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_one_line_says_so(
    decomposed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", str(decomposed), *BENCH]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("no C++ compiler" in line for line in lines) == 1
    assert lines[-1] == "optc operators run as standard ONNX operators"


@pytest.mark.usefixtures("no_compiler")
def test_model_without_optc_operators_needs_no_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(classifier(), tmp_path / "model.onnx")
    data = tmp_path / "data.npz"
    np.savez(data, input=images(4), labels=np.zeros(4, np.int64))
    assert run_json(capsys, "bench", path, *BENCH)["optc_operators"] is None
    assert cli.run(["compare", str(path), str(path)]) == 0
    assert cli.run(["eval", str(path), "--data", str(data)]) == 0
    assert "compiler" not in capsys.readouterr().err


def test_compare_runs_both_models_with_the_native_kernels(
    decomposed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library()
    monkeypatch.setenv("OPTC_ISA", "abacus")  # the native kernel refuses to start
    assert cli.run(["compare", str(decomposed), str(decomposed)]) == 3
    assert "OPTC_ISA" in capsys.readouterr().err
    assert cli.run(["compare", str(decomposed), str(decomposed), "--no-native"]) == 0
