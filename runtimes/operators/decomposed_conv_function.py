"""The definition of `optc::DecomposedConv` in standard ONNX operators.

The body is stored in every model that uses the operator, so the model is correct in any ONNX
runtime; our native kernel only makes it fast. It unpacks the coefficients, rebuilds the dense
kernel and runs one ordinary Conv. All of the unpacking has static shapes and depends on
constants alone, so onnxruntime folds it at load and the session is left with the dense Conv:
without our library the model runs exactly as fast as the one it came from. (Two convolutions,
basis then coefficients, measured 0.5 to 1.7 times the speed of the dense one in onnxruntime
depending on the shape; `--lower standard` writes that form where it pays.)
"""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from runtimes.operators import DOMAIN, PORTABLE_DOMAIN
from runtimes.operators.decomposed_conv import ACTIVATIONS, BASE_NAME, INPUTS, op_types
from runtimes.operators.function_parts import (
    END,
    add_bodies,
    build_body,
    coefficient_shape,
    scatter_blocks,
    slice_axis,
)

_GEOMETRY = ("strides", "pads", "dilations")
_PACKING = {
    "coefficient_shape": ir.AttributeType.INTS,
    "position_bits": ir.AttributeType.INT,
}

KERNEL_NAME = "DecomposedKernel"
"""The function that unpacks a kernel; of the portable domain, as no library has it natively."""


def function_body(name: str, opset: int, domain: str = DOMAIN) -> ir.Function:
    """Returns the body of one operator name, written for a standard opset (13 or later).

    The unpacking, most of it, is the function `KERNEL_NAME`, which all bodies call.

    Raises:
        ValueError: `name` is not of the DecomposedConv family.
    """
    if name not in op_types():
        raise ValueError(f"'{name}' is not one of {', '.join(op_types())}")
    suffix = name.removeprefix(BASE_NAME)
    residual = suffix.startswith("Add")
    activation = suffix.removeprefix("Add")
    assert activation in ACTIVATIONS

    def trace(op: Any, *inputs: ir.Value) -> ir.Value:
        x, basis, values, code, bias, *rest = inputs
        packing = {key: ir.RefAttr(key, key, kind) for key, kind in _PACKING.items()}
        unpack = getattr(op, KERNEL_NAME)
        kernel = unpack(basis, values, code, _domain=PORTABLE_DOMAIN, **packing)
        references = [ir.RefAttr(key, key, ir.AttributeType.INTS) for key in _GEOMETRY]
        group = ir.RefAttr("group", "group", ir.AttributeType.INT)
        y = op.Conv(x, kernel, bias, group=group, **{r.name: r for r in references})
        if residual:
            y = op.Add(y, rest[0])
        return _activate(op, y, activation)

    formal = [*INPUTS, *(["residual"] if residual else [])]
    attributes = _formal_attributes(activation)
    return build_body(trace, domain, name, formal, attributes, opset)


def kernel_body(opset: int) -> ir.Function:
    """Unpacks the dense kernel W (K, C/group, *kernel) from basis, values and positions."""

    def trace(op: Any, basis: ir.Value, values: ir.Value, code: ir.Value) -> ir.Value:
        return _dense_kernel(op, basis, _coefficients(op, values, code))

    attributes = [ir.Attr(key, kind, None) for key, kind in _PACKING.items()]
    return build_body(trace, PORTABLE_DOMAIN, KERNEL_NAME, list(INPUTS[1:4]), attributes, opset)


def _formal_attributes(activation: str) -> list[ir.Attr]:
    ints = [*_GEOMETRY, "coefficient_shape"]
    attributes = [ir.Attr(key, ir.AttributeType.INTS, None) for key in ints]
    attributes += [ir.Attr(key, ir.AttributeType.INT, None) for key in ("group", "position_bits")]
    if activation == "Clip":
        attributes += [ir.Attr(key, ir.AttributeType.FLOAT, None) for key in ("lower", "upper")]
    return attributes


def _activate(op: Any, y: ir.Value, activation: str) -> ir.Value:
    if activation == "Relu":
        return op.Relu(y)
    if activation == "Clip":
        lower = op.Constant(value_float=ir.RefAttr("value_float", "lower", ir.AttributeType.FLOAT))
        upper = op.Constant(value_float=ir.RefAttr("value_float", "upper", ir.AttributeType.FLOAT))
        return op.Clip(y, lower, upper)
    return y


def _dense_kernel(op: Any, basis: ir.Value, coefficients: ir.Value) -> ir.Value:
    """W = Ce (K, C/group, M) · B (M, *kernel), shape (K, C/group, *kernel)."""
    shape = coefficient_shape(op)
    flat = op.Flatten(basis, axis=1)  # (M, kernel size)
    kernel_size = slice_axis(op, op.Shape(basis), 1, END)
    dense_shape = op.Concat(slice_axis(op, shape, 0, 2), kernel_size, axis=0)
    return op.Reshape(op.MatMul(coefficients, flat), dense_shape)


def _coefficients(op: Any, values: ir.Value, code: ir.Value) -> ir.Value:
    """Unpacks Ce (K, C/group, M) from its stored blocks (n_stored, block)."""
    shape = coefficient_shape(op)
    block = slice_axis(op, op.Shape(values), 1, 2)  # (1,)
    n_blocks = op.Div(op.ReduceProd(shape, keepdims=1), block)  # (1,)
    return op.Reshape(scatter_blocks(op, values, code, n_blocks), shape)


def add_functions(model: ir.Model, names: Sequence[str], domain: str = DOMAIN) -> None:
    """Stores the bodies of the named operators in a model, for its own standard opset."""
    add_bodies(model, names, domain, (kernel_body,), function_body)
