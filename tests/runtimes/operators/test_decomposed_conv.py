"""The operator against an independent float64 convolution, in onnxruntime and onnx.reference."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import (
    ACTIVATIONS,
    ConvGeometry,
    DecomposedWeights,
    EncodedCoefficients,
    FusedActivation,
    decode_coefficients,
    encode_coefficients,
    make_node,
    op_type,
    op_types,
    read_geometry,
    read_weights,
)
from runtimes.operators.decomposed_conv_function import add_functions, function_body
from runtimes.operators.schemas import register_schemas

Array = NDArray[np.float32]


def float64_conv(
    x: Array, kernel: NDArray[np.float64], bias: Array | None, geometry: ConvGeometry
) -> NDArray[np.float64]:
    """Convolution by its definition, one output pixel at a time."""
    n, spatial = geometry.group, kernel.ndim - 2
    pads = [(geometry.pads[i], geometry.pads[i + spatial]) for i in range(spatial)]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    sizes = [
        geometry.output_size(size, k, axis)
        for axis, (size, k) in enumerate(zip(x.shape[2:], kernel.shape[2:], strict=True))
    ]
    K, c_group = kernel.shape[:2]
    y = np.zeros((x.shape[0], K, *sizes))
    for pixel in itertools.product(*map(range, sizes)):
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(
                pixel, geometry.strides, geometry.dilations, kernel.shape[2:], strict=True
            )
        )
        patch = padded[(..., *window)].reshape(x.shape[0], n, c_group, -1)
        groups = kernel.reshape(n, K // n, c_group, -1)
        y[(..., *pixel)] = np.einsum("bgcs,gkcs->bgk", patch, groups).reshape(x.shape[0], K)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * spatial)
    return y


def build_model(
    weights: DecomposedWeights,
    geometry: ConvGeometry,
    input_shape: list[int | str],
    *,
    residual: bool = False,
    activation: FusedActivation | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float32, shape=ir.Shape(input_shape))
    rank = len(input_shape)
    r = ir.Value(name="r", type=float32, shape=ir.Shape([None] * rank)) if residual else None
    node, initializers = make_node(
        x,
        weights,
        geometry,
        name="layer",
        residual=r,
        activation=activation or FusedActivation(),
    )
    node.outputs[0].name = "y"
    node.outputs[0].shape = ir.Shape([None] * rank)
    graph = ir.Graph(
        [x, *([r] if r else [])],
        node.outputs,
        nodes=[node],
        initializers=initializers,
        opset_imports={"": opset, DOMAIN: DOMAIN_VERSION},
        name="g",
    )
    model = ir.Model(graph, ir_version=8)
    add_functions(model, [node.op_type])
    return ir.to_proto(model)


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (y,) = session.run(None, feeds)
    return y


def assert_close(y: Array, expected: NDArray[np.float64], tolerance: float) -> None:
    assert y.shape == expected.shape
    scale = np.linalg.norm(expected) or 1.0
    assert np.linalg.norm(y - expected) / scale <= tolerance


def random_weights(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    kernel: tuple[int, ...],
    density: float,
    *,
    bias: bool,
    pair: bool = False,
) -> DecomposedWeights:
    kept = rng.random((*shape[:2], 1) if pair else shape) < density
    return DecomposedWeights(
        basis=rng.standard_normal((shape[2], *kernel)).astype(np.float32),
        coefficients=(rng.standard_normal(shape) * kept).astype(np.float32),
        bias=rng.standard_normal(shape[0]).astype(np.float32) if bias else None,
    )


@st.composite
def layers(draw: st.DrawFn) -> tuple[DecomposedWeights, ConvGeometry, Array]:
    spatial = draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def ints(low: int, high: int, count: int = spatial) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    kernel = draw(
        st.sampled_from([(3,) * spatial, (5,) * spatial, (1, 3)[-spatial:], (1,) * spatial])
    )
    group = draw(st.sampled_from([1, 1, 2, 3]))
    geometry = ConvGeometry(
        strides=ints(1, 2), pads=ints(0, 2, 2 * spatial), dilations=ints(1, 2), group=group
    )
    K, C, M = group * draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    weights = random_weights(
        rng,
        (K, C, M),
        kernel,
        draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        bias=draw(st.booleans()),
        pair=draw(st.booleans()),
    )
    x = rng.standard_normal((draw(st.integers(1, 2)), C * group, *ints(9, 12)))
    return weights, geometry, x.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_stock_onnxruntime_equals_the_float64_convolution(
    layer: tuple[DecomposedWeights, ConvGeometry, Array],
) -> None:
    weights, geometry, x = layer
    model = build_model(weights, geometry, ["N", *x.shape[1:]])
    onnx.checker.check_model(model)
    dense = np.tensordot(
        weights.coefficients.astype(np.float64), weights.basis.astype(np.float64), axes=1
    )
    expected = float64_conv(x, dense, weights.bias, geometry)
    assert_close(run(model, {"x": x}), expected, 1e-4)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("opset", [13, 18, 23])
def test_every_variant_runs_in_onnxruntime_and_in_the_reference(
    residual: bool, activation: str, bias: bool, opset: int
) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng, (6, 4, 3), (3, 3), 0.3, bias=bias)
    geometry = ConvGeometry(strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 1))
    fused = FusedActivation(name=activation, lower=-0.5, upper=1.5)  # type: ignore[arg-type]
    model = build_model(
        weights, geometry, ["N", 4, 9, 8], residual=residual, activation=fused, opset=opset
    )
    feeds = {"x": rng.standard_normal((2, 4, 9, 8)).astype(np.float32)}
    expected = float64_conv(feeds["x"], weights.dense().astype(np.float64), weights.bias, geometry)
    if residual:
        feeds["r"] = rng.standard_normal(expected.shape).astype(np.float32)
        expected += feeds["r"]
    bounds = {"": (-np.inf, np.inf), "Relu": (0, np.inf), "Clip": (-0.5, 1.5)}[activation]
    expected = np.clip(expected, *bounds)
    assert_close(run(model, feeds), expected, 1e-5)
    (reference,) = ReferenceEvaluator(model).run(None, feeds)
    assert_close(reference, expected, 1e-5)


def test_onnxruntime_folds_the_unpacking_away(tmp_path: object) -> None:
    weights = random_weights(np.random.default_rng(0), (8, 8, 5), (3, 3), 0.1, bias=True)
    geometry = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    model = build_model(weights, geometry, ["N", 8, 8, 8])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    optimised = onnx.load(options.optimized_model_filepath)
    assert [node.op_type for node in optimised.graph.node] == ["Conv"]


def test_a_bitmap_with_too_few_values_is_an_error_not_a_wrong_answer() -> None:
    weights = random_weights(np.random.default_rng(0), (8, 8, 5), (3, 3), 0.5, bias=True)
    geometry = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    model = build_model(weights, geometry, ["N", 8, 8, 8])
    (values,) = [t for t in model.graph.initializer if t.name == "layer.values"]
    kept = onnx.numpy_helper.to_array(values)[:-1]
    values.CopyFrom(onnx.numpy_helper.from_array(kept, "layer.values"))
    with pytest.raises(Exception, match=r"(?i)gather|indices|out of"):
        run(model, {"x": np.ones((1, 8, 8, 8), np.float32)})


@given(layers())
def test_encoding_is_lossless(layer: tuple[DecomposedWeights, ConvGeometry, Array]) -> None:
    coefficients = layer[0].coefficients
    encoded = encode_coefficients(coefficients)
    np.testing.assert_array_equal(decode_coefficients(encoded, coefficients.shape), coefficients)
    assert len(encoded.values) >= 1


def test_pair_sparse_coefficients_are_stored_as_pairs() -> None:
    weights = random_weights(
        np.random.default_rng(0), (64, 64, 4), (3, 3), 0.1, bias=False, pair=True
    )
    encoded = encode_coefficients(weights.coefficients)
    assert encoded.values.shape[1] == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.ones((3, 1), np.float32), "positions for 3"), (np.ones((8, 5), np.float32), "divide")],
)
def test_coefficients_that_do_not_fit_are_refused(values: Array, message: str) -> None:
    encoded = EncodedCoefficients(values=values, positions=np.zeros(1, np.uint8), position_bits=1)
    with pytest.raises(ValueError, match=message):
        decode_coefficients(encoded, (2, 2, 2))


def test_a_node_reads_back_what_was_written() -> None:
    weights = random_weights(np.random.default_rng(0), (6, 2, 3), (3, 3), 0.3, bias=True)
    geometry = ConvGeometry(strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 2), group=2)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    node, _ = make_node(x, weights, geometry, name="layer")
    assert read_geometry(node) == geometry
    read = read_weights(node)
    np.testing.assert_array_equal(read.coefficients, weights.coefficients)
    np.testing.assert_array_equal(read.basis, weights.basis)
    np.testing.assert_array_equal(read.bias, weights.bias)


def test_a_missing_bias_stays_missing() -> None:
    weights = random_weights(np.random.default_rng(0), (6, 2, 3), (3,), 0.3, bias=False)
    geometry = ConvGeometry(strides=(1,), pads=(1, 1), dilations=(1,))
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    node, _ = make_node(x, weights, geometry, name="layer")
    assert read_weights(node).bias is None


def test_shape_inference_knows_the_operator() -> None:
    register_schemas()
    register_schemas()  # a second call is harmless
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=True)
    geometry = ConvGeometry(strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 2))
    model = build_model(weights, geometry, ["N", 4, 9, 8])
    del model.functions[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 6, 5, 6]


def test_shape_inference_refuses_a_wrong_rank() -> None:
    register_schemas()
    weights = random_weights(np.random.default_rng(0), (6, 4, 3), (3, 3), 0.3, bias=True)
    geometry = ConvGeometry(strides=(1,), pads=(1, 1), dilations=(1,))
    model = build_model(weights, geometry, ["N", 4, 9, 8])
    del model.functions[:]
    with pytest.raises(onnx.shape_inference.InferenceError, match="DecomposedConv"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_the_names_are_those_of_the_contract() -> None:
    assert op_types() == (
        "DecomposedConv",
        "DecomposedConvRelu",
        "DecomposedConvClip",
        "DecomposedConvAdd",
        "DecomposedConvAddRelu",
        "DecomposedConvAddClip",
    )
    assert op_type("Relu", residual=True) == "DecomposedConvAddRelu"
    with pytest.raises(ValueError, match="Gemm"):
        function_body("Gemm", 17)


def test_a_body_is_small() -> None:
    assert all(
        len(ir.to_proto(function_body(n, 17)).SerializeToString()) < 3500 for n in op_types()
    )
