"""QuantizedMaxPool by its body and schema: what it means without our library."""

import numpy as np
import pytest
from hypothesis import given, settings
from onnx import checker, shape_inference
from onnx.reference import ReferenceEvaluator

from runtimes import ort
from runtimes.operators.max_pool import PoolGeometry
from runtimes.operators.schemas import register_schemas
from tests.helpers import inferred_dims
from tests.runtimes.native.pools import draw_bytes, expected, pool_model, poolings, square


@pytest.fixture(autouse=True)
def schemas() -> None:
    register_schemas()


@settings(max_examples=80, deadline=None)
@given(poolings())
def test_the_body_is_max_pool_and_its_shape_is_inferred(
    case: tuple[PoolGeometry, tuple[int, ...]],
) -> None:
    geometry, shape = case
    model = pool_model(geometry, ("N", *shape[1:]))
    checker.check_model(model, full_check=True)
    x = draw_bytes(shape)
    [y] = ort.run(ort.session(model.SerializeToString()), {"x": x})
    np.testing.assert_array_equal(y, expected(geometry, x))
    assert inferred_dims(model) == ["N", *y.shape[1:]]


@pytest.mark.parametrize("opset", [13, 18, 23])
def test_every_opset_and_the_onnx_reference(opset: int) -> None:
    geometry = square(3, 2, 1)
    model = pool_model(geometry, ("N", 4, 9, 8), opset)
    checker.check_model(model, full_check=True)
    x = draw_bytes((2, 4, 9, 8))
    [y] = ort.run(ort.session(model.SerializeToString()), {"x": x})
    np.testing.assert_array_equal(y, expected(geometry, x))
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], y)


def test_unknown_sizes_stay_unknown() -> None:
    batch, channels, height, width = inferred_dims(pool_model(square(2, 2), ("N", 4, "H", 8)))
    assert (batch, channels, width) == ("N", 4, 4)
    assert not isinstance(height, int)


def test_attributes_of_another_rank_are_refused() -> None:
    with pytest.raises(shape_inference.InferenceError, match="input of 1 axes"):
        inferred_dims(pool_model(square(2, 2), ("N", 4, 8)))
