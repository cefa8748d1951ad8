"""The definition of `optc::HybridDecomposedConv` in standard ONNX operators, float32 inside.

    D = X − x_zero_point,  T = Clip(Floor(Conv(D, B·2^−shift) + ½)),  acc = Ce·T,
    Y = Clip(Round(acc·a + b [+ residual]) + y_zero_point)

All numbers up to T are multiples of 2^−shift (or of ½) below 2^24 units, so float32 holds them
exactly, in any order of summation. The sum `acc` is exact below 2^24 and else off by a few units
of an int32, far below one of Y. Channels are convolved one by one, (N·C, 1, *spatial), which
needs no attribute for the number of channels, and the second stage is a MatMul over flattened
pixels: no optimiser folds the factor a into its weights and rounds differently by that.

What both operators share is the function `SUMS_NAME`; its unpacking depends on constants alone,
so onnxruntime folds it at load.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from runtimes.operators import DOMAIN, PORTABLE_DOMAIN
from runtimes.operators.function_parts import (
    END,
    add_bodies,
    attribute_ints,
    build_body,
    coefficient_shape,
    int32,
    ints,
    scatter_blocks,
    slice_axis,
    unpack_symbols,
)
from runtimes.operators.hybrid_conv import INPUTS, RESIDUAL_INPUTS, op_types

SUMS_NAME = "HybridSums"
"""The function that computes acc; of the portable domain, as no library has it natively."""

_FLOAT, _INT = ir.DataType.FLOAT, ir.AttributeType.INT
_SUMS_INPUTS = ("X", "x_zero_point", "basis", "shift", "values", "positions", "levels")
_OFFSET = "offset"
_SUMS_ATTRIBUTES = {
    **dict.fromkeys(("strides", "pads", "dilations", "coefficient_shape"), ir.AttributeType.INTS),
    **dict.fromkeys(("group", "position_bits", "value_bits", "block", _OFFSET), _INT),
}
_DEFAULTS = {_OFFSET: 0}
_BOUNDS = ("lower", "upper")


def function_body(name: str, opset: int, domain: str = DOMAIN) -> ir.Function:
    """Returns the body of one operator name, written for a standard opset (13 or later).

    Raises:
        ValueError: `name` is not of the HybridDecomposedConv family.
    """
    if name not in op_types():
        raise ValueError(f"'{name}' is not one of {', '.join(op_types())}")
    formal = [*INPUTS, *(RESIDUAL_INPUTS if name.endswith("Add") else ())]

    def trace(op: Any, *inputs: ir.Value) -> ir.Value:
        given = dict(zip(formal, inputs, strict=True))
        attributes = {key: ir.RefAttr(key, key, kind) for key, kind in _SUMS_ATTRIBUTES.items()}
        sums = getattr(op, SUMS_NAME)
        acc, out = sums(
            *(given[key] for key in _SUMS_INPUTS),
            _domain=PORTABLE_DOMAIN,
            _outputs=["acc", "out"],
            **attributes,
        )
        return op.Reshape(_requantize(op, acc, given), out)

    attributes = [*_sums_attributes(), *(ir.Attr(key, _INT, None) for key in _BOUNDS)]
    return build_body(trace, domain, name, formal, attributes, opset)


def _sums_attributes() -> list[ir.Attr]:
    return [ir.Attr(key, kind, _DEFAULTS.get(key)) for key, kind in _SUMS_ATTRIBUTES.items()]


def _requantize(op: Any, acc: ir.Value, given: dict[str, ir.Value]) -> ir.Value:
    """Y of acc, both (N, K, pixels)."""
    y_scale, column = given["y_scale"], ints(op, 1)
    a, b = (op.Unsqueeze(op.Div(given[key], y_scale), column) for key in ("scale", "bias"))
    u = op.Add(op.Mul(acc, a), b)  # a, b (K, 1)
    if "residual" in given:
        r = op.Reshape(op.Cast(given["residual"], to=_FLOAT), op.Shape(acc))
        r = op.Sub(r, op.Cast(given["residual_zero_point"], to=_FLOAT))
        u = op.Add(u, op.Mul(r, op.Div(given["residual_scale"], y_scale)))
    y = op.Add(op.Round(u), op.Cast(given["y_zero_point"], to=_FLOAT))
    bounds = [op.Constant(value_int=ir.RefAttr("value_int", key, _INT)) for key in _BOUNDS]
    return op.Cast(
        op.Clip(y, *(op.Cast(bound, to=_FLOAT) for bound in bounds)), to=ir.DataType.UINT8
    )


def sums_body(opset: int) -> ir.Function:
    """The sums acc (N, K, pixels), and the shape (N, K, *out) that it will have."""

    def trace(op: Any, *inputs: ir.Value) -> tuple[ir.Value, ir.Value]:
        x, x_zero_point, basis, shift, *stored = inputs
        T, out = _responses(op, x, x_zero_point, basis, shift)
        Ce = _coefficients(op, *stored)  # (group, K/group, C/group·M)
        batch = slice_axis(op, op.Shape(x), 0, 1)
        parts = slice_axis(op, op.Shape(Ce), 0, 1)
        depth = slice_axis(op, op.Shape(Ce), 2, 3)
        pixels = op.ReduceProd(out, keepdims=1)
        T = op.Reshape(T, op.Concat(batch, parts, depth, pixels, axis=0))
        K = slice_axis(op, coefficient_shape(op), 0, 1)
        acc = op.Reshape(op.MatMul(Ce, T), op.Concat(batch, K, pixels, axis=0))
        return acc, op.Concat(batch, K, out, axis=0)

    attributes = _sums_attributes()
    return build_body(trace, PORTABLE_DOMAIN, SUMS_NAME, list(_SUMS_INPUTS), attributes, opset)


def _responses(
    op: Any, x: ir.Value, x_zero_point: ir.Value, basis: ir.Value, shift: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """T (N·C, M, *out) and the sizes of `out`."""
    centred = op.Sub(op.Cast(x, to=_FLOAT), op.Cast(x_zero_point, to=_FLOAT))
    spatial = slice_axis(op, op.Shape(x), 2, END)
    centred = op.Reshape(centred, op.Concat(ints(op, -1, 1), spatial, axis=0))
    one = op.Constant(value=ir.tensor(np.array(1, np.uint32)))
    power = op.BitShift(one, op.Cast(shift, to=ir.DataType.UINT32), direction="LEFT")  # (M,)
    power = op.Unsqueeze(op.Cast(power, to=_FLOAT), ints(op, 1))  # (M, 1)
    flat = op.Div(op.Cast(op.Flatten(basis, axis=1), to=_FLOAT), power)
    kernel = slice_axis(op, op.Shape(basis), 1, END)
    M = op.Shape(shift)
    kernels = op.Reshape(flat, op.Concat(M, ints(op, 1), kernel, axis=0))  # (M, 1, *kernel)
    half = op.ConstantOfShape(M, value=ir.tensor(np.array([0.5], np.float32)))
    keys = ("strides", "pads", "dilations")
    sliding = {key: ir.RefAttr(key, key, ir.AttributeType.INTS) for key in keys}
    shifted = op.Floor(op.Conv(centred, kernels, half, **sliding))
    offset = op.Constant(value_int=ir.RefAttr("value_int", _OFFSET, _INT))
    offset = op.Cast(offset, to=_FLOAT)
    bounds = (op.Add(offset, op.Constant(value_float=bound)) for bound in (-128.0, 127.0))
    T = op.Clip(shifted, *bounds)
    return T, slice_axis(op, op.Shape(T), 2, END)


def _coefficients(op: Any, values: ir.Value, code: ir.Value, levels: ir.Value) -> ir.Value:
    """Ce = levels·v as (group, K/group, C/group·M)."""
    shape, block = coefficient_shape(op), attribute_ints(op, "block")
    stored = op.Reshape(_signed(op, values), op.Concat(ints(op, -1), block, axis=0))
    n_blocks = op.Div(op.ReduceProd(shape, keepdims=1), block)
    v = op.Reshape(scatter_blocks(op, stored, code, n_blocks), shape)  # (K, C/group, M)
    Ce = op.Mul(v, op.Unsqueeze(op.Cast(levels, to=_FLOAT), ints(op, 1)))
    group = attribute_ints(op, "group")
    parts = op.Div(slice_axis(op, shape, 0, 1), group)
    depth = op.ReduceProd(slice_axis(op, shape, 1, 3), keepdims=1)
    return op.Reshape(Ce, op.Concat(group, parts, depth, axis=0))


def _signed(op: Any, values: ir.Value) -> ir.Value:
    """Float symbols (n,), cut to whole blocks.

    Two's complement s = (code + h) mod 2h − h with h = 2^(bits − 1); for one bit 2·s + 1, ±1.
    """
    bits, block = attribute_ints(op, "value_bits"), attribute_ints(op, "block")
    codes = unpack_symbols(op, values, bits)
    whole = op.Mul(op.Div(op.Shape(codes), block), block)
    codes = op.Slice(codes, ints(op, 0), whole)
    half = op.BitShift(
        op.Constant(value=ir.tensor(np.array([1], np.uint32))),
        op.Cast(op.Sub(bits, ints(op, 1)), to=ir.DataType.UINT32),
        direction="LEFT",
    )
    half = op.Cast(half, to=ir.DataType.INT32)
    signed = op.Sub(op.Mod(op.Add(codes, half), op.Add(half, half)), half)
    is_sign = op.Cast(op.Equal(bits, ints(op, 1)), to=ir.DataType.INT32)
    signed = op.Add(signed, op.Mul(is_sign, op.Add(signed, int32(op, 1))))
    return op.Cast(signed, to=_FLOAT)


def add_functions(model: ir.Model, names: Sequence[str], domain: str = DOMAIN) -> None:
    """Stores the bodies of the named operators in a model, for its own standard opset."""
    add_bodies(model, names, domain, (sums_body,), function_body)
