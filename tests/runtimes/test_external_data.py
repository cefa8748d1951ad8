from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from runtimes.external_data import initializers, load_external
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
