"""Fits the PENNI decomposition of a whole network, layer by layer (see `passes.mathematics.fit`).

Every layer sees the inputs that the layers fitted before it produce, so it also corrects their
errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import ConvLayer
from passes.framework import Progress
from passes.layerwise import LayerwiseCalibration, LayerwiseWalk
from passes.mathematics.decomposition import Factors, relative_error
from passes.mathematics.fit import (
    Fit,
    FitConfig,
    LayerSetting,
    fit_data_free,
    fit_layer,
)
from passes.rows import draw_rows, samples_at

Array32 = NDArray[np.float32]

FIT_ROWS = 65536


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """The factors of a layer and its relative error at its Relu, with all errors before it.

    Without calibration the error is that of the weight.
    """

    factors: Factors
    error: float


def fit_network(
    model: ir.Model,
    layers: Sequence[ConvLayer],
    settings: Mapping[str, LayerSetting],
    calibration: LayerwiseCalibration | None = None,
    *,
    config: FitConfig | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, label: None,
) -> dict[str, FittedLayer]:
    """Fits every layer that has a setting, in graph order.

    Args:
        model: prepared model, not changed.
        layers: convolutions of one group in graph order.
        settings: by layer name; layers without one stay dense.
        calibration: samples, or None for SVD and selection by magnitude.
        config: effort.
        seed: of the drawn positions.
        progress: called after every layer.
    """
    todo = [layer for layer in layers if layer.name in settings]
    fitted = {}
    walk = calibration.walk(model, [layer.name for layer in todo]) if calibration else None
    rng = np.random.default_rng(seed)
    for done, layer in enumerate(todo, start=1):
        setting = settings[layer.name]
        if walk is None:
            fitted[layer.name] = _fit_data_free(layer, setting)
        else:
            fitted[layer.name] = _fit_on(walk, layer, setting, config or FitConfig(), rng)
        progress(done, len(todo), layer.name)
    return fitted


def _fit_on(
    walk: LayerwiseWalk,
    layer: ConvLayer,
    setting: LayerSetting,
    config: FitConfig,
    rng: np.random.Generator,
) -> FittedLayer:
    maps = walk.maps(layer.name)
    patches, picks = draw_rows(maps, layer.weight.shape[2:], layer.geometry, FIT_ROWS, rng)
    samples = samples_at(maps, patches, picks, channels_last=False)
    fit = fit_layer(samples, kernels_of(layer), bias_of(layer).astype(np.float64), setting, config)
    factors = _factors(layer, fit)
    assert factors.bias is not None
    walk.commit(layer.name, factors.reconstruct(), factors.bias)
    return FittedLayer(factors=factors, error=samples.error(fit.weight, fit.bias))


def _fit_data_free(layer: ConvLayer, setting: LayerSetting) -> FittedLayer:
    fit = fit_data_free(kernels_of(layer), bias_of(layer).astype(np.float64), setting)
    factors = _factors(layer, fit)
    return FittedLayer(factors=factors, error=relative_error(layer.weight, factors))


def _factors(layer: ConvLayer, fit: Fit) -> Factors:
    return Factors(
        basis=fit.basis.reshape(-1, *layer.weight.shape[2:]).astype(np.float32),
        coefficients=fit.coefficients.astype(np.float32),
        bias=fit.bias.astype(np.float32),
    )


def kernels_of(layer: ConvLayer) -> NDArray[np.float64]:
    """W as (K, C, d)."""
    K, C = layer.weight.shape[:2]
    return layer.weight.reshape(K, C, layer.kernel_size).astype(np.float64)


def bias_of(layer: ConvLayer) -> Array32:
    """The bias (K,), zeros where there is none."""
    return np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias
