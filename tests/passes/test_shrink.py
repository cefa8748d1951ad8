import json

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.channels import follow
from passes.channels.elementwise import unary
from passes.channels.removal import format_indices, parse_indices
from passes.framework import Context, Plan, PlanError
from passes.shrink import ShrinkConfig, ShrinkPass
from runtimes.operators.decomposed_conv import DecomposedWeights, FusedActivation, read_weights
from tests.passes.channel_models import (
    Net,
    check,
    difference,
    random_factors,
    shape_of,
    shrink,
    widths,
)

TOLERANCE = 1e-5


def chain(batch: int | str = "N") -> ir.Model:
    net = Net()
    x = net.conv(net.input(batch, 3, 8, 8), 3, 8, "a", dead_out=(1, 2, 7))
    x = net.conv(net.op("Relu", x), 8, 6, "b", stride=2, dead_in=(0,), dead_out=(5,))
    return net.model(net.head(net.op("Relu", x), 6))


def residual() -> ir.Model:
    """Stem and block share eight channels; 1 and 2 are zero in both, 3 only in the block."""
    net = Net(1)
    stem = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 8, "stem", dead_out=(1, 2)))
    x = net.op("Relu", net.conv(stem, 8, 5, "a", dead_out=(4,)))
    x = net.op("Add", net.conv(x, 5, 8, "b", dead_out=(1, 2, 3)), stem)
    return net.model(net.head(net.op("Relu", x), 8))


def separable(multiplier: int = 1) -> ir.Model:
    net = Net(2)
    x = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 6, "a", dead_out=(0, 3)))
    K = 6 * multiplier
    bias = {i: -0.5 if i < multiplier else 0.0 for i in range(4 * multiplier)}
    bias |= {i: 0.5 for i in range(3 * multiplier, 4 * multiplier)}  # channel 3 stays alive
    x = net.op("Relu", net.conv(x, 6, K, "dw", group=6, dead_out=(), bias=bias))
    return net.model(net.head(net.conv(x, K, 5, "pw", kernel=(1, 1)), 5))


def grouped() -> ir.Model:
    net = Net(3)
    x = net.conv(net.input("N", 3, 8, 8), 3, 8, "a", dead_out=(1, 2, 5))
    x = net.conv(net.op("Relu", x), 8, 8, "g", group=2, dead_out=(0, 4, 7))
    return net.model(net.head(net.op("Relu", x), 8))


def dense_concat() -> ir.Model:
    net = Net(4)
    first = net.conv(net.input("N", 3, 8, 8), 3, 6, "a", dead_out=(2,))
    second = net.conv(net.op("Relu", first), 6, 4, "b", dead_out=(0, 3))
    both = net.op("Concat", first, second, axis=1)
    scale, shift, mean, variance = (net.normal(10) for _ in range(4))
    shift[[6, 9]] = mean[[6, 9]] = 0
    parts = [net.constant(a, f"bn{i}") for i, a in enumerate((scale, shift, mean, variance**2))]
    both = net.op("Relu", net.op("BatchNormalization", both, *parts, name="bn"))
    third = net.conv(both, 10, 4, "c", dead_in=(1, 2))
    return net.model(net.head(net.op("Concat", both, third, axis=1), 14))


def flattened() -> ir.Model:
    net = Net(5)
    x = net.conv(net.input("N", 3, 6, 6), 3, 5, "a", dead_out=(0, 4))
    x = net.op("Flatten", net.op("MaxPool", net.op("Relu", x), kernel_shape=[2, 2], strides=[2, 2]))
    x = net.op("Relu", net.gemm(x, 5 * 9, 7, "fc1"))
    return net.model(net.gemm(x, 7, 4, "fc2"))


def reshaped() -> ir.Model:
    net = Net(6)
    x = net.conv(net.input("N", 3, 4, 4), 3, 5, "a", dead_out=(0, 4))
    x = net.op("Reshape", net.op("Relu", x), net.ints(-1, 80), name="view")
    return net.model(net.gemm(x, 80, 4, "fc"))


def one_dimensional() -> ir.Model:
    net = Net(7)
    x = net.conv(net.input("N", 2, 16), 2, 6, "a", kernel=(5,), dead_out=(1,))
    x = net.conv(net.op("HardSwish", x), 6, 4, "b", kernel=(3,), dead_in=(2,))
    x = net.op("ReduceMean", x, net.ints(2), keepdims=0)
    weight = net.constant(net.normal(4, 3), "fc.weight")
    return net.model(net.op("MatMul", x, weight, name="fc"))


def squeeze_excite() -> ir.Model:
    net = Net(8)
    x = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 6, "a", dead_out=(1, 4)))
    gate = net.conv(net.op("GlobalAveragePool", x), 6, 3, "s", kernel=(1, 1))
    gate = net.conv(net.op("Relu", gate), 3, 6, "e", kernel=(1, 1))
    return net.model(net.head(net.op("Mul", x, net.op("HardSigmoid", gate)), 6))


def decomposed() -> ir.Model:
    net = Net(9)
    basis, coefficients, bias = random_factors(net, 6, 3, 4)
    coefficients[[1, 5]], bias[[1, 5]] = 0, -0.1
    coefficients[:, :, 2] = 0
    basis[3] = 0
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    x = net.decomposed(
        net.input("N", 3, 8, 8), weights, "a", activation=FusedActivation(name="Relu")
    )
    basis, coefficients, bias = random_factors(net, 6, 6, 3)
    coefficients[:, 4], coefficients[[1, 2]], bias[[1, 2]] = 0, 0, 0
    coefficients[:, [0, 2, 3, 4, 5], 1] = 0  # the second kernel serves a dead input alone
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    six = FusedActivation(name="Clip", lower=0.0, upper=6.0)
    x = net.decomposed(x, weights, "b", residual=x, activation=six)
    return net.model(net.head(x, 6))


EXPECTED = {
    chain: {"a": 4, "b": 5, "fc": 4},
    residual: {"stem": 6, "a": 4, "b": 6, "fc": 4},
    separable: {"a": 5, "dw": 5, "pw": 5, "fc": 4},
    grouped: {"a": 6, "g": 6, "fc": 4},
    dense_concat: {"a": 5, "b": 2, "c": 4, "fc": 4},
    flattened: {"a": 3, "fc1": 7, "fc2": 4},
    reshaped: {"a": 3, "fc": 4},
    one_dimensional: {"a": 4, "b": 4},
    squeeze_excite: {"a": 4, "s": 3, "e": 4, "fc": 4},
    decomposed: {"a": 5, "b": 5, "fc": 4},
}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_removes_dead_channels_exactly(build):
    model = build()
    before = widths(model)
    shrunk = shrink(model)
    assert widths(shrunk) == EXPECTED[build]
    assert widths(model) == before  # the copy shares tensors with the model
    assert difference(model, shrunk) < TOLERANCE
    assert [n.name for n in shrunk.graph] == [n.name for n in model.graph]
    assert [n.outputs[0].name for n in shrunk.graph] == [n.outputs[0].name for n in model.graph]


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_second_run_changes_nothing(build):
    assert not ShrinkPass()(shrink(build())).modified


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_predicted_costs_and_shapes_are_those_after_apply(build):
    model = build()
    plan = ShrinkPass().analyse(model)
    ShrinkPass().apply(model, plan)
    after = {layer.layer: layer.after for layer in plan.layers}
    assert {layer.layer: layer.before for layer in ShrinkPass().analyse(model).layers} == after
    written = {v.name: v.shape for node in model.graph for v in node.outputs}
    ir.passes.common.ShapeInferencePass()(model)
    assert {v.name: v.shape for node in model.graph for v in node.outputs} == written
    check(model)


@pytest.mark.parametrize("batch", ["N", 2])
def test_batch_size_may_be_dynamic(batch):
    model = chain(batch)
    assert shrink(model).graph.inputs[0].shape == model.graph.inputs[0].shape
    assert difference(model, shrink(model)) < TOLERANCE


def test_depthwise_multiplier():
    model = separable(2)
    shrunk = shrink(model)
    assert widths(shrunk) == {"a": 5, "dw": 10, "pw": 5, "fc": 4}
    assert difference(model, shrunk) < TOLERANCE


@pytest.mark.parametrize(
    ("bias", "ignored", "width"), [(-0.4, (), 3), (0.4, (), 4), (0.4, (2,), 3)]
)
def test_bias_of_a_dead_channel_decides(bias, ignored, width):
    net = Net(11)
    x = net.conv(net.input("N", 3, 8, 8), 3, 4, "a", dead_out=(2,), bias={2: bias})
    model = net.model(net.conv(net.op("Relu", x), 4, 5, "b", dead_in=ignored))
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == width
    assert difference(model, shrunk) < TOLERANCE


def test_broken_rule_is_caught_by_the_comparison(monkeypatch):
    net = Net(11)
    x = net.conv(net.input("N", 3, 8, 8), 3, 4, "a", dead_out=(2,), bias={2: 0.4})
    model = net.model(net.conv(net.op("Relu", x), 4, 5, "b"))
    broken = unary(lambda node, x: np.where(np.isnan(x), x, 0.0))
    monkeypatch.setitem(follow.RULES, ("", "Relu"), broken)
    assert difference(model, shrink(model)) > 1e-3


def test_basis_kernels_that_nothing_uses_are_dropped():
    shrunk = shrink(decomposed())
    nodes = {node.name: node for node in shrunk.graph}
    assert read_weights(nodes["a"]).coefficients.shape == (5, 3, 2)
    assert read_weights(nodes["b"]).coefficients.shape == (5, 5, 2)
    kept = shrink(decomposed(), ShrinkConfig(basis=False))
    nodes = {node.name: node for node in kept.graph}
    assert read_weights(nodes["a"]).coefficients.shape == (5, 3, 4)
    assert difference(decomposed(), kept) < TOLERANCE


def test_basis_alone():
    shrunk = shrink(decomposed(), ShrinkConfig(channels=False))
    nodes = {node.name: node for node in shrunk.graph}
    assert read_weights(nodes["a"]).coefficients.shape == (6, 3, 2)
    assert difference(decomposed(), shrunk) < TOLERANCE


@pytest.mark.parametrize("group", [2, 6])
def test_grouped_decomposed_conv(group):
    net = Net(12)
    x = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 6, "a", dead_out=(0, 3)))
    basis, coefficients, _ = random_factors(net, 6, 6 // group)
    weights = DecomposedWeights(basis=basis, coefficients=coefficients)
    model = net.model(net.head(net.decomposed(x, weights, "g", group=group), 6))
    shrunk = shrink(model)
    assert widths(shrunk)["a"] == 4
    assert difference(model, shrunk) < TOLERANCE


def test_everything_dead_leaves_one_of_each():
    net = Net(13)
    basis, coefficients, bias = random_factors(net, 4, 3)
    weights = DecomposedWeights(basis=0 * basis, coefficients=0 * coefficients, bias=0 * bias)
    x = net.decomposed(net.input("N", 3, 8, 8), weights, "a")
    model = net.model(net.head(net.conv(x, 4, 5, "b"), 5))
    shrunk = shrink(model)
    assert widths(shrunk) == {"a": 1, "b": 5, "fc": 4}
    assert shape_of(shrunk, "a.basis") == (1, 3, 3)
    assert difference(model, shrunk) < TOLERANCE
    assert not ShrinkPass()(shrunk).modified


def test_shared_weight_is_sliced_for_both_users():
    net = Net(14)
    x = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 4, "a", dead_out=(1,)))
    weight, bias = net.normal(4, 4, 3, 3), net.normal(4)
    weight[1] = bias[1] = 0
    shared = net.constant(weight, "shared"), net.constant(bias, "shared.bias")
    for name in ("b", "c"):
        x = net.op("Conv", x, *shared, name=name, pads=[1, 1, 1, 1])
    model = net.model(net.head(x, 4))
    shrunk = shrink(model)
    assert shape_of(shrunk, "shared") == (3, 3, 3, 3)
    assert difference(model, shrunk) < TOLERANCE


def test_shared_factors_are_split_where_the_users_differ():
    net = Net(15)
    x = net.input("N", 3, 8, 8)
    basis, coefficients, bias = random_factors(net, 4, 3)
    coefficients[2], bias[2] = 0, 0
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    one, other = net.decomposed(x, weights, "one"), net.decomposed(x, weights, "other")
    first, second = net.nodes
    for index in range(1, 5):
        second.replace_input_with(index, first.inputs[index])
    net.initializers = net.initializers[:4]
    model = net.model(net.head(one, 4), other)  # the second one is a graph output
    shrunk = shrink(model)
    assert widths(shrunk) == {"one": 3, "other": 4, "fc": 4}
    assert difference(model, shrunk) < TOLERANCE


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_weights_that_are_graph_inputs_stay(kind):
    net = Net(16)
    x = net.conv(net.input("N", 3, 8, 8), 3, 4, "a", dead_out=(1,))
    net.inputs += [value for value in net.initializers if value.name == f"a.{kind}"]
    model = net.model(net.head(net.op("Relu", x), 4))
    (layer, *_) = ShrinkPass().analyse(model).layers
    assert not layer.applies
    assert layer.reason == f"frozen: {kind} is a graph input, it may change at run time"
    assert not ShrinkPass()(model).modified


def test_option_a_shortcut_is_frozen_with_its_reason():
    net = Net(17)
    x = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 4, "a", dead_out=(1,)))
    y = net.op("Relu", net.conv(x, 4, 6, "b", stride=2, dead_out=(5,)))
    y = net.conv(y, 6, 8, "c", dead_out=(0, 3))
    cut = net.op("Slice", x, net.ints(0, 0), net.ints(8, 8), net.ints(2, 3), net.ints(2, 2))
    padded = net.op("Pad", cut, net.ints(0, 2, 0, 0, 0, 2, 0, 0), name="widen")
    model = net.model(net.head(net.op("Relu", net.op("Add", y, padded)), 8))
    layers = {layer.layer: layer for layer in ShrinkPass().analyse(model).layers}
    assert layers["a"].reason == "frozen: Pad 'widen': pads the channel axis"
    assert layers["c"].reason == "dead: 1 of 6 input channels"
    shrunk = shrink(model)
    assert widths(shrunk) == {"a": 4, "b": 5, "c": 8, "fc": 4}
    assert difference(model, shrunk) < TOLERANCE


def test_excluded_layers_stay():
    model = chain()
    context = Context(exclude=("b",))
    plan = ShrinkPass(context=context).analyse(model)
    layers = {layer.layer: layer for layer in plan.layers}
    assert layers["b"].reason == "matched by --exclude b"
    assert [layer.layer for layer in plan.applied] == []
    later = ShrinkPass(context=Context(exclude=("fc",))).analyse(model)
    assert {layer.layer for layer in later.applied} == {"a", "b"}
    ShrinkPass().apply(model, later)  # a plan can be applied without its context
    assert widths(model) == {"a": 4, "b": 6, "fc": 4}
    assert difference(chain(), model) < TOLERANCE


def test_plan_survives_json():
    model = decomposed()
    plan = ShrinkPass().analyse(model)
    read = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    ShrinkPass().apply(model, read)
    assert widths(model) == EXPECTED[decomposed]
    reasons = [layer.reason for layer in plan.layers]
    assert reasons[0] == "dead: 1 of 6 output channels, 2 of 4 basis kernels"


def _changed(plan: Plan, layer: str, **settings: str) -> Plan:
    data = plan.to_json()
    for entry in data["layers"]:
        if entry["layer"] == layer:
            entry["settings"] = {**entry["settings"], **settings}
    return Plan.from_json(data)


@pytest.mark.parametrize(
    ("layer", "settings", "message"),
    [
        ("a", {"outputs": "0-7"}, "all channels"),
        ("a", {"outputs": "99"}, "out of bounds"),
        ("a", {"outputs": "x"}, "bad setting"),
        ("a", {"outputs": "0-2"}, "not fit its neighbours"),
        ("b", {"outputs": "0,5"}, "channels that are not dead"),
        ("b", {"basis": "0"}, "basis kernels that are not dead"),
    ],
)
def test_plans_that_do_not_match_are_refused(layer, settings, message):
    model = chain()
    plan = _changed(ShrinkPass().analyse(model), layer, **settings)
    with pytest.raises(PlanError, match=message):
        ShrinkPass().apply(model, plan)
    assert widths(model) == widths(chain())


def test_plan_of_another_model_is_refused():
    with pytest.raises(PlanError, match="no layer 'stem'"):
        ShrinkPass().apply(chain(), ShrinkPass().analyse(residual()))
    live = Net(0)
    x = live.conv(live.input("N", 3, 8, 8), 3, 8, "a")
    x = live.conv(live.op("Relu", x), 8, 6, "b", stride=2)
    model = live.model(live.head(live.op("Relu", x), 6))
    with pytest.raises(PlanError, match="not dead"):
        ShrinkPass().apply(model, ShrinkPass().analyse(chain()))


@given(st.sets(st.integers(0, 40)))
def test_indices_as_text(indices):
    text = format_indices(tuple(sorted(indices)))
    assert parse_indices(text) == tuple(sorted(indices))


BLOCKS = ("plain", "residual", "separable", "grouped", "concat", "gate", "pool", "decomposed")


def _random_net(blocks: list[str], seed: int, share: float, flat: bool) -> ir.Model:
    """A network of eight channels a stage; a share of all channels and biases is zeroed."""
    net = Net(seed)

    def dead(count: int) -> tuple[int, ...]:
        return tuple(np.flatnonzero(net.rng.random(count) < share).tolist())

    def conv(x: ir.Value, C: int, K: int, name: str, **options) -> ir.Value:
        out, bias = dead(K), net.rng.choice([-0.2, 0.0, 0.2], K, p=[0.4, 0.4, 0.2])
        group = options.get("group", 1)
        return net.conv(
            x, C, K, name, dead_out=out, bias={k: float(bias[k]) for k in out},
            dead_in=dead(C // group), **options,
        )  # fmt: skip

    def block(kind: str, x: ir.Value, i: int) -> ir.Value:
        if kind == "plain":
            return net.op("Relu", conv(x, 8, 8, f"{i}a"))
        if kind == "residual":
            y = net.op("Relu", conv(x, 8, 6, f"{i}a"))
            return net.op("Relu", net.op("Add", conv(y, 6, 8, f"{i}b", kernel=(1, 1)), x))
        if kind == "separable":
            y = net.op("Relu", conv(x, 8, 8, f"{i}a", group=8))
            return net.op("LeakyRelu", conv(y, 8, 8, f"{i}b", kernel=(1, 1)))
        if kind == "grouped":
            return net.op("HardSwish", conv(x, 8, 8, f"{i}a", group=2))
        if kind == "concat":
            y = net.op("Concat", x, net.op("Relu", conv(x, 8, 4, f"{i}a")), axis=1)
            return conv(y, 12, 8, f"{i}b")
        if kind == "gate":
            gate = conv(net.op("GlobalAveragePool", x), 8, 8, f"{i}a", kernel=(1, 1))
            return net.op("Mul", x, net.op("Sigmoid", gate))
        if kind == "pool":
            return net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        basis, coefficients, bias = random_factors(net, 8, 8)
        out = list(dead(8))
        coefficients[out], coefficients[:, list(dead(8))] = 0, 0
        bias[out] = -0.1
        coefficients *= net.rng.random(coefficients.shape) > share
        weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
        relu = FusedActivation(name="Relu")
        return net.decomposed(x, weights, f"{i}a", residual=x if i % 2 else None, activation=relu)

    x = net.op("Relu", conv(net.input("N", 3, 6, 6), 3, 8, "stem"))
    for i, kind in enumerate(blocks):
        x = block(kind, x, i)
    x = conv(x, 8, 8, "last", stride=2)
    return net.model(net.gemm(net.op("Flatten", x), 72, 4, "fc") if flat else net.head(x, 8))


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
    share=st.sampled_from([0.15, 0.4, 0.8]),
    flat=st.booleans(),
)
def test_random_networks_keep_their_output(blocks, seed, share, flat):
    model = _random_net(blocks, seed, share, flat)
    shrunk = shrink(model)
    assert difference(model, shrunk) < TOLERANCE
    assert not ShrinkPass().analyse(shrunk).applied


def test_layers_without_a_name_of_their_own_stay():
    model = chain()
    for node in model.graph:
        if node.op_type == "Conv":
            node.name = "conv"
    plan = ShrinkPass().analyse(model)
    assert not plan.applied
    assert plan.layers[0].reason == "frozen: its name is empty or not unique"


def test_plan_of_another_pass_is_refused():
    with pytest.raises(PlanError, match="plan of penni, not of shrink"):
        ShrinkPass().apply(chain(), Plan(pass_name="penni", config={}, layers=()))


def wide(dead: tuple[int, ...]) -> ir.Model:
    net = Net(9)
    x = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 32, "a", dead_out=dead))
    return net.model(net.head(net.op("Relu", net.conv(x, 32, 8, "b")), 8))


@pytest.mark.parametrize(
    ("n_dead", "multiple", "width"), [(2, 16, 32), (17, 16, 16), (20, 8, 16), (5, 1, 27)]
)
def test_widths_stay_multiples(n_dead, multiple, width) -> None:
    model = wide(tuple(range(n_dead)))
    config = ShrinkConfig(multiple=multiple)
    plan = ShrinkPass(config).analyse(model)
    shrunk = shrink(model, config)
    assert shape_of(shrunk, "a.weight")[0] == width == shape_of(shrunk, "b.weight")[1]
    assert difference(model, shrunk) <= TOLERANCE
    if width == 32:
        assert "multiples of 16" in plan.layers[0].reason
    assert not ShrinkPass(config)(shrunk).modified
