"""Channel rules of the operators that take a part of an axis: Slice, Split, Gather."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import (
    NotFollowedError,
    constant,
    describe,
    has_input,
    is_fixed,
    stored_shape,
)
from passes.channels.layout import (
    Layout,
    axis_constants,
    renumbered,
    single,
    with_axis,
    without_dims,
)
from passes.channels.movement import given_axes
from passes.channels.normalization import freeze_axes
from passes.channels.records import SizeEntry


def slice_axes(node: ir.Node, graph: ChannelGraph) -> None:
    """Cuts axes; bounds on a channel axis are counted anew."""
    x = graph.layout(node, 0)
    if x is None:
        return
    axes = given_axes(node, 3, x.rank)
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
