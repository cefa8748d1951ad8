"""Quantises a network layer by layer on calibration data (see `passes.mathematics.hybrid_fit`).

Every layer sees what the quantised layers before it produce and is fitted to the output of the
original network, so it also corrects their errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.escalate_config import EscalateConfig
from passes.escalate_graph import Codes, constant, dequantize, quantize
from passes.escalate_layers import DecomposedLayer, DenseLayer, Layer, name_of
from passes.layerwise import LayerMaps, Substitute
from passes.mathematics.fit import Samples
from passes.mathematics.hybrid_fit import Effort, HybridFit, fit_dense, fit_grouped, fit_hybrid
from passes.mathematics.patches import pixel_rows
from passes.mathematics.quantization import Affine, calibrate
from passes.rows import draw_rows
from runtimes.operators.hybrid_conv import HybridWeights, make_node

Array32 = NDArray[np.float32]

FIT_ROWS = 32768
FULL = Effort()


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


def quantise_layer(
    layer: Layer,
    maps: LayerMaps,
    codes: Codes,
    config: EscalateConfig,
    bits: int,
    *,
    rows: int = FIT_ROWS,
    effort: Effort = FULL,
    rng: np.random.Generator,
) -> Quantised:
    """Quantises one layer; values around it that have no code yet get one.

    Args:
        layer: what to quantise.
        maps: activations around it.
        codes: of the values of the network, completed in place.
        config: of the pass.
        bits: of the coefficients of a decomposed layer.
        rows: of activations to fit on.
        effort: of the fit.
        rng: for the positions that rows are drawn from.

    Raises:
        CalibrationError: activations are not finite.
    """
    [x] = [value for value in layer.node.inputs[:1] if value is not None]
    samples, absorbs = _samples(layer, maps, rows, rng), _absorbs_relu(layer, maps)
    _calibrate(codes, x, maps.inputs, config)
    if isinstance(layer, DecomposedLayer) and layer.residual is not None:
        assert maps.shortcut is not None
        _calibrate(codes, layer.residual, maps.shortcut, config)
    _calibrate(codes, layer.node.outputs[0], _outputs(layer, maps, samples, absorbs), config)
    if absorbs:
        for use in layer.node.outputs[0].uses():  # Relus
            codes.share(use.node.outputs[0], layer.node.outputs[0])
    if isinstance(layer, DenseLayer):
        return _quantise_dense(layer, samples, codes, effort)
    weights = layer.weights
    M, d = len(weights.basis), weights.basis[0].size
    K = len(weights.coefficients)
    bias = np.zeros(K) if weights.bias is None else weights.bias.astype(np.float64)
    fit = fit_hybrid(
        samples,
        weights.basis.reshape(M, d).astype(np.float64),
        weights.coefficients.astype(np.float64),
        bias,
        codes.code(x),
        bits=bits,
        per_basis=config.scales == "basis",
        effort=effort,
    )
    return _hybrid(layer, fit, codes, (0.0, np.inf) if absorbs else layer.bounds)


def _calibrate(
    codes: Codes, value: ir.Value, batches: Sequence[Array32], config: EscalateConfig
) -> None:
    if not codes.has(value):
        codes.known[codes.name(value)] = calibrate(batches, config.calibration)


def _absorbs_relu(layer: Layer, maps: LayerMaps) -> bool:
    """A Relu, and nothing else, follows the layer's own node: the code of zero does its work."""
    inside = isinstance(layer, DecomposedLayer) and np.isfinite(layer.bounds[0])
    return maps.relu and maps.shortcut is None and not inside


def _samples(layer: Layer, maps: LayerMaps, rows: int, rng: np.random.Generator) -> Samples:
    if isinstance(layer, DenseLayer) and layer.weight.ndim == 2:
        patches = np.concatenate(maps.inputs)
        picks = [np.arange(len(batch)) for batch in maps.inputs]
    else:
        kernel = (
            layer.weight.shape[2:]
            if isinstance(layer, DenseLayer)
            else layer.weights.basis.shape[1:]
        )
        patches, picks = draw_rows(maps, kernel, layer.geometry, rows, rng)
    return Samples(
        patches=patches,
        targets=pixel_rows(maps.targets, picks),
        shortcut=None if maps.shortcut is None else pixel_rows(maps.shortcut, picks),
        relu=maps.relu,
    )


def _outputs(layer: Layer, maps: LayerMaps, samples: Samples, absorbs: bool) -> Sequence[Array32]:
    """Values of the layer's own output in the original network."""
    fused = isinstance(layer, DecomposedLayer) and layer.residual is not None
    if maps.shortcut is not None and not fused:
        assert samples.shortcut is not None
        return [samples.targets - samples.shortcut]
    return [np.maximum(batch, 0) for batch in maps.targets] if absorbs else maps.targets


def _hybrid(
    layer: DecomposedLayer, fit: HybridFit, codes: Codes, bounds: tuple[float, float]
) -> Quantised:
    """Q(x) [Q(residual)] → HybridDecomposedConv → DQ."""
    name, y = name_of(layer), layer.node.outputs[0]
    [x] = [value for value in layer.node.inputs[:1] if value is not None]
    first, quantised = quantize(x, codes, f"{name}.x")
    nodes, residual = [first], None
    if layer.residual is not None:
        second, residual = quantize(layer.residual, codes, f"{name}.residual")
        nodes.append(second)
    scale, zero_point = codes.constants(y)
    node, own = make_node(
        quantised,
        scale,
        zero_point,
        _weights(layer, fit),
        layer.geometry,
        name=name,
        bounds=_bounds(codes.code(y), bounds),
        residual=residual,
    )
    node.outputs[0].name = f"{name}.y"
    result = replace(quantised, value=node.outputs[0], scale=scale, zero_point=zero_point)
    nodes += [node, dequantize(result, f"{name}.real", y.name or "")]
    return _quantised(nodes, own, fit.error, (node.op_type,))


def _weights(layer: DecomposedLayer, fit: HybridFit) -> HybridWeights:
    rows, weights = fit.rows, layer.weights
    K, _, M = weights.coefficients.shape
    levels = np.broadcast_to(rows.levels, (K, M))
    return HybridWeights(
        basis=fit.basis.values.astype(np.int8).reshape(weights.basis.shape),
        shift=fit.basis.shift.astype(np.uint8),
        symbols=rows.symbols.astype(np.int8).reshape(weights.coefficients.shape),
        levels=levels.astype(np.int8),
        scale=rows.scale.astype(np.float32),
        bias=fit.bias.astype(np.float32),
    )


def _bounds(code: Affine, real: tuple[float, float]) -> tuple[int, int]:
    """Bounds of the output in its code."""
    lower, upper = np.clip(np.rint(np.array(real) / code.scale) + code.zero_point, 0, 255)
    return int(lower), int(upper)


def _quantise_dense(layer: DenseLayer, samples: Samples, codes: Codes, effort: Effort) -> Quantised:
    """Q → DQ → Conv or Gemm → Q → DQ; a graph output is not quantised."""
    [x] = [value for value in layer.node.inputs[:1] if value is not None]
    code, K = codes.code(x), len(layer.weight)
    bias = np.zeros(K) if layer.bias is None else layer.bias.astype(np.float64)
    matrix = layer.weight.reshape(K, -1).astype(np.float64)
    group = layer.geometry.group
    if group == 1:
        fit = fit_dense(samples, matrix, bias, code, effort=effort)
    else:
        fit = fit_grouped(samples, matrix, bias, code, group)
    return _dense_nodes(layer, fit, codes)


def _dense_nodes(layer: DenseLayer, fit: HybridFit, codes: Codes) -> Quantised:
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
