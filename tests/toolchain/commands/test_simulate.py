import csv
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from runtimes.accelerator.network import run_network
from runtimes.operators.decomposed_conv import DecomposedWeights
from tests.helpers import classifier, images, parse, save
from tests.passes.channel_models import Net, random_factors
from tests.passes.contract_models import Builder
from toolchain.cli import run

SAMPLE = Path("samples/models/resnet20_cifar10.onnx")


def test_a_model_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    assert run(["simulate", str(path), "--arch", "escalate", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["schema"] == "optc-simulate/1"
    assert document["functional_error"] < 1e-6
    [result] = document["architectures"]
    assert [layer["layer"] for layer in result["layers"]] == ["conv", "fc"]
    [pool] = document["host"]
    assert (pool["op_type"], pool["reason"]) == ("GlobalAveragePool", "no unit for this operator")
    assert result["host_cycles"] == -(-pool["elements"] // 16)
    assert "no data given: random inputs, seed 0" in captured.err


def test_all_machines_write_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = save(classifier(), tmp_path / "m.onnx"), tmp_path / "out"
    np.savez(tmp_path / "data.npz", input=images(3))
    data = str(tmp_path / "data.npz")
    arguments = ["simulate", str(path), "--arch", "all", "--input", data, "--out", str(out)]
    assert run(arguments) == 0
    assert "relative error" in capsys.readouterr().err
    folders = sorted(folder.name for folder in out.iterdir() if folder.is_dir())
    assert folders == ["dense-is", "dense-os", "dense-ws", "escalate", "scnn", "sparten"]
    for folder in folders:
        manifest = json.loads((out / folder / "manifest.json").read_text())
        assert manifest["array_height"] * manifest["array_width"] == 1024
        assert manifest["clock_hz"] == 1e9
        for name in manifest["files"]:
            assert (out / folder / name).stat().st_size
        with (out / folder / "layers.csv").open() as file:
            assert [row["layer"] for row in csv.DictReader(file)] == ["conv", "fc"]


def test_the_report_compares_architectures_and_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = save(classifier(), tmp_path / "m.onnx"), tmp_path / "out"
    command = ["simulate", str(path), "--arch", "all", "--out", str(out), "--ablate", "--json"]
    assert run(command) == 0
    document = json.loads(capsys.readouterr().out)
    changes = [each["change"] for each in document["ablations"]]
    expected = ["basis first", "no concentration", "dense inputs", "dense weights"]
    assert changes == [*expected, "no balancing"]
    page = (out / "report.html").read_text()
    assert all(name in page for name in changes)
    assert page.count("17.9×") == 3 and page.count("3.77×") == 2
    assert "Area at 45 nm: SRAM: CACTI 7.0" in page and "Not counted: " in page
    for each in document["architectures"]:
        row = page[page.index(f'<th scope="row">{each["name"]}</th>') :].split("</tr>")[0]
        assert f"{each['cycles']:,}" in row and f"{sum(each['area_mm2'].values()):.2f}" in row


def test_traces_of_every_layer_are_written_on_request(tmp_path: Path) -> None:
    path, out = save(classifier(), tmp_path / "m.onnx"), tmp_path / "out"
    command = ["simulate", str(path), "--arch", "dense-ws", "--out", str(out)]
    assert run([*command, "--layer-traces"]) == 0
    files = json.loads((out / "manifest.json").read_text())["files"]
    traces = sorted(str(each.relative_to(out)) for each in out.glob("layer*/*"))
    assert len(traces) == 12 and traces == sorted(name for name in files if "/" in name)


def test_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    for name in ("a", "b"):
        assert run(["simulate", str(path), "--out", str(tmp_path / name)]) == 0
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--arch", "escalte"], 2, "did you mean 'escalate'?"),
        (["--arch-file", "missing.yaml"], 3, "missing.yaml: No such file"),
        (["--input", "missing.npz"], 3, "missing.npz"),
        (["--layer-traces"], 2, "--layer-traces needs --out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    assert run(["simulate", str(path), *arguments]) == code
    captured = capsys.readouterr().err.strip().splitlines()
    assert captured[-1].startswith("optc: error: ") and message in captured[-1]


@pytest.mark.parametrize("name", ["report.html", "manifest.json"])
def test_a_folder_in_the_place_of_an_output_is_found_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, out = save(classifier(), tmp_path / "m.onnx"), tmp_path / "out"
    (out / name).mkdir(parents=True)
    assert run(["simulate", str(path), "--out", str(out)]) == 2
    assert f"cannot write {out / name}: it is a folder" in capsys.readouterr().err
    assert list(out.iterdir()) == [out / name]


def test_an_architecture_file_takes_the_place_of_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = Path("runtimes/accelerator/architectures/dense-ws.yaml")
    data = yaml.safe_load(shipped.read_text())
    data["name"], data["array"]["height"] = "mine", 8
    own = tmp_path / "mine.yaml"
    own.write_text(yaml.safe_dump(data))
    path = save(classifier(), tmp_path / "m.onnx")
    assert run(["simulate", str(path), "--arch-file", str(own), "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)["architectures"]
    assert (result["name"], result["parameters"]["array.height"]["value"]) == ("mine", 8)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("dram", "bytes_per_second", 0, "dram.bytes_per_second is 0, expected a positive number"),
        ("array", "heigth", 8, "array: unknown key 'heigth', did you mean 'height'?"),
        ("buffers", "weight_bytes", 64, "buffers.weight_bytes is too small: half of it, 32 bytes,"),
    ],
)
def test_bad_architecture_files_are_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    key: str,
    value: int,
    message: str,
) -> None:
    data = yaml.safe_load(Path("runtimes/accelerator/architectures/dense-ws.yaml").read_text())
    data[part][key] = value
    own, path = tmp_path / "own.yaml", save(classifier(), tmp_path / "m.onnx")
    own.write_text(yaml.safe_dump(data))
    command = ["simulate", str(path), "--arch-file", str(own), "--out", str(tmp_path / "out")]
    assert run(command) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"optc: error: {own}: ") and message in line
    assert not (tmp_path / "out").exists()


def test_several_samples_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(classifier(batch="4"), tmp_path / "m.onnx")
    assert run(["simulate", str(path)]) == 3
    assert "a batch of 4 samples" in capsys.readouterr().err


def test_products_groups_and_one_axis_equal_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    model = parse(
        """g (float[1, 6, 9] x) => (float[1, 2, 4, 4] y) {
            [conv] a = Conv <pads = [1, 0], strides = [2], group = 2, auto_pad = "NOTSET"> (x, w)
            [relu] b = Relu (a)
            [reshape] c = Reshape (b, shape)
            [transpose] d = Transpose <perm = [0, 1, 3, 2]> (c)
            [scores] y = MatMul (c, d)
        }""",
        {
            "w": rng.standard_normal((8, 3, 3)).astype(np.float32),
            "shape": np.array([1, 2, 4, 4], np.int64),
        },
    )
    path = save(model, tmp_path / "m.onnx")
    assert run(["simulate", str(path), "--arch", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["functional_error"] < 1e-6


def test_an_add_that_broadcasts_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = parse(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            [mean] m = GlobalAveragePool (x)
            [small] a = Conv (m, w)
            [large] b = Conv (x, w)
            [add] y = Add (a, b)
        }""",
        {"w": np.ones((2, 2, 1, 1), np.float32)},
    )
    path = save(model, tmp_path / "m.onnx")
    assert run(["simulate", str(path), "--arch", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["functional_error"] < 1e-6


def vgg16(path: Path) -> Path:
    """VGG-16 for CIFAR-10 with random weights and an eighth of the channels."""
    builder = Builder()
    x, C = "x", 3
    for width in (8, 8, 0, 16, 16, 0, 32, 32, 32, 0, 64, 64, 64, 0, 64, 64, 64, 0):
        if width:
            x = builder.op("Relu", builder.conv(x, C, width, pads=[1, 1, 1, 1]))
            C = width
        else:
            x = builder.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = builder.op("Flatten", x)
    for width in (64, 64, 10):
        x = builder.op("Gemm", x, builder.array(f"fc{len(builder.nodes)}", width, C), transB=1)
    graph = onnx.helper.make_graph(
        builder.nodes,
        "vgg16",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info(x, 1, ["N", 10])],
        builder.weights,
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def simulate_transformed(model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> float:
    out = folder / "penni.onnx"
    options = "penni:rank=5,density=0.5"
    assert run(["transform", str(model), "--pass", options, "-o", str(out), "--no-native"]) == 0
    capsys.readouterr()
    assert run(["simulate", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [result] = document["architectures"]
    assert sum(layer["adds"] for layer in result["layers"]) > 0
    return float(document["functional_error"])


def test_resnet20_after_penni_equals_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate_transformed(SAMPLE, tmp_path, capsys) < 1e-5


def test_vgg16_after_penni_equals_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate_transformed(vgg16(tmp_path / "vgg.onnx"), tmp_path, capsys) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif("OPTC_DATA" not in os.environ, reason="OPTC_DATA names no data folder")
def test_resnet56_after_penni_equals_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(os.environ["OPTC_DATA"], "models", "resnet56_cifar10.onnx")
    assert simulate_transformed(model, tmp_path, capsys) < 1e-5


def test_residual_and_activation_inside_an_operator_are_computed() -> None:
    net = Net()
    basis, coefficients, bias = random_factors(net, 4, 4)
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    x = net.input("N", 4, 8, 8)
    model = net.model(net.decomposed(x, weights, "layer", residual=x))
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    workload = run_network(model, feeds)
    assert workload.layers[0].residual is not None


def test_escalate_with_ternary_coefficients_equals_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = Builder()
    a = builder.op("Relu", builder.conv("x", 3, 16, pads=[1, 1, 1, 1]))
    b = builder.op("Relu", builder.conv(a, 16, 16, pads=[1, 1, 1, 1]))
    c = builder.conv(b, 16, 16, pads=[1, 1, 1, 1])
    y = builder.op("Relu", builder.op("Add", c, a))
    graph = onnx.helper.make_graph(
        builder.nodes,
        "residual",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info(y, 1, ["N", 16, 8, 8])],
        builder.weights,
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path, out, data = save(model, tmp_path / "m.onnx"), tmp_path / "e.onnx", tmp_path / "c.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    options = ["--pass", "penni:rank=5", "--pass", "escalate:bits=2", "--calib", str(data)]
    assert run(["transform", str(path), *options, "-o", str(out), "--no-native"]) == 0
    capsys.readouterr()
    assert run(["simulate", str(out), "--input", str(data), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["functional_error"] < 1e-6
    [result] = document["architectures"]
    assert sum(layer["adds"] > 0 for layer in result["layers"]) >= 2
    assert {each["op_type"] for each in document["host"]} == {"QuantizeLinear"}
