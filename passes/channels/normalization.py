"""Channel rules of normalisations and of Softmax.

A statistic over channels changes when one of them goes, even if it is zero: the mean over fewer
features is another mean. So what is normalised over is frozen, such as the width of a Transformer.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from passes.channels.broadcasting import join
from passes.channels.elementwise import Rule
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, constant, describe, has_input
from passes.channels.layout import Layout


def freeze_axes(
    node: ir.Node, graph: ChannelGraph, x: Layout, axes: Iterable[int], why: str
) -> None:
    """Freezes the channels on some axes."""
    over = set(axes)
    for dim, ids in zip(x.labelled, x.ids, strict=True):
        if dim.axis in over:
            graph.freeze(ids, f"{describe(node)}: {why}")


def batch_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """Inference form: y = (x − mean)·scale/√(var + ε) + shift, each (C,)."""
    x = graph.layout(node, 0)
    if x is None:
        return
    graph.single_output(node)
    if node.attributes.get_int("training_mode", 0):
        raise NotFollowedError("it is in training mode")
    if 1 not in x.axes:
        raise NotFollowedError("its channels are not those that are followed")
    names = ("scale", "shift", "mean", "variance")
    scale, shift, mean, variance = (
        constant(node, index, what).astype(np.float64) for index, what in enumerate(names, 1)
    )
    ids = graph.flat(x, 1)
    for index in range(1, 5):
        graph.slice(node, index, 0, ids)
    if graph.masked:
        graph.write(node, x.with_constants(np.array(0.0)))
    elif len(x.ids) == 1 and len(x.dims) == 1:
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        scaled = (x.constants - mean) * scale / np.sqrt(variance + epsilon)
        graph.write(node, x.with_constants(np.where(scale == 0, 0.0, scaled) + shift))
    else:
        graph.write(node, x.unknown())


def instance_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """Each channel of each sample by itself; scale and shift are (C,)."""
    x = graph.layout(node, 0)
    if x is None:
        return
    freeze_axes(node, graph, x, range(2, x.rank), "the mean over the channels would change")
    if 1 not in x.axes:
        graph.write(node, x.unknown())
        return
    scale, shift = (constant(node, index, what) for index, what in ((1, "scale"), (2, "shift")))
    ids = graph.flat(x, 1)
    for index in (1, 2):
        graph.slice(node, index, 0, ids)
    if graph.masked:
        graph.write(node, x.with_constants(np.array(0.0)))
    elif len(x.ids) == 1 and len(x.dims) == 1:
        graph.write(node, x.with_constants(np.where(scale == 0, shift.astype(np.float64), np.nan)))
    else:
        graph.write(node, x.unknown())


def layer_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """LayerNormalization and RMSNormalization: over the axes from `axis` on."""
    x = graph.layout(node, 0)
    if x is None:
        return
    graph.single_output(node)
    first = node.attributes.get_int("axis", -1) % x.rank
    freeze_axes(node, graph, x, range(first, x.rank), "the statistics over the axis would change")
    graph.write(node, x.unknown())


def group_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """Statistics over groups of neighbouring channels."""
    x = graph.layout(node, 0)
    if x is None:
        return
    freeze_axes(node, graph, x, (1,), "the statistics over a group would change")
    graph.write(node, x.unknown())


def skip_layer_normalization(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft: normalises input + skip (+ bias); the sum is the fourth output."""
    simplified = node.op_type.startswith("SkipSimplified")
    bias = 3 if simplified else 4
    joined = join(node, [i for i in (0, 1, bias) if has_input(node, i)], graph)
    if joined is None:
        return
    x = joined[0].unknown()
    freeze_axes(node, graph, x, (x.rank - 1,), "the statistics over the axis would change")
    graph.write(node, x)
    if len(node.outputs) > 3:
        graph.write(node, x, output=3)


def along(why: str, default: int) -> Rule:
    """Rule of an operator that relates all elements along an axis, such as Softmax."""

    def rule(node: ir.Node, graph: ChannelGraph) -> None:
        x = graph.layout(node, 0)
        if x is None:
            return
        axis = node.attributes.get_int("axis", default) % x.rank
        freeze_axes(node, graph, x, (axis,), why)
        graph.write(node, x.unknown())

    return rule
