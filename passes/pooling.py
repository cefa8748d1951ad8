"""MaxPool between quantised layers: as an operator on uint8, or as standard nodes."""

import onnx_ir as ir

from passes.conv import UnsupportedConvError, conv_geometry, replace_node
from runtimes.operators.hybrid_conv import is_hybrid_conv
from runtimes.operators.max_pool import PoolGeometry, is_max_pool, make_node


def read_pool(node: ir.Node) -> PoolGeometry | None:
    """Attributes of a standard MaxPool; None where `QuantizedMaxPool` cannot have them.

    So it is over three axes and more, with indices of the maxima, and with pads that depend on an
    unknown shape or are as wide as the kernel.
    """
    attributes = node.attributes
    kernel = tuple(attributes.get_ints("kernel_shape") or ())
    ceil_mode, by_column = (attributes.get_int(k, 0) == 1 for k in ("ceil_mode", "storage_order"))
    if len(kernel) not in (1, 2) or by_column or len(node.outputs) != 1:
        return None
    if ceil_mode and attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    try:
        sliding = conv_geometry(node, kernel)
    except UnsupportedConvError:
        return None
    if any(pad >= size for pad, size in zip(sliding.pads, kernel * 2, strict=True)):
        return None
    return PoolGeometry(
        kernel_shape=kernel,
        strides=sliding.strides,
        pads=sliding.pads,
        dilations=sliding.dilations,
        ceil_mode=ceil_mode,
    )


def pool_of_integers(pool: ir.Node, q: ir.Value | None, name: str) -> list[ir.Node]:
    """A standard MaxPool as `QuantizedMaxPool` of a uint8 value, or as `in_floats` has it."""
    geometry = read_pool(pool)
    if geometry is None:
        return in_floats(pool, q, name)
    return [make_node(q, geometry, name=name)]


def in_floats(pool: ir.Node, q: ir.Value | None, name: str) -> list[ir.Node]:
    """Cast, MaxPool and Cast of a uint8 value: onnxruntime has fast loops for float alone.

    Args:
        pool: MaxPool or `QuantizedMaxPool`, of one output.
        q: what it reads.
        name: of the last node, prefix of the others.
    """
    to_float, to_uint8 = (ir.AttrInt64("to", k) for k in (ir.DataType.FLOAT, ir.DataType.UINT8))
    first = ir.Node("", "Cast", [q], [to_float], name=f"{name}.float")
    attributes = list(pool.attributes.values())
    largest = ir.Node("", "MaxPool", first.outputs, attributes, name=f"{name}.largest")
    last = ir.Node("", "Cast", largest.outputs, [to_uint8], name=name)
    for node, kind in (
        (first, ir.DataType.FLOAT),
        (largest, ir.DataType.FLOAT),
        (last, ir.DataType.UINT8),
    ):
        node.outputs[0].type = ir.TensorType(kind)
    return [first, largest, last]


def lower_pool(node: ir.Node) -> None:
    """Replaces a `QuantizedMaxPool` by standard nodes, in its graph."""
    replace_node(node, in_floats(node, node.inputs[0], node.name or ""), [])


def standard_if_int8(graph: ir.Graph) -> None:
    """Turns every `QuantizedMaxPool` into MaxPool of uint8 where no layer is hybrid.

    onnxruntime has a place for it among its int8 layers. The attributes are the same.
    """
    if any(is_hybrid_conv(node) for node in graph):
        return
    for node in filter(is_max_pool, graph):
        node.domain, node.op_type = "", "MaxPool"
