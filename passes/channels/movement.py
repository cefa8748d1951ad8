"""Channel rules of the operators that move, cut, repeat or scale axes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.elementwise import join, zero_only
from passes.channels.graph import (
    ChannelGraph,
    NotFollowedError,
    SizeEntry,
    constant,
    describe,
    has_input,
    is_fixed,
    stored_shape,
)
from passes.channels.layers import with_axis
from passes.channels.layout import (
    Ids,
    Layout,
    axis_constants,
    renumbered,
    single,
    without_dims,
)
from passes.channels.normalization import freeze_axes
from passes.channels.sizes import note_size, only_shapes


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
        graph.handle(node, 0)
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
    axes = _axes(node, 1, x.rank)
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
    axes = [axis % x.rank for axis in _axes(node, 3, x.rank) or range(x.rank)]
    pairs = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    if any(axis in x.axes and (begin or end) for axis, begin, end in pairs):
        raise NotFollowedError("pads the channel axis")
    fill = constant(node, 2, "padding value") if has_input(node, 2) else np.zeros(())
    if node.attributes.get_string("mode", "constant") == "constant" and fill.any():
        graph.write(node, x.unknown())
    else:
        graph.write(node, x.with_constants(zero_only(node, x.constants)))


def slice_axes(node: ir.Node, graph: ChannelGraph) -> None:
    """Cuts axes; bounds on a channel axis are counted anew."""
    x = graph.layout(node, 0)
    if x is None:
        return
    axes = _axes(node, 3, x.rank)
    if not axes:
        axes = list(range(len(constant(node, 1, "starts"))))
    steps = constant(node, 4, "steps").tolist() if has_input(node, 4) else [1] * len(axes)
    out = x
    for entry, axis in enumerate(axes):
        if axis not in x.axes:
            continue
        start, end = (constant(node, i, what)[entry] for i, what in ((1, "starts"), (2, "ends")))
        out = _cut(node, graph, out, axis, entry, (int(start), int(end), int(steps[entry])))
    graph.write(node, out)


def _cut(
    node: ir.Node,
    graph: ChannelGraph,
    x: Layout,
    axis: int,
    entry: int,
    bounds: tuple[int, int, int],
) -> Layout:
    size, step = x.size(axis), bounds[2]
    start, stop, _ = slice(*bounds).indices(size)
    if step < 1:
        raise NotFollowedError("reverses the channels")
    if step > 1:
        if start >= step or stop != size or size % step:
            raise NotFollowedError("takes some of the channels in steps")
        ids = graph.flat(x, axis).reshape(-1, step)
        graph.tie(ids[:, :1], ids)  # what lies between goes with what is taken
    for index, bound in ((1, start), (2, stop)):
        if bound > 0 and (bound < size or index == 2) and step == 1:
            prefix = part(x, axis, range(bound), graph)
            graph.regular.append(prefix)
            graph.sizes.append(
                SizeEntry(node=node, index=index, entry=entry, layout=prefix, axis=axis)
            )
    return part(x, axis, range(start, stop, step), graph)


def part(x: Layout, axis: int, picked: Sequence[int], graph: ChannelGraph) -> Layout:
    """The layout with only some elements of an axis."""
    if len(x.on(axis)) > 1:  # heads and features on one axis are cut as single channels
        constants = axis_constants(x, axis)
        x = with_axis(x, axis, graph.flat(x, axis), constants)
    [p] = x.positions(axis)
    where = np.asarray(picked, np.int64)

    def take(array: NDArray[Any]) -> NDArray[Any]:
        return np.take(array, where, axis=p) if array.shape[p] > 1 or x.sizes[p] == 1 else array

    dims = tuple(replace(dim, size=len(where)) if dim.axis == axis else dim for dim in x.dims)
    return Layout(
        rank=x.rank,
        dims=dims,
        ids=tuple(take(array) for array in x.ids),
        constants=take(x.constants),
    )


def split(node: ir.Node, graph: ChannelGraph) -> None:
    """Cuts an axis into consecutive parts."""
    x = graph.layout(node, 0)
    if x is None:
        return
    axis = node.attributes.get_int("axis", 0) % x.rank
    if axis not in x.axes:
        for output in range(len(node.outputs)):
            graph.write(node, x, output)
        return
    size, count = x.size(axis), len(node.outputs)
    if has_input(node, 1):
        sizes = constant(node, 1, "split").tolist()
    else:
        sizes = [-(-size // count)] * (count - 1)
        sizes.append(size - sum(sizes))
    start = 0
    for output, width in enumerate(sizes):
        piece = part(x, axis, range(start, start + width), graph)
        graph.write(node, piece, output)
        graph.sizes.append(SizeEntry(node=node, index=1, entry=output, layout=piece, axis=axis))
        start += width


def concat(node: ir.Node, graph: ChannelGraph) -> None:
    """Along the channels: one after the other. Along another axis: the same channels."""
    indices = range(len(node.inputs))
    known = [graph.tracked[v] for v in node.inputs if v in graph.tracked]
    if not known:
        return
    rank = known[0].rank
    axis = node.attributes["axis"].as_int() % rank
    if all(axis not in x.axes for x in known):
        joined = _join_beside(node, graph, axis)
        graph.write(node, joined)
        return
    parts = []
    for i in indices:
        shape = graph.shape(node.inputs[i])
        x = graph.tracked.get(node.inputs[i])  # type: ignore[arg-type]
        size = x.size(axis) if x is not None and axis in x.axes else shape and shape[axis]
        if not size:
            raise NotFollowedError("the number of channels of an operand is unknown")
        ids = graph.read(node, i, axis=axis, rank=rank, size=size)
        x = graph.tracked.get(node.inputs[i])  # type: ignore[arg-type]
        if x is None:  # a constant
            parts.append(single(axis, rank, ids, np.array(np.nan)))
        elif len(x.on(axis)) > 1 or axis not in x.axes:
            constants = axis_constants(x, axis) if axis in x.axes else np.full(size, np.nan)
            parts.append(with_axis(x, axis, ids, constants))
        else:
            parts.append(x)
    graph.write(node, _chain(parts, axis, graph))


def _join_beside(node: ir.Node, graph: ChannelGraph, axis: int) -> Layout:
    """Operands that lie side by side on an axis without channels."""
    joined = join(node, list(range(len(node.inputs))), graph)
    assert joined is not None
    layout, constants = joined
    total = constants[0]
    for other in constants[1:]:
        total = np.where(total == other, total, np.nan)
    return layout.with_constants(total)


def _chain(parts: list[Layout], axis: int, graph: ChannelGraph) -> Layout:
    """One axis after the other; channels on other axes are the same."""
    others = {i: without_axis(x, axis, graph) for i, x in enumerate(parts) if len(x.ids) > 1}
    if not others:
        ids = np.concatenate([x.ids[0] for x in parts])
        constants = np.concatenate([np.broadcast_to(x.constants, x.sizes) for x in parts])
        return single(axis, parts[0].rank, ids, constants)
    if len(others) < len(parts):
        raise NotFollowedError("joins values with channels on different axes")
    signature = {
        tuple((dim.axis, dim.size, dim.labelled) for dim in x.dims if dim.axis != axis)
        for x in parts
    }
    if len(signature) > 1:
        raise NotFollowedError("joins values with channels on different axes")
    [p] = parts[0].positions(axis)
    every: list[Ids] = []
    for q in range(len(parts[0].ids)):
        if q != p:
            arrays = [graph.independent(x.ids[q], set(range(len(x.ids))) - {p}) for x in parts]
            for array in arrays[1:]:
                graph.tie(arrays[0], array)
            every.append(max(arrays, key=lambda array: array.size))
            continue
        shape = np.broadcast_shapes(
            *(tuple(1 if i == p else n for i, n in enumerate(x.ids[p].shape)) for x in parts)
        )
        spread = [
            np.broadcast_to(x.ids[p], [x.sizes[p] if i == p else n for i, n in enumerate(shape)])
            for x in parts
        ]
        every.append(np.concatenate(spread, axis=p))
    constants = np.concatenate([np.broadcast_to(x.constants, x.sizes) for x in parts], axis=p)
    total = sum(x.sizes[p] for x in parts)
    dims = tuple(replace(dim, size=total) if dim.axis == axis else dim for dim in parts[0].dims)
    return Layout(rank=parts[0].rank, dims=dims, ids=tuple(every), constants=constants)


def without_axis(x: Layout, axis: int, graph: ChannelGraph) -> Layout:
    """The channels on other axes."""
    return without_dims(x, x.positions(axis), x.rank)


def gather(node: ir.Node, graph: ChannelGraph) -> None:
    """Looks up rows of a table, or picks places along an axis."""
    table = node.inputs[0]
    index_rank = graph.rank(node.inputs[1])
    if is_fixed(table) and table is not None and table not in graph.tracked:
        if graph.rank(table) < 2 or not table.const_value.dtype.is_floating_point():  # type: ignore[union-attr]
            return
        axis = node.attributes.get_int("axis", 0) % graph.rank(table)
        last = graph.rank(table) - 1
        if axis == last:
            return
        sizes = stored_shape(table)
        rows, ids = graph.new(sizes[axis]), graph.new(sizes[last])
        graph.slice(node, 0, axis, rows)
        graph.slice(node, 0, last, ids)
        graph.freeze(rows, f"{describe(node)}: rows are looked up")
        rank = last + index_rank
        graph.write(node, single(rank - 1, rank, ids, np.array(0.0 if graph.masked else np.nan)))
        return
    x = graph.layout(node, 0)
    if x is None:
        return
    axis = node.attributes.get_int("axis", 0) % x.rank
    if axis in x.axes:
        freeze_axes(node, graph, x, (axis,), "channels are looked up by number")
        if index_rank > 0 or not is_fixed(node.inputs[1]):
            raise NotFollowedError("looks up channels")
        chosen = int(constant(node, 1, "index")) % x.size(axis)
        one = part(x, axis, [chosen], graph)
        x = without_dims(one, one.positions(axis), one.rank)
        x = replace(x, dims=tuple(dim for dim in x.dims if dim.axis != axis))
    moved = {a: a if a < axis else a + index_rank - 1 for a in range(x.rank)}
    graph.write(node, renumbered(x, moved, x.rank + index_rank - 1))


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


def shape(node: ir.Node, graph: ChannelGraph) -> None:
    """Reads sizes: harmless as long as nobody looks at the number of channels."""
    x = graph.layout(node, 0)
    if x is None:
        return
    span = range(x.rank)[slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))]
    seen = set(span) & set(x.axes)
    if only_shapes(node.outputs[0]):
        return
    uses = list(node.outputs[0].uses())
    if uses and all(use.node.op_type in ("Gather", "Slice") for use in uses):
        looked = set().union(*(picked(use.node, len(span)) for use in uses))
        seen &= {span[i] for i in looked}
    freeze_axes(node, graph, x, seen, "the number of channels is read at run time")


def picked(node: ir.Node, rank: int) -> set[int]:
    """Which entries of a list a Gather or Slice takes; all where that is decided at run time."""
    try:
        if node.op_type == "Gather":
            return {int(index) % rank for index in constant(node, 1, "index").reshape(-1)}
        start, end = (int(constant(node, i, "bound").reshape(-1)[0]) for i in (1, 2))
        return set(range(rank)[start:end])
    except NotFollowedError:
        return set(range(rank))


def _known(node: ir.Node, graph: ChannelGraph) -> tuple[int | None, ...]:
    shape = graph.shape(node.inputs[0])
    if shape is None:
        raise NotFollowedError("the shape is unknown")
    return shape


def _axes(node: ir.Node, index: int, rank: int) -> list[int]:
    """Axes given as an input or, in older opsets, an attribute; none means the default."""
    if has_input(node, index):
        return [int(axis) % rank for axis in constant(node, index, "axes")]
    attribute = node.attributes.get("axes")
    return [] if attribute is None else [axis % rank for axis in attribute.as_ints()]
