"""The hybrid operator: its body in stock onnxruntime against exact integers, and its storage."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import checker
from onnx.reference import ReferenceEvaluator

from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import ConvGeometry, initializer, read_geometry
from runtimes.operators.hybrid_conv import (
    HybridWeights,
    QuantizedValue,
    make_node,
    read_scale,
    read_weights,
)
from runtimes.operators.hybrid_conv_function import add_functions, function_body
from runtimes.operators.hybrid_reference import QuantizedArray, reference, responses
from runtimes.operators.schemas import register_schemas
from tests.runtimes.operators.test_decomposed_conv import float64_conv

PLAIN = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))


def random_hybrid(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    kernel: tuple[int, ...],
    *,
    density: float = 0.5,
    bits: int = 8,
    pair: bool = False,
) -> HybridWeights:
    K, _, M = shape
    kept = rng.random((*shape[:2], 1) if pair else shape) < density
    largest = {1: 1, 4: 7, 8: 127}[bits]
    symbols = rng.choice([-1, 1], shape) * rng.integers(1, largest + 1, shape) * kept
    levels = rng.integers(1, 127 // largest + 1, (K, M))
    return HybridWeights(
        basis=rng.integers(-127, 128, (M, *kernel)).astype(np.int8),
        shift=rng.integers(4, 12, M).astype(np.uint8),
        symbols=symbols.astype(np.int8),
        levels=levels.astype(np.int8),
        scale=rng.uniform(1e-4, 3e-3, K).astype(np.float32),
        bias=rng.standard_normal(K).astype(np.float32),
    )


def constants(which: str, scale: float, zero: int) -> list[ir.Value]:
    return [
        initializer(f"{which}_scale", np.array(scale, np.float32)),
        initializer(f"{which}_zero", np.array(zero, np.uint8)),
    ]


def build_model(
    weights: HybridWeights,
    geometry: ConvGeometry,
    input_shape: list[int | str],
    *,
    x: tuple[float, int] = (0.05, 3),
    y: tuple[float, int] = (0.1, 7),
    bounds: tuple[int, int] = (0, 255),
    residual: tuple[float, int] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of one node with inputs x and, for a residual, r."""
    uint8, rank = ir.TensorType(ir.DataType.UINT8), len(input_shape)
    fed = [ir.Value(name="x", type=uint8, shape=ir.Shape(input_shape))]
    scales = [constants("x", *x), constants("y", *y)]
    other = None
    if residual is not None:
        fed.append(ir.Value(name="r", type=uint8, shape=ir.Shape([None] * rank)))
        scales.append(constants("r", *residual))
        other = QuantizedValue(value=fed[1], scale=scales[2][0], zero_point=scales[2][1])
    quantised = QuantizedValue(value=fed[0], scale=scales[0][0], zero_point=scales[0][1])
    node, own = make_node(
        quantised, *scales[1], weights, geometry, name="layer", bounds=bounds, residual=other
    )
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape([None] * rank)
    graph = ir.Graph(
        fed,
        node.outputs,
        nodes=[node],
        initializers=[*(value for pair in scales for value in pair), *own],
        opset_imports={"": opset, DOMAIN: DOMAIN_VERSION},
        name="g",
    )
    model = ir.Model(graph, ir_version=8)
    add_functions(model, [node.op_type])
    return ir.to_proto(model)


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> NDArray[np.uint8]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]


@st.composite
def layers(draw: st.DrawFn) -> tuple[HybridWeights, ConvGeometry, NDArray[np.uint8]]:
    spatial = draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def ints(low: int, high: int, count: int = spatial) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    kernel = draw(st.sampled_from([(3,) * spatial, (5,) * spatial, (1, 3)[-spatial:]]))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    geometry = ConvGeometry(
        strides=ints(1, 2), pads=ints(0, 2, 2 * spatial), dilations=ints(1, 2), group=group
    )
    K, C, M = group * draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 6))
    weights = random_hybrid(
        rng,
        (K, C, M),
        kernel,
        density=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        bits=draw(st.sampled_from([1, 4, 8])),
        pair=draw(st.booleans()),
    )
    weights = replace(weights, response_offset=draw(st.sampled_from([0, 0, -128, 60, 128])))
    shape = (draw(st.integers(1, 2)), C * group, *ints(9, 12))
    return weights, geometry, rng.integers(0, 256, shape).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(layers(), st.booleans(), st.integers(0, 255), st.sampled_from([(0, 255), (7, 200)]))
def test_stock_onnxruntime_equals_the_integer_reference(
    layer: tuple[HybridWeights, ConvGeometry, NDArray[np.uint8]],
    add: bool,
    zero: int,
    bounds: tuple[int, int],
) -> None:
    weights, geometry, x = layer
    residual = (0.03, 11) if add else None
    model = build_model(
        weights, geometry, ["N", *x.shape[1:]], x=(0.05, zero), bounds=bounds, residual=residual
    )
    checker.check_model(model)
    plain = reference(
        QuantizedArray(values=x, scale=0.05, zero_point=zero),
        weights,
        geometry,
        y_scale=0.1,
        y_zero_point=7,
    )
    feeds, other = {"x": x}, None
    if residual is not None:
        feeds["r"] = np.random.default_rng(0).integers(0, 256, plain.shape).astype(np.uint8)
        other = QuantizedArray(values=feeds["r"], scale=residual[0], zero_point=residual[1])
    expected = reference(
        QuantizedArray(values=x, scale=0.05, zero_point=zero),
        weights,
        geometry,
        y_scale=0.1,
        y_zero_point=7,
        bounds=bounds,
        residual=other,
    )
    np.testing.assert_array_equal(run(model, feeds), expected)


@settings(max_examples=25, deadline=None)
@given(layers())
def test_the_integers_stand_for_the_real_convolution(
    layer: tuple[HybridWeights, ConvGeometry, NDArray[np.uint8]],
) -> None:
    """Without clipping, only rounding separates it from the dense float64 convolution."""
    weights, geometry, x = layer
    M = len(weights.basis)
    ones = np.ones(M, np.uint8)
    basis = np.sign(weights.basis)  # small enough that no response is clipped
    bias = np.zeros_like(weights.bias)
    weights = replace(weights, basis=basis, shift=ones, bias=bias, response_offset=0)
    x = x % 8
    T = responses(x, 3, weights, geometry)
    assert np.abs(T).max() < 127
    y = reference(
        QuantizedArray(values=x, scale=0.05, zero_point=3),
        weights,
        geometry,
        y_scale=1e6,
        y_zero_point=0,
    )
    assert not y.any()  # scaled to nothing
    real = float64_conv(
        0.05 * (x.astype(np.float32) - 3), weights.dense(0.05).astype(np.float64), None, geometry
    )
    step = float(np.abs(real).max()) / 100 or 1.0
    y = reference(
        QuantizedArray(values=x, scale=0.05, zero_point=3),
        weights,
        geometry,
        y_scale=step,
        y_zero_point=128,
    )
    # A response is off by at most half a unit, the output by half a step.
    bound = 0.5 * np.abs(weights.coefficients).sum(axis=(1, 2)) * weights.scale / step + 0.51
    off = np.abs(real / step - (y.astype(np.float64) - 128))
    assert np.all(off <= bound.reshape(-1, *(1,) * (real.ndim - 2)))


@pytest.mark.parametrize("opset", [13, 18, 23])
@pytest.mark.parametrize("residual", [None, (0.2, 9)])
def test_every_variant_in_onnxruntime_and_in_the_onnx_reference(
    residual: tuple[float, int] | None, opset: int
) -> None:
    rng = np.random.default_rng(0)
    weights = random_hybrid(rng, (6, 4, 3), (3, 3), bits=1)
    model = build_model(weights, PLAIN, ["N", 4, 7, 8], residual=residual, opset=opset)
    register_schemas()
    checker.check_model(model, full_check=True)
    feeds = {"x": rng.integers(0, 256, (2, 4, 7, 8)).astype(np.uint8)}
    other = None
    if residual is not None:
        feeds["r"] = rng.integers(0, 256, (2, 6, 7, 8)).astype(np.uint8)
        other = QuantizedArray(values=feeds["r"], scale=residual[0], zero_point=residual[1])
    expected = reference(
        QuantizedArray(values=feeds["x"], scale=0.05, zero_point=3),
        weights,
        PLAIN,
        y_scale=0.1,
        y_zero_point=7,
        residual=other,
    )
    np.testing.assert_array_equal(run(model, feeds), expected)
    (reached,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_array_equal(reached, expected)


def test_rounding_and_saturation_by_hand() -> None:
    weights = HybridWeights(
        basis=np.full((1, 1, 1), 2, np.int8),
        shift=np.array([2], np.uint8),
        symbols=np.ones((1, 1, 1), np.int8),
        levels=np.ones((1, 1), np.int8),
        scale=np.ones(1, np.float32),
        bias=np.array([0.5], np.float32),
    )
    geometry = ConvGeometry(strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
    x = np.array([0, 9, 10, 11, 12, 13, 255], np.uint8).reshape(1, 1, 1, -1)
    T = responses(x, 10, weights, geometry)
    # 2·(x − 10)/4 = −5, −½, 0, ½, 1, 1½, 122½: halves go up
    assert T.ravel().tolist() == [-5, 0, 0, 1, 1, 2, 123]
    y = reference(
        QuantizedArray(values=x, scale=1, zero_point=10),
        weights,
        geometry,
        y_scale=1,
        y_zero_point=2,
        bounds=(0, 100),
    )
    # T + ½ rounds half to even: −4.5 → −4, 0.5 → 0, 1.5 → 2, 2.5 → 2, 123.5 → 124 → 100
    assert y.ravel().tolist() == [0, 2, 2, 4, 4, 4, 100]
    model = build_model(weights, geometry, ["N", 1, 1, 7], x=(1, 10), y=(1, 2), bounds=(0, 100))
    np.testing.assert_array_equal(run(model, {"x": x}), y)


def test_only_two_stages_are_left_after_load(tmp_path: object) -> None:
    weights = random_hybrid(np.random.default_rng(0), (8, 8, 5), (3, 3), bits=1)
    model = build_model(weights, PLAIN, ["N", 8, 8, 8])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert not {"ScatterND", "CumSum", "BitShift", "Gather"} & set(kinds)
    assert (kinds.count("Conv"), kinds.count("MatMul")) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": np.full((4, 3), 127, np.int8)}, "-127 to 127"),
        ({"levels": np.zeros((4, 3), np.int8)}, "1 to 127"),
        ({"shift": np.full(3, 25, np.uint8)}, "0 to 22"),
        ({"response_offset": 129}, "-128 to 128"),
        ({"scale": np.full(4, np.nan, np.float32)}, "positive and finite"),
        ({"bias": np.full(4, np.inf, np.float32)}, "bias must be finite"),
        ({"shift": np.zeros(2, np.uint8)}, "do not fit"),
    ],
)
def test_weights_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    weights = random_hybrid(np.random.default_rng(0), (4, 4, 3), (3, 3), density=1.0)
    with pytest.raises(ValueError, match=message):
        replace(weights, **change)


def test_a_node_is_read_back() -> None:
    weights = random_hybrid(np.random.default_rng(0), (6, 4, 3), (3, 3), bits=4)
    geometry = replace(PLAIN, strides=(2, 1))
    model = ir.from_proto(build_model(weights, geometry, ["N", 4, 9, 9], residual=(0.2, 9)))
    [node] = model.graph
    read = read_weights(node)
    for key in ("basis", "shift", "symbols", "levels", "scale", "bias"):
        np.testing.assert_array_equal(getattr(read, key), getattr(weights, key))
    assert read_geometry(node) == geometry
    assert read_scale(node, "residual") == (pytest.approx(0.2), 9)


def test_an_unknown_operator_name_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of HybridDecomposedConv"):
        function_body("HybridConv", 17)


def test_the_response_offset_of_older_files_is_zero() -> None:
    rng = np.random.default_rng(0)
    weights = random_hybrid(rng, (4, 3, 2), (3, 3))
    x = rng.integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    model = build_model(weights, PLAIN, [1, 3, 8, 8])
    expected = run(model, {"x": x})
    [node] = model.graph.node
    [offset] = [each for each in node.attribute if each.name == "offset"]
    node.attribute.remove(offset)
    np.testing.assert_array_equal(run(model, {"x": x}), expected)
    assert read_weights(ir.from_proto(model).graph[0]).response_offset == 0
