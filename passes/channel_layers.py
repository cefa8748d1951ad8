"""Channel rules of the operators that mix channels: Conv, Gemm, MatMul and their kin.

Output k is bias[k] + Σ_c W[k, c]·x[c]. Where every W[k, c] that meets a possibly nonzero x[c] is
zero, output k is the constant bias[k], also next to zero padding; else it is unknown.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channel_graph import (
    ChannelGraph,
    Channels,
    Constants,
    Ids,
    Mask,
    Mixing,
    NotFollowedError,
    constant,
    has_input,
)
from runtimes.operators.decomposed_conv import BASE_NAME, read_geometry, read_weights


def conv(node: ir.Node, graph: ChannelGraph) -> None:
    """Conv with weight (K, C/group, *kernel) and bias (K,)."""
    weight = constant(node, 1, "weight")
    group = node.attributes.get_int("group", 1)
    assert group is not None
    K, C_group = weight.shape[:2]
    x = graph.read(node, 0, axis=1, rank=weight.ndim, size=C_group * group)
    writes = _tied_outputs(graph, x.ids, K, group)
    graph.slice(node, 1, 0, writes)
    if C_group > 1:
        graph.slice(node, 1, 1, x.ids[:C_group])  # the other groups are tied to the first
    bias = _bias(node, 2, writes, graph)
    pairs = _any_element(weight, first=2)
    _mix(node, graph, x, writes, _expand_groups(pairs, group), bias, group)


def conv_transpose(node: ir.Node, graph: ChannelGraph) -> None:
    """ConvTranspose with weight (C, K, *kernel) and bias (K,)."""
    weight = constant(node, 1, "weight")
    if node.attributes.get_int("group", 1) != 1:
        raise NotFollowedError("grouped transposed convolution")
    C, K = weight.shape[:2]
    x = graph.read(node, 0, axis=1, rank=weight.ndim, size=C)
    writes = graph.new(K)
    graph.slice(node, 1, 1, writes)
    graph.slice(node, 1, 0, x.ids)
    bias = _bias(node, 2, writes, graph)
    _mix(node, graph, x, writes, _any_element(weight, first=2).T, bias)


def decomposed_conv(node: ir.Node, graph: ChannelGraph) -> None:
    """The DecomposedConv family: W = Σ_m Ce[k, c, m]·B[m], residual and activation fused.

    Its initializers are not sliced but written anew: see `passes.channel_removal`.
    """
    for index, what in enumerate(("basis", "values", "positions"), start=1):
        constant(node, index, what)
    if has_input(node, 4):
        constant(node, 4, "bias")
    weights, group = read_weights(node), read_geometry(node).group
    K, C_group, _ = weights.coefficients.shape
    rank = weights.basis.ndim + 1
    x = graph.read(node, 0, axis=1, rank=rank, size=C_group * group)
    writes = _tied_outputs(graph, x.ids, K, group)
    used = weights.coefficients * _any_element(weights.basis, first=1)
    bias = np.zeros(K) if weights.bias is None else weights.bias.astype(np.float64)
    _mix(node, graph, x, writes, _expand_groups(_any_element(used, first=2), group), bias, group)
    constants = graph.tracked[node.outputs[0]].constants
    suffix = node.op_type.removeprefix(BASE_NAME)
    if suffix.startswith("Add"):
        residual = graph.read(node, 5, axis=1, rank=rank, size=K)
        graph.tie(residual.ids, writes)
        constants = constants + residual.constants
    if suffix.endswith("Relu"):
        constants = np.maximum(constants, 0)
    elif suffix.endswith("Clip"):
        lower, upper = (node.attributes[key].as_float() for key in ("lower", "upper"))
        constants = np.minimum(np.maximum(constants, lower), upper)
    graph.write(node, Channels(axis=1, rank=rank, ids=writes, constants=constants))


def gemm(node: ir.Node, graph: ChannelGraph) -> None:
    """Gemm with input (N, C), weight (C, K) or transposed, bias broadcast to (N, K)."""
    weight = constant(node, 1, "weight")
    if node.attributes.get_int("transA", 0):
        raise NotFollowedError("transposed input")
    transposed = bool(node.attributes.get_int("transB", 0))
    matrix = weight if transposed else weight.T  # (K, C)
    K, C = matrix.shape
    x = graph.read(node, 0, axis=1, rank=2, size=C)
    writes = graph.new(K)
    graph.slice(node, 1, 0 if transposed else 1, writes)
    graph.slice(node, 1, 1 if transposed else 0, x.ids)
    beta = node.attributes.get_float("beta", 1.0)
    assert beta is not None
    bias = beta * _bias(node, 2, writes, graph)
    _mix(node, graph, x, writes, matrix != 0, bias)


def matmul(node: ir.Node, graph: ChannelGraph) -> None:
    """MatMul of any (..., C) with a constant (C, K)."""
    weight = constant(node, 1, "right operand")
    if weight.ndim != 2:
        raise NotFollowedError(f"right operand of shape {weight.shape}")
    C, K = weight.shape
    rank = value_rank(node.inputs[0], graph)
    x = graph.read(node, 0, axis=rank - 1, rank=rank, size=C)
    writes = graph.new(K)
    graph.slice(node, 1, 1, writes)
    graph.slice(node, 1, 0, x.ids)
    _mix(node, graph, x, writes, weight.T != 0, np.zeros(K))


def value_rank(value: ir.Value | None, graph: ChannelGraph) -> int:
    """Number of axes of a value.

    Raises:
        NotFollowedError: it is unknown.
    """
    if value in graph.tracked:
        return graph.tracked[value].rank
    if value is None or value.shape is None:
        raise NotFollowedError("the rank of an input is unknown")
    return len(value.shape)


def per_channel(array: NDArray[Any], axis: int) -> Constants:
    """The constant of each slice along an axis, NaN where a slice is not constant; (size,)."""
    slices = np.moveaxis(np.asarray(array, np.float64), axis, 0).reshape(array.shape[axis], -1)
    same = np.all(slices == slices[:, :1], axis=1)
    return np.where(same, slices[:, 0], np.nan)


def _bias(node: ir.Node, index: int, writes: Ids, graph: ChannelGraph) -> Constants:
    """Constant added to each output channel (K,), zeros where there is no bias."""
    if not has_input(node, index):
        return np.zeros(len(writes))
    bias = constant(node, index, "bias")
    if bias.ndim == 0 or bias.shape[-1] != len(writes):  # Gemm broadcasts
        return np.broadcast_to(per_channel(bias.reshape(1, -1), 0), (len(writes),))
    graph.slice(node, index, bias.ndim - 1, writes)
    return per_channel(bias, bias.ndim - 1)


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
    x: Channels,
    writes: Ids,
    connected: Mask,
    bias: Constants,
    group: int = 1,
) -> None:
    connected = connected & (x.constants != 0)  # (K, C); NaN, unknown, is not zero
    constants = np.where(connected.any(axis=1), np.nan, bias)
    graph.mixings.append(
        Mixing(node=node, reads=x.ids, writes=writes, connected=connected, group=group)
    )
    graph.write(node, Channels(axis=x.axis, rank=x.rank, ids=writes, constants=constants))


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
