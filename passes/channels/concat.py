"""Channel rule of Concat: one axis after the other, or side by side with the same channels."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes.channels.broadcasting import join
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError
from passes.channels.layout import Ids, Layout, axis_constants, single, with_axis


def concat(node: ir.Node, graph: ChannelGraph) -> None:
    """Along the channels: one after the other. Along another axis: the same channels."""
    known = [graph.tracked[v] for v in node.inputs if v in graph.tracked]
    if not known:
        return
    rank = known[0].rank
    axis = node.attributes["axis"].as_int() % rank
    if all(axis not in x.axes for x in known):
        joined = _join_beside(node, graph, axis)
        graph.write(node, joined)
        return
    parts = [_operand(node, i, axis, rank, graph) for i in range(len(node.inputs))]
    graph.write(node, _chain(parts, axis, graph))


def _operand(node: ir.Node, i: int, axis: int, rank: int, graph: ChannelGraph) -> Layout:
    """The channels of an operand, with one labelled dim on the axis of concatenation."""
    value = node.inputs[i]
    shape = graph.shape(value)
    x = graph.tracked.get(value)  # type: ignore[arg-type]
    size = x.size(axis) if x is not None and axis in x.axes else shape and shape[axis]
    if not size:
        raise NotFollowedError("the number of channels of an operand is unknown")
    ids = graph.read(node, i, axis=axis, rank=rank, size=size)
    x = graph.tracked.get(value)  # type: ignore[arg-type]
    if x is None:  # a constant
        return single(axis, rank, ids, np.array(np.nan))
    if len(x.on(axis)) > 1 or axis not in x.axes:
        constants = axis_constants(x, axis) if axis in x.axes else np.full(size, np.nan)
        return with_axis(x, axis, ids, constants)
    return x


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
    if all(len(x.ids) == 1 for x in parts):
        ids = np.concatenate([x.ids[0] for x in parts])
        constants = np.concatenate([np.broadcast_to(x.constants, x.sizes) for x in parts])
        return single(axis, parts[0].rank, ids, constants)
    others = {
        tuple((dim.axis, dim.size, dim.labelled) for dim in x.dims if dim.axis != axis)
        for x in parts
    }
    if any(len(x.ids) == 1 for x in parts) or len(others) > 1:
        raise NotFollowedError("joins values with channels on different axes")
    [p] = parts[0].positions(axis)
    every = [
        _ids_after_another(parts, p) if q == p else _shared_ids(parts, q, p, graph)
        for q in range(len(parts[0].ids))
    ]
    constants = np.concatenate([np.broadcast_to(x.constants, x.sizes) for x in parts], axis=p)
    total = sum(x.sizes[p] for x in parts)
    dims = tuple(replace(dim, size=total) if dim.axis == axis else dim for dim in parts[0].dims)
    return Layout(rank=parts[0].rank, dims=dims, ids=tuple(every), constants=constants)


def _ids_after_another(parts: list[Layout], p: int) -> Ids:
    """Ids of the labelled dim `p`, along which the parts are joined."""
    shape = np.broadcast_shapes(
        *(tuple(1 if i == p else n for i, n in enumerate(x.ids[p].shape)) for x in parts)
    )
    spread = [
        np.broadcast_to(x.ids[p], [x.sizes[p] if i == p else n for i, n in enumerate(shape)])
        for x in parts
    ]
    return np.concatenate(spread, axis=p)


def _shared_ids(parts: list[Layout], q: int, p: int, graph: ChannelGraph) -> Ids:
    """Ids of another labelled dim `q`, tied over all parts and independent of dim `p`."""
    arrays = [graph.independent(x.ids[q], set(range(len(x.ids))) - {p}) for x in parts]
    for array in arrays[1:]:
        graph.tie(arrays[0], array)
    return max(arrays, key=lambda array: array.size)
