"""Channel rules of the operators that move, cut or scale axes: Transpose, Pad, Slice, Resize, ...

Where an operator cuts, pads, splits or reorders the channels themselves, they are not followed.
"""

import numpy as np
import onnx_ir as ir

from passes.channel_elementwise import follow, keep_axis, same, zero_only
from passes.channel_graph import (
    ChannelGraph,
    Channels,
    Ids,
    NotFollowedError,
    SizeEntry,
    constant,
    has_input,
)


def squeeze(node: ir.Node, graph: ChannelGraph) -> None:
    """Removes axes of size one before or behind the channels."""
    x = follow(node, graph)
    if x is None:
        return
    removed = {axis % x.rank for axis in constant(node, 1, "axes").tolist()}
    if x.axis in removed:
        raise NotFollowedError("removes the channel axis")
    axis = x.axis - sum(other < x.axis for other in removed)
    rank = x.rank - len(removed)
    keep_axis(node, graph, x, axis=axis, rank=rank, transfer=same)


def unsqueeze(node: ir.Node, graph: ChannelGraph) -> None:
    """Inserts axes of size one."""
    x = follow(node, graph)
    if x is None:
        return
    axes = constant(node, 1, "axes").reshape(-1).tolist()
    rank = x.rank + len(axes)
    inserted = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in inserted]
    keep_axis(node, graph, x, axis=old[x.axis], rank=rank, transfer=same)


def transpose(node: ir.Node, graph: ChannelGraph) -> None:
    """Moves the channel axis."""
    x = follow(node, graph)
    if x is None:
        return
    given = node.attributes.get("perm")
    order = list(range(x.rank))[::-1] if given is None else list(given.as_ints())
    axis = order.index(x.axis)
    keep_axis(node, graph, x, axis=axis, rank=x.rank, transfer=same)


def reduce_axes(node: ir.Node, graph: ChannelGraph) -> None:
    """Reduces axes other than the channels; the operators in the table map zeros to zero."""
    x = follow(node, graph)
    if x is None:
        return
    axes = _axes(node, 1, x.rank)
    none_is_all = node.attributes.get_int("noop_with_empty_axes", 0) == 0
    if not axes and not none_is_all:
        raise NotFollowedError("reduces nothing")
    reduced = {axis % x.rank for axis in axes or range(x.rank)}
    if x.axis in reduced:
        raise NotFollowedError("reduces over the channels")
    gone = reduced if not node.attributes.get_int("keepdims", 1) else set()
    axis = x.axis - sum(other < x.axis for other in gone)
    keep_axis(node, graph, x, axis=axis, rank=x.rank - len(gone))


def pad(node: ir.Node, graph: ChannelGraph) -> None:
    """Pads other axes; a constant channel stays one when padded with zeros and zero itself."""
    x = follow(node, graph)
    if x is None:
        return
    pads = constant(node, 1, "pads").tolist()
    axes = [axis % x.rank for axis in _axes(node, 3, x.rank) or range(x.rank)]
    pairs = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    if any(axis == x.axis and (begin or end) for axis, begin, end in pairs):
        raise NotFollowedError("pads the channel axis")
    fill = constant(node, 2, "padding value") if has_input(node, 2) else np.zeros(())
    if node.attributes.get_string("mode", "constant") == "constant" and fill.any():
        unknown = np.full(len(x.ids), np.nan)
        graph.write(node, Channels(axis=x.axis, rank=x.rank, ids=x.ids, constants=unknown))
    else:
        keep_axis(node, graph, x, axis=x.axis, rank=x.rank)


def slice_axes(node: ir.Node, graph: ChannelGraph) -> None:
    """Cuts other axes."""
    x = follow(node, graph)
    if x is None:
        return
    starts = constant(node, 1, "starts")
    axes = _axes(node, 3, x.rank) or range(len(starts))
    if x.axis in {axis % x.rank for axis in axes}:
        raise NotFollowedError("cuts the channel axis")
    keep_axis(node, graph, x, axis=x.axis, rank=x.rank, transfer=same)


def resize(node: ir.Node, graph: ChannelGraph) -> None:
    """Scales other axes, by factors or to sizes."""
    x = follow(node, graph)
    if x is None:
        return
    given = node.attributes.get("axes")
    axes = list(range(x.rank)) if given is None else [a % x.rank for a in given.as_ints()]
    if x.axis in axes:
        entry = axes.index(x.axis)
        if has_input(node, 3):
            if constant(node, 3, "sizes")[entry] != len(x.ids):
                raise NotFollowedError("scales the channel axis")
            note_size(node, 3, entry, x.ids, graph)
        elif constant(node, 2, "scales")[entry] != 1:
            raise NotFollowedError("scales the channel axis")
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise NotFollowedError("crops to a region of interest")
    keep_axis(node, graph, x, axis=x.axis, rank=x.rank, transfer=zero_only)


def shape(node: ir.Node, graph: ChannelGraph) -> None:
    """Reads sizes: harmless as long as nobody looks at the number of channels."""
    x = follow(node, graph)
    if x is None:
        return
    span = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))
    if x.axis not in range(x.rank)[span]:
        return
    for use in node.outputs[0].uses():
        if use.node.op_type != "Gather" or x.axis in picked(use.node, x.rank):
            raise NotFollowedError("the number of channels is read at run time")
    if node.outputs[0].is_graph_output():
        raise NotFollowedError("the number of channels is a graph output")


def picked(gather: ir.Node, rank: int) -> set[int]:
    """Which entries a Gather with constant indices takes, from 0."""
    return {int(index) % rank for index in constant(gather, 1, "index").reshape(-1)}


def _axes(node: ir.Node, index: int, rank: int) -> list[int]:
    """Axes given as an input or, in older opsets, an attribute; none means the default."""
    if has_input(node, index):
        return [int(axis) % rank for axis in constant(node, index, "axes")]
    attribute = node.attributes.get("axes")
    return [] if attribute is None else [axis % rank for axis in attribute.as_ints()]


def note_size(node: ir.Node, index: int, entry: int, ids: Ids, graph: ChannelGraph) -> None:
    """Notes a written-out channel count for rewriting; 0 and -1 adapt by themselves."""
    value = node.inputs[index]
    assert value is not None
    if value.const_value is not None:
        if value.const_value.numpy()[entry] > 0:
            graph.sizes.append(SizeEntry(node=node, index=index, entry=entry, ids=ids))
    else:
        producer = value.producer()
        parts = [] if producer is None else [p for p in producer.inputs if p is not None]
        written = [p.const_value.numpy().tolist() for p in parts if p.const_value is not None]
        if any(len(ids) in sizes for sizes in written):
            raise NotFollowedError("its shape is put together with the number of channels")
