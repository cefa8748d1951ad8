"""Operators of an ONNX graph that `HybridNetwork` runs in torch, on real numbers."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from passes.pooling import read_pool
from runtimes.operators.max_pool import OP_TYPE
from toolchain.errors import UsageError
from toolchain.training.hybrid_conv import convolve
from toolchain.training.int8_layers import along_axis
from toolchain.training.straight_through import quantize_through

Operator = Callable[..., Tensor]


def _constant(node: ir.Node, index: int) -> NDArray[np.generic]:
    value = node.inputs[index]
    if value is None or value.const_value is None:
        raise UsageError(f"'{node.name}': input {index} of {node.op_type} is not a constant")
    return np.array(value.const_value.numpy())


def _quantize(node: ir.Node) -> Operator:
    scale, zero = float(_constant(node, 1)), int(_constant(node, 2))
    return lambda x, *_: quantize_through(x, scale, -zero, 255 - zero)


def _dequantize(node: ir.Node) -> Operator:
    """Constants become real; everything else is real already."""
    source = node.inputs[0]

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        if source is None or source.const_value is None:
            return x
        codes = x.float()
        if zero is not None:
            codes = codes - along_axis(zero.float(), node, x.ndim)
        return codes * along_axis(scale, node, x.ndim)

    return run


def _conv(node: ir.Node) -> Operator:
    ints = node.attributes.get_ints
    strides, dilations, pads = (
        ints(key, default) or default
        for key, default in (("strides", [1, 1]), ("dilations", [1, 1]), ("pads", [0] * 4))
    )
    groups = node.attributes.get_int("group", 1) or 1

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, weight, bias, strides, pads, dilations, groups)

    return run


def _gemm(node: ir.Node) -> Operator:
    transposed = node.attributes.get_int("transB", 0)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, weight if transposed else weight.T, bias)

    return run


def _batch_norm(node: ir.Node) -> Operator:
    epsilon = node.attributes.get_float("epsilon", 1e-5) or 0.0

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)

    return run


def _slice(node: ir.Node) -> Operator:
    starts, ends, axes = (_constant(node, index).tolist() for index in (1, 2, 3))
    by = _constant(node, 4).tolist() if len(node.inputs) > 4 else [1] * len(starts)

    def run(x: Tensor, *_: Tensor) -> Tensor:
        index = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, by, strict=True):
            index[axis] = slice(start, min(end, x.shape[axis]), step)
        return x[tuple(index)]

    return run


def _pad(node: ir.Node) -> Operator:
    """Pads with zeros, which is what the zero point stands for."""
    before, after = _constant(node, 1).reshape(2, -1).tolist()
    pairs = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
    return lambda x, *_: nn.functional.pad(x, pairs)


def _reduce_mean(node: ir.Node) -> Operator:
    """Axes are an input since opset 18, an attribute before; none are all of them."""
    axes = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1:
        axes = _constant(node, 1).tolist()
    kept = node.attributes.get_int("keepdims", 1) != 0
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return lambda x, *_: x
    return lambda x, *_: x.mean(dim=axes or None, keepdim=kept)


def _max_pool(node: ir.Node) -> Operator:
    """Pads by hand: torch allows fewer pads, and another last window."""
    geometry = read_pool(node)
    if geometry is None:
        raise UsageError(f"'{node.name}': {node.op_type} with these attributes is not known")
    windows = list(zip(geometry.kernel_shape, geometry.strides, geometry.dilations, strict=True))
    pool = (nn.functional.max_pool1d, nn.functional.max_pool2d)[len(windows) - 1]
    strides, dilations = geometry.strides, geometry.dilations

    def run(x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis, (kernel, stride, dilation) in enumerate(windows):
            size, begin = x.shape[axis + 2], geometry.pads[axis]
            used = (geometry.output_size(size, axis) - 1) * stride + dilation * (kernel - 1) + 1
            pads = [begin, used - size - begin, *pads]  # the last axis first
        x = nn.functional.pad(x, pads, value=-torch.inf) if any(pads) else x
        return pool(x, geometry.kernel_shape, strides, dilation=dilations)

    return run


def _plain(function: Operator) -> Callable[[ir.Node], Operator]:
    return lambda node: function


OPERATORS: Mapping[str, Callable[[ir.Node], Operator]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    OP_TYPE: _max_pool,
    "Slice": _slice,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "GlobalAveragePool": _plain(lambda x: x.mean(dim=(2, 3), keepdim=True)),
    "Flatten": _plain(lambda x: x.flatten(1)),
    "Relu": _plain(torch.relu),
    "Add": _plain(torch.add),
}
"""By the name in ONNX: what a node computes from its inputs. Those that say how are constants and
read once, so that the device is not waited for."""
