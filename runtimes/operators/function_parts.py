"""Parts that the bodies of several operators share: unpacking, and how a body is built."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import build_function

from runtimes.operators import DOMAIN_VERSION, PORTABLE_DOMAIN
from runtimes.operators.positions import WIDTHS

END = 2**31 - 1
"""Slices to the end."""


def build_body(
    trace: Any, domain: str, name: str, formal: list[str], attributes: list[ir.Attr], opset: int
) -> ir.Function:
    """Traces a body; the domain of other functions that it may call is the portable one."""
    function = build_function(
        trace,
        [ir.Value(name=key) for key in formal],
        domain=domain,
        name=name,
        attributes=attributes,
        opset_imports={"": opset, PORTABLE_DOMAIN: DOMAIN_VERSION},
    )
    _share(function)
    _shorten(function)
    return function


def add_bodies(
    model: ir.Model,
    names: Sequence[str],
    domain: str,
    shared: Sequence[Callable[[int], ir.Function]],
    body: Callable[[str, int, str], ir.Function],
) -> None:
    """Stores the bodies of some operators in a model, for its own standard opset.

    Args:
        model: changed in place.
        names: of the operators; nothing is stored where there are none.
        domain: of the operators.
        shared: make the functions that all bodies call, for an opset.
        body: makes the body of a name, for an opset and a domain.
    """
    if not names:
        return
    opset = model.graph.opset_imports[""]
    for used in (domain, PORTABLE_DOMAIN):
        model.graph.opset_imports[used] = DOMAIN_VERSION
    bodies = [body(name, opset, domain) for name in sorted(set(names))]
    functions = [*(make(opset) for make in shared), *model.functions.values(), *bodies]
    model.functions.clear()  # onnx.reference wants functions before those that call them
    model.functions.update({function.identifier(): function for function in functions})


def _share(function: ir.Function) -> None:
    """Computes equal expressions once.

    The pass of onnx_ir takes attributes that refer to different ones of the function for equal.
    """
    known: dict[tuple[Any, ...], ir.Value] = {}
    for node in tuple(function):
        attributes = sorted((name, _content(each)) for name, each in node.attributes.items())
        expression = (node.op_identifier(), *map(id, node.inputs), *attributes)
        value = node.outputs[0]
        first = known.setdefault(expression, value)
        if first is not value and len(node.outputs) == 1 and value not in function.outputs:
            ir.convenience.replace_all_uses_with(value, first)
            function.remove(node, safe=True)


def _content(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"attribute {attribute.ref_attr_name}"
    if attribute.type is ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype} {tensor.numpy().tolist()}"
    return f"{attribute.type} {attribute.value}"


def _shorten(function: ir.Function) -> None:
    """Drops what the builder notes for debugging: it would be most of the bytes of a body."""
    formal = {*function.inputs, *function.outputs}
    for index, node in enumerate(function):
        node.name = str(index)  # none would become a long one when the model is cloned
        node.metadata_props.clear()
        for position, value in enumerate(node.outputs):
            value.type = value.shape = None
            value.metadata_props.clear()
            if value not in formal:
                value.name = f"v{index}_{position}" if position else f"v{index}"
    for value in function.inputs:
        value.type = value.shape = None
        value.metadata_props.clear()


def unpack_symbols(op: Any, code: ir.Value, width: ir.Value) -> ir.Value:
    """Splits packed bytes into int32 symbols of `width` (1,) bits, least significant bit first."""
    bit = op.Constant(value=ir.tensor(np.arange(8, dtype=np.uint8)))
    two = op.Constant(value=ir.tensor(np.array([2], np.uint8)))
    shifted = op.BitShift(op.Unsqueeze(code, ints(op, 1)), bit, direction="RIGHT")
    bits = op.Reshape(op.Mod(shifted, two), ints(op, -1))  # (8·n_bytes,)
    n_symbols = op.Div(op.Shape(bits), width)
    used = op.Slice(bits, ints(op, 0), op.Mul(n_symbols, width))
    table = op.Reshape(used, op.Concat(n_symbols, width, axis=0))  # (n_symbols, width)
    products = op.Mul(op.Cast(table, to=ir.DataType.INT32), _bit_weights(op, width))
    return op.ReduceSum(products, ints(op, 1), keepdims=0)


def scatter_blocks(op: Any, values: ir.Value, code: ir.Value, n_blocks: ir.Value) -> ir.Value:
    """Puts stored blocks where `runtimes.operators.positions` says, zeros elsewhere.

    Args:
        op: builder of a function with the attribute `position_bits`.
        values: (n_stored or more, block).
        code: (n_bytes,) packed run lengths.
        n_blocks: (1,).

    Returns:
        (n_blocks, block).
    """
    width = attribute_ints(op, "position_bits")
    symbols = unpack_symbols(op, code, width)
    escape = op.ReduceSum(_bit_weights(op, width), keepdims=0)
    is_stored = op.Less(symbols, escape)
    first = op.Constant(value_int=0)
    count = op.Cast(is_stored, to=ir.DataType.INT32)
    position = op.Sub(op.CumSum(op.Add(symbols, count), first), int32(op, 1))
    # Escapes store nothing: they write to one extra block behind the end, cut off below.
    target = op.Where(is_stored, op.Cast(position, to=ir.DataType.INT64), n_blocks)
    source = op.Max(op.Sub(op.CumSum(count, first), int32(op, 1)), int32(op, 0))
    one = ints(op, 1)
    block = slice_axis(op, op.Shape(values), 1, 2)
    empty = op.ConstantOfShape(op.Concat(op.Add(n_blocks, one), block, axis=0))
    filled = op.ScatterND(empty, op.Unsqueeze(target, one), op.Gather(values, source, axis=0))
    return op.Slice(filled, ints(op, 0), n_blocks)


def coefficient_shape(op: Any) -> ir.Value:
    """Sizes of the dense coefficients (K, C/group, M), an attribute of the function; (3,)."""
    reference = ir.RefAttr("value_ints", "coefficient_shape", ir.AttributeType.INTS)
    return op.Constant(value_ints=reference)


def attribute_ints(op: Any, name: str) -> ir.Value:
    """An integer attribute of the function as an int64 tensor (1,)."""
    number = op.Constant(value_int=ir.RefAttr("value_int", name, ir.AttributeType.INT))
    return op.Reshape(number, ints(op, 1))


def _bit_weights(op: Any, width: ir.Value) -> ir.Value:
    """1, 2, 4, … for `width` (1,) bits."""
    weights = op.Constant(value=ir.tensor(2 ** np.arange(WIDTHS.stop - 1, dtype=np.int32)))
    return op.Slice(weights, ints(op, 0), width)


def ints(op: Any, *numbers: int) -> ir.Value:
    """An int64 constant (n,)."""
    return op.Constant(value_ints=list(numbers))


def int32(op: Any, number: int) -> ir.Value:
    """An int32 scalar."""
    return op.Constant(value=ir.tensor(np.array(number, np.int32)))


def slice_axis(op: Any, x: ir.Value, start: int, end: int) -> ir.Value:
    """x[start:end]."""
    return op.Slice(x, ints(op, start), ints(op, end))
