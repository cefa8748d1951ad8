"""`svd` on a model of more than 2 GB: no more than one layer is in memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtimes import ort

LAYERS, INPUTS, OUTPUTS, RANK = 33, 131_072, 128, 8
LAYER_BYTES = 4 * INPUTS * OUTPUTS
MEGABYTE = 2**20

SPLIT = f"""
import sys
from pathlib import Path
import onnx_ir as ir
from passes.cleanup import finish, prepare
from passes.svd import SvdPass
from passes.svd_config import SvdConfig
from runtimes import ort

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

before = peak()
model = prepare(ir.load(sys.argv[1]))
step = SvdPass(SvdConfig(rank={RANK}))
step.apply(model, step.analyse(model))
ort.save(finish(model), Path(sys.argv[2]))
print(peak() - before)
"""
"""In a process of its own: peak memory belongs to a process."""


def large_model(folder: Path) -> Path:
    """Products of one input with many weights (INPUTS, OUTPUTS), all the same block of the file."""
    block = np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS), np.float32)
    with (folder / "large.data").open("wb") as stream:
        for _ in range(LAYERS):
            block.tofile(stream)
    weights = [stored(f"w{index}", index * LAYER_BYTES) for index in range(LAYERS)]
    names = [f"y{index}" for index in range(LAYERS)]
    nodes = [
        helper.make_node("MatMul", ["x", weight.name], [name], f"m{name}")
        for weight, name in zip(weights, names, strict=True)
    ]
    nodes.append(helper.make_node("Sum", names, ["y"], "sum"))
    ends = (("x", INPUTS), ("y", OUTPUTS))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in ends)
    graph = helper.make_graph(nodes, "large", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    return folder / "large.onnx"


def stored(name: str, offset: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[INPUTS, OUTPUTS])
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": "large.data", "offset": offset, "length": LAYER_BYTES}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_model_above_2_gb_is_split_layer_by_layer(tmp_path) -> None:
    path, output = large_model(tmp_path), tmp_path / "small.onnx"
    assert (tmp_path / "large.data").stat().st_size > 2**31
    done = subprocess.run(
        [sys.executable, "-c", SPLIT, path, output], check=True, capture_output=True, text=True
    )
    peak = int(done.stdout)
    print(f"peak memory: {peak / MEGABYTE:.0f} MB, a layer: {LAYER_BYTES / MEGABYTE:.0f} MB")
    results = LAYERS * 4 * RANK * (INPUTS + OUTPUTS)  # on disk, but counted while they are mapped
    assert peak < results + 8 * LAYER_BYTES  # one layer in float64 and its product
    x = np.random.default_rng(1).standard_normal((1, INPUTS), np.float32)
    [y] = ort.run(ort.session(output), {"x": x})
    W = np.fromfile(tmp_path / "large.data", np.float32, INPUTS * OUTPUTS).reshape(-1, OUTPUTS)
    values, E = np.linalg.eigh(W.T.astype(np.float64) @ W)
    E = E[:, -RANK:]  # Eckart–Young
    expected = LAYERS * (x @ W @ E) @ E.T
    assert values[0] > 0
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
