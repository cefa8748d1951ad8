"""A `HybridDecomposedConv` as the ordinary int8 convolution of the weights it stands for (QDQ).

    DQ(x) → Conv(DQ(W), DQ(bias)) → Q                                  without a residual
    DQ(x) → Conv(DQ(W), DQ(bias)) → Q → DQ → Add(DQ(residual)) → Q     with one

onnxruntime runs these with its own int8 kernels. Weights have a scale for each output,
W_q[k] = rint(W[k] / s_k) with s_k = max|W[k]| / 127. No data is needed for the range of the sum
that the residual is added to: below y_min − residual_max and above y_max − residual_min the result
is saturated anyway.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import replace_node
from passes.escalate_graph import constant, dequantize
from runtimes.operators.decomposed_conv import initializer, read_geometry
from runtimes.operators.hybrid_conv import (
    INPUTS,
    LARGEST,
    QuantizedValue,
    read_scale,
    read_weights,
)

LARGEST_BIAS = 2.0**30
UNBOUNDED = (0, 255)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseInt8:
    """Weights of an int8 convolution.

    Attributes:
        weight: (K, C/group, *kernel) int8.
        scale: (K,) real value of one unit of the weight.
        bias: (K,) int32, in units of x_scale·scale.
        error: ‖ΔW‖ / ‖W‖ that rounding costs.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    error: float

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + self.bias.nbytes


def dense_int8(node: ir.Node) -> DenseInt8:
    """Rounds the dense weight of a `HybridDecomposedConv`."""
    factors, (x_scale, _) = read_weights(node), read_scale(node, "x")
    real = factors.dense(x_scale).astype(np.float64)  # (K, C/group, *kernel)
    column = (-1, *(1,) * (real.ndim - 1))
    largest = np.abs(real).reshape(len(real), -1).max(axis=1)
    of_bias = np.abs(factors.bias.astype(np.float64)) / (x_scale * LARGEST_BIAS)
    scale = np.maximum(largest / LARGEST, of_bias).astype(np.float32)
    scale[scale == 0] = 1
    weight = np.rint(real / scale.reshape(column))
    bias = np.rint(factors.bias / (x_scale * scale.astype(np.float64)))
    difference = float(np.linalg.norm(weight * scale.reshape(column) - real))
    return DenseInt8(
        weight=weight.astype(np.int8),
        scale=scale,
        bias=bias.astype(np.int32),
        error=difference / (float(np.linalg.norm(real)) or 1.0),
    )


def lower_int8(node: ir.Node) -> None:
    """Replaces one node by quantised standard ones, in its graph."""
    name, dense, geometry = node.name or "", dense_int8(node), read_geometry(node)
    x = _quantised(node, 0)
    weight, own = constant(dense.weight, dense.scale, 0, f"{name}.weight_int8")
    unit = (dense.scale * np.float32(read_scale(node, "x")[0])).astype(np.float32)
    bias, more = constant(dense.bias, unit, 0, f"{name}.bias_int32")
    own += more
    real = dequantize(x, f"{name}.x.real", f"{name}.x.real")
    conv = _node("Conv", [n.outputs[0] for n in (real, weight, bias)], name, f"{name}.sum")
    for key, ints in (("strides", geometry.strides), ("pads", geometry.pads)):
        conv.attributes.add(ir.AttrInt64s(key, ints))
    conv.attributes.add(ir.AttrInt64s("dilations", geometry.dilations))
    conv.attributes.add(ir.AttrInt64("group", geometry.group))
    nodes = [real, weight, bias, conv]
    if len(node.inputs) > len(INPUTS):
        own += _add_residual(node, nodes)
    nodes.append(_quantize(nodes[-1], _code_of_output(node), f"{name}.rounded"))
    bounds = (node.attributes["lower"].as_int(), node.attributes["upper"].as_int())
    if bounds != UNBOUNDED:
        limits = [
            initializer(f"{name}.{key}", np.array(bound, np.uint8))
            for key, bound in zip(("lower", "upper"), bounds, strict=True)
        ]
        own += limits
        clip = _node("Clip", [nodes[-1].outputs[0], *limits], f"{name}.clip", f"{name}.clip")
        clip.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
        nodes.append(clip)
    replace_node(node, nodes, own)


def _add_residual(node: ir.Node, nodes: list[ir.Node]) -> list[ir.Value]:
    """Appends Q → DQ → Add; returns scale and zero point of the sum before it."""
    name, residual = node.name or "", _quantised(node, len(INPUTS))
    scale, zero_point = _range_of_sum(node)
    code = (
        initializer(f"{name}.sum.scale", np.array(scale, np.float32)),
        initializer(f"{name}.sum.zero_point", np.array(zero_point, np.uint8)),
    )
    nodes.append(_quantize(nodes[-1], code, f"{name}.sum.uint8"))
    total = QuantizedValue(value=nodes[-1].outputs[0], scale=code[0], zero_point=code[1])
    nodes.append(dequantize(total, f"{name}.sum.real", f"{name}.sum.real"))
    nodes.append(dequantize(residual, f"{name}.residual.real", f"{name}.residual.real"))
    terms = [nodes[-2].outputs[0], nodes[-1].outputs[0]]
    nodes.append(_node("Add", terms, f"{name}.add", f"{name}.add"))
    return list(code)


def _range_of_sum(node: ir.Node) -> tuple[float, int]:
    """Scale and zero point that cover [y_min − residual_max, y_max − residual_min]."""
    y_scale, y_zero = read_scale(node, "y")
    r_scale, r_zero = read_scale(node, "residual")
    lower, upper = (node.attributes[key].as_int() for key in ("lower", "upper"))
    least = min((lower - y_zero) * y_scale - (255 - r_zero) * r_scale, 0.0)
    largest = max((upper - y_zero) * y_scale + r_zero * r_scale, 0.0)
    scale = (largest - least) / 255
    return scale, int(np.clip(np.rint(-least / scale), 0, 255))


def _quantised(node: ir.Node, first: int) -> QuantizedValue:
    """Value, scale and zero point from an input on."""
    value, scale, zero_point = node.inputs[first : first + 3]
    assert value is not None and scale is not None and zero_point is not None
    return QuantizedValue(value=value, scale=scale, zero_point=zero_point)


def _code_of_output(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    scale, zero_point = (node.inputs[INPUTS.index(f"y_{key}")] for key in ("scale", "zero_point"))
    assert scale is not None and zero_point is not None
    return scale, zero_point


def _quantize(producer: ir.Node, code: tuple[ir.Value, ir.Value], name: str) -> ir.Node:
    node = _node("QuantizeLinear", [producer.outputs[0], *code], name, name)
    node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return node


def _node(op: str, inputs: list[ir.Value], name: str, output: str) -> ir.Node:
    node = ir.Node("", op, inputs, name=name)
    node.outputs[0].name, node.outputs[0].type = output, ir.TensorType(ir.DataType.FLOAT)
    return node
