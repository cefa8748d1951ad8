"""`optc::QuantizedMaxPool`: MaxPool of ONNX on uint8, over one or two spatial axes.

    Y[n, c, p] = max X[n, c, p·stride + t·dilation − pad]      over the taps t inside the image

Attributes are those of MaxPool, all of them written out. A window of nothing but padding gives 0.
Its definition in standard operators, which a model stores, runs in float32: that is exact, and
onnxruntime has no fast loops for uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from runtimes.operators import DOMAIN, DOMAINS
from runtimes.operators.function_parts import add_bodies, build_body

OP_TYPE = "QuantizedMaxPool"
LISTS = ("kernel_shape", "strides", "pads", "dilations")


@dataclass(frozen=True, kw_only=True)
class PoolGeometry:
    """Attributes of a pooling over n spatial axes.

    Attributes:
        kernel_shape: (n,).
        strides: (n,).
        pads: (2n,), begin of every axis, then end of every axis.
        dilations: (n,).
        ceil_mode: a last window may reach beyond the padded image.
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False

    def output_size(self, size: int, axis: int) -> int:
        """Windows along one spatial axis; none begins behind the image."""
        begin, end = self.pads[axis], self.pads[axis + len(self.strides)]
        stride, covered = self.strides[axis], self.dilations[axis] * (self.kernel_shape[axis] - 1)
        rest = stride - 1 if self.ceil_mode else 0
        windows = (size + begin + end - covered - 1 + rest) // stride + 1
        return windows - (self.ceil_mode and (windows - 1) * stride >= size + begin)


def is_max_pool(node: ir.Node) -> bool:
    """Whether a node is the operator."""
    return node.domain in DOMAINS and node.op_type == OP_TYPE


def make_node(x: ir.Value | None, geometry: PoolGeometry, *, name: str) -> ir.Node:
    """Builds the node.

    Args:
        x: uint8 (N, C, *spatial).
        geometry: pooling attributes.
        name: name of the node.
    """
    attributes = [ir.AttrInt64s(key, getattr(geometry, key)) for key in LISTS]
    attributes.append(ir.AttrInt64("ceil_mode", int(geometry.ceil_mode)))
    node = ir.Node(DOMAIN, OP_TYPE, [x], attributes, name=name)
    node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return node


def function_body(opset: int, domain: str = DOMAIN) -> ir.Function:
    """Returns the body, written for a standard opset (13 or later)."""
    kinds = {**dict.fromkeys(LISTS, ir.AttributeType.INTS), "ceil_mode": ir.AttributeType.INT}

    def trace(op: Any, x: ir.Value) -> ir.Value:
        references = {key: ir.RefAttr(key, key, kind) for key, kind in kinds.items()}
        largest = op.MaxPool(op.Cast(x, to=ir.DataType.FLOAT), **references)
        return op.Cast(largest, to=ir.DataType.UINT8)

    attributes = [ir.Attr(key, kind, None) for key, kind in kinds.items()]
    return build_body(trace, domain, OP_TYPE, ["X"], attributes, opset)


def add_functions(model: ir.Model, names: Sequence[str], domain: str = DOMAIN) -> None:
    """Stores the body in a model where the operator is among the names, for its own opset."""
    own = [name for name in names if name == OP_TYPE]
    add_bodies(model, own, domain, (), lambda _, *where: function_body(*where))
