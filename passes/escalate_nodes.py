"""Quantised layers as nodes, float in and out, with what was fitted to them.

Calibration walks through them as they are; `passes.escalate_graph` then joins them.

    hybrid   Q(x) [Q(residual)] → HybridDecomposedConv → DQ
    int8     Q(x) → DQ → Conv or Gemm (DQ(w), DQ(bias)) → Q → DQ
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from passes.escalate_graph import Codes, constant, dequantize, quantize
from passes.escalate_layers import DecomposedLayer, DenseLayer, Layer, name_of
from passes.layerwise import Substitute
from passes.mathematics.hybrid_fit import HybridFit
from passes.mathematics.quantization import Affine
from runtimes.operators.hybrid_conv import (
    HybridWeights,
    Int8,
    UInt8,
    make_node,
    unit_basis,
    unit_offset,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """A layer in its quantised form.

    Attributes:
        substitute: its nodes, float in and out.
        own: the constants among those of the substitute that are the layer's alone.
        error: ‖Δy‖ / ‖y‖ of its output, behind a Relu where one follows.
        op_types: names of `optc` operators in it.
    """

    substitute: Substitute
    own: tuple[ir.Value, ...]
    error: float
    op_types: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of what it stores."""
        stored = (value.const_value for value in self.own)
        return sum(tensor.nbytes for tensor in stored if tensor is not None)


def hybrid_nodes(
    layer: Layer, weights: HybridWeights, error: float, codes: Codes, bounds: tuple[float, float]
) -> Quantised:
    """A hybrid layer; `bounds` are those of its output, real numbers."""
    name, y = name_of(layer), layer.node.outputs[0]
    [x] = [value for value in layer.node.inputs[:1] if value is not None]
    first, quantised = quantize(x, codes, f"{name}.x")
    nodes, residual = [first], None
    if isinstance(layer, DecomposedLayer) and layer.residual is not None:
        second, residual = quantize(layer.residual, codes, f"{name}.residual")
        nodes.append(second)
    scale, zero_point = codes.constants(y)
    node, own = make_node(
        quantised,
        scale,
        zero_point,
        weights,
        layer.geometry,
        name=name,
        bounds=_bounds(codes.code(y), bounds),
        residual=residual,
    )
    node.outputs[0].name = f"{name}.y"
    result = replace(quantised, value=node.outputs[0], scale=scale, zero_point=zero_point)
    nodes += [node, dequantize(result, f"{name}.real", y.name or "")]
    return _quantised(nodes, own, error, (node.op_type,))


def hybrid_weights(layer: DecomposedLayer, fit: HybridFit) -> HybridWeights:
    """Factors of a decomposed layer as they are stored."""
    basis = fit.basis.values.astype(np.int8).reshape(layer.weights.basis.shape)
    shift = fit.basis.shift.astype(np.uint8)
    return _weights(fit, basis, shift, layer.weights.coefficients.shape)


def unit_weights(layer: DecomposedLayer, fit: HybridFit, code: Affine) -> HybridWeights:
    """An int8 convolution, decomposed into a basis kernel for each tap, as it is stored.

    Args:
        layer: the convolution.
        fit: of its weights.
        code: of its input.
    """
    basis, shift = unit_basis(layer.weights.basis.shape[1:])
    weights = _weights(fit, basis, shift, layer.weights.coefficients.shape)
    return replace(weights, response_offset=unit_offset(code.zero_point))


def _weights(
    fit: HybridFit, basis: Int8, shift: UInt8, shape: tuple[int, int, int]
) -> HybridWeights:
    """What was fitted, with coefficients of a shape (K, C, M)."""
    K, _, M = shape
    rows = fit.rows
    return HybridWeights(
        basis=basis,
        shift=shift,
        symbols=rows.symbols.astype(np.int8).reshape(shape),
        levels=np.broadcast_to(rows.levels, (K, M)).astype(np.int8),
        scale=rows.scale.astype(np.float32),
        bias=fit.bias.astype(np.float32),
    )


def _bounds(code: Affine, real: tuple[float, float]) -> tuple[int, int]:
    """Bounds of the output in its code."""
    lower, upper = np.clip(np.rint(np.array(real) / code.scale) + code.zero_point, 0, 255)
    return int(lower), int(upper)


def dense_nodes(layer: DenseLayer, fit: HybridFit, codes: Codes) -> Quantised:
    """An int8 layer; a graph output is not quantised."""
    name, old = name_of(layer), layer.node
    [x], y = [value for value in old.inputs[:1] if value is not None], old.outputs[0]
    first, quantised = quantize(x, codes, f"{name}.x")
    real = dequantize(quantised, f"{name}.x.real", f"{name}.x.real")
    scale = (fit.rows.scale / codes.code(x).scale).astype(np.float32)
    symbols = fit.rows.symbols.astype(np.int8).reshape(layer.weight.shape)
    stored = symbols.T if layer.transposed else symbols
    weight, own = constant(stored, scale, 1 if layer.transposed else 0, f"{name}.weight_int8")
    nodes, inputs = [first, real, weight], [real.outputs[0], weight.outputs[0]]
    if old.op_type != "MatMul":
        unit = scale * np.float32(codes.code(x).scale)
        limit = 2.0**31 - 1
        whole = np.clip(np.rint(fit.bias / unit), -limit, limit).astype(np.int32)
        bias, more = constant(whole, unit, 0, f"{name}.bias_int32")
        nodes.append(bias)
        own += more
        inputs.append(bias.outputs[0])
    attributes = list(old.attributes.values())
    if "auto_pad" in old.attributes:
        attributes = _explicit(layer)
    node = ir.Node("", old.op_type, inputs, attributes, name=name)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    nodes.append(node)
    if y.is_graph_output():
        node.outputs[0].name = y.name
    else:
        node.outputs[0].name = f"{name}.sum"
        scale_y, zero_point = codes.constants(y)
        last = ir.Node("", "QuantizeLinear", [node.outputs[0], scale_y, zero_point])
        last.name = last.outputs[0].name = f"{name}.y"
        last.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
        result = replace(quantised, value=last.outputs[0], scale=scale_y, zero_point=zero_point)
        nodes += [last, dequantize(result, f"{name}.real", y.name or "")]
    return _quantised(nodes, own, fit.error, ())


def _explicit(layer: DenseLayer) -> list[ir.Attr]:
    """Attributes of a convolution with its padding spelt out."""
    geometry = layer.geometry
    return [
        ir.AttrInt64s("strides", geometry.strides),
        ir.AttrInt64s("pads", geometry.pads),
        ir.AttrInt64s("dilations", geometry.dilations),
        ir.AttrInt64("group", geometry.group),
    ]


def _quantised(
    nodes: list[ir.Node], own: list[ir.Value], error: float, op_types: tuple[str, ...]
) -> Quantised:
    made = {output for node in nodes for output in node.outputs}
    used = {v: None for node in nodes for v in node.inputs if v is not None and v not in made}
    constants = [value for value in used if value.const_value is not None]
    return Quantised(
        substitute=Substitute(nodes=nodes, constants=constants),
        own=tuple(own),
        error=error,
        op_types=op_types,
    )
