"""A model of 1 GB: the analysis reads no weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.passes.channel_models import Net

WIDTH, LAYERS = 2048, 8
MEASURE = """
import sys, time
import onnx_ir as ir
from passes.channels.groups import channel_groups, prunable
model, start = ir.load(sys.argv[1]), time.perf_counter()
groups = channel_groups(prunable(model))
seconds = time.perf_counter() - start
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(sum(group.frozen is None for group in groups), seconds, int(peak) * 1024)
"""
"""Peak memory from /proc, because that of getrusage is inherited from the parent."""


def feed_forward(path: Path) -> int:
    """Writes eight residual layers of 2048 → 8192 → 2048; bytes of the largest weight."""
    net = Net()
    block = np.random.default_rng(0).standard_normal((WIDTH, 4 * WIDTH)).astype(np.float32)
    x = net.input("N", "T", WIDTH)
    for i in range(LAYERS):
        y = net.op("LayerNormalization", x, net.constant(np.ones(WIDTH, np.float32), f"s{i}"))
        y = net.op("Relu", net.op("MatMul", y, net.constant(block, f"up{i}")))
        x = net.op("Add", x, net.op("MatMul", y, net.constant(block.T.copy(), f"down{i}")))
    x.type, x.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", "T", WIDTH])
    graph = ir.Graph(
        net.inputs, [x], nodes=net.nodes, initializers=net.initializers, opset_imports={"": 18}
    )
    ir.save(ir.Model(graph, ir_version=9), path, external_data="weights.bin")
    return block.nbytes


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_model_of_one_gigabyte(tmp_path):
    largest = feed_forward(tmp_path / "m.onnx")
    assert (tmp_path / "weights.bin").stat().st_size > 1e9
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "m.onnx")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    free, seconds, peak = (float(number) for number in done.stdout.split())
    print(f"{seconds:.1f} s, {peak / 1e6:.0f} MB")
    assert free == LAYERS
    assert seconds < 120
    assert peak < 1.5 * largest + 500e6
