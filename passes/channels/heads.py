"""Heads and features of fused attention.

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
from passes.channels.inputs import NotFollowedError, has_input, is_fixed
from passes.channels.layout import Dim, Ids, Layout, Mask, axis_constants
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


def operand(node: ir.Node, index: int, graph: ChannelGraph) -> Layout:
    """The channels of an operand (B, S, H·d) or (B, H, S, d); frozen ones of what is not followed.

    Raises:
        NotFollowedError: the size of an operand is unknown.
    """
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
    return x


def divided(x: Layout, count: int, graph: ChannelGraph) -> Heads:
    """Heads and features of an operand; without a count the heads are an axis of their own.

    Raises:
        NotFollowedError: its channels are something else.
    """
    if count:
        if x.axes != (2,) or x.size(2) % count:
            raise NotFollowedError("its channels are not features of heads")
        x = _only_head(x, graph) if count == 1 else graph.refine(x, 2, (count,))
    axes = [(dim.axis, dim.size) for dim in x.labelled]
    if len(x.ids) != 2 or x.dims != x.labelled or axes[1][0] != x.rank - 1:
        raise NotFollowedError("its channels are not heads and features")
    graph.regular.append(x)
    zero = np.broadcast_to(x.constants == 0, x.sizes)
    head = graph.independent(x.ids[0], {0})
    return Heads(layout=x, head=head, feature=x.ids[1], zero=zero)


def _only_head(x: Layout, graph: ChannelGraph) -> Layout:
    """All channels as features of one head, which stays."""
    head = graph.new(1, 1)
    graph.freeze(head, "attention: its only head")
    features = graph.flat(x, 2).reshape(1, -1)
    return Layout(
        rank=x.rank,
        dims=(Dim(axis=2, size=1), Dim(axis=2, size=features.size)),
        ids=(head, features),
        constants=axis_constants(x, 2).reshape(1, -1),
    )


def attend(node: ir.Node, graph: ChannelGraph, q: Heads, k: Heads, v: Heads) -> None:
    """Ties queries, keys and values, keeps the scale, and labels the output."""
    times = len(q.head) // len(k.head)
    k_head, k_feature = (_repeated(array, times) for array in (k.head, k.feature))
    v_head, v_feature = (_repeated(array, times) for array in (v.head, v.feature))
    graph.tie(q.head, k_head)
    graph.tie(q.head, v_head)
    graph.tie(q.feature, k_feature)
    zero = q.zero | np.repeat(k.zero, times, axis=0)
    graph.flow.append(Contraction(node=node, reads=q.feature, writes=(q.head,), nonzero=~zero))
    if "scale" not in node.attributes:
        axis = q.layout.labelled[1].axis
        dim = len(q.layout.positions(axis)) - 1
        graph.sizes.append(
            SizeEntry(
                node=node, attribute="scale", layout=q.layout, axis=axis, dim=dim,
                default=q.size**-0.5,
            )
        )  # fmt: skip
    sizes = (len(q.head), v.size)
    dims = tuple(replace(dim, size=size) for dim, size in zip(q.layout.dims, sizes, strict=True))
    constants = np.where(np.repeat(v.zero, times, axis=0), 0.0, np.nan)
    graph.write(
        node,
        Layout(rank=q.layout.rank, dims=dims, ids=(q.head, v_feature), constants=constants),
    )


def follow_mask(node: ir.Node, index: int, q: Heads, graph: ChannelGraph) -> None:
    """What is added to the scores, broadcast to (B, H, S, T): it may have the heads as well."""
    if not has_input(node, index):
        return
    value, head = node.inputs[index], q.head.reshape(-1)
    x = graph.layout(node, index)
    axis = graph.rank(value) - 3
    shape = graph.shape(value)
    size = 1 if axis < 0 else None if shape is None else shape[axis]
    for p, dim in enumerate(() if x is None else x.labelled):
        if dim.axis != axis and x is not None:
            graph.freeze(x.ids[p], "attention: positions of its mask")
    if x is not None and axis in x.axes:
        if x.size(axis) == len(head):
            graph.tie(graph.flat(x, axis), head)
    elif size == len(head) and is_fixed(value):
        graph.slice(node, index, axis, head)
    elif size != 1:
        graph.freeze(head, "attention: its mask differs from head to head")


def count_of(node: ir.Node, attribute: str, heads: Heads) -> SizeEntry:
    """The number of heads, an attribute."""
    axis = heads.layout.labelled[0].axis
    return SizeEntry(node=node, attribute=attribute, layout=heads.layout, axis=axis, dim=0)


def _repeated(array: Ids, times: int) -> Ids:
    return np.repeat(array, times, axis=0) if len(array) > 1 or times > 1 else array
