"""Numbers of channels that are read at run time and become sizes of other values."""

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from tests.passes.channel_models import Net, difference, shrink, widths

Brought = Callable[[Net, ir.Value, ir.Value], ir.Value]


def expanded(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """A graph input, repeated for every channel."""
    return net.op("Expand", net.input(1, 1, 6, 6, name="k"), shape)


def reshaped(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    return net.op("Reshape", net.input("N", 144, name="k"), shape)


def cut_and_joined(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """As exporters write `view(*x.shape[:2], 6, 6)`."""
    first = net.op("Slice", shape, net.ints(0), net.ints(2))
    return reshaped(net, net.op("Concat", first, net.ints(6, 6), axis=0), x)


def other_axis(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """The data has channels on an axis that is not the one that is counted."""
    y = net.op("Conv", x, net.constant(net.normal(6, 4, 1, 1), "o.weight"), name="o")
    y = net.op("Transpose", net.op("GlobalAveragePool", y), perm=[0, 2, 3, 1])
    return net.op("Expand", y, shape)


def other_channels(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """The data has as many channels, but other ones."""
    y = net.op("Conv", net.input("N", 2, 6, 6, name="k"), net.constant(net.normal(4, 2, 1, 1), "o"))
    return net.conv(net.op("Reshape", y, shape), 4, 4, "p")


def not_followed(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """The data has channels, which are mixed unevenly."""
    y = net.conv(x, 4, 3, "o", kernel=(1, 1))
    y = net.op("Resize", y, None, None, net.ints(2, 3, 6, 8), mode="nearest")
    return net.op("Reshape", y, shape)


COUNTED: dict[str, Brought] = {
    each.__name__: each
    for each in (expanded, reshaped, cut_and_joined, other_axis, other_channels, not_followed)
}


def same_channels(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """The channels that are counted, flattened and brought back to their shape."""
    y = net.op("Reshape", net.op("Flatten", net.op("Tanh", x)), shape)
    return net.conv(y, 4, 3, "c")


def scaled(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """The sizes of pixels are multiplied by one factor."""
    pixels = net.op("Slice", net.op("Shape", x), net.ints(2), net.ints(4))
    pixels = net.op("Mul", pixels, net.ints(1))
    first = net.op("Slice", shape, net.ints(0), net.ints(2))
    return same_channels(net, net.op("Concat", first, pixels, axis=0), x)


def batch(net: Net, shape: ir.Value, x: ir.Value) -> ir.Value:
    """Of another value, which has no channels."""
    first = net.op("Gather", shape, net.ints(0))
    shape = net.op("Concat", first, net.ints(-1), axis=0)
    return net.op("Reshape", net.input(2, 3, 2, name="k"), shape)


HARMLESS: dict[str, Brought] = {each.__name__: each for each in (same_channels, scaled, batch)}


def network(bring: Brought) -> ir.Model:
    """Conv a with a dead channel, read by b, and another value brought to the shape of a."""
    net = Net(51)
    x = net.op("Relu", net.conv(net.input(2, 2, 6, 6), 2, 4, "a", dead_out=(1,)))
    y = bring(net, net.op("Shape", x, name="shape"), x)
    return net.model(net.conv(x, 4, 3, "b"), y)


@pytest.mark.parametrize("case", COUNTED)
def test_channels_that_are_counted_for_other_values_stay(case):
    model = network(COUNTED[case])
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == 4
    assert difference(model, shrunk) < 1e-5


@pytest.mark.parametrize("case", HARMLESS)
def test_channels_that_are_counted_for_themselves_go(case):
    model = network(HARMLESS[case])
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == 3
    assert difference(model, shrunk) < 1e-5


def test_channels_that_are_counted_for_the_caller_stay():
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    net (float[2, 1, 4, 4] x) => (float[2, 1, 4, 4] y, int64[4] s, float[2, 16] z)
    <float[3, 1, 1, 1] aw = {1, 0, 1}, float[1, 3, 1, 1] bw = {1, 1, 1}, int64[1] first = {0},
     int64[1] rest = {-1}> {
        a = Conv (x, aw)
        y = Conv (a, bw)
        s = Shape (a)
        batch = Gather (s, first)
        t = Concat <axis = 0> (batch, rest)
        z = Reshape (x, t)
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    model.graph[0].name, model.graph[1].name = "a", "b"
    assert widths(shrink(model)) == {"a": 3, "b": 1}
