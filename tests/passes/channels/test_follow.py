"""One operator at a time between two convolutions, with channel 1 of four dead."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.channels.follow import RULES, follow_channels
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError
from passes.channels.liveness import kept_channels, live_channels
from passes.shrink import ShrinkPass
from runtimes.operators import DOMAIN
from tests.passes.channel_models import Net, difference, shape_of, shrink, widths

Between = Callable[[Net, ir.Value], ir.Value]


def network(between: Between, dead_bias: float = 0.0, C: int = 4, opset: int = 18) -> ir.Model:
    """Conv a (4 channels, the second without weights), something, Conv b."""
    net = Net(21, opset=opset)
    x = net.input("N", 2, 6, 6)
    x = net.conv(x, 2, 4, "a", dead_out=(1,), bias={1: dead_bias})
    return net.model(net.conv(between(net, x), C, 3, "b"))


def reason(model: ir.Model, layer: str = "a") -> str:
    return next(d.reason for d in ShrinkPass().analyse(model).layers if d.layer == layer)


def scalar(net: Net, number: float, name: str = "scalar") -> ir.Value:
    return net.constant(np.array(number, np.float32), name)


def vector(net: Net, *numbers: float, shape: tuple[int, ...] = (4, 1, 1)) -> ir.Value:
    return net.constant(np.array(numbers, np.float32).reshape(shape), "vector")


def batch_norm(net: Net, x: ir.Value, scale: float, shift: float, mean: float) -> ir.Value:
    rows = np.array([[1, scale, 2, 3], [1, shift, 2, 3], [1, mean, 2, 3], [1, 1, 2, 3]], np.float32)
    parts = [net.constant(row, f"bn{i}") for i, row in enumerate(rows)]
    return net.op("Relu", net.op("BatchNormalization", x, *parts))


def flat_tokens(net: Net, x: ir.Value) -> ir.Value:
    """Image to tokens and back, as in a vision Transformer."""
    x = net.op("Reshape", x, net.ints(0, 4, -1))
    x = net.op("Transpose", x, perm=[0, 2, 1])
    x = net.op("MatMul", net.op("Tanh", x), net.constant(net.normal(4, 4), "mix"))
    x = net.op("Transpose", x, perm=[0, 2, 1])
    return net.op("Reshape", x, net.ints(-1, 4, 6, 6))


def sized_at_run_time(net: Net, x: ir.Value) -> ir.Value:
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    shape = net.op("Concat", batch, net.ints(-1), axis=0)
    x = net.op("Gemm", net.op("Reshape", x, shape), net.constant(net.normal(144, 4), "w"))
    return net.op("Unsqueeze", x, net.ints(2, 3))


def clip(low: float, high: float) -> Between:
    return lambda net, x: net.op("Clip", x, scalar(net, low), scalar(net, high, "high"))


def pads(*numbers: int, value: float | None = None) -> Between:
    def between(net: Net, x: ir.Value) -> ir.Value:
        fill = [] if value is None else [scalar(net, value)]
        return net.op("Pad", x, net.ints(*numbers), *fill)

    return between


def resize_to(*sizes: int) -> Between:
    return lambda net, x: net.op("Resize", x, None, None, net.ints(*sizes), mode="nearest")


def scaled(net: Net, x: ir.Value) -> ir.Value:
    return net.op("Resize", x, None, vector(net, 1, 1, 2, 2, shape=(4,)), mode="nearest")


def channel_shuffle(net: Net, x: ir.Value) -> ir.Value:
    """ShuffleNet's: two groups of two channels. Both groups lose the same position."""
    x = net.op("Reshape", x, net.ints(-1, 2, 2, 6, 6))
    return net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.ints(-1, 4, 6, 6))


def in_two(net: Net, x: ir.Value) -> ir.Value:
    outputs = [ir.Value(name="left"), ir.Value(name="right")]
    net.nodes.append(
        ir.Node("", "Split", [x], [ir.AttrInt64("axis", 1), ir.AttrInt64("num_outputs", 2)],
                name="halves", outputs=outputs)
    )  # fmt: skip
    return net.op("Concat", *outputs, axis=1)


def swap(net: Net, x: ir.Value) -> ir.Value:
    return net.op("Transpose", net.op("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])


def pool(kind: str, **attributes: object) -> Between:
    return lambda net, x: net.op(kind, x, kernel_shape=[2, 2], **attributes)


def quantised_pool(net: Net, x: ir.Value) -> ir.Value:
    attributes = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "ceil_mode": 0}
    x = net.op("Mul", net.op("Relu", x), scalar(net, 50))
    whole = net.op("Cast", x, to=ir.DataType.UINT8)
    y = net.op("QuantizedMaxPool", whole, domain=DOMAIN, kernel_shape=[2, 2], **attributes)
    return net.op("Cast", y, to=ir.DataType.FLOAT)


def reduce(kind: str) -> Between:
    return lambda net, x: net.op(kind, x, net.ints(2, 3))


def join(kind: str, *numbers: float, swapped: bool = False) -> Between:
    def between(net: Net, x: ir.Value) -> ir.Value:
        operands = [x, vector(net, *numbers)]
        return net.op(kind, *(operands[::-1] if swapped else operands))

    return between


FOLLOWED: dict[str, tuple[Between, float]] = {
    "relu of a negative bias": (lambda net, x: net.op("Relu", x), -0.5),
    "clip": (clip(0, 6), -0.5),
    "clip from below": (clip(-1, 0), 0.5),
    "prelu": (lambda net, x: net.op("PRelu", x, vector(net, 1, 2, 3, 4)), 0),
    "gelu by hand": (lambda net, x: net.op("Mul", x, net.op("Erf", x)), 0),
    "gate": (lambda net, x: net.op("Mul", x, net.op("Sigmoid", x)), 0),
    "add that makes zero": (join("Add", 1, -0.5, 2, 3), 0.5),
    "sub that makes zero": (join("Sub", 1, 0.5, 2, 3), 0.5),
    "sub from a constant": (join("Sub", 1, 0.5, 2, 3, swapped=True), 0.5),
    "mul by zero": (join("Mul", 1, 0, 2, 3), 0.5),
    "div": (join("Div", 1, 2, 2, 3), 0),
    "min": (join("Min", 1, 0, 2, 3), 0.5),
    "max": (join("Max", 1, 0, 2, 3), -0.5),
    "sum of three": (lambda net, x: net.op("Sum", x, x, scalar(net, 0)), 0),
    "max pool": (pool("MaxPool", pads=[1, 1, 1, 1]), 0),
    "average pool": (pool("AveragePool"), 0),
    "quantised max pool": (quantised_pool, 0),
    "global pool": (lambda net, x: net.op("GlobalMaxPool", x), 0),
    "reduce": (reduce("ReduceMean"), 0),
    "spatial mask": (
        lambda net, x: net.op("Mul", x, net.constant(net.normal(1, 1, 6, 6), "mask")),
        0,
    ),
    "spatial pad": (pads(0, 0, 1, 1, 0, 0, 1, 1), 0),
    "spatial slice": (
        lambda net, x: net.op("Slice", x, net.ints(0, 0), net.ints(9, 9), net.ints(2, 3)),
        0,
    ),
    "spatial concat": (lambda net, x: net.op("Concat", x, x, axis=2), 0),
    "resize by factors": (scaled, 0),
    "batch norm": (lambda net, x: batch_norm(net, x, 3, -0.2, 0.1), 0.1),
    "batch norm without scale": (lambda net, x: batch_norm(net, x, 0, 0, 3), 0.1),
    "transpose": (swap, 0),
    "squeeze": (
        lambda net, x: net.op("Squeeze", net.op("Unsqueeze", x, net.ints(0)), net.ints(0)),
        0,
    ),
    "tokens": (flat_tokens, 0),
    "shape at run time": (sized_at_run_time, 0),
    "shuffle": (channel_shuffle, 0),
    "channel slice": (
        lambda net, x: net.op(
            "Concat",
            net.op("Slice", x, net.ints(0), net.ints(2), net.ints(1)),
            net.op("Slice", x, net.ints(-2), net.ints(2**31), net.ints(1)),
            axis=1,
        ),
        0,
    ),
    "split": (in_two, 0),
    "product with itself": (lambda net, x: net.op("MatMul", x, x), 0),
    "channel flatten": (
        lambda net, x: net.op("Reshape", net.op("Flatten", x, axis=2), net.ints(-1, 4, 6, 6)),
        0,
    ),
    "flatten counted from the end": (
        lambda net, x: net.op("Reshape", net.op("Flatten", x, axis=-3), net.ints(-1, 4, 6, 6)),
        0,
    ),
    "transposed convolution": (
        lambda net, x: net.op("ConvTranspose", x, net.constant(net.normal(4, 4, 2, 2), "t")),
        0,
    ),
}

KEPT: dict[str, tuple[Between, float, str]] = {
    "relu of a positive bias": (lambda net, x: net.op("Relu", x), 0.5, "no dead channel"),
    "sigmoid": (lambda net, x: net.op("Sigmoid", x), 0, "no dead channel"),
    "add a constant": (join("Add", 1, 1, 2, 3), 0, "no dead channel"),
    "div by zero": (join("Div", 1, 0, 2, 3), 1, "no dead channel"),
    "batch norm with shift": (lambda net, x: batch_norm(net, x, 3, 1, 0), 0, "no dead channel"),
    "pad with ones": (pads(0, 0, 1, 1, 0, 0, 1, 1, value=1), 0, "no dead channel"),
    "channel pad": (pads(0, 1, 0, 0, 0, 0, 0, 0), 0, "pads the channel axis"),
    "softmax": (
        lambda net, x: net.op("Softmax", x, axis=1),
        0,
        "relates all elements of an axis",
    ),
    "unknown operator": (
        lambda net, x: net.op("GridSample", x, net.input("N", 6, 6, 2, name="grid")),
        0,
        "GridSample 'gridsample1': its channels are not followed",
    ),
    "batch reshape": (
        lambda net, x: net.op("Reshape", x, net.ints(4, -1, 6, 6)),
        0,
        "splits or mixes the channels unevenly",
    ),
    "channel mean": (
        lambda net, x: net.op("ReduceMean", x, net.ints(1)),
        0,
        "reduces over the channels",
    ),
    "number of channels": (
        lambda net, x: net.op(
            "Mul", x, net.op("Cast", net.op("Gather", net.op("Shape", x), net.ints(1)), to=1)
        ),
        0,
        "the number of channels is read at run time",
    ),
    "wide broadcast": (
        lambda net, x: net.op("Add", net.op("Unsqueeze", x, net.ints(0)), x),
        0,
        "no dead channel",
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_followed_operators(case):
    between, bias = FOLLOWED[case]
    model = network(between, bias)
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == (4 if case == "shuffle" else 3)
    assert difference(model, shrunk) < 1e-5


@pytest.mark.parametrize("case", KEPT)
def test_operators_that_keep_or_freeze_channels(case):
    between, bias, expected = KEPT[case]
    net = Net(21)
    x = net.conv(net.input("N", 2, 6, 6), 2, 4, "a", dead_out=(1,), bias={1: bias})
    y = between(net, x)
    if expected == "no dead channel" and case != "wide broadcast":
        y = net.conv(y, 4, 3, "b")
    if case == "wide broadcast":
        y = net.conv(net.op("Squeeze", y, net.ints(0)), 4, 3, "b")
        expected = "dead: 1 of 4 output channels"
    assert expected in reason(net.model(y))


@pytest.mark.parametrize(("sizes", "width"), [((2, 4, 12, 12), 3), ((2, 8, 12, 12), 4)])
def test_sizes_that_count_the_channels_are_rewritten(sizes, width):
    net = Net(22)
    x = net.conv(net.input(2, 2, 6, 6), 2, 4, "a", dead_out=(1,))
    model = net.model(net.conv(resize_to(*sizes)(net, x), sizes[1], 3, "b"))
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == width
    assert difference(model, shrunk) < 1e-5


def test_sizes_used_elsewhere_are_copied():
    net = Net(23)
    x = net.conv(net.input(2, 2, 6, 6), 2, 4, "a", dead_out=(1,))
    shape = net.ints(2, 4, 36)
    y = net.op("Reshape", x, shape)
    y = net.op("Conv", y, net.constant(net.normal(3, 4, 1), "w"), name="b")
    z = net.op("Reshape", net.input(8, 36, name="z"), shape)
    model = net.model(y, z)
    shrunk = shrink(model)
    assert widths(shrunk) == {"a": 3, "b": 3}
    assert difference(model, shrunk) < 1e-5


def test_channels_used_in_a_subgraph_are_frozen():
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    net (float[1, 1, 4, 4] x, bool c) => (float[1, 1, 4, 4] y, float[1, 3, 4, 4] t)
    <float[3, 1, 1, 1] aw = {1, 0, 1}, float[1, 3, 1, 1] bw = {1, 1, 1}> {
        a = Conv (x, aw)
        t = If (c) <then_branch = yes () => (float[1, 3, 4, 4] p) { p = Abs (a) },
                    else_branch = no () => (float[1, 3, 4, 4] q) { q = Neg (a) }>
        y = Conv (a, bw)
    }
    """
    graph = follow_channels(ir.from_proto(onnx.parser.parse_model(text)))
    live, ids = live_channels(graph), graph.mixings[0].writes
    assert live.read[ids].tolist() == [True, False, True]
    assert live.needed[ids].all()


def test_spatial_attention_map_is_broadcast():
    net = Net(24)
    x = net.conv(net.input("N", 2, 6, 6), 2, 4, "a", dead_out=(1,))
    mask = net.conv(x, 4, 1, "mask")
    model = net.model(net.conv(net.op("Mul", x, net.op("Sigmoid", mask)), 4, 3, "b"))
    shrunk = shrink(model)
    assert widths(shrunk) == {"a": 3, "mask": 1, "b": 3}
    assert difference(model, shrunk) < 1e-5


def test_weight_used_by_another_operator_is_frozen():
    net = Net(25)
    x = net.conv(net.input("N", 2, 6, 6), 2, 4, "a", dead_out=(1,))
    x = net.conv(x, 4, 3, "b")
    weight = net.nodes[0].inputs[1]
    model = net.model(x, net.op("Softmax", weight, name="look"))
    assert "Softmax 'look'" in reason(model)
    assert shape_of(shrink(model), "a.weight") == (4, 2, 3, 3)


def places(net: Net, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Where every maximum was, as floats."""
    y = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    return y, net.op("Cast", net.nodes[-1].outputs[1], to=1)


def unpooled(net: Net, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    y = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    indices = net.nodes[-1].outputs[1]
    z = net.op("MaxUnpool", net.conv(y, 4, 4, "z"), indices, kernel_shape=[2, 2], strides=[2, 2])
    return y, z


def dropped(net: Net, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """What Dropout keeps, which is everything at inference."""
    y = net.op("Dropout", x, outputs=2)
    return y, net.op("Cast", net.nodes[-1].outputs[1], to=1)


@pytest.mark.parametrize("build", [places, unpooled, dropped])
def test_channels_of_a_further_output_are_kept(build):
    net = Net(27)
    x = net.conv(net.input(2, 2, 6, 6), 2, 4, "a", dead_out=(1,))
    y, z = build(net, x)
    model = net.model(net.conv(y, 4, 3, "b"), z)
    assert "more than one output is used" in reason(model)
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == 4
    assert difference(model, shrunk) < 1e-5


def test_sizes_may_be_dynamic():
    net = Net(26)
    x = net.conv(net.input("N", 2, "H", "W"), 2, 4, "a", dead_out=(1,))
    model = net.model(net.op("Flatten", x, name="flat"))
    assert reason(model) == "frozen: graph output"


def test_union_find():
    graph = ChannelGraph()
    a, b, c = graph.new(3), graph.new(3), graph.new(3)
    graph.tie(a, b)
    graph.tie(c[:2], b[1:])
    assert graph.roots().tolist() == [0, 1, 2, 0, 1, 2, 1, 2, 8]
    graph.freeze(c, "because")
    assert graph.frozen() == {1: "because", 2: "because", 8: "because"}
    with pytest.raises(NotFollowedError, match="joins 3 with 2"):
        graph.tie(a, b[:2])


def test_what_nobody_reads_keeps_one_channel():
    graph = follow_channels(network(lambda net, x: net.op("Relu", x)))
    nothing = np.zeros_like(live_channels(graph).needed)
    kept = kept_channels(graph, nothing)
    assert [int(kept[m.writes].sum()) for m in graph.mixings] == [1, 1]


def test_rules_name_operators_that_exist():
    names = {schema.name for schema in onnx.defs.get_all_schemas()}
    ours = {name for domain, name in RULES if domain == ""}
    assert ours - {"SimplifiedLayerNormalization"} <= names  # onnxruntime puts it there
