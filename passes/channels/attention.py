"""Channel rules of fused attention and rotary embedding; see `passes.channels.heads`.

Operators with a cache of keys and values show heads and features to the caller, so these stay.
"""

from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import onnx_ir as ir

from passes.channels.graph import ChannelGraph
from passes.channels.heads import Heads, attend, count_of, divided, follow_mask, operand
from passes.channels.inputs import NotFollowedError, has_input
from passes.channels.layers import mixed
from passes.channels.layout import Layout
from passes.channels.records import SizeEntry
from passes.channels.slicing import part
from passes.channels.weights import read_weight, weight_shape


def attention(node: ir.Node, graph: ChannelGraph) -> None:
    """ai.onnx Attention: (B, H, S, d) operands, or (B, S, H·d) with the heads as attributes."""
    _refuse_cache(node, (4, 5), graph)
    keys = ("q_num_heads", "kv_num_heads", "kv_num_heads")
    flat = graph.rank(node.inputs[0]) == 3
    counts = [node.attributes.get_int(key, 0) if flat else 0 for key in keys]
    q, k, v = (divided(operand(node, i, graph), counts[i], graph) for i in range(3))
    attend(node, graph, q, k, v)
    follow_mask(node, 3, q, graph)
    if flat:
        graph.sizes += [count_of(node, "q_num_heads", q), count_of(node, "kv_num_heads", k)]


def multi_head_attention(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft MultiHeadAttention: (B, S, H·d) operands, one bias for all three."""
    _refuse_cache(node, (6, 7, 8, 9), graph)
    if not all(has_input(node, i) for i in (1, 2)) or graph.rank(node.inputs[0]) != 3:
        raise NotFollowedError("packed queries, keys and values")
    count = node.attributes.get_int("num_heads", 0)
    operands = [operand(node, i, graph) for i in range(3)]
    if has_input(node, 3):
        operands = _with_bias(node, operands, graph)
    counts = [count if x.rank == 3 else 0 for x in operands]
    q, k, v = (divided(x, n, graph) for x, n in zip(operands, counts, strict=True))
    attend(node, graph, q, k, v)
    follow_mask(node, 5, q, graph)
    graph.sizes.append(count_of(node, "num_heads", q))


def packed_attention(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft Attention: one weight (C, 3·H·d) of its own projects to all three."""
    _refuse_cache(node, (4, 6), graph)
    if node.attributes.get_int("do_rotary", 0):
        raise NotFollowedError("attention with a rotation of its own")
    C, width = weight_shape(node, 1, "weight", graph)
    reads = graph.read(node, 0, axis=2, rank=3, size=C)
    writes = graph.new(width)
    graph.slice(node, 1, 1, writes)
    graph.slice(node, 1, 0, reads)
    x = mixed(node, graph, 2, reads, writes)
    given = node.attributes.get("qkv_hidden_sizes")
    sizes = [width // 3] * 3 if given is None else list(given.as_ints())
    q, k, v = _projections(x, sizes, [node.attributes.get_int("num_heads", 0)] * 3, graph)
    attend(node, graph, q, k, v)
    follow_mask(node, 5, q, graph)
    graph.sizes.append(count_of(node, "num_heads", q))
    graph.sizes += [
        SizeEntry(node=node, attribute="qkv_hidden_sizes", entry=i, layout=each.layout, axis=2)
        for i, each in enumerate((q, k, v))
    ]


def grouped_query_attention(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft GroupQueryAttention: key and value heads are shared, operands may be packed.

    Its heads have one size, and may be rotated: only whole groups of heads can go.
    """
    _refuse_cache(node, (3, 4), graph)
    if any(has_input(node, i) for i in range(11, len(node.inputs))):
        raise NotFollowedError("attention with a sink, scales or a normalisation of its own")
    counts = [node.attributes.get_int(key, 0) for key in ("num_heads", "kv_num_heads")]
    counts.append(counts[1])
    x = operand(node, 0, graph)
    if has_input(node, 1):
        parts = [x, operand(node, 1, graph), operand(node, 2, graph)]
        q, k, v = (divided(y, count, graph) for y, count in zip(parts, counts, strict=True))
    else:
        size = x.size(2) // sum(counts)
        q, k, v = _projections(x, [count * size for count in counts], counts, graph)
    for heads in (q, k, v):
        graph.freeze(heads.feature, "attention: all its heads have one size")
    attend(node, graph, q, k, v)
    follow_mask(node, 10, q, graph)
    graph.sizes += [count_of(node, "num_heads", q), count_of(node, "kv_num_heads", k)]


def rotary_embedding(node: ir.Node, graph: ChannelGraph) -> None:
    """Rotates pairs of features, the same in every head: a pair goes in all heads, or not."""
    x = graph.layout(node, 0)
    if x is None:
        return
    features, count = x, 0
    if x.rank == 3:
        count = node.attributes.get_int("num_heads", 0)
        features = graph.refine(x, 2, (count or _rotated_heads(node, x, graph),))
    last = [p for p, dim in enumerate(features.labelled) if dim.axis == x.rank - 1]
    if last:  # the tables of angles are not cut, so only whole heads can go
        graph.freeze(features.ids[last[-1]], "rotary embedding: its tables are shared")
    if count:
        graph.sizes.append(
            SizeEntry(node=node, attribute="num_heads", layout=features, axis=2, dim=0)
        )
    graph.write(node, features.unknown())


def _rotated_heads(node: ir.Node, x: Layout, graph: ChannelGraph) -> int:
    """The number of heads where it is not written down: the tables (T, d/2) say how wide one is."""
    shape = graph.shape(node.inputs[2])
    if node.domain == "" or not shape or not shape[-1] or x.size(2) % (2 * shape[-1]):
        raise NotFollowedError("rotation without a number of heads")
    return x.size(2) // (2 * shape[-1])


def _refuse_cache(node: ir.Node, inputs: tuple[int, ...], graph: ChannelGraph) -> None:
    """Keys and values that come from outside or go there have sizes that others rely on."""
    if any(has_input(node, i) for i in inputs):
        raise NotFollowedError("attention with a cache")
    graph.single_output(node)


def _projections(
    x: Layout, sizes: list[int], counts: list[int], graph: ChannelGraph
) -> tuple[Heads, ...]:
    """Queries, keys and values that lie behind one another on the last axis (B, S, ·)."""
    if sum(sizes) != x.size(2):
        raise NotFollowedError("its channels are not queries, keys and values")
    bounds = pairwise(accumulate(sizes, initial=0))
    cut = [part(x, 2, range(start, stop), graph) for start, stop in bounds]
    return tuple(divided(y, count, graph) for y, count in zip(cut, counts, strict=True))


def _with_bias(node: ir.Node, operands: list[Layout], graph: ChannelGraph) -> list[Layout]:
    """Slices the bias of all three, (2·H·d + H·e,), and adds its constants."""
    if any(x.rank != 3 for x in operands):
        raise NotFollowedError("a fused bias of heads on an axis of their own")
    graph.slice(node, 3, 0, np.concatenate([graph.flat(x, 2) for x in operands]))
    if graph.masked:
        return operands
    bias = read_weight(node, 3, graph).astype(np.float64)
    parts = np.split(bias, list(accumulate(x.size(2) for x in operands))[:2])
    return [
        x.with_constants(x.constants + each) if len(x.dims) == 1 else replace(x).unknown()
        for x, each in zip(operands, parts, strict=True)
    ]
