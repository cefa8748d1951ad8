"""Convolutions read from nodes against onnxruntime's own reading of them."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.conv import UnsupportedConvError, read_conv
from runtimes import ort
from tests.helpers import parse, parse_ir


def conv_text(attributes: str, shape: str) -> str:
    return f"g (float[{shape}] x) => (float[N, K, H, W] y) {{ [c] y = Conv <{attributes}> (x, w) }}"


def weight(*kernel: int) -> dict[str, Any]:
    return {"w": np.random.default_rng(0).standard_normal((2, 3, *kernel)).astype(np.float32)}


def run(graph: str, weights: dict[str, Any], x: Any) -> Any:
    session = ort.session(parse(graph, weights).SerializeToString(), disable_optimisation=True)
    return ort.run(session, {"x": x})[0]


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_automatic_padding_is_that_of_onnxruntime(
    mode: str, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> None:
    shape = f"N, 3, {size[0]}, {size[1]}"
    automatic = conv_text(f'auto_pad = "{mode}", strides = {list(strides)}', shape)
    layer = read_conv(parse_ir(automatic, weight(*kernel)).graph[0])
    explicit = conv_text(f"pads = {list(layer.geometry.pads)}, strides = {list(strides)}", shape)
    x = np.random.default_rng(1).standard_normal((1, 3, *size)).astype(np.float32)
    expected = run(automatic, weight(*kernel), x)
    y = run(explicit, weight(*kernel), x)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("dilation", [2, 3])
def test_same_padding_gives_one_output_a_stride_with_dilations_too(
    mode: str, dilation: int
) -> None:
    # onnxruntime refuses these, so the definition of SAME has to do: ⌈size / stride⌉ outputs.
    text = f'auto_pad = "{mode}", strides = [2, 1], dilations = [{dilation}, {dilation}]'
    geometry = read_conv(parse_ir(conv_text(text, "N, 3, 9, 8"), weight(3, 2)).graph[0]).geometry
    assert [geometry.output_size(9, 3, 0), geometry.output_size(8, 2, 1)] == [5, 8]
    for begin, end in zip(geometry.pads[:2], geometry.pads[2:], strict=True):
        assert (end - begin if mode == "SAME_UPPER" else begin - end) in (0, 1)


def test_attributes_that_are_left_out_have_their_defaults() -> None:
    [node] = parse_ir(
        "g (float[N, 3, 9] x) => (float[N, 2, 7] y) { [c] y = Conv (x, w) }", weight(3)
    ).graph
    layer = read_conv(node)
    geometry = layer.geometry
    assert (geometry.strides, geometry.pads, geometry.dilations) == ((1,), (0, 0), (1,))
    assert (geometry.group, layer.bias, layer.kernel_size, layer.output_positions) == (
        1,
        None,
        3,
        7,
    )


def test_weights_and_bias_are_read_as_stored() -> None:
    weights = {**weight(3, 3), "b": np.arange(2, dtype=np.float32)}
    graph = "g (float[N, 3, H, W] x) => (float[N, 2, A, B] y) { [c] y = Conv (x, w, b) }"
    layer = read_conv(parse_ir(graph, weights).graph[0])
    np.testing.assert_array_equal(layer.weight, weights["w"])
    assert layer.bias is not None
    np.testing.assert_array_equal(layer.bias, weights["b"])
    assert layer.output_positions is None


REFUSED = {
    "weight may be fed": (
        "g (float[N, 3, 8, 8] x, float[2, 3, 3, 3] w) => (float[N, 2, 6, 6] y) { y = Conv (x, w) }",
        weight(3, 3),
        "weight is a graph input, it may change at run time",
    ),
    "weight is computed": (
        """g (float[N, 3, 8, 8] x) => (float[N, 2, 6, 6] y) {
            v = Relu (w)
            y = Conv (x, v)
        }""",
        weight(3, 3),
        "weight is computed at run time",
    ),
    "weight is shared": (
        """g (float[N, 3, 8, 8] x) => (float[N, 2, 6, 6] y) {
            a = Conv (x, w)
            b = Conv (x, w)
            y = Add (a, b)
        }""",
        weight(3, 3),
        "weight is shared by 2 uses",
    ),
    "bias is shared": (
        """g (float[N, 3, 8, 8] x) => (float[N, 2, 6, 6] y) {
            a = Conv (x, w, b)
            c = Reshape (b, s)
            y = Add (a, c)
        }""",
        {**weight(3, 3), "b": np.ones(2, np.float32), "s": np.array([2, 1, 1])},
        "bias is shared by 2 uses",
    ),
    "half precision": (
        "g (float16[N, 3, 8, 8] x) => (float16[N, 2, 6, 6] y) { y = Conv (x, w) }",
        {"w": np.ones((2, 3, 3, 3), np.float16)},
        "weight is FLOAT16, not FLOAT",
    ),
    "size known at run time": (
        """g (float[N, 3, H, 8] x) => (float[N, 2, A, B] y) {
            y = Conv <auto_pad = "SAME_UPPER"> (x, w)
        }""",
        weight(3, 3),
        "auto_pad=SAME_UPPER with an input size known only at run time",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_rewritten_is_refused_with_its_reason(case: str) -> None:
    graph, weights, reason = REFUSED[case]
    node = next(node for node in parse_ir(graph, weights).graph if node.op_type == "Conv")
    with pytest.raises(UnsupportedConvError, match=f"^{reason}$"):
        read_conv(node)


def test_weight_in_a_constant_node_is_refused_not_misread() -> None:
    model = parse_ir(
        """g (float[N, 1, 4] x) => (float[N, 1, 4] y) {
            w = Constant <value = float[1, 1, 1] {2}> ()
            y = Conv (x, w)
        }"""
    )
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert isinstance(conv, ir.Node)
    with pytest.raises(UnsupportedConvError, match="computed at run time"):
        read_conv(conv)
