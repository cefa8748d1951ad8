from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from runtimes.external_data import initializers, load_external, read_array
from tests.helpers import parse


@pytest.fixture
def model(tmp_path: Path) -> ir.Model:
    """Weights of 8, 400 and, in a subgraph, 4 bytes; all external."""
    proto = parse(
        """g (bool c, float[N, 2] x) => (float[N, 50] y) {
            a = Add (x, small)
            b = If (c) <
                then_branch = t () => (float[N, 2] p) <float[1] inner = {3}> { p = Mul (a, inner) },
                else_branch = e () => (float[N, 2] q) { q = Neg (a) }
            >
            y = MatMul (b, large)
        }""",
        {"small": np.ones(2, "f"), "large": np.full((2, 50), 2, "f")},
    )
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="w", size_threshold=0)
    return ir.load(path)


def external(model: ir.Model) -> set[str | None]:
    values = initializers(model)
    return {value.name for value in values if isinstance(value.const_value, ir.ExternalTensor)}


@pytest.mark.parametrize(
    ("limit", "left"), [(None, set()), (8, {"large"}), (7, {"large", "small"})]
)
def test_weights_up_to_the_limit_come_into_memory(
    model: ir.Model, limit: int | None, left: set[str]
) -> None:
    assert {"large", "small", "inner"} == {value.name for value in initializers(model)}
    assert external(load_external(model, limit)) - {"inner"} == left
    sums = {value.name: value.const_value.numpy().sum() for value in initializers(model)}
    assert sums == {"small": 2, "large": 200, "inner": 3}


def test_arrays_in_use_stay_valid_and_copies_stay_external(model: ir.Model) -> None:
    copy = model.clone()
    array = model.graph.initializers["large"].const_value.numpy()
    load_external(model)
    np.testing.assert_array_equal(array, np.full((2, 50), 2))
    assert external(copy) >= {"large", "small"}


@pytest.mark.parametrize("kind", [ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.INT4])
def test_arrays_are_read_without_keeping_the_file_mapped(tmp_path: Path, kind) -> None:
    numbers = np.array([[1, -2, 3], [4, 0, -6]])
    stored = ir.Tensor(numbers.astype(kind.numpy()), kind, name="w")
    graph = ir.Graph([], [], nodes=[], name="g")
    graph.initializers.add(
        ir.Value(name="w", type=ir.TensorType(kind), shape=stored.shape, const_value=stored)
    )
    path = tmp_path / "m.onnx"
    ir.save(ir.Model(graph, ir_version=10), path, external_data="w", size_threshold_bytes=0)
    tensor = ir.load(path).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(read_array(tensor).astype(int), numbers)
    assert (tensor.raw is None) == (kind != ir.DataType.INT4)  # None: not mapped
