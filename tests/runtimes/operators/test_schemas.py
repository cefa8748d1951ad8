"""What onnx infers and accepts of the optc domain, against what onnxruntime computes."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import checker, helper, shape_inference
from onnx.reference import ReferenceEvaluator

from runtimes.operators import DOMAIN
from runtimes.operators.decomposed_conv import (
    ACTIVATIONS,
    ConvGeometry,
    DecomposedWeights,
    FusedActivation,
)
from runtimes.operators.schemas import register_schemas
from tests.helpers import inferred_dims
from tests.runtimes.operators.test_decomposed_conv import build_model, random_weights

PLAIN = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))


@pytest.fixture(autouse=True)
def schemas() -> None:
    register_schemas()


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]


@st.composite
def cases(draw: st.DrawFn) -> tuple[DecomposedWeights, ConvGeometry, tuple[int, ...]]:
    spatial = draw(st.integers(1, 3))

    def ints(low: int, high: int, count: int = spatial) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    group = draw(st.integers(1, 3))
    geometry = ConvGeometry(
        strides=ints(1, 3), pads=ints(0, 3, 2 * spatial), dilations=ints(1, 3), group=group
    )
    shape = (2 * group, 2, 3)
    weights = random_weights(np.random.default_rng(0), shape, ints(1, 3), 0.5, bias=False)
    return weights, geometry, (2 * group, *ints(7, 11))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_inferred_shapes_are_those_onnxruntime_computes(
    case: tuple[DecomposedWeights, ConvGeometry, tuple[int, ...]],
) -> None:
    weights, geometry, shape = case
    model = build_model(weights, geometry, ["N", *shape])
    y = run(model, {"x": np.ones((2, *shape), np.float32)})
    assert inferred_dims(model) == ["N", *y.shape[1:]]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_the_full_check_accepts_every_operator_name(
    residual: bool, activation: Any, bias: bool
) -> None:
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=bias)
    fused = FusedActivation(name=activation, lower=-0.5, upper=1.5)
    model = build_model(weights, PLAIN, ["N", 4, 9, 8], residual=residual, activation=fused)
    checker.check_model(model, full_check=True)


def test_unknown_sizes_stay_unknown_and_known_ones_are_inferred() -> None:
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=True)
    batch, channels, height, width = inferred_dims(build_model(weights, PLAIN, ["N", 4, "H", 8]))
    assert (batch, channels, width) == ("N", 6, 8)
    assert not isinstance(height, int)


def test_a_wrong_declared_output_fails_the_full_check() -> None:
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=True)
    model = build_model(weights, PLAIN, ["N", 4, 9, 8])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(shape_inference.InferenceError, match=r"differ|incompatible"):
        checker.check_model(model, full_check=True)


def test_a_missing_attribute_is_refused() -> None:
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=True)
    model = build_model(weights, PLAIN, ["N", 4, 9, 8])
    del model.functions[:]
    node = model.graph.node[0]
    kept = [each for each in node.attribute if each.name != "position_bits"]
    del node.attribute[:]
    node.attribute.extend(kept)
    with pytest.raises(checker.ValidationError, match="position_bits"):
        checker.check_model(model)


def test_an_input_of_unknown_type_does_not_stop_inference() -> None:
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=True)
    model = build_model(weights, PLAIN, ["N", 4, 9, 8])
    del model.functions[:]
    model.graph.node.insert(0, helper.make_node("Unknown", ["x"], ["z"], domain="elsewhere"))
    model.graph.node[1].input[0] = "z"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    assert [node.domain for node in inferred.graph.node] == ["elsewhere", DOMAIN]


@settings(max_examples=15, deadline=None)
@given(cases())
def test_the_reference_implementation_gives_the_numbers_of_onnxruntime(
    case: tuple[DecomposedWeights, ConvGeometry, tuple[int, ...]],
) -> None:
    weights, geometry, shape = case
    if len(shape) > 3:  # its Conv is slow in three dimensions
        return
    model = build_model(weights, geometry, ["N", *shape])
    x = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    [expected] = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(run(model, {"x": x}), expected, rtol=1e-4, atol=1e-4)
