"""Channel rules of fused attention.

Per head h, with queries Q, keys K (d features) and values V (e features):

    Y_h = softmax(s·Q_h·K_hᵀ + bias_h)·V_h

Feature j of Q_h goes with feature j of K_h, feature i of V_h with feature i of Y_h, and a head with
all of these. Where several query heads share one key and value head, they go together. The scale
s = 1/√d of the original size is kept.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, has_input
from passes.channels.layout import Ids, Layout, Mask
from passes.channels.records import Contraction, SizeEntry


@dataclass(frozen=True, kw_only=True)
class Heads:
    """One of queries, keys and values.

    Attributes:
        layout: of the value, its channels divided into heads and features.
        head: (H, 1) ids.
        feature: (H, d) or (1, d) ids.
        zero: (H, d), whether a feature is known to be zero.
    """

    layout: Layout
    head: Ids
    feature: Ids
    zero: Mask

    @property
    def size(self) -> int:
        """Features of a head, d."""
        return int(self.feature.shape[1])


def multi_head_attention(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft MultiHeadAttention: (B, S, H·d) operands, one bias for all three."""
    count = node.attributes.get_int("num_heads", 0)
    if any(has_input(node, i) for i in (6, 7)) or not all(has_input(node, i) for i in (1, 2)):
        raise NotFollowedError("attention with a cache or packed operands")
    if has_input(node, 3):
        raise NotFollowedError("attention with a fused bias")
    q, k, v = (_heads(node, i, count, graph) for i in range(3))
    _attend(node, graph, q, k, v, bias=5)
    graph.sizes.append(_count(node, "num_heads", q))


def grouped_query_attention(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft GroupQueryAttention without rotation; key and value heads are shared."""
    if any(has_input(node, i) for i in (3, 4)) or bool(node.attributes.get_int("do_rotary", 0)):
        raise NotFollowedError("attention with a cache or a rotation of its own")
    heads = [node.attributes.get_int(key, 0) for key in ("num_heads", "kv_num_heads")]
    q, k, v = (_heads(node, i, heads[min(i, 1)], graph) for i in range(3))
    _attend(node, graph, q, k, v, bias=None)
    graph.sizes += [_count(node, "num_heads", q), _count(node, "kv_num_heads", k)]


def attention(node: ir.Node, graph: ChannelGraph) -> None:
    """ai.onnx Attention: (B, H, S, d) operands, or (B, S, H·d) with the heads as attributes."""
    if any(has_input(node, i) for i in (4, 5)):
        raise NotFollowedError("attention with a cache")
    graph.single_output(node)
    keys = ("q_num_heads", "kv_num_heads", "kv_num_heads")
    flat = graph.rank(node.inputs[0]) == 3
    counts = [node.attributes.get_int(key, 0) if flat else 0 for key in keys]
    q, k, v = (_heads(node, i, counts[i], graph) for i in range(3))
    _attend(node, graph, q, k, v, bias=3)
    if flat:
        graph.sizes += [_count(node, "q_num_heads", q), _count(node, "kv_num_heads", k)]


def rotary_embedding(node: ir.Node, graph: ChannelGraph) -> None:
    """Rotates pairs of features, the same in every head: a pair goes in all heads, or not."""
    x = graph.layout(node, 0)
    if x is None:
        return
    for index in range(1, len(node.inputs)):
        graph.handle(node, index)
    if x.rank == 4:
        features, count = x, 0
    else:
        count = node.attributes.get_int("num_heads", 0)
        if not count:
            raise NotFollowedError("rotation without a number of heads")
        features = graph.refine(x, x.rank - 1, (count,))
    last = [p for p, dim in enumerate(features.labelled) if dim.axis == x.rank - 1]
    if last:  # the tables of angles are not cut, so only whole heads can go
        graph.freeze(features.ids[last[-1]], "rotary embedding: its tables are shared")
    if count:
        graph.sizes.append(
            SizeEntry(node=node, attribute="num_heads", layout=features, axis=x.rank - 1, dim=0)
        )
    graph.write(node, features.unknown())


def _heads(node: ir.Node, index: int, count: int, graph: ChannelGraph) -> Heads:
    """Divides an operand into heads; without a count they are an axis of their own."""
    value = node.inputs[index]
    rank = graph.rank(value)
    if value not in graph.tracked:
        shape = graph.shape(value)
        size = None if shape is None else shape[-1]
        if size is None:
            raise NotFollowedError("the size of an operand is unknown")
        graph.read(node, index, axis=rank - 1, rank=rank, size=size)
    x = graph.layout(node, index)
    assert x is not None
    if count:
        if x.axes != (2,) or x.size(2) % count:
            raise NotFollowedError("its channels are not features of heads")
        x = graph.refine(x, 2, (count,))
    axes = [(dim.axis, dim.size) for dim in x.labelled]
    if len(x.ids) != 2 or x.dims != x.labelled or axes[1][0] != rank - 1:
        raise NotFollowedError("its channels are not heads and features")
    zero = np.broadcast_to(x.constants == 0, x.sizes)
    head = graph.independent(x.ids[0], {0})
    return Heads(layout=x, head=head, feature=x.ids[1], zero=zero)


def _attend(
    node: ir.Node, graph: ChannelGraph, q: Heads, k: Heads, v: Heads, bias: int | None
) -> None:
    times = len(q.head) // len(k.head)
    k_head, k_feature = (_repeated(array, times) for array in (k.head, k.feature))
    v_head, v_feature = (_repeated(array, times) for array in (v.head, v.feature))
    graph.tie(q.head, k_head)
    graph.tie(q.head, v_head)
    graph.tie(q.feature, k_feature)
    zero = q.zero | np.repeat(k.zero, times, axis=0)
    graph.flow.append(Contraction(node=node, reads=q.feature, writes=(q.head,), nonzero=~zero))
    if bias is not None and has_input(node, bias):
        shape = graph.shape(node.inputs[bias])
        layout = graph.layout(node, bias)
        if layout is not None or shape is None or (len(shape) == 4 and shape[1] != 1):
            graph.freeze(q.head, "attention: its mask differs from head to head")
    if "scale" not in node.attributes:
        graph.sizes.append(
            SizeEntry(
                node=node, attribute="scale", layout=q.layout, axis=q.layout.labelled[1].axis,
                dim=1, default=q.size**-0.5,
            )
        )  # fmt: skip
    sizes = (len(q.head), v.size)
    dims = tuple(replace(dim, size=size) for dim, size in zip(q.layout.dims, sizes, strict=True))
    constants = np.where(np.repeat(v.zero, times, axis=0), 0.0, np.nan)
    graph.write(
        node,
        Layout(rank=q.layout.rank, dims=dims, ids=(q.head, v_feature), constants=constants),
    )


def _repeated(array: Ids, times: int) -> Ids:
    return np.repeat(array, times, axis=0) if len(array) > 1 or times > 1 else array


def _count(node: ir.Node, attribute: str, heads: Heads) -> SizeEntry:
    """The number of heads, an attribute."""
    return SizeEntry(
        node=node,
        attribute=attribute,
        layout=heads.layout,
        axis=heads.layout.labelled[0].axis,
        dim=0,
    )
