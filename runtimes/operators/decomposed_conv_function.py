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

import numpy as np
import onnx_ir as ir
from onnxscript import build_function

from runtimes.operators import DOMAIN, DOMAIN_VERSION, PORTABLE_DOMAIN
from runtimes.operators.decomposed_conv import ACTIVATIONS, BASE_NAME, INPUTS, op_types
from runtimes.operators.positions import WIDTHS

_END = 2**31 - 1
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
    return _build(trace, domain, name, formal, attributes, opset)


def kernel_body(opset: int) -> ir.Function:
    """Unpacks the dense kernel W (K, C/group, *kernel) from basis, values and positions."""

    def trace(op: Any, basis: ir.Value, values: ir.Value, code: ir.Value) -> ir.Value:
        return _dense_kernel(op, basis, _coefficients(op, values, code))

    attributes = [ir.Attr(key, kind, None) for key, kind in _PACKING.items()]
    return _build(trace, PORTABLE_DOMAIN, KERNEL_NAME, list(INPUTS[1:4]), attributes, opset)


def _build(
    trace: Any, domain: str, name: str, formal: list[str], attributes: list[ir.Attr], opset: int
) -> ir.Function:
    function = build_function(
        trace,
        [ir.Value(name=key) for key in formal],
        domain=domain,
        name=name,
        attributes=attributes,
        opset_imports={"": opset, PORTABLE_DOMAIN: DOMAIN_VERSION},
    )
    _shorten(function)
    return function


def _shorten(function: ir.Function) -> None:
    """Drops what the builder notes for debugging: it would be most of the bytes of a body."""
    formal = {*function.inputs, *function.outputs}
    for index, node in enumerate(function):
        node.name = str(index)  # none would become a long one when the model is cloned
        node.metadata_props.clear()
        for value in node.outputs:
            value.type = value.shape = None
            value.metadata_props.clear()
            if value not in formal:
                value.name = f"v{index}"
    for value in function.inputs:
        value.type = value.shape = None
        value.metadata_props.clear()


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
    shape = _coefficient_shape(op)
    flat = op.Flatten(basis, axis=1)  # (M, kernel size)
    kernel_size = _slice(op, op.Shape(basis), 1, _END)
    dense_shape = op.Concat(_slice(op, shape, 0, 2), kernel_size, axis=0)
    return op.Reshape(op.MatMul(coefficients, flat), dense_shape)


def _coefficients(op: Any, values: ir.Value, code: ir.Value) -> ir.Value:
    """Unpacks Ce (K, C/group, M) from its stored blocks: see `runtimes.operators.positions`."""
    shape = _coefficient_shape(op)
    block = _slice(op, op.Shape(values), 1, 2)  # (1,)
    n_blocks = op.Div(op.ReduceProd(shape, keepdims=1), block)  # (1,)
    symbols, escape = _symbols(op, code)  # (n_symbols,), scalar
    is_stored = op.Less(symbols, escape)
    first = op.Constant(value_int=0)
    count = op.Cast(is_stored, to=ir.DataType.INT32)
    position = op.Sub(op.CumSum(op.Add(symbols, count), first), _int32(op, 1))
    # Escapes store nothing: they write to one extra block behind the end, cut off below.
    target = op.Where(is_stored, op.Cast(position, to=ir.DataType.INT64), n_blocks)
    source = op.Max(op.Sub(op.CumSum(count, first), _int32(op, 1)), _int32(op, 0))
    one = _ints(op, 1)
    empty = op.ConstantOfShape(op.Concat(op.Add(n_blocks, one), block, axis=0))
    filled = op.ScatterND(empty, op.Unsqueeze(target, one), op.Gather(values, source, axis=0))
    return op.Reshape(op.Slice(filled, _ints(op, 0), n_blocks), shape)


def _symbols(op: Any, code: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Splits packed bytes into `position_bits`-wide symbols; also returns the escape symbol."""
    width = op.Constant(
        value_int=ir.RefAttr("value_int", "position_bits", ir.AttributeType.INT),
    )
    width = op.Reshape(width, _ints(op, 1))  # (1,)
    bit = op.Constant(value=ir.tensor(np.arange(8, dtype=np.uint8)))
    two = op.Constant(value=ir.tensor(np.array([2], np.uint8)))
    shifted = op.BitShift(op.Unsqueeze(code, _ints(op, 1)), bit, direction="RIGHT")
    bits = op.Reshape(op.Mod(shifted, two), _ints(op, -1))  # (8·n_bytes,)
    n_symbols = op.Div(op.Shape(bits), width)
    used = op.Slice(bits, _ints(op, 0), op.Mul(n_symbols, width))
    table = op.Reshape(used, op.Concat(n_symbols, width, axis=0))  # (n_symbols, width)
    weights = op.Constant(value=ir.tensor(2 ** np.arange(WIDTHS.stop - 1, dtype=np.int32)))
    weights = op.Slice(weights, _ints(op, 0), width)  # (width,)
    products = op.Mul(op.Cast(table, to=ir.DataType.INT32), weights)
    symbols = op.ReduceSum(products, _ints(op, 1), keepdims=0)
    return symbols, op.ReduceSum(weights, keepdims=0)


def _coefficient_shape(op: Any) -> ir.Value:
    reference = ir.RefAttr("value_ints", "coefficient_shape", ir.AttributeType.INTS)
    return op.Constant(value_ints=reference)


def _ints(op: Any, *numbers: int) -> ir.Value:
    return op.Constant(value_ints=list(numbers))


def _int32(op: Any, number: int) -> ir.Value:
    return op.Constant(value=ir.tensor(np.array(number, np.int32)))


def _slice(op: Any, x: ir.Value, start: int, end: int) -> ir.Value:
    return op.Slice(x, _ints(op, start), _ints(op, end))


def add_functions(model: ir.Model, names: Sequence[str], domain: str = DOMAIN) -> None:
    """Stores the bodies of the named operators in a model, for its own standard opset."""
    if not names:
        return
    opset = model.graph.opset_imports[""]
    for used in (domain, PORTABLE_DOMAIN):
        model.graph.opset_imports[used] = DOMAIN_VERSION
    bodies = [function_body(name, opset, domain) for name in sorted(set(names))]
    functions = [kernel_body(opset), *model.functions.values(), *bodies]
    model.functions.clear()  # onnx.reference wants functions before those that call them
    model.functions.update({function.identifier(): function for function in functions})
