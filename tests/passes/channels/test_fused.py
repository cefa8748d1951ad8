"""Fused operators of onnxruntime and of opset 23: pruned equals masked, or the reason is named."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from passes.channels.groups import channel_groups, prunable
from passes.channels.sizes import fixed_sizes
from passes.tprune_config import TpruneConfig
from tests.passes.channel_models import Net, difference
from tests.passes.test_tprune import linear, masked_and_pruned, shape

WIDTH, HEADS, SIZE, LENGTH = 16, 4, 16, 5
CONTRIB = "com.microsoft"
Block = Callable[[Net, ir.Value], ir.Value]


def contrib(net: Net, kind: str, *inputs: ir.Value | None, width: int = HEADS * SIZE, **rest):
    """An operator of onnxruntime, with the shape that onnx cannot infer."""
    y = net.op(kind, *inputs, domain=CONTRIB, **rest)
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, LENGTH, width])
    return y


def project(net: Net, x: ir.Value, names: str = "qkv", kv: int = HEADS, bias: bool = True):
    counts = [kv if name in "kv" else HEADS for name in names]
    return [
        linear(net, x, WIDTH, count * SIZE, name, bias=bias)
        for name, count in zip(names, counts, strict=True)
    ]


def split_heads(net: Net, x: ir.Value, count: int = HEADS) -> ir.Value:
    x = net.op("Reshape", x, net.ints(0, 0, count, -1))
    return net.op("Transpose", x, perm=[0, 2, 1, 3])


def bias_of(net: Net, size: int, name: str) -> ir.Value:
    return net.constant(net.normal(1, size)[0], name)


def mask(net: Net, *sizes: int) -> ir.Value:
    return net.constant(net.normal(*sizes, LENGTH, LENGTH), "mask")


def multi_head(net: Net, x: ir.Value) -> ir.Value:
    return contrib(net, "MultiHeadAttention", *project(net, x), num_heads=HEADS)


def multi_head_with_bias(net: Net, x: ir.Value) -> ir.Value:
    bias = bias_of(net, 3 * HEADS * SIZE, "qkv.bias")
    inputs = [*project(net, x, bias=False), bias]
    return contrib(
        net, "MultiHeadAttention", *inputs, None, mask(net, 1, 1), num_heads=HEADS,
        unidirectional=1,
    )  # fmt: skip


def multi_head_mask_by_head(net: Net, x: ir.Value) -> ir.Value:
    inputs = [*project(net, x), None, None, mask(net, 1, HEADS)]
    return contrib(net, "MultiHeadAttention", *inputs, num_heads=HEADS)


def crossed(net: Net, x: ir.Value) -> ir.Value:
    """Keys and values with heads on an axis of their own."""
    q, k, v = project(net, x)
    inputs = q, split_heads(net, k), split_heads(net, v)
    return contrib(net, "MultiHeadAttention", *inputs, num_heads=HEADS)


def packed(net: Net, x: ir.Value, **attributes: object) -> ir.Value:
    weight = net.constant(net.normal(WIDTH, 3 * HEADS * SIZE), "qkv.weight")
    bias = bias_of(net, 3 * HEADS * SIZE, "qkv.bias")
    options = {"num_heads": HEADS, "name": "packed", **attributes}
    return contrib(net, "Attention", x, weight, bias, **options)


def packed_with_sizes(net: Net, x: ir.Value) -> ir.Value:
    sizes = [HEADS * SIZE, HEADS * SIZE, HEADS * 2 * SIZE]
    weight = net.constant(net.normal(WIDTH, sum(sizes)), "qkv.weight")
    inputs = x, weight, bias_of(net, sum(sizes), "qkv.bias"), None, None, mask(net, 1, HEADS)
    y = contrib(net, "Attention", *inputs, width=sizes[2], num_heads=HEADS, qkv_hidden_sizes=sizes)
    return linear(net, y, sizes[2], HEADS * SIZE, "narrow")


def lengths(net: Net) -> list[ir.Value]:
    return [
        net.constant(np.full(2, LENGTH - 1, np.int32), "lengths"),
        net.constant(np.array(LENGTH, np.int32), "total"),
    ]


def angles(net: Net) -> list[ir.Value]:
    at = np.arange(8)[:, None] / 10 ** np.linspace(0, 1, SIZE // 2)
    tables = {"cos": np.cos(at), "sin": np.sin(at)}
    return [net.constant(table.astype(np.float32), name) for name, table in tables.items()]


def grouped_query(net: Net, x: ir.Value) -> ir.Value:
    inputs = [*project(net, x, kv=2), None, None, *lengths(net)]
    options = {"num_heads": HEADS, "kv_num_heads": 2}
    return contrib(net, "GroupQueryAttention", *inputs, outputs=3, **options)


def grouped_query_rotated(net: Net, x: ir.Value) -> ir.Value:
    inputs = [*project(net, x, kv=2), None, None, *lengths(net), *angles(net)]
    options = {"num_heads": HEADS, "kv_num_heads": 2, "do_rotary": 1}
    return contrib(net, "GroupQueryAttention", *inputs, outputs=3, **options)


def grouped_query_packed(net: Net, x: ir.Value) -> ir.Value:
    both = linear(net, x, WIDTH, (HEADS + 2 + 2) * SIZE, "qkv")
    inputs = [both, None, None, None, None, *lengths(net), *angles(net)]
    options = {"num_heads": HEADS, "kv_num_heads": 2, "do_rotary": 1}
    return contrib(net, "GroupQueryAttention", *inputs, outputs=3, **options)


def rotated(net: Net, x: ir.Value) -> ir.Value:
    """Rotary embedding of onnxruntime, with the number of heads written down and not."""
    q, k, v = project(net, x)
    positions = net.constant(np.tile(np.arange(LENGTH), (2, 1)), "positions")
    tables = angles(net)
    q = contrib(net, "RotaryEmbedding", q, positions, *tables, num_heads=HEADS)
    k = contrib(net, "RotaryEmbedding", k, positions, *tables)
    return contrib(net, "MultiHeadAttention", q, k, v, num_heads=HEADS)


def standard(net: Net, x: ir.Value) -> ir.Value:
    inputs = [*project(net, x, kv=2), mask(net)]
    return net.op("Attention", *inputs, q_num_heads=HEADS, kv_num_heads=2, is_causal=1)


def standard_mask_by_head(net: Net, x: ir.Value) -> ir.Value:
    inputs = [*project(net, x), mask(net, HEADS)]
    return net.op("Attention", *inputs, q_num_heads=HEADS, kv_num_heads=HEADS)


def standard_of_heads(net: Net, x: ir.Value) -> ir.Value:
    """Heads on an axis of their own, and a mask that is computed for each of them."""
    q, k, v = project(net, x)
    table = net.constant(net.normal(LENGTH, HEADS), "distances")
    far = net.constant(np.arange(LENGTH * LENGTH).reshape(LENGTH, LENGTH) % LENGTH, "far")
    bias = net.op("Transpose", net.op("Gather", table, far), perm=[2, 0, 1])
    y = net.op("Attention", *(split_heads(net, each) for each in (q, k, v)), bias)
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))


def standard_rotated(net: Net, x: ir.Value) -> ir.Value:
    q, k, v = project(net, x)
    tables = [
        net.op("Expand", net.op("Unsqueeze", net.op("Slice", t, net.ints(0), net.ints(LENGTH)),
                                net.ints(0)), net.ints(2, LENGTH, SIZE // 2))
        for t in angles(net)
    ]  # fmt: skip
    q, k = (net.op("RotaryEmbedding", y, *tables, num_heads=HEADS) for y in (q, k))
    return net.op("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS)


ATTENTION: dict[str, Block] = {
    each.__name__: each
    for each in (
        multi_head,
        multi_head_with_bias,
        multi_head_mask_by_head,
        crossed,
        packed,
        packed_with_sizes,
        grouped_query,
        grouped_query_rotated,
        grouped_query_packed,
        rotated,
        standard,
        standard_mask_by_head,
        standard_of_heads,
        standard_rotated,
    )
}
WHOLE_ONLY = ("grouped_query", "grouped_query_rotated", "grouped_query_packed")


def network(block: Block, opset: int = 23) -> ir.Model:
    net = Net(31, opset=opset)
    x = linear(net, net.input(2, LENGTH, 6), 6, WIDTH, "embed")
    x = net.op("LayerNormalization", x, bias_of(net, WIDTH, "scale"), axis=-1)
    y = linear(net, block(net, x), HEADS * SIZE, WIDTH, "o")
    return net.model(net.op("Add", x, y))


@pytest.mark.parametrize("which", ["lines", "whole", "both"])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_pruned_equals_masked(name, which):
    model = network(ATTENTION[name])
    config = TpruneConfig(density=0.5, multiple=1, heads=which)
    masked, pruned, plan = masked_and_pruned(model, config)
    assert difference(masked, pruned) < 1e-5
    rows, full = shape(pruned, "o.weight")[0], HEADS * SIZE
    if name in WHOLE_ONLY and which == "lines":
        assert not plan.applied
        return
    both = which == "both" and name not in (*WHOLE_ONLY, "packed_with_sizes")
    assert rows == (full // 4 if both else full // 2)
    assert difference(model, pruned) > 1e-2


def cached(net: Net, x: ir.Value) -> ir.Value:
    past = [net.input(2, HEADS, 3, SIZE, name=name) for name in ("past_key", "past_value")]
    inputs = [*project(net, x), None, None, None, *past]
    return contrib(net, "MultiHeadAttention", *inputs, num_heads=HEADS)


def present(net: Net, x: ir.Value) -> ir.Value:
    y = packed(net, x, outputs=2)
    net.op("Identity", net.nodes[-1].outputs[1])
    return y


def normed_queries(net: Net, x: ir.Value) -> ir.Value:
    scale = [bias_of(net, SIZE, name) for name in ("q_norm", "k_norm")]
    inputs = [*project(net, x, kv=2), None, None, *lengths(net), *[None] * 7, *scale]
    return contrib(net, "GroupQueryAttention", *inputs, num_heads=HEADS, kv_num_heads=2)


def packed_queries(net: Net, x: ir.Value) -> ir.Value:
    both = linear(net, x, WIDTH, 3 * HEADS * SIZE, "qkv")
    shaped = net.op("Reshape", both, net.ints(2, LENGTH, HEADS, 3, SIZE))
    return contrib(net, "MultiHeadAttention", shaped, num_heads=HEADS)


def decoder_only(net: Net, x: ir.Value) -> ir.Value:
    inputs = project(net, x)
    return contrib(net, "DecoderMaskedMultiHeadAttention", *inputs, num_heads=HEADS)


REFUSED = {
    "cached": (cached, "attention with a cache"),
    "present": (present, "more than one output is used"),
    "self-rotating": (
        lambda net, x: packed(net, x, do_rotary=1),
        "attention with a rotation of its own",
    ),
    "normed": (normed_queries, "a normalisation of its own"),
    "packed": (packed_queries, "packed queries, keys and values"),
    "unknown": (decoder_only, "its channels are not followed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_stays_says_why(name):
    block, expected = REFUSED[name]
    graph = prunable(network(block))
    held = [group for group in channel_groups(graph) if group.name in ("q.weight", "qkv.weight")]
    assert all(group.frozen is not None for group in held)
    assert any(expected in reason for reason in graph.frozen().values())


def with_sum(net: Net, kind: str, *inputs: ir.Value) -> tuple[ir.Value, ir.Value]:
    z = contrib(net, kind, *inputs, width=WIDTH, outputs=4)
    total = net.nodes[-1].outputs[3]
    total.type, total.shape = z.type, z.shape
    return z, total


def skip_norm(net: Net, x: ir.Value, y: ir.Value, i: int) -> tuple[ir.Value, ir.Value]:
    """Normalised sum with a bias, and the sum."""
    weights = [bias_of(net, WIDTH, f"{i}{name}") for name in ("gamma", "beta", "bias")]
    return with_sum(net, "SkipLayerNormalization", x, y, *weights)


def skip_rms_norm(net: Net, x: ir.Value, y: ir.Value, i: int) -> tuple[ir.Value, ir.Value]:
    weights = [bias_of(net, WIDTH, f"{i}{name}") for name in ("gamma", "bias")]
    return with_sum(net, "SkipSimplifiedLayerNormalization", x, y, *weights)


def rms_norm(net: Net, x: ir.Value, y: ir.Value, i: int) -> tuple[ir.Value, ir.Value]:
    total = net.op("Add", x, y)
    z = net.op("SimplifiedLayerNormalization", total, bias_of(net, WIDTH, f"{i}gamma"), axis=-1)
    return z, total


def gelu(kind: str, bias: bool) -> Block:
    def activation(net: Net, x: ir.Value) -> ir.Value:
        inputs = [bias_of(net, 24, f"bias{len(net.nodes)}")] if bias else []
        return contrib(net, kind, x, *inputs, width=24)

    return activation


NORMS = (skip_norm, skip_rms_norm, rms_norm)
GELUS = {
    "BiasGelu": gelu("BiasGelu", True),
    "FastGelu": gelu("FastGelu", True),
    "FastGelu without bias": gelu("FastGelu", False),
    "QuickGelu": gelu("QuickGelu", False),
    "Gelu": gelu("Gelu", False),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", GELUS)
def test_feed_forward_layers_between_fused_norms(name, norm):
    net = Net(32, opset=23)
    x = linear(net, net.input(2, LENGTH, 6), 6, WIDTH, "embed")
    for i in range(2):
        up = linear(net, x, WIDTH, 24, f"{i}up", bias=False)
        y = linear(net, GELUS[name](net, up), 24, WIDTH, f"{i}down", bias=False)
        normed, x = norm(net, x, y, i)
    model = net.model(linear(net, normed, WIDTH, 3, "head"), x)
    masked, pruned, _ = masked_and_pruned(model, TpruneConfig(density=0.5, multiple=1))
    assert difference(masked, pruned) < 1e-5
    assert difference(model, pruned) > 1e-2
    for i in range(2):
        assert shape(pruned, f"{i}up.weight") == (WIDTH, 12)
        assert shape(pruned, f"{i}down.weight") == (12, WIDTH)
    width = [group for group in channel_groups(prunable(model)) if len(group.units) == WIDTH]
    assert width and all("the statistics over the axis would change" in g.frozen for g in width)


def test_a_missing_size_of_the_projections_is_written_down():
    model = network(packed)
    _, pruned, _ = masked_and_pruned(model, TpruneConfig(density=0.5, multiple=1, heads="lines"))
    [node] = [node for node in pruned.graph if node.name == "packed"]
    half = HEADS * SIZE // 2
    assert list(node.attributes["qkv_hidden_sizes"].as_ints()) == [half] * 3
    assert node.attributes["scale"].as_float() == pytest.approx(SIZE**-0.5)
    assert shape(pruned, "qkv.weight") == (WIDTH, 3 * half)


def test_heads_of_a_mask_are_cut():
    model = network(standard_mask_by_head)
    _, pruned, _ = masked_and_pruned(model, TpruneConfig(density=0.5, multiple=1, heads="whole"))
    assert shape(pruned, "mask") == (HEADS // 2, LENGTH, LENGTH)


def test_features_of_an_only_head():
    def single(net: Net, x: ir.Value) -> ir.Value:
        return contrib(net, "MultiHeadAttention", *project(net, x), num_heads=1)

    model = network(single)
    masked, pruned, _ = masked_and_pruned(model, TpruneConfig(density=0.5, multiple=1))
    assert difference(masked, pruned) < 1e-5
    assert {shape(pruned, f"{name}.weight") for name in "qkv"} == {(WIDTH, HEADS * SIZE // 2)}


@pytest.mark.parametrize("name", sorted(set(ATTENTION) - {"crossed", "grouped_query_packed"}))
def test_shapes_behind_fused_operators_are_found(name):
    model = network(ATTENTION[name])
    expected = {}
    for node in model.graph:
        if node.domain == CONTRIB:
            expected[node.outputs[0].name] = tuple(node.outputs[0].shape)
            node.outputs[0].shape = None
    sizes = fixed_sizes(model)
    assert {name: sizes[name] for name in expected} == expected
