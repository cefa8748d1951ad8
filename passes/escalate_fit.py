"""Quantises a network layer by layer on calibration data (see `passes.mathematics.hybrid_fit`).

Every layer sees what the quantised layers before it produce and is fitted to the output of the
original network, so it also corrects their errors.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.escalate_config import EscalateConfig
from passes.escalate_graph import Codes
from passes.escalate_layers import DecomposedLayer, DenseLayer, Layer
from passes.escalate_nodes import (
    Quantised,
    dense_nodes,
    hybrid_nodes,
    hybrid_weights,
    unit_weights,
)
from passes.layerwise import LayerMaps
from passes.mathematics.fit import Samples
from passes.mathematics.hybrid_fit import Effort, HybridFit, fit_dense, fit_grouped, fit_hybrid
from passes.mathematics.patches import pixel_rows
from passes.mathematics.quantization import Affine, calibrate
from passes.rows import draw_rows

Array32 = NDArray[np.float32]

FIT_ROWS = 32768
FULL = Effort()


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
    bounds = (0.0, np.inf) if absorbs else layer.bounds
    code = codes.code(x)
    if isinstance(layer, DenseLayer):
        return dense_nodes(layer, _fit_dense(layer, samples, code, effort), codes)
    if layer.unit:
        fit = _fit_unit(layer, samples, code, effort)
        weights = unit_weights(layer, fit, code)
    else:
        fit = _fit_decomposed(layer, samples, code, config, bits, effort)
        weights = hybrid_weights(layer, fit)
    return hybrid_nodes(layer, weights, fit.error, codes, bounds)


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


def _fit_decomposed(
    layer: DecomposedLayer,
    samples: Samples,
    code: Affine,
    config: EscalateConfig,
    bits: int,
    effort: Effort,
) -> HybridFit:
    weights = layer.weights
    M, d = len(weights.basis), weights.basis[0].size
    bias = _bias(weights.bias, len(weights.coefficients))
    return fit_hybrid(
        samples,
        weights.basis.reshape(M, d).astype(np.float64),
        weights.coefficients.astype(np.float64),
        bias,
        code,
        bits=bits,
        per_basis=config.scales == "basis",
        effort=effort,
    )


def _fit_unit(layer: DecomposedLayer, samples: Samples, code: Affine, effort: Effort) -> HybridFit:
    K = len(layer.weights.coefficients)
    matrix = layer.weights.coefficients.reshape(K, -1).astype(np.float64)  # (K, C·taps)
    return fit_dense(samples, matrix, _bias(layer.weights.bias, K), code, effort=effort)


def _bias(bias: Array32 | None, K: int) -> NDArray[np.float64]:
    return np.zeros(K) if bias is None else bias.astype(np.float64)


def _fit_dense(layer: DenseLayer, samples: Samples, code: Affine, effort: Effort) -> HybridFit:
    K = len(layer.weight)
    bias = _bias(layer.bias, K)
    matrix = layer.weight.reshape(K, -1).astype(np.float64)
    group = layer.geometry.group
    if group == 1:
        return fit_dense(samples, matrix, bias, code, effort=effort)
    return fit_grouped(samples, matrix, bias, code, group)
