"""Removal of lines: the pruned model equals the one whose lines are zero."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from passes.channels.groups import channel_groups, prunable
from passes.channels.plans import planned_channels, read_settings
from passes.cost import model_cost
from passes.framework import ConfigError, Plan, PlanError
from passes.tprune import TprunePass, mask_lines
from passes.tprune_budget import mac_budget
from passes.tprune_config import TpruneConfig
from tests.helpers import parse_ir
from tests.passes.channel_models import Net, check, difference, run, widths

WIDTH, HEADS = 16, 2


def linear(net: Net, x: ir.Value, C: int, K: int, name: str, bias: bool = True) -> ir.Value:
    x = net.op("MatMul", x, net.constant(net.normal(C, K), f"{name}.weight"), name=name)
    return net.op("Add", x, net.constant(net.normal(1, K)[0], f"{name}.bias")) if bias else x


def heads(net: Net, x: ir.Value, size: int, count: int = HEADS) -> ir.Value:
    x = net.op("Reshape", x, net.ints(0, 0, count, size))
    return net.op("Transpose", x, perm=[0, 2, 1, 3])


def rotary(net: Net, x: ir.Value, size: int) -> ir.Value:
    half = size // 2
    axis = net.ints(3)
    first = net.op("Slice", x, net.ints(0), net.ints(half), axis)
    second = net.op("Slice", x, net.ints(half), net.ints(2**31), axis)
    turned = net.op("Concat", net.op("Neg", second), first, axis=3)
    cos, sin = (net.constant(net.normal(5, size), f"angle{len(net.nodes)}_{i}") for i in range(2))
    return net.op("Add", net.op("Mul", x, cos), net.op("Mul", turned, sin))


def attention(net: Net, x: ir.Value, i: int, *, turned: bool = False, packed: bool = False):
    size, inner = 8, HEADS * 8
    if packed:
        both = linear(net, x, WIDTH, 3 * inner, f"{i}qkv")
        outputs = [ir.Value(name=f"{i}part{j}") for j in range(3)]
        net.nodes.append(
            ir.Node("", "Split", [both, net.ints(inner, inner, inner)],
                    [ir.AttrInt64("axis", 2)], name=f"{i}split", outputs=outputs)
        )  # fmt: skip
    else:
        outputs = [linear(net, x, WIDTH, inner, f"{i}{n}") for n in "qkv"]
    q, k, v = (heads(net, y, size) for y in outputs)
    if turned:
        q, k = rotary(net, q, size), rotary(net, k, size)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
    return net.op("Add", x, linear(net, y, inner, WIDTH, f"{i}o"))


def feed(net: Net, x: ir.Value, i: int, *, gated: bool = False) -> ir.Value:
    up = linear(net, x, WIDTH, 24, f"{i}up")
    y = net.op("Tanh", up)
    if gated:
        y = net.op("Mul", net.op("Sigmoid", linear(net, x, WIDTH, 24, f"{i}gate")), up)
    return net.op("Add", x, linear(net, y, 24, WIDTH, f"{i}down"))


def norm(net: Net, x: ir.Value, i: int) -> ir.Value:
    return net.op("LayerNormalization", x, net.constant(net.normal(1, WIDTH)[0], f"{i}scale"))


def mixed(net: Net, x: ir.Value, i: int) -> ir.Value:
    """A hidden layer that is cut in two, of which one half is a gate, and joined again."""
    y = linear(net, x, WIDTH, 24, f"{i}wide")
    left = net.op("Slice", y, net.ints(0), net.ints(10), net.ints(2))
    right = net.op("Slice", y, net.ints(-14), net.ints(24), net.ints(2))
    y = net.op("Concat", net.op("Relu", right), net.op("Tanh", left), axis=-1)
    return linear(net, y, 24, WIDTH, f"{i}narrow", bias=False)


def tokens_mixed(net: Net, x: ir.Value, i: int) -> ir.Value:
    """Channels go through a product over positions."""
    y = linear(net, x, WIDTH, 20, f"{i}a")
    y = net.op("Transpose", net.op("Transpose", y, perm=[0, 2, 1]), perm=[0, 2, 1])
    gate = net.op("ReduceMean", y, net.ints(1))
    return net.op("Add", x, linear(net, net.op("Mul", y, gate), 20, WIDTH, f"{i}b"))


BLOCKS = {
    "attention": attention,
    "rotary": lambda net, x, i: attention(net, x, i, turned=True),
    "packed": lambda net, x, i: attention(net, x, i, packed=True),
    "feed": feed,
    "gated": lambda net, x, i: feed(net, x, i, gated=True),
    "norm": norm,
    "mixed": mixed,
    "tokens": tokens_mixed,
}


def network(seed: int) -> ir.Model:
    """A random sequence of blocks on (N, 5, 16)."""
    net = Net(seed)
    x = linear(net, net.input("N", 5, 6), 6, WIDTH, "embed")
    for i in range(net.rng.integers(1, 4)):
        x = BLOCKS[str(net.rng.choice(list(BLOCKS)))](net, x, i)
    return net.model(linear(net, x, WIDTH, 7, "head"))


def masked_and_pruned(model: ir.Model, config: TpruneConfig) -> tuple[ir.Model, ir.Model, Plan]:
    plan = TprunePass(config).analyse(model)
    settings = {layer.layer: read_settings(layer, "tprune") for layer in plan.applied}
    kept = planned_channels(prunable(model), settings, "tprune")
    masked, pruned = model.clone(), model.clone()
    mask_lines(prunable(masked), kept)
    if plan.applied:
        TprunePass(config).apply(pruned, plan)
    check(pruned)
    return masked, pruned, plan


def differential(seed: int) -> None:
    density = (0.3, 0.5, 0.8)[seed % 3]
    which = ("both", "lines", "whole")[seed // 3 % 3]
    config = TpruneConfig(density=density, multiple=1 + seed % 2, heads=which)
    model = network(seed)
    masked, pruned, _ = masked_and_pruned(model, config)
    assert difference(masked, pruned) < 1e-5, seed


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_networks_pruned_equal_masked(first):
    for seed in range(first, first + 20):
        differential(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 50))
def test_a_thousand_random_networks_pruned_equal_masked(first):
    for seed in range(first, first + 50):
        differential(seed)


def test_wrong_lines_are_found_by_the_comparison():
    model = single(attention)
    masked, _, plan = masked_and_pruned(model, TpruneConfig(density=0.5, multiple=1))
    settings = {layer.layer: read_settings(layer, "tprune") for layer in plan.applied}
    graph = prunable(model)
    kept = planned_channels(graph, settings, "tprune")
    (value, axis), ids = next(
        (key, ids)
        for key, ids in graph.slices.items()
        if key[0].name == "0o.weight" and key[1] == 0
    )
    array = value.const_value.numpy().copy()
    array[kept[ids]] *= 1.01
    value.const_value = ir.tensor(array, name=value.name)
    _, pruned, _ = masked_and_pruned(model, TpruneConfig(density=0.5, multiple=1))
    assert axis == 0 and difference(masked, pruned) > 1e-4


def single(block, **options) -> ir.Model:
    net = Net(3)
    x = linear(net, net.input("N", 5, 6), 6, WIDTH, "embed")
    x = block(net, norm(net, x, 9), 0, **options)
    return net.model(linear(net, norm(net, x, 8), WIDTH, 7, "head"))


def shape(model: ir.Model, name: str) -> tuple[int, ...]:
    return tuple(model.graph.initializers[name].const_value.shape)


def test_queries_go_with_keys_and_values_with_the_rows_behind_them():
    config = TpruneConfig(density=0.5, multiple=1, heads="lines")
    _, pruned, _ = masked_and_pruned(single(attention), config)
    assert shape(pruned, "0q.weight") == shape(pruned, "0k.weight") == (WIDTH, 8)
    assert shape(pruned, "0v.weight") == (WIDTH, 8)
    assert shape(pruned, "0o.weight") == (8, WIDTH)
    assert shape(pruned, "0q.bias") == (8,)


def test_whole_heads():
    config = TpruneConfig(density=0.5, multiple=1, heads="whole")
    _, pruned, _ = masked_and_pruned(single(attention), config)
    assert {shape(pruned, f"0{n}.weight") for n in "qkv"} == {(WIDTH, 8)}
    assert shape(pruned, "0o.weight") == (8, WIDTH)


def test_rotary_features_go_in_pairs_in_every_head():
    config = TpruneConfig(density=0.5, multiple=1, heads="lines")
    model = single(attention, turned=True)
    _, pruned, _ = masked_and_pruned(model, config)
    assert shape(pruned, "0q.weight") == (WIDTH, 8)
    tables = [name for name in pruned.graph.initializers if name.startswith("angle")]
    assert {shape(pruned, name) for name in tables} == {(5, 4)}


def test_neurons_go_with_the_gate():
    _, pruned, _ = masked_and_pruned(
        single(feed, gated=True), TpruneConfig(density=0.25, multiple=1)
    )
    assert shape(pruned, "0up.weight") == shape(pruned, "0gate.weight") == (WIDTH, 6)
    assert shape(pruned, "0down.weight") == (6, WIDTH)


def test_infinite_masks_do_not_say_which_channels_matter():
    def block(net, x, i, floor):
        up = linear(net, x, WIDTH, 24, "0up")
        if floor:
            up = net.op("Max", up, net.constant(np.full(24, -np.inf, np.float32), "floor"))
        return net.op("Add", x, linear(net, net.op("Tanh", up), 24, WIDTH, "0down"))

    config = TpruneConfig(density=0.5, multiple=1)
    plain, masked = (
        masked_and_pruned(single(block, floor=floor), config)[1] for floor in (False, True)
    )
    assert shape(masked, "floor") == (12,)
    assert difference(plain, masked) == 0


def test_widths_stay_multiples():
    _, pruned, _ = masked_and_pruned(single(feed), TpruneConfig(density=0.4, multiple=8))
    assert shape(pruned, "0up.weight") == (WIDTH, 16)


def test_normalised_widths_are_frozen_with_their_reason():
    groups = channel_groups(prunable(single(feed)))
    [width] = [
        group
        for group in groups
        if any(m[0] == "embed.weight" for m in group.members) and len(group.units) == WIDTH
    ]
    assert width.frozen is not None and "LayerNormalization" in width.frozen
    [hidden] = [group for group in groups if group.name == "0up.weight"]
    assert hidden.frozen is None and len(hidden.units) == 24
    assert {name for name, _, _ in hidden.members} == {"0up.weight", "0up.bias", "0down.weight"}


def test_products_of_what_is_not_zero_without_weights_are_frozen():
    net = Net(4)
    x = net.input("N", 5, 6)
    q, k = (net.op("Exp", linear(net, x, 6, 8, n)) for n in "qk")
    model = net.model(net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]), name="dot"))
    groups = channel_groups(prunable(model))
    reasons = [group.frozen for group in groups if len(group.units) == 8]
    assert reasons and all("MatMul 'dot': not zero when the weights are" in r for r in reasons)


def test_a_trained_sparse_model_is_compacted_exactly():
    model = single(feed)
    value = model.graph.initializers["0up.weight"]
    weight = value.const_value.numpy().copy()
    weight[:, ::3] = 0
    value.const_value = ir.tensor(weight, name=value.name)
    for name, axis in (("0up.bias", 0), ("0down.weight", 0)):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        np.moveaxis(array, axis, 0)[::3] = 0
        value.const_value = ir.tensor(array, name=name)
    pruned = model.clone()
    TprunePass(TpruneConfig(threshold=0.0, multiple=1))(pruned)
    assert shape(pruned, "0up.weight") == (WIDTH, 16)
    assert difference(model, pruned) < 1e-5


def test_a_plan_survives_json_and_foreign_plans_are_refused():
    model = single(attention)
    config = TpruneConfig(density=0.5, multiple=1)
    plan = TprunePass(config).analyse(model)
    read = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    one, other = model.clone(), model.clone()
    TprunePass(config).apply(one, plan)
    TprunePass(config).apply(other, read)
    assert all(np.array_equal(a, b) for a, b in zip(run(one), run(other), strict=True))
    with pytest.raises(PlanError):
        TprunePass(config).apply(single(feed), read)


def test_budgets_out_of_reach_are_an_error():
    with pytest.raises(ConfigError, match=r"params=0.01 cannot be reached: 0\.\d+ of the model"):
        TprunePass(TpruneConfig(params=0.01)).analyse(single(feed))


@pytest.mark.parametrize("options", [{"params": 0.6}, {"macs": 0.6}])
@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }", {}),
        (
            "g (float[N, 0] x) => (float[N, 3] y) { [mm] y = MatMul (x, w) }",
            {"w": np.zeros((0, 3), np.float32)},
        ),
    ],
)
def test_models_without_elements_in_weights_stay(options, text, weights):
    plan = TprunePass(TpruneConfig(**options)).analyse(parse_ir(text, weights))
    assert not plan.applied


@pytest.mark.parametrize("block", ["attention", "packed", "rotary", "gated", "tokens"])
@pytest.mark.parametrize("share", [0.8, 0.55])
def test_a_budget_of_macs_is_met_and_predicted(block, share):
    model = single(BLOCKS[block])
    config = TpruneConfig(macs=share, multiple=1)
    plan = TprunePass(config).analyse(model)
    settings = {layer.layer: read_settings(layer, "tprune") for layer in plan.applied}
    graph = prunable(model)
    budget = mac_budget(model, graph, share)
    saved = budget.saved(planned_channels(graph, settings, "tprune"))
    TprunePass(config).apply(model, plan)
    left = model_cost(model).macs
    assert left == pytest.approx(budget.total - saved)
    assert share - 0.25 < left / budget.total <= share


def test_budgets_buy_what_they_count():
    """Channels of large maps cost work, those of small ones parameters."""
    net = Net(5)
    x = net.op("Relu", net.conv(net.input("N", 3, 32, 32), 3, 32, "a"))
    x = net.op("Relu", net.op("MaxPool", net.conv(x, 32, 32, "b"), kernel_shape=[8, 8]))
    model = net.model(net.conv(net.op("Relu", net.conv(x, 32, 128, "c")), 128, 8, "d"))
    left = {}
    for key in ("params", "macs"):
        pruned = model.clone()
        TprunePass(TpruneConfig(**{key: 0.6}, multiple=1))(pruned)
        left[key] = widths(pruned)
    assert left["macs"]["b"] < left["params"]["b"]
    assert left["macs"]["c"] > left["params"]["c"]


def test_a_budget_of_macs_needs_sizes():
    net = Net(6)
    x = net.op("Relu", linear(net, net.input("N", "T", 6), 6, 12, "a"))
    model = net.model(linear(net, x, 12, 4, "b"))
    with pytest.raises(ConfigError, match="needs known shapes"):
        TprunePass(TpruneConfig(macs=0.5)).analyse(model)


@pytest.mark.parametrize(
    "options",
    [
        {"params": 0.0},
        {"macs": 1.5},
        {"macs": 0.5, "params": 0.5},
        {"density": 1.5},
        {"threshold": 1.0},
        {"floor": 1.0},
        {"multiple": 0},
        {"params": 0.5, "density": 0.5},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(ConfigError):
        TpruneConfig(**options)
