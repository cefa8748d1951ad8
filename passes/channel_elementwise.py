"""Channel rules of the operators that keep channels apart: activations, joins, normalisation.

What they do to a constant channel is computed only where that is exact. Everything else becomes
NaN, unknown, which is always safe.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import onnx_ir as ir

from passes.channel_graph import (
    ChannelGraph,
    Channels,
    Constants,
    NotFollowedError,
    constant,
    has_input,
)
from passes.channel_layers import per_channel, value_rank

Rule = Callable[[ir.Node, ChannelGraph], None]
Unary = Callable[[ir.Node, Constants], Constants]
Fold = Callable[[Constants, Constants], Constants]


def same(node: ir.Node, x: Constants) -> Constants:
    """Nothing is done: y = x."""
    return x


def zero_only(node: ir.Node, x: Constants) -> Constants:
    """f(0) = 0; other constants are given up."""
    return np.where(x == 0, 0.0, np.nan)


def unknown(node: ir.Node, x: Constants) -> Constants:
    """f(0) ≠ 0."""
    return np.full_like(x, np.nan)


def relu(node: ir.Node, x: Constants) -> Constants:
    """max(x, 0)."""
    return np.maximum(x, 0)


def clip(node: ir.Node, x: Constants) -> Constants:
    """min(max(x, lower), upper)."""
    lower = constant(node, 1, "lower bound") if has_input(node, 1) else -np.inf
    upper = constant(node, 2, "upper bound") if has_input(node, 2) else np.inf
    return np.minimum(np.maximum(x, lower), upper)


def unary(transfer: Unary) -> Rule:
    """Rule of an operator that maps every element by itself, or every channel by itself."""

    def rule(node: ir.Node, graph: ChannelGraph) -> None:
        x = follow(node, graph)
        if x is not None:
            keep_axis(node, graph, x, axis=x.axis, rank=x.rank, transfer=transfer)

    return rule


def follow(node: ir.Node, graph: ChannelGraph) -> Channels | None:
    """Channels of the first input; None, nothing to do, where they are not labelled."""
    value = node.inputs[0]
    x = None if value is None else graph.tracked.get(value)
    return x and graph.read(node, 0, axis=x.axis, rank=x.rank, size=len(x.ids))


def keep_axis(
    node: ir.Node,
    graph: ChannelGraph,
    x: Channels,
    *,
    axis: int,
    rank: int,
    transfer: Unary = zero_only,
) -> None:
    """Labels the output with the channels of the input."""
    constants = transfer(node, x.constants)
    graph.write(node, Channels(axis=axis, rank=rank, ids=x.ids, constants=constants))


def add(a: Constants, b: Constants) -> Constants:
    """Of two addends."""
    return a + b


def subtract(a: Constants, b: Constants) -> Constants:
    """Of minuend and subtrahend."""
    return a - b


def multiply(a: Constants, b: Constants) -> Constants:
    """Zero where one factor is: a gate closes a channel."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def divide(a: Constants, b: Constants) -> Constants:
    """Zero where the dividend is zero and the divisor is known not to be."""
    return np.where((a == 0) & ~np.isnan(b) & (b != 0), 0.0, np.nan)


def slope(a: Constants, b: Constants) -> Constants:
    """PRelu: f(0) = 0 for any slope."""
    return np.where(a == 0, 0.0, np.nan)


def elementwise(fold: Fold) -> Rule:
    """Rule of an operator on broadcast operands: it ties their channels."""

    def rule(node: ir.Node, graph: ChannelGraph) -> None:
        operands = [value for value in node.inputs if value is not None]
        tracked = [graph.tracked[value] for value in operands if value in graph.tracked]
        if not tracked:
            return
        rank = max(value_rank(value, graph) for value in operands)
        axes = {channels.axis + rank - channels.rank for channels in tracked}
        if len(axes) > 1:
            raise NotFollowedError("its operands have channels on different axes")
        out = max(tracked, key=lambda channels: len(channels.ids))
        out = Channels(axis=axes.pop(), rank=rank, ids=out.ids, constants=out.constants)
        each = [_operand(node, index, graph, out) for index in range(len(operands))]
        constants = reduce(fold, each)
        graph.write(node, Channels(axis=out.axis, rank=rank, ids=out.ids, constants=constants))

    return rule


def _operand(node: ir.Node, index: int, graph: ChannelGraph, out: Channels) -> Constants:
    """Ties one operand to the output's channels; its constants, broadcast to (C,)."""
    value = node.inputs[index]
    assert value is not None
    axis = out.axis - out.rank + value_rank(value, graph)
    size, broadcast = len(out.ids), np.full(len(out.ids), np.nan)
    known = graph.tracked.get(value)
    if known is not None:
        channels = graph.read(node, index, axis=axis, rank=known.rank, size=len(known.ids))
        if len(known.ids) == size:
            graph.tie(channels.ids, out.ids)
            return channels.constants
        if len(known.ids) != 1:
            raise NotFollowedError(f"joins {len(known.ids)} with {size} channels")
        return broadcast
    assert value.shape is not None  # or its rank would not be known
    extent = 1 if axis < 0 else value.shape[axis]
    if extent not in (1, size):
        raise NotFollowedError(f"joins {extent} with {size} channels")
    if value.const_value is None or value.is_graph_input():
        if extent == size:
            graph.tie(
                graph.read(node, index, axis=axis, rank=len(value.shape), size=size).ids, out.ids
            )
        return broadcast
    if extent == 1:
        return np.broadcast_to(per_channel(value.const_value.numpy().reshape(1, -1), 0), size)
    graph.slice(node, index, axis, out.ids)
    return per_channel(value.const_value.numpy(), axis)


def batch_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """Inference form: y = (x − mean)·scale/√(var + ε) + shift, each (C,)."""
    x = follow(node, graph)
    if x is None:
        return
    if node.attributes.get_int("training_mode", 0):
        raise NotFollowedError("it is in training mode")
    names = ("scale", "shift", "mean", "variance")
    scale, shift, mean, variance = (
        constant(node, index, what).astype(np.float64) for index, what in enumerate(names, 1)
    )
    for index in range(1, 5):
        graph.slice(node, index, 0, x.ids)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    scaled = (x.constants - mean) * scale / np.sqrt(variance + epsilon)
    constants = np.where(scale == 0, 0.0, scaled) + shift
    graph.write(node, Channels(axis=x.axis, rank=x.rank, ids=x.ids, constants=constants))


def instance_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """Each channel of each sample by itself; scale and shift are (C,)."""
    x = follow(node, graph)
    if x is None:
        return
    scale, shift = (constant(node, index, what) for index, what in ((1, "scale"), (2, "shift")))
    for index in (1, 2):
        graph.slice(node, index, 0, x.ids)
    constants = np.where(scale == 0, shift.astype(np.float64), np.nan)
    graph.write(node, Channels(axis=x.axis, rank=x.rank, ids=x.ids, constants=constants))


def concat(node: ir.Node, graph: ChannelGraph) -> None:
    """Along the channels: one after the other. Along another axis: the same channels."""
    values: Sequence[ir.Value | None] = node.inputs
    tracked = [graph.tracked[value] for value in values if value in graph.tracked]
    if not tracked:
        return
    axis, rank = tracked[0].axis, tracked[0].rank
    along = node.attributes["axis"].as_int() % rank
    parts = [_part(node, index, graph, axis, rank) for index in range(len(values))]
    if along == axis:
        ids = np.concatenate([part.ids for part in parts])
        constants = np.concatenate([part.constants for part in parts])
    else:
        ids, constants = parts[0].ids, parts[0].constants
        for part in parts[1:]:
            graph.tie(ids, part.ids)
            constants = np.where(constants == part.constants, constants, np.nan)
    graph.write(node, Channels(axis=axis, rank=rank, ids=ids, constants=constants))


def _part(node: ir.Node, index: int, graph: ChannelGraph, axis: int, rank: int) -> Channels:
    value = node.inputs[index]
    if value in graph.tracked:
        size = len(graph.tracked[value].ids)
    elif value is not None and value.shape is not None and len(value.shape) == rank:
        extent = value.shape[axis]
        if not isinstance(extent, int):
            raise NotFollowedError("the number of channels of an operand is unknown")
        size = extent
    else:
        raise NotFollowedError("the rank of an operand is unknown")
    return graph.read(node, index, axis=axis, rank=rank, size=size)
