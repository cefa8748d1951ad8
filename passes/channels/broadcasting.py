"""Broadcast operands: which of their channels are the same, and what each is in the result.

Their axes may be divided differently, and operands may lack axes or be constants.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, is_fixed
from passes.channels.layout import Constants, Dim, Ids, Layout, renumbered, without_dims
from passes.channels.weights import per_channel, read_weight


def join(
    node: ir.Node, indices: Sequence[int], graph: ChannelGraph
) -> tuple[Layout, list[Constants]] | None:
    """Ties the channels of broadcast operands.

    Returns:
        The channels of the result, and the constants of every operand in its dims; None where
        no operand has channels.
    """
    if not any(node.inputs[i] in graph.tracked for i in indices):
        return None
    rank = max(graph.rank(node.inputs[i]) for i in indices)
    layouts = {}
    for i in indices:
        x = graph.layout(node, i)
        if x is not None:
            shift = rank - x.rank
            layouts[i] = renumbered(x, {axis: axis + shift for axis in range(x.rank)}, rank)
    layouts = aligned(layouts, graph)
    out = tied(list(layouts.values()), rank, graph)
    constants = [_operand(node, i, layouts.get(i), out, graph) for i in indices]
    return out, constants


def aligned(layouts: dict[int, Layout], graph: ChannelGraph) -> dict[int, Layout]:
    """The layouts with axes divided alike, and without dims of size one that are broadcast."""
    for axis in sorted({axis for x in layouts.values() for axis in x.axes}):
        size = max(x.size(axis) for x in layouts.values() if axis in x.axes)
        bounds = set()
        for i, x in layouts.items():
            if axis not in x.axes:
                continue
            if x.size(axis) == 1 < size:
                layouts[i] = without_dims(x, x.positions(axis), x.rank)
            elif x.size(axis) != size:
                raise NotFollowedError(f"joins {x.size(axis)} with {size} channels")
            else:
                bounds |= set(np.cumprod([dim.size for dim in x.on(axis)]).tolist())
        for i, x in layouts.items():
            if axis in x.axes:
                layouts[i] = graph.refine(x, axis, sorted(bounds))
    return layouts


def tied(layouts: Sequence[Layout], rank: int, graph: ChannelGraph) -> Layout:
    """One layout of all that is labelled in aligned ones, where what they share is the same."""
    out = _union(layouts, rank)
    every = [
        [_placed(x.ids[p], ps) if p is not None else None for p in ps]
        for x, ps in ((x, _places(x, out)) for x in layouts)
    ]
    ids = []
    for same in zip(*every, strict=True):
        known = [array for array in same if array is not None]
        for other in known[1:]:
            graph.tie(known[0], other)
        ids.append(max(known, key=lambda array: array.size))
    return replace(out, ids=tuple(ids))


def _union(layouts: Sequence[Layout], rank: int) -> Layout:
    """A layout of every dim that is labelled in one of them; its ids are placeholders."""
    dims: list[Dim] = []
    for axis in sorted({axis for x in layouts for axis in x.axes}):
        several = [x.on(axis) for x in layouts if axis in x.axes]
        if len({tuple(dim.size for dim in each) for each in several}) > 1:
            raise NotFollowedError("divides an axis in different ways")
        dims += [
            replace(same[0], labelled=any(dim.labelled for dim in same))
            for same in zip(*several, strict=True)
        ]
    n = sum(dim.labelled for dim in dims)
    ids = tuple(np.zeros((1,) * n, np.int64) for _ in range(n))
    return Layout(rank=rank, dims=tuple(dims), ids=ids, constants=np.full((1,) * n, np.nan))


def _places(x: Layout, out: Layout) -> list[int | None]:
    """For every labelled dim of `out`, which labelled dim of `x` it is."""
    flags = {
        (dim.axis, place): dim.labelled for axis in x.axes for place, dim in enumerate(x.on(axis))
    }
    order = [key for key, labelled in flags.items() if labelled]
    wanted = [
        (axis, place) for axis in out.axes for place, dim in enumerate(out.on(axis)) if dim.labelled
    ]
    return [order.index(key) if key in order else None for key in wanted]


def spread_constants(x: Layout, out: Layout) -> Constants:
    """The constants of `x` in the dims of `out`."""
    return np.asarray(_placed(x.constants, _places(x, out)))


def _placed(array: Constants | Ids, places: Sequence[int | None]) -> Any:
    return array.reshape([1 if p is None else array.shape[p] for p in places])


def _operand(
    node: ir.Node, i: int, x: Layout | None, out: Layout, graph: ChannelGraph
) -> Constants:
    """What an operand is in the dims of `out`; what it does not label is sliced or frozen."""
    value = node.inputs[i]
    assert value is not None
    constants: Constants = np.full((1,) * len(out.ids), np.nan)
    places: Sequence[int | None] = [None] * len(out.ids)
    if x is not None:
        places = _places(x, out)
        constants = spread_constants(x, out)
    shape = graph.shape(value)
    shift = out.rank - graph.rank(value)
    for axis in out.axes:
        positions = out.positions(axis)
        if all(places[p] is not None for p in positions) or axis < shift:
            continue
        if shape is None or shape[axis - shift] is None:
            raise NotFollowedError("the size of an operand is unknown")
        if shape[axis - shift] == 1:
            continue
        if shape[axis - shift] != out.size(axis):
            raise NotFollowedError(f"joins {shape[axis - shift]} with {out.size(axis)} channels")
        if is_fixed(value) and x is None:
            graph.slice(node, i, axis - shift, graph.flat(out, axis))
        else:
            for p in positions:
                graph.freeze(out.ids[p], graph.origin(value))
    if x is None and value.const_value is not None:
        if is_fixed(value):
            constants = _cells(node, i, out, graph)
        else:
            constants = np.full_like(constants, np.nan)
    return constants


def _cells(node: ir.Node, i: int, out: Layout, graph: ChannelGraph) -> Constants:
    """Constants of an initializer in the dims of `out`."""
    value = node.inputs[i]
    assert value is not None and value.const_value is not None
    shape, n = value.const_value.shape, len(out.ids)
    shift = out.rank - len(shape)
    wide = [axis for axis in out.axes if axis >= shift and shape[axis - shift] != 1]
    if not wide:
        array = read_weight(node, i, graph)
        same = per_channel(array.reshape(1, -1), 0) if array.size else np.array(np.nan)
        return np.asarray(same.reshape((1,) * n), np.float64)
    if graph.masked:
        return np.zeros((1,) * n)
    if len(wide) > 1 or len(out.on(wide[0])) > 1:
        return np.full((1,) * n, np.nan)
    [p] = out.positions(wide[0])
    each = per_channel(read_weight(node, i, graph), wide[0] - shift)
    return np.asarray(each.reshape([len(each) if q == p else 1 for q in range(n)]))
