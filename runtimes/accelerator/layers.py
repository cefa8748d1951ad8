"""Reads graph nodes as layers: the one place that knows how operators store their weights."""

import numpy as np
import onnx_ir as ir

from runtimes.accelerator.hybrid_layers import read_hybrid
from runtimes.accelerator.reading import (
    Lookup,
    ReadLayer,
    UnsupportedError,
    build_layer,
    float_layer,
    one_sample,
    real_operand,
)
from runtimes.accelerator.workload import Array, Factors, Layer, SimulationError
from runtimes.operators.decomposed_conv import (
    BASE_NAME,
    ConvGeometry,
    is_decomposed_conv,
    read_geometry,
    read_weights,
)
from runtimes.operators.hybrid_conv import is_hybrid_conv


def read_layer(node: ir.Node, lookup: Lookup) -> ReadLayer:
    """Reads a node that the accelerator runs.

    Args:
        node: of the main graph.
        lookup: gives the array of a value that has been computed.

    Raises:
        UnsupportedError: the accelerator does not run it.
        SimulationError: the input holds more than one sample, or the node is malformed.
    """
    readers = {"Conv": _read_conv, "Gemm": _read_gemm, "MatMul": _read_matmul}
    try:
        if is_hybrid_conv(node):
            return read_hybrid(node, lookup)
        if is_decomposed_conv(node):
            return _read_decomposed(node, lookup)
        if node.domain != "" or node.op_type not in readers:
            raise UnsupportedError("no unit for this operator")
        return readers[node.op_type](node, lookup)
    except (UnsupportedError, SimulationError):
        raise
    except ValueError as error:
        raise SimulationError(str(error)) from error


def _read_decomposed(node: ir.Node, lookup: Lookup) -> ReadLayer:
    x = _sample(node, lookup)
    weights, geometry = read_weights(node), read_geometry(node)
    factors = Factors(basis=weights.basis, coefficients=weights.coefficients)
    if factors.basis.ndim != 3:
        raise UnsupportedError(f"a convolution over {factors.basis.ndim - 1} axes")
    dense = np.tensordot(factors.coefficients, factors.basis, axes=1)  # (K, C/group, R, S)
    layer = build_layer(node, x, dense, factors, geometry)
    suffix = node.op_type.partition(BASE_NAME)[2]
    residual = node.inputs[-1] if suffix.startswith("Add") else None

    def finish(y: Array) -> Array:
        y = _with_bias(y, weights.bias)[None]
        if residual is not None:
            y = y + real_operand(lookup, residual)
        if suffix.endswith("Relu"):
            y = np.maximum(y, 0)
        elif suffix.endswith("Clip"):
            lower, upper = (node.attributes[key].as_float() for key in ("lower", "upper"))
            y = np.clip(y, lower, upper)
        return y

    return float_layer(layer, finish, residual)


def _read_conv(node: ir.Node, lookup: Lookup) -> ReadLayer:
    x, weight = _sample(node, lookup), real_operand(lookup, node.inputs[1])
    n_axes = weight.ndim - 2
    if n_axes not in (1, 2):
        raise UnsupportedError(f"a convolution over {n_axes} axes")
    bias = real_operand(lookup, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    geometry = _geometry(node, x.shape[1:], weight.shape[2:])
    if n_axes == 1:  # (C, W) as one row of an image
        x, weight = x[:, None], weight[:, :, None]
        geometry = ConvGeometry(
            strides=(1, *geometry.strides),
            pads=(0, geometry.pads[0], 0, geometry.pads[1]),
            dilations=(1, *geometry.dilations),
            group=geometry.group,
        )

    def finish(y: Array) -> Array:
        y = _with_bias(y, bias)[None]
        return y[:, :, 0] if n_axes == 1 else y

    return float_layer(build_layer(node, x, weight, None, geometry), finish)


def _read_gemm(node: ir.Node, lookup: Lookup) -> ReadLayer:
    a, b = (real_operand(lookup, value) for value in node.inputs[:2])
    a = a.T if node.attributes.get_int("transA", 0) else a
    b = b.T if node.attributes.get_int("transB", 0) else b
    alpha, beta = (node.attributes.get_float(key, 1.0) for key in ("alpha", "beta"))
    bias = real_operand(lookup, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None

    def finish(y: Array) -> Array:
        product = alpha * y[:, 0].T  # (rows, K)
        return product if bias is None else product + beta * bias

    return float_layer(_product(node, a[None], b[None]), finish)


def _read_matmul(node: ir.Node, lookup: Lookup) -> ReadLayer:
    a, b = (real_operand(lookup, value) for value in node.inputs[:2])
    if a.ndim < 2 or b.ndim < 2:
        raise UnsupportedError("a product with a vector")
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    if all(size == 1 for size in b.shape[:-2]):  # one matrix: the batch is more rows
        left = a.reshape(1, -1, a.shape[-1])
        right = b.reshape(1, *b.shape[-2:])
    else:
        left = np.broadcast_to(a, (*shape[:-2], *a.shape[-2:])).reshape(-1, *a.shape[-2:])
        right = np.broadcast_to(b, (*shape[:-2], *b.shape[-2:])).reshape(-1, *b.shape[-2:])

    def finish(y: Array) -> Array:
        batches = y.reshape(len(right), right.shape[-1], -1)  # (batch, K, rows)
        return batches.transpose(0, 2, 1).reshape(shape)

    return float_layer(_product(node, left, right), finish)


def _product(node: ir.Node, a: Array, b: Array) -> Layer:
    """A (batch, rows, C) times b (batch, C, K): every batch is one channel group."""
    batch, rows, C = a.shape
    x = a.transpose(0, 2, 1).reshape(batch * C, 1, rows)
    weight = b.transpose(0, 2, 1).reshape(-1, C, 1, 1)  # (batch·K, C, 1, 1)
    geometry = ConvGeometry(strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=batch)
    return build_layer(node, x, weight, None, geometry)


def _sample(node: ir.Node, lookup: Lookup) -> Array:
    return one_sample(node, real_operand(lookup, node.inputs[0]))


def _with_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias[:, None, None]


def _geometry(node: ir.Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> ConvGeometry:
    """Attributes of a Conv with automatic padding resolved.

    SAME: total = max((⌈in/stride⌉ − 1)·stride + dilation·(kernel − 1) + 1 − in, 0).
    """
    n = len(kernel)
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    strides, dilations = (_ints(node, key, (1,) * n) for key in ("strides", "dilations"))
    pads = _ints(node, "pads", (0,) * 2 * n) if mode == "NOTSET" else (0,) * 2 * n
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, s, d, k in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        small = tuple(total // 2 for total in totals)
        large = tuple(total - half for total, half in zip(totals, small, strict=True))
        pads = small + large if mode == "SAME_UPPER" else large + small
    group = node.attributes.get_int("group", 1)
    return ConvGeometry(strides=strides, pads=pads, dilations=dilations, group=group or 1)


def _ints(node: ir.Node, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    attribute = node.attributes.get(key)
    return default if attribute is None else tuple(attribute.as_ints())
