"""Which channels of a convolutional network can go without changing what it computes.

`follow_channels` walks the graph with one rule per operator (`RULES`) and returns which channels
are the same and what is constant in them. `live_channels` then asks which channels are needed:

    channel c is needed if it is frozen, or if a layer reads it with a nonzero weight
    W[k, c] ≠ 0, in a place where it is not known to be zero, for an output k that is needed.

What is not needed can be removed exactly: every reader either ignores it or reads zeros. At a
residual Add the operands are the same channels, so that the union of what they need remains.
Constants flow forward and needs flow backward; this reaches in one sweep each what removing
dead channels and looking again would reach in many (PENNI, ICML 2020, step "shrink").
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.channel_elementwise import (
    Rule,
    add,
    batch_normalization,
    clip,
    concat,
    divide,
    elementwise,
    instance_normalization,
    multiply,
    relu,
    same,
    slope,
    subtract,
    unary,
    unknown,
    zero_only,
)
from passes.channel_graph import ChannelGraph, Ids, Mask, NotFollowedError
from passes.channel_layers import conv, conv_transpose, decomposed_conv, gemm, matmul
from passes.channel_reshape import flatten, reshape
from passes.channel_shapes import (
    pad,
    reduce_axes,
    resize,
    shape,
    slice_axes,
    squeeze,
    transpose,
    unsqueeze,
)
from runtimes.operators import DOMAINS
from runtimes.operators.decomposed_conv import op_types

STANDARD = ""

RULES: dict[tuple[str, str], Rule] = {
    # Layers that mix channels.
    (STANDARD, "Conv"): conv,
    (STANDARD, "ConvTranspose"): conv_transpose,
    (STANDARD, "Gemm"): gemm,
    (STANDARD, "MatMul"): matmul,
    **{(domain, name): decomposed_conv for domain in DOMAINS for name in op_types()},
    # One channel at a time.
    (STANDARD, "BatchNormalization"): batch_normalization,
    (STANDARD, "InstanceNormalization"): instance_normalization,
    (STANDARD, "Identity"): unary(same),
    (STANDARD, "Dropout"): unary(same),
    (STANDARD, "Relu"): unary(relu),
    (STANDARD, "Clip"): unary(clip),
    **{
        (STANDARD, name): unary(zero_only)
        for name in (
            *("Abs", "Neg", "Sign", "Sqrt", "Floor", "Ceil", "Round", "Cast"),
            *("LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish"),
            *("HardSwish", "Tanh", "Softsign", "Erf", "Sin", "Sinh", "Tan", "Atan", "Asinh"),
            *("MaxPool", "AveragePool", "LpPool"),
            *("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"),
        )
    },
    **{
        (STANDARD, name): unary(unknown)
        for name in ("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Log", "Reciprocal", "Cos")
    },
    # Several operands with the same channels.
    (STANDARD, "Add"): elementwise(add),
    (STANDARD, "Sum"): elementwise(add),
    (STANDARD, "Sub"): elementwise(subtract),
    (STANDARD, "Mul"): elementwise(multiply),
    (STANDARD, "Div"): elementwise(divide),
    (STANDARD, "Max"): elementwise(np.maximum),
    (STANDARD, "Min"): elementwise(np.minimum),
    (STANDARD, "PRelu"): elementwise(slope),
    # Movements.
    (STANDARD, "Concat"): concat,
    (STANDARD, "Flatten"): flatten,
    (STANDARD, "Reshape"): reshape,
    (STANDARD, "Squeeze"): squeeze,
    (STANDARD, "Unsqueeze"): unsqueeze,
    (STANDARD, "Transpose"): transpose,
    (STANDARD, "Pad"): pad,
    (STANDARD, "Slice"): slice_axes,
    (STANDARD, "Resize"): resize,
    (STANDARD, "Shape"): shape,
    **{
        (STANDARD, name): reduce_axes
        for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
    },
}


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """What is known of every channel id; both (ids in all,).

    Attributes:
        read: whether a layer whose output is needed reads it.
        needed: the same, or frozen.
    """

    read: Mask
    needed: Mask


def follow_channels(model: ir.Model) -> ChannelGraph:
    """Applies the rules to every node of the main graph, in order."""
    graph = ChannelGraph()
    for node in model.graph:
        rule = RULES.get((node.domain, node.op_type))
        if rule is None:
            continue  # its inputs and outputs are frozen: nothing was said of them
        try:
            rule(node, graph)
        except NotFollowedError as error:
            graph.refuse(node, str(error))
    graph.seal()
    return graph


def live_channels(graph: ChannelGraph) -> Liveness:
    """Finds the channels that are needed: the least set that satisfies the definition above."""
    roots = graph.roots()
    frozen = np.zeros(len(roots), bool)
    frozen[list(graph.frozen())] = True
    read = np.zeros(len(roots), bool)
    settled = False
    while not settled:  # ties may lead a need forward again: one more round then
        settled = True
        for mixing in reversed(graph.mixings):
            rows = (read | frozen)[roots[mixing.writes]]
            used = roots[mixing.reads[mixing.connected[rows].any(axis=0)]]
            settled = settled and bool(read[used].all())
            read[used] = True
    return Liveness(read=read[roots], needed=(read | frozen)[roots])


def kept_channels(graph: ChannelGraph, needed: Mask, multiple: int = 1) -> Mask:
    """Channels to keep, (ids in all,): the needed ones, and one where an axis has no other.

    A grouped layer keeps two inputs a group, a depthwise one two groups: otherwise it would turn
    into the other kind or an ordinary one, with other ties, and a second run would find more.
    Axes that are a multiple of `multiple` remain one.
    """
    roots = graph.roots()
    kept = needed.copy()  # by root
    for mixing in graph.mixings:
        if mixing.group > 1:
            end = None if mixing.depthwise else len(mixing.reads) // mixing.group
            _keep_at_least(2, roots[mixing.reads[:end]], kept)
    before = -1
    while before != kept.sum():  # what one axis keeps, axes tied to it keep as well
        before = kept.sum()
        for ids in graph.axes():
            classes = np.unique(roots[ids])
            count = max(1, int(kept[classes].sum()))
            if len(classes) % multiple == 0:
                count = -(-count // multiple) * multiple
            _keep_at_least(count, classes, kept)
    return kept[roots]


def _keep_at_least(count: int, classes: Ids, kept: Mask) -> None:
    """Keeps the first of the classes that are not kept until there are `count`."""
    missing = max(0, count - len(set(classes[kept[classes]].tolist())))
    unkept = dict.fromkeys(classes[~kept[classes]].tolist())  # in order, without repetition
    kept[list(unkept)[:missing]] = True
