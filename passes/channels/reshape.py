"""Channel rules of Flatten and Reshape: axes are divided into dims and put together anew.

A Reshape keeps the order of elements, so it is known from the sizes alone: cut the old and the
new axes at the products of sizes that both have, counted from the outermost axis.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import onnx_ir as ir

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError
from passes.channels.layout import Dim, Layout, placed
from passes.channels.sizes import note_size


def flatten(node: ir.Node, graph: ChannelGraph) -> None:
    """To two axes: every channel is repeated as often as there are elements behind it."""
    x = graph.layout(node, 0)
    if x is None:
        return
    source = _shape(node.inputs[0], graph)
    axis = node.attributes.get_int("axis", 1)
    axis += x.rank if axis < 0 else 0  # no remainder: x.rank itself is allowed
    target = (math.prod(source[:axis]), math.prod(source[axis:]))
    graph.write(node, regrouped(x, source, target, graph))


def reshape(node: ir.Node, graph: ChannelGraph) -> None:
    """To other axes; sizes of channels in the target shape are counted anew."""
    x = graph.layout(node, 0)
    if x is None:
        return
    target = _shape(node.outputs[0], graph)
    source = _shape(node.inputs[0], graph, elements=math.prod(target))
    out = regrouped(x, source, target, graph)
    for axis in out.axes:
        note_size(node, 1, axis, out, axis, graph)
    graph.write(node, out)


def regrouped(
    x: Layout, source: Sequence[int], target: Sequence[int], graph: ChannelGraph
) -> Layout:
    """The channels of a value after its axes have been changed from one shape to another.

    Raises:
        NotFollowedError: an axis is cut inside a channel.
    """
    if math.prod(source) != math.prod(target) or 0 in target:
        raise NotFollowedError(f"reshapes {tuple(source)} to {tuple(target)}")
    dims = [dim for axis in range(x.rank) for dim in x.on(axis) or [_rest(axis, source[axis])]]
    x = Layout(rank=x.rank, dims=tuple(dims), ids=x.ids, constants=x.constants)
    ends = list(accumulate(target, mul))
    index, before = 0, 1
    while index < len(x.dims):
        dim = x.dims[index]
        cuts = [end for end in ends if before < end < before * dim.size]
        if cuts and (cuts[0] % before or (before * dim.size) % cuts[0]):
            _check_free(x, before, cuts[0], ends)
        elif cuts:
            outer = cuts[0] // before
            x = graph.split(x, index, (outer, dim.size // outer))
        before *= x.dims[index].size
        index += 1
    return _gathered(x, target, ends)


def _check_free(x: Layout, before: int, cut: int, ends: Sequence[int]) -> None:
    """Uneven cuts do not matter where no channel is near: between two ends that both shapes have.

    Raises:
        NotFollowedError: there are channels.
    """
    starts = list(accumulate((dim.size for dim in x.dims), mul, initial=1))
    common = set(starts) & {1, *ends}
    low, high = max(n for n in common if n <= before), min(n for n in common if n >= cut)
    touched = [
        dim
        for dim, start in zip(x.dims, starts[:-1], strict=True)
        if start < high and start * dim.size > low
    ]
    if any(dim.labelled for dim in touched):
        raise NotFollowedError("splits or mixes the channels unevenly")


def _gathered(x: Layout, target: Sequence[int], ends: Sequence[int]) -> Layout:
    """Puts every dim on the new axis that its elements are on."""
    axes, before = [], 1
    for dim in x.dims:
        after = before * dim.size
        holds = [a for a, end in enumerate(ends) if end >= after and target[a] >= dim.size]
        axes.append(holds[0] if holds else len(target) - 1)
        before = after
    x = placed(x, axes, len(target))
    kept = tuple(dim for dim in x.dims if dim.axis in x.axes and (dim.labelled or dim.size > 1))
    return Layout(rank=x.rank, dims=kept, ids=x.ids, constants=x.constants)


def _rest(axis: int, size: int) -> Dim:
    return Dim(axis=axis, size=size, labelled=False)


def _shape(value: ir.Value | None, graph: ChannelGraph, elements: int | None = None) -> list[int]:
    """Sizes of a value; one that is not known follows from the number of elements."""
    shape = graph.shape(value)
    known = [] if shape is None else [size for size in shape if size is not None]
    if shape is not None and len(known) == len(shape):
        return known
    if shape is None or len(known) + 1 < len(shape) or not elements or elements % math.prod(known):
        raise NotFollowedError("the shape is unknown")
    return [elements // math.prod(known) if size is None else size for size in shape]
