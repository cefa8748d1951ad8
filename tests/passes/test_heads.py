"""Attention split by the size of its heads computes the same, in parts of their own size."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from passes.channels.groups import prunable
from passes.channels.regions import Region, find_regions, split_regions
from passes.cleanup import prepare
from passes.cost import model_cost
from passes.framework import ConfigError, Plan, PlanError
from passes.heads import HeadsConfig, HeadsPass
from passes.shrink import ShrinkConfig
from passes.tprune import TprunePass
from passes.tprune_config import TpruneConfig
from tests.passes.channel_models import Net, check, difference, shrink
from tests.passes.channels.exported import export
from tests.passes.channels.test_exported import outputs
from tests.passes.channels.test_fused import ATTENTION, HEADS, LENGTH, SIZE, WIDTH, network
from tests.passes.test_tprune import heads, linear, shape

SIZES = (16, 16, 4, 6)
"""Lines that are not zero in each head, of 16."""


def plain(net: Net, x: ir.Value) -> ir.Value:
    """Attention of standard operators."""
    q, k, v = (heads(net, linear(net, x, WIDTH, HEADS * SIZE, n), SIZE, HEADS) for n in "qkv")
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))


def unequal(block=plain) -> ir.Model:
    """Trained to zero lines, a different number in every head."""
    model = network(block)
    zero = np.concatenate([np.arange(SIZE) >= size for size in SIZES])
    for name in "qkv":
        for tensor, axis in ((f"{name}.weight", 1), (f"{name}.bias", 0)):
            set_zero(model, tensor, axis, zero)
    set_zero(model, "o.weight", 0, zero)
    return model


def set_zero(model: ir.Model, name: str, axis: int, lines: np.ndarray) -> None:
    value = model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    np.moveaxis(array, axis, 0)[lines] = 0
    value.const_value = ir.tensor(array, name=name)


def regions(model: ir.Model) -> list[Region]:
    found = list(find_regions(model, prunable(model)))
    assert all(isinstance(each, Region) for each in found)
    return found


@pytest.mark.parametrize("parts", [[[0, 2], [1, 3]], [[3], [0, 1, 2]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("name", ["plain", *ATTENTION])
def test_parts_of_any_attention_add_up_to_the_whole(name, parts):
    model = network(ATTENTION.get(name, plain))
    [region] = regions(model)
    if len(region.heads) == 2:  # groups of queries that share keys and values
        parts = [[1], [0]]
    split = model.clone()
    [region] = regions(split)
    split_regions(split, [(region, parts)])
    check(split)
    assert difference(model, split) < 1e-5
    assert sum("heads" in (node.name or "") for node in split.graph) > len(parts)


@pytest.mark.parametrize("block", [plain, ATTENTION["multi_head"]])
def test_heads_of_unequal_size_become_as_small_as_they_are(block):
    model = unequal(block)
    split = model.clone()
    plan = HeadsPass(HeadsConfig(multiple=2)).analyse(model)
    [applied] = plan.applied
    assert applied.settings == {"parts": "2; 3; 0-1"}
    HeadsPass().apply(split, Plan.from_json(json.loads(json.dumps(plan.to_json()))))
    apart, together = (shrink(each, ShrinkConfig(multiple=1)) for each in (split, model))
    assert difference(model, apart) < 1e-5
    rows = sorted(
        shape(apart, name)[0] for name in apart.graph.initializers if name.startswith("o.weight")
    )
    assert rows == [4, 6, 32] and shape(together, "o.weight")[0] == HEADS * SIZE
    before, after = (model_cost(each).parameters for each in (together, apart))
    assert after <= before  # zeros do not count: none was left, and nothing is there twice
    assert not HeadsPass(HeadsConfig(multiple=2))(apart).modified


def almost_zero() -> ir.Model:
    """The same lines small instead of zero."""
    model, zeroed = network(plain), unequal()
    for name, value in model.graph.initializers.items():
        array, other = (g.graph.initializers[name].const_value.numpy() for g in (model, zeroed))
        if array.dtype == np.float32:
            small = np.where(other == 0, np.float32(1e-4) * array, other)
            value.const_value = ir.tensor(small, name=name)
    return model


def test_lines_below_the_threshold_count_as_zero():
    model = almost_zero()
    reasons = [
        next(d.reason for d in HeadsPass(config).analyse(model).layers if d.layer == "o")
        for config in (HeadsConfig(), HeadsConfig(threshold=1e-3))
    ]
    assert reasons[0] == "its heads have one size"
    assert reasons[1].startswith("heads of 2 sizes, apart")


def test_tprune_compacts_every_head_to_what_training_left():
    model = almost_zero()
    pruned = model.clone()
    TprunePass(TpruneConfig(threshold=1e-3, multiple=2))(pruned)
    check(pruned)
    assert difference(unequal(), pruned) < 1e-5
    rows = sorted(
        shape(pruned, name)[0] for name in pruned.graph.initializers if name.startswith("o.weight")
    )
    assert rows == [4, 6, 32]


def test_what_saves_too_little_stays_together():
    plan = HeadsPass(HeadsConfig(saving=0.6)).analyse(unequal())
    reason = next(d.reason for d in plan.layers if d.layer == "o")
    assert not plan.applied and "of its lines, saving=0.6" in reason


def test_attention_that_is_used_elsewhere_stays_with_the_reason():
    net = Net(41, opset=23)
    x = linear(net, net.input(2, LENGTH, 6), 6, WIDTH, "embed")
    y = plain(net, x)
    o = linear(net, y, HEADS * SIZE, WIDTH, "o")
    model = net.model(o, linear(net, net.op("Relu", y), HEADS * SIZE, 3, "other"))
    reason = next(d.reason for d in HeadsPass().analyse(model).layers if d.layer == "o")
    assert reason == "its attention stays: its heads are not summed up by one MatMul"


@pytest.mark.parametrize("name", ["bert", "gpt, fused", "llama", "t5", "vit"])
def test_every_attention_of_an_exported_network_can_be_split(name):
    model = prepare(export(name, "legacy"))
    split = model.clone()
    found = regions(split)
    split_regions(split, [(each, [[0], list(range(1, len(each.heads)))]) for each in found])
    check(split)
    assert len(found) >= 2
    for before, after in zip(outputs(model, 3, 9), outputs(split, 3, 9), strict=True):
        assert np.abs(before - after).max() <= 1e-5 * max(np.abs(before).max(), 1)


def test_foreign_plans_and_options_are_refused():
    model = unequal()
    plan = HeadsPass(HeadsConfig(multiple=2)).analyse(model)
    with pytest.raises(PlanError, match="no attention before layer 'o'"):
        net = Net(42)
        other = net.model(linear(net, net.input(2, LENGTH, 6), 6, WIDTH, "o"))
        HeadsPass().apply(other, plan)
    plan.applied[0].settings["parts"] = "0-2"
    with pytest.raises(PlanError, match="each of 4 heads once"):
        HeadsPass().apply(model, plan)
    for options in ({"threshold": 1.0}, {"saving": -0.1}, {"multiple": 0}):
        with pytest.raises(ConfigError):
            HeadsConfig(**options)


def test_the_bias_behind_stays_once():
    model = unequal()
    HeadsPass(HeadsConfig(multiple=2))(model)
    assert sum("o.bias" in (v.name or "") for v in model.graph.initializers.values()) == 1


def test_equal_input_gives_equal_bytes():
    one, other = (unequal() for _ in range(2))
    for model in (one, other):
        HeadsPass(HeadsConfig(multiple=2))(model)
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(other).SerializeToString()
