"""Channel rules of the operators that move, reduce, repeat or scale axes."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes.channels.elementwise import zero_only
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, constant, has_input, is_fixed
from passes.channels.layout import renumbered, single, without_dims
from passes.channels.normalization import freeze_axes
from passes.channels.sizes import note_size


def squeeze(node: ir.Node, graph: ChannelGraph) -> None:
    """Removes axes of size one."""
    x = graph.layout(node, 0)
    if x is None:
        return
    if has_input(node, 1):
        removed = {axis % x.rank for axis in constant(node, 1, "axes").tolist()}
    else:
        removed = {i for i, size in enumerate(_known(node, graph)) if size == 1}
    if removed & set(x.axes):
        freeze_axes(node, graph, x, removed, "removes the channel axis")
        x = without_dims(x, [p for axis in removed for p in x.positions(axis)], x.rank)
    rest = [axis for axis in range(x.rank) if axis not in removed]
    order = {old: new for new, old in enumerate(rest)}
    graph.write(node, renumbered(x, order, len(rest)))


def unsqueeze(node: ir.Node, graph: ChannelGraph) -> None:
    """Inserts axes of size one."""
    x = graph.layout(node, 0)
    if x is None:
        return
    axes = constant(node, 1, "axes").reshape(-1).tolist()
    rank = x.rank + len(axes)
    inserted = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in inserted]
    graph.write(node, renumbered(x, dict(enumerate(old)), rank))


def transpose(node: ir.Node, graph: ChannelGraph) -> None:
    """Permutes axes; of a constant it is a view."""
    value = node.inputs[0]
    given = node.attributes.get("perm")
    if is_fixed(value) and value is not None and value not in graph.tracked:
        rank = graph.rank(value)
        order = list(range(rank))[::-1] if given is None else list(given.as_ints())
        graph.views[node.outputs[0]] = (value, tuple(order))
        return
    x = graph.layout(node, 0)
    if x is None:
        return
    order = list(range(x.rank))[::-1] if given is None else list(given.as_ints())
    graph.write(node, renumbered(x, {old: new for new, old in enumerate(order)}, x.rank))


def reduce_axes(node: ir.Node, graph: ChannelGraph) -> None:
    """Reduces axes; the operators in the table map zeros to zero."""
    x = graph.layout(node, 0)
    if x is None:
        return
    axes = given_axes(node, 1, x.rank)
    if not axes and bool(node.attributes.get_int("noop_with_empty_axes", 0)):
        raise NotFollowedError("reduces nothing")
    reduced = {axis % x.rank for axis in axes or range(x.rank)}
    freeze_axes(node, graph, x, reduced, "reduces over the channels")
    gone = [p for axis in reduced for p in x.positions(axis)]
    for p, ids in enumerate(x.ids):  # what remains is the same along what is reduced
        if p not in gone:
            free = set(range(len(x.ids))) - set(gone)
            x = replace(x, ids=(*x.ids[:p], graph.independent(ids, free), *x.ids[p + 1 :]))
    x = without_dims(x.with_constants(zero_only(node, x.constants)), gone, x.rank)
    x = replace(x, dims=tuple(dim for dim in x.dims if dim.axis not in reduced))
    if not x.ids:
        return
    if node.attributes.get_int("keepdims", 1):
        graph.write(node, x)
        return
    rest = [axis for axis in range(x.rank) if axis not in reduced]
    graph.write(node, renumbered(x, {old: new for new, old in enumerate(rest)}, len(rest)))


def pad(node: ir.Node, graph: ChannelGraph) -> None:
    """Pads other axes; a constant channel stays one when padded with zeros and zero itself."""
    x = graph.layout(node, 0)
    if x is None:
        return
    pads = constant(node, 1, "pads").tolist()
    axes = [axis % x.rank for axis in given_axes(node, 3, x.rank) or range(x.rank)]
    pairs = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    if any(axis in x.axes and (begin or end) for axis, begin, end in pairs):
        raise NotFollowedError("pads the channel axis")
    fill = constant(node, 2, "padding value") if has_input(node, 2) else np.zeros(())
    if node.attributes.get_string("mode", "constant") == "constant" and fill.any():
        graph.write(node, x.unknown())
    else:
        graph.write(node, x.with_constants(zero_only(node, x.constants)))


def expand(node: ir.Node, graph: ChannelGraph) -> None:
    """Repeats axes of size one."""
    value = node.inputs[0]
    out = graph.shape(node.outputs[0])
    if value is None or out is None:
        if value in graph.tracked:
            raise NotFollowedError("the shape it expands to is unknown")
        return
    if is_fixed(value) and value not in graph.tracked:
        sizes = graph.shape(value) or ()
        wide = [axis for axis, size in enumerate(sizes) if size is not None and size > 1]
        if not wide or not value.const_value.dtype.is_floating_point():  # type: ignore[union-attr]
            return
        ids = graph.read(node, 0, axis=wide[-1], rank=len(sizes), size=sizes[wide[-1]] or 0)
        constants = np.array(0.0 if graph.masked else np.nan)
        x = single(wide[-1], len(sizes), ids, constants)
    else:
        layout = graph.layout(node, 0)
        if layout is None:
            return
        x = layout
    shift = len(out) - x.rank
    x = renumbered(x, {axis: axis + shift for axis in range(x.rank)}, len(out))
    for axis in x.axes:
        if out[axis] != x.size(axis):
            raise NotFollowedError("repeats channels")
        note_size(node, 1, axis, x, axis, graph)
    graph.write(node, x)


def resize(node: ir.Node, graph: ChannelGraph) -> None:
    """Scales other axes, by factors or to sizes."""
    x = graph.layout(node, 0)
    if x is None:
        return
    given = node.attributes.get("axes")
    axes = list(range(x.rank)) if given is None else [a % x.rank for a in given.as_ints()]
    for axis in set(axes) & set(x.axes):
        entry = axes.index(axis)
        if has_input(node, 3):
            if constant(node, 3, "sizes")[entry] != x.size(axis):
                raise NotFollowedError("scales the channel axis")
            note_size(node, 3, entry, x, axis, graph)
        elif constant(node, 2, "scales")[entry] != 1:
            raise NotFollowedError("scales the channel axis")
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise NotFollowedError("crops to a region of interest")
    graph.write(node, x.with_constants(zero_only(node, x.constants)))


def _known(node: ir.Node, graph: ChannelGraph) -> tuple[int | None, ...]:
    shape = graph.shape(node.inputs[0])
    if shape is None:
        raise NotFollowedError("the shape is unknown")
    return shape


def given_axes(node: ir.Node, index: int, rank: int) -> list[int]:
    """Axes given as an input or, in older opsets, an attribute; none means the default."""
    if has_input(node, index):
        return [int(axis) % rank for axis in constant(node, index, "axes")]
    attribute = node.attributes.get("axes")
    return [] if attribute is None else [axis % rank for axis in attribute.as_ints()]
