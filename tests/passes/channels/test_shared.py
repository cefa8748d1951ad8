"""Constants and values of which a reader needs all lines, though another one does without some."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from passes.shrink import ShrinkConfig
from passes.tprune_config import TpruneConfig
from runtimes.operators.decomposed_conv import DecomposedWeights
from tests.passes.channel_models import Net, difference, random_factors, shape_of, shrink, widths
from tests.passes.test_tprune import masked_and_pruned

WIDTH = 8
Reader = Callable[[Net, ir.Value, ir.Value], ir.Value]


def normed(kind: str, **attributes: object) -> Reader:
    """A normalisation that reads the shared constant as its shift."""

    def read(net: Net, x: ir.Value, shared: ir.Value) -> ir.Value:
        scale = net.constant(np.ones(WIDTH, np.float32), "scale")
        return net.op(kind, x, scale, shared, name="reader", **attributes)

    return read


def skip_norm(net: Net, x: ir.Value, shared: ir.Value) -> ir.Value:
    rows = net.op("Reshape", x, net.ints(-1, 1, WIDTH))
    scale = net.constant(np.ones(WIDTH, np.float32), "scale")
    y = net.op(
        "SkipLayerNormalization", rows, rows, scale, shared, name="reader", domain="com.microsoft"
    )
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 1, WIDTH])
    return net.op("Reshape", y, net.ints(-1, WIDTH))


def added_to_pixels(net: Net, x: ir.Value, shared: ir.Value) -> ir.Value:
    """The constant lies along an axis that has no channels."""
    image = net.op("Reshape", x, net.ints(-1, WIDTH, 1, 1))
    image = net.op("Conv", image, net.constant(net.normal(4, WIDTH, 1, 1), "w"), name="image")
    image = net.op("Add", image, shared, name="reader")
    return net.gemm(net.op("Flatten", image), 4 * WIDTH, WIDTH, "fc")


READERS: dict[str, tuple[Reader, int]] = {
    "layer norm": (normed("LayerNormalization"), 18),
    "group norm": (normed("GroupNormalization", num_groups=2), 21),
    "skip norm": (skip_norm, 18),
    "pixels": (added_to_pixels, 18),
}


def network(read: Reader, opset: int, bias: float = 0.0, dead: int = 3) -> ir.Model:
    """A hidden layer with dead neurons; its bias is read by another operator before it."""
    net = Net(41, opset=opset)
    shared = net.constant(np.full(WIDTH, bias, np.float32), "shared")
    x = read(net, net.gemm(net.input(2, 3), 3, WIDTH, "in"), shared)
    weight = net.normal(WIDTH, WIDTH)
    weight[:dead] = 0
    y = net.op("Gemm", x, net.constant(weight, "up.weight"), shared, name="up", transB=1)
    return net.model(net.gemm(net.op("Relu", y), WIDTH, 4, "down"))


@pytest.mark.parametrize("case", READERS)
def test_a_constant_that_another_operator_needs_stays(case):
    model = network(*READERS[case])
    shrunk = shrink(model, ShrinkConfig(multiple=1))
    assert shape_of(shrunk, "shared") == (WIDTH,)
    assert difference(model, shrunk) < 1e-5


@pytest.mark.parametrize("case", READERS)
def test_a_constant_that_another_operator_needs_is_not_masked(case):
    model = network(*READERS[case], bias=0.5, dead=0)
    masked, pruned, _ = masked_and_pruned(model, TpruneConfig(density=0.8, multiple=1))
    assert shape_of(pruned, "shared") == (WIDTH,)
    assert (masked.graph.initializers["shared"].const_value.numpy() == 0.5).all()
    assert difference(masked, pruned) < 1e-5


def test_a_table_of_which_one_reader_cuts_one_axis_keeps_the_other():
    net = Net(42)
    table = net.constant(net.normal(WIDTH, WIDTH) * (np.arange(WIDTH) > 2)[:, None], "table")
    x = net.op("Gemm", net.input(2, WIDTH), table, name="up", transB=1)
    x = net.gemm(net.op("Relu", x), WIDTH, WIDTH, "down")
    x = net.op("Reshape", x, net.ints(2, 1, WIDTH))
    x = net.op("MatMul", x, net.constant(net.normal(WIDTH, WIDTH), "wide.weight"), name="wide")
    x = net.op("Add", x, table, name="reader")
    x = net.op("MatMul", x, net.constant(net.normal(WIDTH, 3), "narrow.weight"), name="narrow")
    model = net.model(x)
    shrunk = shrink(model, ShrinkConfig(multiple=1))
    assert shape_of(shrunk, "table") == (WIDTH, WIDTH)
    assert difference(model, shrunk) < 1e-5


def test_a_bias_that_a_decomposed_layer_needs_stays():
    net = Net(43)
    x = net.input(2, 3, 6, 6)
    basis, coefficients, bias = random_factors(net, 4, 3)
    coefficients[1], bias[1] = 0, 0
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    one, other = net.decomposed(x, weights, "one"), net.conv(x, 3, 4, "other", dead_out=(1,))
    net.nodes[1].replace_input_with(2, net.nodes[0].inputs[4])
    outputs = [net.head(y, 4, name) for y, name in ((one, "first"), (other, "second"))]
    net.initializers = [value for value in net.initializers if value.name != "other.bias"]
    model = net.model(*outputs)
    assert difference(model, shrink(model)) < 1e-5


def test_a_scale_that_is_computed_stays():
    net = Net(44)
    x = net.gemm(net.input(2, 3), 3, WIDTH, "in")
    weight, bias = net.normal(WIDTH, 3), net.normal(WIDTH)
    weight[:3] = bias[:3] = 0
    parts = net.constant(weight, "scale.weight"), net.constant(bias, "scale.bias")
    scale = net.op("Gemm", net.input(1, 3, name="style"), *parts, name="scale", transB=1)
    x = net.op("LayerNormalization", x, net.op("Squeeze", scale, net.ints(0)), name="reader")
    model = net.model(net.gemm(x, WIDTH, 4, "out"))
    shrunk = shrink(model, ShrinkConfig(multiple=1))
    assert widths(shrunk)["scale"] == WIDTH
    assert difference(model, shrunk) < 1e-5
