"""Channel rules of Flatten and Reshape.

A channel that is merged with the spatial axes behind it becomes R·S neighbouring channels with
the same id: they go together. Shapes may be constants or put together from the batch size.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from passes.channel_elementwise import follow, keep_axis, same
from passes.channel_graph import ChannelGraph, Channels, NotFollowedError, constant
from passes.channel_shapes import note_size, picked

BATCH = None
"""Stands for the batch size in a shape that is put together at run time."""


def flatten(node: ir.Node, graph: ChannelGraph) -> None:
    """(N, C, *spatial) to (N, C·R·S): every channel is repeated R·S times."""
    x = follow(node, graph)
    if x is None:
        return
    axis = node.attributes.get_int("axis", 1)
    assert axis is not None
    if axis % x.rank != x.axis:
        raise NotFollowedError(f"flattens from axis {axis}, the channels are on {x.axis}")
    area = _area(node.inputs[0], x)
    if area is None:
        raise NotFollowedError("the spatial size is unknown")
    _write_merged(node, graph, x, axis=1, area=area)


def reshape(node: ir.Node, graph: ChannelGraph) -> None:
    """Either flattens from the channels on, or leaves the axes up to the channels alone."""
    x = follow(node, graph)
    if x is None:
        return
    target = _target_shape(node, graph)
    size, rank, area = len(x.ids), len(target), _area(node.inputs[0], x)
    if not node.attributes.get_int("allowzero", 0):
        target = [_copied(node.inputs[0], i) if d == 0 else d for i, d in enumerate(target)]
    if not _keeps_leading(node.inputs[0], target, x, area):
        raise NotFollowedError(f"reshapes the axes before the channels, to {target}")
    entry = target[x.axis]
    if area is not None and rank == x.axis + 1 and entry in (-1, size * area):
        _write_merged(node, graph, x, axis=x.axis, area=area)
    elif entry == size:
        keep_axis(node, graph, x, axis=x.axis, rank=rank, transfer=same)
    else:
        raise NotFollowedError(f"splits or mixes the channels, to {target}")
    note_size(node, 1, x.axis, graph.tracked[node.outputs[0]].ids, graph)


def _write_merged(node: ir.Node, graph: ChannelGraph, x: Channels, *, axis: int, area: int) -> None:
    ids, constants = np.repeat(x.ids, area), np.repeat(x.constants, area)
    graph.write(node, Channels(axis=axis, rank=axis + 1, ids=ids, constants=constants))


def _area(value: ir.Value | None, x: Channels) -> int | None:
    """Number of elements of one channel behind the channel axis, None where unknown."""
    if x.rank == x.axis + 1:
        return 1
    if value is None or value.shape is None:
        return None
    sizes = [size for size in value.shape[x.axis + 1 :] if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == x.rank - x.axis - 1 else None


def _copied(value: ir.Value | None, axis: int) -> int | None:
    """What a zero in a target shape stands for; an unknown size counts as the batch's."""
    size = value.shape[axis] if value is not None and value.shape is not None else BATCH
    return size if isinstance(size, int) else BATCH


def _keeps_leading(
    value: ir.Value | None, target: Sequence[int | None], x: Channels, area: int | None
) -> bool:
    """Whether a target shape leaves the axes before the channels as they are."""
    if len(target) <= x.axis:
        return False
    if list(target[: x.axis]) == [_copied(value, axis) for axis in range(x.axis)]:
        return True
    if x.axis != 1 or target[0] not in (BATCH, -1):
        return False
    # A leading -1 comes out as the batch size if everything else is as before.
    rest = [size for size in target[1:] if size is not BATCH and size > 0]
    fits = len(rest) == len(target) - 1 and area is not None
    return target[0] is BATCH or (fits and math.prod(rest) == len(x.ids) * (area or 0))


def _target_shape(node: ir.Node, graph: ChannelGraph) -> list[int | None]:
    """Shape given to a Reshape: constant, or the batch size and constants joined by Concat."""
    value = node.inputs[1]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Concat":
        return [int(size) for size in constant(node, 1, "shape")]
    sizes: list[int | None] = []
    for index, part in enumerate(producer.inputs):
        if _is_batch_size(part, graph):
            sizes.append(BATCH)
        else:
            sizes += [int(size) for size in constant(producer, index, "shape")]
    return sizes


def _is_batch_size(value: ir.Value | None, graph: ChannelGraph) -> bool:
    """Whether a value is the first size of a value with channels on axis 1, as (1,) shape."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type in ("Unsqueeze", "Reshape"):
        return _is_batch_size(node.inputs[0], graph)
    picks_first = node.op_type == "Gather" and picked(node, 2**31) == {0}
    source = node.inputs[0].producer() if picks_first and node.inputs[0] is not None else node
    if source is None or source.op_type != "Shape":
        return False
    x = graph.tracked.get(source.inputs[0]) if source.inputs[0] is not None else None
    first = source.attributes.get_int("start", 0) == 0
    single = picks_first or source.attributes.get_int("end", -1) == 1
    return x is not None and x.axis == 1 and first and single
