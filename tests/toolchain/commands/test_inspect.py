import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from runtimes.operators.decomposed_conv import DecomposedWeights
from tests.helpers import classifier, parse, save
from tests.passes.channel_models import Net, random_factors
from toolchain.cli import run
from toolchain.model_io import save_model, sha256_of


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert run(["inspect", *map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_text_goes_to_stderr_and_shows_interface_costs_and_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    assert run(["inspect", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line.split() for line in captured.err.splitlines()]
    assert lines[0] == [str(path)]
    assert ["input", "input:", "float32", "(N,", "3,", "8,", "8)"] in lines
    assert ["output", "logits:", "float32", "(N,", "10)"] in lines
    assert ["parameters", "158", "nonzero"] in lines
    assert ["opset", "onnx", "13", "(IR", "8)"] in lines
    conv, fc = lines[-2:]
    assert " ".join(conv) == "conv Conv 4×3×3×3 1×4×8×8 108 432 B 6.91 k 99.4 %"
    assert " ".join(fc) == "fc Gemm 10×4 1×10 40 200 B 40 0.6 %"


def test_json_has_everything_the_text_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    result = document(capsys, path)
    macs = 64 * 4 * 27
    assert result == {
        "schema": "optc-inspect/1",
        "model": {
            "path": str(path),
            "sha256": sha256_of(path),
            "nbytes": path.stat().st_size,
            "parameters": 158,
            "macs": macs + 40,
        },
        "ir_version": 8,
        "opsets": {"": 13},
        "inputs": [{"name": "input", "dtype": "float32", "shape": ["N", 3, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["N", 10]}],
        "operators": {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
        "layers": [
            {
                "name": "conv",
                "op_type": "Conv",
                "weight": [4, 3, 3, 3],
                "output": [1, 4, 8, 8],
                "cost": {"parameters": 108, "macs": macs, "nbytes": 432},
            },
            {
                "name": "fc",
                "op_type": "Gemm",
                "weight": [10, 4],
                "output": [1, 10],
                "cost": {"parameters": 40, "macs": 40, "nbytes": 200},
            },
        ],
    }


def test_unknown_sizes_are_dashes_and_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = parse(
        "g (float[N, 3, H, W] x) => (float[N, 2, H, W] y) { [c] y = Conv (x, w) }",
        {"w": np.ones((2, 3, 1, 1), np.float32)},
    )
    path = save(model, tmp_path / "m.onnx")
    result = document(capsys, path)
    assert result["model"]["macs"] is result["layers"][0]["cost"]["macs"] is None
    assert result["layers"][0]["output"] == [1, 2, "H", "W"]
    assert run(["inspect", str(path)]) == 0
    last = capsys.readouterr().err.splitlines()[-1].split()
    assert " ".join(last) == "c Conv 2×3×1×1 1×2×H×W 6 24 B – –"


def test_quantised_layers_show_their_weight_not_a_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = parse(
        """g (uint8[N, 3, 8, 8] x) => (uint8[N, 5] y) {
            [conv] a = QLinearConv (x, s, z, w, s, zw, s, z)
            [flat] b = Flatten (a)
            [fc] y = QLinearMatMul (b, s, z, v, s, zw, s, z)
        }""",
        {
            "s": np.float32(0.1),
            "z": np.uint8(3),
            "w": np.ones((2, 3, 8, 8), np.int8),
            "zw": np.int8(0),
            "v": np.ones((2, 5), np.int8),
        },
    )
    result = document(capsys, save(model, tmp_path / "m.onnx"))
    assert [layer["weight"] for layer in result["layers"]] == [[2, 3, 8, 8], [2, 5]]


def test_operators_of_the_domain_are_named_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    basis, coefficients, bias = random_factors(net, 4, 4)
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    path = tmp_path / "m.onnx"
    save_model(net.model(net.decomposed(net.input("N", 4, 8, 8), weights, "layer")), path)
    result = document(capsys, path)
    assert result["operators"] == {"optc::DecomposedConv": 1}
    assert result["opsets"] == {"": 18, "optc": 1, "optc.portable": 1}
    [layer] = result["layers"]
    assert layer["cost"]["parameters"] == basis.size + coefficients.size


def test_a_model_without_layers_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(parse("g (float[N] x) => (float[N] y) { y = Neg (x) }"), tmp_path / "m.onnx")
    assert document(capsys, path)["layers"] == []
    assert run(["inspect", str(path)]) == 0
    assert "Neg 1" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_unreadable_models_have_exit_code_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    assert run(["inspect", str(path), "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"optc: error: {path}: ")


def test_external_weights_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w", size_threshold=0)
    expected = path.stat().st_size + (tmp_path / "w").stat().st_size
    assert document(capsys, path)["model"]["nbytes"] == expected


def test_groups_name_what_goes_together_and_what_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    assert run(["inspect", str(path), "--groups", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [(group["size"], group["frozen"]) for group in groups] == [
        (4, None),
        (3, "graph input"),
        (10, "graph output"),
    ]
    assert groups[0] == {
        "name": "conv_weight",
        "kind": "channels",
        "size": 4,
        "members": [
            {"initializer": "conv_weight", "axis": 0, "lines": 1},
            {"initializer": "fc_weight", "axis": 1, "lines": 1},
        ],
        "frozen": None,
    }
    assert run(["inspect", str(path), "--groups"]) == 0
    text = capsys.readouterr().err
    assert "conv_weight[1] fc_weight[:,1]" in text
    assert "1 of 3 groups can be pruned" in text
