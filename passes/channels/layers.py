"""Channel rules of the operators that mix channels: Conv, Gemm, MatMul with a weight.

Output k is bias[k] + Σ_c W[k, c]·x[c]. Where every W[k, c] that meets a possibly nonzero x[c] is
zero, output k is the constant bias[k], also next to zero padding; else it is unknown.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, fixed, has_input
from passes.channels.layout import Constants, Ids, Layout, Mask, axis_constants, single, with_axis
from passes.channels.records import Mixing
from passes.channels.weights import Array, per_channel, read_weight, weight_shape
from runtimes.operators.decomposed_conv import BASE_NAME, read_geometry, read_weights


def conv(node: ir.Node, graph: ChannelGraph) -> None:
    """Conv with weight (K, C/group, *kernel) and bias (K,)."""
    K, C_group, *kernel = weight_shape(node, 1, "weight", graph)
    group = node.attributes.get_int("group", 1)
    rank = 2 + len(kernel)
    reads = graph.read(node, 0, axis=1, rank=rank, size=C_group * group)
    writes = _tied_outputs(graph, reads, K, group)
    graph.slice(node, 1, 0, writes)
    if C_group > 1:
        graph.slice(node, 1, 1, reads[:C_group])  # the other groups are tied to the first
    bias = _bias(node, 2, writes, graph)

    def pairs() -> Mask:
        return _expand_groups(_any_element(read_weight(node, 1, graph), first=2), group)

    _mix(node, graph, 1, reads, writes, pairs, bias, group)


def fused_conv(node: ir.Node, graph: ChannelGraph) -> None:
    """com.microsoft FusedConv: a Conv with a residual Z, which is added, and an activation."""
    conv(node, graph)
    out = graph.tracked[node.outputs[0]]
    constants = out.constants
    if has_input(node, 3):
        ids = graph.flat(out, 1)
        graph.tie(graph.read(node, 3, axis=1, rank=out.rank, size=len(ids)), ids)
        constants = constants + (0.0 if graph.masked else np.nan)
    activation = node.attributes.get_string("activation", "Relu")
    keeps_zero = activation in ("Relu", "Tanh", "LeakyRelu")
    graph.write(node, out.with_constants(np.where((constants == 0) & keeps_zero, 0.0, np.nan)))


def conv_transpose(node: ir.Node, graph: ChannelGraph) -> None:
    """ConvTranspose with weight (C, K, *kernel) and bias (K,)."""
    C, K, *kernel = weight_shape(node, 1, "weight", graph)
    if node.attributes.get_int("group", 1) != 1:
        raise NotFollowedError("grouped transposed convolution")
    reads = graph.read(node, 0, axis=1, rank=2 + len(kernel), size=C)
    writes = graph.new(K)
    graph.slice(node, 1, 1, writes)
    graph.slice(node, 1, 0, reads)
    bias = _bias(node, 2, writes, graph)

    def pairs() -> Mask:
        return _any_element(read_weight(node, 1, graph), first=2).T

    _mix(node, graph, 1, reads, writes, pairs, bias)


def decomposed_conv(node: ir.Node, graph: ChannelGraph) -> None:
    """The DecomposedConv family: W = Σ_m Ce[k, c, m]·B[m], residual and activation fused.

    Its initializers are not sliced but written anew: see `passes.channels.rewrite`.
    """
    for index, what in enumerate(("basis", "values", "positions"), start=1):
        fixed(node, index, what)
    if has_input(node, 4):
        fixed(node, 4, "bias")
    weights, group = read_weights(node), read_geometry(node).group
    K, C_group, _ = weights.coefficients.shape
    rank = weights.basis.ndim + 1
    reads = graph.read(node, 0, axis=1, rank=rank, size=C_group * group)
    writes = _tied_outputs(graph, reads, K, group)
    used = weights.coefficients * _any_element(weights.basis, first=1)
    pairs = _expand_groups(_any_element(used, first=2), group)
    bias = np.zeros(K) if weights.bias is None else weights.bias.astype(np.float64)
    _mix(node, graph, 1, reads, writes, lambda: pairs, bias * (not graph.masked), group)
    constants = graph.tracked[node.outputs[0]].constants
    suffix = node.op_type.removeprefix(BASE_NAME)
    if suffix.startswith("Add"):
        graph.tie(graph.read(node, 5, axis=1, rank=rank, size=K), writes)
        residual = node.inputs[5]
        assert residual is not None
        other: Constants = axis_constants(graph.tracked[residual], 1)
        constants = np.add(constants, other)
    if suffix.endswith("Relu"):
        constants = np.maximum(constants, 0)
    elif suffix.endswith("Clip"):
        lower, upper = (node.attributes[key].as_float() for key in ("lower", "upper"))
        constants = np.minimum(np.maximum(constants, lower), upper)
    graph.write(node, single(1, rank, writes, constants))


def hybrid_conv(node: ir.Node, graph: ChannelGraph) -> None:
    """The HybridDecomposedConv family stays: its integers were fitted to channels as they are."""
    raise NotFollowedError("quantised; remove channels before that")


def gemm(node: ir.Node, graph: ChannelGraph) -> None:
    """Gemm with input (N, C), weight (C, K) or transposed, bias broadcast to (N, K)."""
    if node.attributes.get_int("transA", 0):
        raise NotFollowedError("transposed input")
    transposed = bool(node.attributes.get_int("transB", 0))
    shape = weight_shape(node, 1, "weight", graph)
    K, C = shape if transposed else shape[::-1]
    reads = graph.read(node, 0, axis=1, rank=2, size=C)
    writes = graph.new(K)
    graph.slice(node, 1, 0 if transposed else 1, writes)
    graph.slice(node, 1, 1 if transposed else 0, reads)
    bias = node.attributes.get_float("beta", 1.0) * _bias(node, 2, writes, graph)
    turn: Callable[[Array], Array] = (lambda w: w) if transposed else np.transpose
    _mix(node, graph, 1, reads, writes, lambda: turn(read_weight(node, 1, graph)) != 0, bias)


def weight_matmul(node: ir.Node, graph: ChannelGraph, weight: int) -> None:
    """MatMul of any (..., C) with a constant (C, K), or of a constant (K, C) with (..., C, N)."""
    right = weight == 1
    shape = weight_shape(node, weight, "right operand" if right else "left operand", graph)
    C, K = shape if right else shape[::-1]
    rank = graph.rank(node.inputs[1 - weight])
    axis = rank - 1 if right else rank - 2
    reads = graph.read(node, 1 - weight, axis=axis, rank=rank, size=C)
    writes = graph.new(K)
    graph.slice(node, weight, 1 if right else 0, writes)
    graph.slice(node, weight, 0 if right else 1, reads)
    turn: Callable[[Array], Array] = np.transpose if right else (lambda w: w)

    def pairs() -> Mask:
        return np.asarray(turn(read_weight(node, weight, graph)) != 0)

    _mix(node, graph, axis, reads, writes, pairs, np.zeros(K), operand=1 - weight)


def _bias(node: ir.Node, index: int, writes: Ids, graph: ChannelGraph) -> Constants:
    """Constant added to each output channel (K,), zeros where there is no bias."""
    if not has_input(node, index):
        return np.zeros(len(writes))
    shape = weight_shape(node, index, "bias", graph)
    if not shape or shape[-1] != len(writes):  # Gemm broadcasts
        bias = read_weight(node, index, graph)
        return np.broadcast_to(per_channel(bias.reshape(1, -1), 0), (len(writes),))
    graph.slice(node, index, len(shape) - 1, writes)
    if graph.masked:
        return np.zeros(len(writes))
    return per_channel(read_weight(node, index, graph), len(shape) - 1)


def _tied_outputs(graph: ChannelGraph, reads: Ids, K: int, group: int) -> Ids:
    """Output ids (K,) of a grouped layer, tied so that all groups keep the same size.

    One input channel a group: an output goes with its input. More: what has the same position
    in every group goes together.
    """
    if group > 1 and group == len(reads):
        return np.repeat(reads, K // group)
    writes = graph.new(K)
    for ids in (reads, writes):
        first, *others = ids.reshape(group, -1)
        for other in others:
            graph.tie(first, other)
    return writes


def _mix(
    node: ir.Node,
    graph: ChannelGraph,
    axis: int,
    reads: Ids,
    writes: Ids,
    pairs: Callable[[], Mask],
    bias: Constants,
    group: int = 1,
    operand: int = 0,
) -> None:
    """Notes a layer that mixes channels along one axis, and labels its output."""
    graph.write(node, _mixed(node, graph, axis, reads, writes, pairs, bias, group, operand))


def mixed(node: ir.Node, graph: ChannelGraph, axis: int, reads: Ids, writes: Ids) -> Layout:
    """Notes a layer with input (..., C), weight (C, K) and bias (K,); the channels it makes."""
    bias = _bias(node, 2, writes, graph)

    def pairs() -> Mask:
        return np.asarray(read_weight(node, 1, graph).T != 0)

    return _mixed(node, graph, axis, reads, writes, pairs, bias, 1, 0)


def _mixed(
    node: ir.Node,
    graph: ChannelGraph,
    axis: int,
    reads: Ids,
    writes: Ids,
    pairs: Callable[[], Mask],
    bias: Constants,
    group: int,
    operand: int,
) -> Layout:
    """Notes a layer that mixes channels along one axis; other axes keep theirs."""
    value = node.inputs[operand]
    x = graph.tracked.get(value) if value is not None else None
    if x is None:  # a constant
        x = single(axis, graph.rank(value), reads, np.array(np.nan))
    alive = axis_constants(x, axis) != 0  # (C,); NaN, unknown, is not zero

    def connected() -> Mask:
        return np.asarray(pairs() & alive)  # (K, C)

    graph.flow.append(
        Mixing(node=node, reads=reads, writes=writes, connected=connected, group=group)
    )
    constants = bias
    if not graph.masked:
        constants = np.where(connected().any(axis=1), np.nan, bias)
    return with_axis(x, axis, writes, constants)


def _any_element(array: NDArray[Any], *, first: int) -> Mask:
    """Whether anything is not zero in the axes from `first` on."""
    return np.asarray(np.any(array != 0, axis=tuple(range(first, array.ndim))))


def _expand_groups(pairs: Mask, group: int) -> Mask:
    """Block-diagonal (K, C) from (K, C/group)."""
    K, C_group = pairs.shape
    if group == 1:
        return pairs
    blocks = np.zeros((group, K // group, group, C_group), bool)
    each = np.arange(group)
    blocks[each, :, each] = pairs.reshape(group, K // group, C_group)
    return blocks.reshape(K, group * C_group)
