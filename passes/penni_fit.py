"""Plans and fits the PENNI decomposition of a whole network (see `passes.mathematics.fit`).

`plan_network` decides rank and number of coefficients of every layer; `fit_network` executes
such a plan. Under a budget the plan minimises

    Σ_l s_l · e_l(rank, density),    s_l = (output error when only layer l is perturbed) / e_l

where e_l is the predicted relative squared error of the layer and the output error is measured
by forward runs; without calibration s_l = 1 and e_l is the error of the weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import ConvLayer
from passes.layerwise import LayerMaps, LayerwiseCalibration, LayerwiseWalk
from passes.mathematics.allocation import Choice, allocate
from passes.mathematics.curves import Curve, Option, interpolate, measured_curve, weight_curve
from passes.mathematics.decomposition import Factors, relative_error
from passes.mathematics.fit import (
    Fit,
    FitConfig,
    LayerSetting,
    Samples,
    fit_data_free,
    fit_layer,
)
from passes.mathematics.moments import own_moments
from passes.mathematics.patches import choose_positions, pixel_rows, sample_patches

Array32 = NDArray[np.float32]
Progress = Callable[[int, int, str], None]

DEFAULT_RANK = 5
FIT_ROWS = 65536
PLAN_ROWS = 16384
PLAN_SAMPLES = 128
PROBE_SAMPLES = 64
ROW_BYTES = 2**29
DENSITIES = (0.03, 0.06, 0.12, 0.2, 0.35, 0.6, 1.0)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks of the whole network.

    Attributes:
        rank: M of every layer; None lets a budget choose it, 5 without a budget.
        density: share of coefficients kept in every layer; None lets a budget choose it.
        threshold: PENNI's s, keep |c| ≥ s·std; instead of density.
        params: budget, as a share of the parameters of the layers.
        macs: budget, as a share of the multiply-accumulates of the layers.
        pair: drop all coefficients of a channel pair together.
    """

    rank: int | None = None
    density: float | None = None
    threshold: float | None = None
    params: float | None = None
    macs: float | None = None
    pair: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """A setting and the error predicted for it.

    Attributes:
        setting: rank and number of coefficients.
        predicted_error: ‖Δy‖/‖y‖ of the pre-activation, ‖ΔW‖/‖W‖ without calibration.
    """

    setting: LayerSetting
    predicted_error: float


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """The factors of a layer and its relative error at its Relu, with all errors before it.

    Without calibration the error is that of the weight.
    """

    factors: Factors
    error: float


def plan_network(
    model: ir.Model,
    layers: Sequence[ConvLayer],
    request: Request,
    calibration: LayerwiseCalibration | None = None,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total, label: None,
) -> dict[str, LayerPlan]:
    """Chooses rank and density of every layer; layers left out are better kept dense.

    Args:
        model: prepared model, not changed.
        layers: convolutions of one group in graph order; the budget counts only these.
        request: what to reach.
        calibration: samples, or None for a plan from the weights alone.
        seed: of the drawn positions.
        progress: called after every layer.

    Returns:
        Plans by layer name.

    Raises:
        BudgetError: the budget is below the smallest factors.
        ValueError: a budget of MACs, and the output size of a layer is unknown.
    """
    options, weights = _curves(model, layers, request, calibration, seed, progress)
    if request.params is None and request.macs is None:
        chosen: list[Option | None] = [_requested(curve) for curve in options]
    else:
        chosen = _within_budget(layers, options, weights, request)
    return {
        layer.name: LayerPlan(
            setting=_setting(layer, option, request), predicted_error=float(np.sqrt(option.error))
        )
        for layer, option in zip(layers, chosen, strict=True)
        if option is not None
    }


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


def _curves(
    model: ir.Model,
    layers: Sequence[ConvLayer],
    request: Request,
    calibration: LayerwiseCalibration | None,
    seed: int,
    progress: Progress,
) -> tuple[list[Sequence[Option]], list[float]]:
    """Options and sensitivity of every layer."""
    options: list[Sequence[Option]] = []
    if calibration is None:
        densities = _densities(request)
        for layer in layers:
            ranks = _ranks(layer, request)
            options.append(weight_curve(_kernels(layer), ranks, densities, request.pair))
        return options, [1.0] * len(layers)
    weights = []
    analysis = _Analysis(model, layers, request, calibration, seed)
    for done, layer in enumerate(layers, start=1):
        options.append(analysis.curve(layer).options)
        weights.append(analysis.sensitivity)
        progress(done, len(layers), layer.name)
    return options, weights


class _Analysis:
    """One walk through the unchanged network, measuring curves and sensitivities."""

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[ConvLayer],
        request: Request,
        calibration: LayerwiseCalibration,
        seed: int,
    ) -> None:
        self._walk = calibration.walk(model, [layer.name for layer in layers], PLAN_SAMPLES)
        self._request = request
        self._rng = np.random.default_rng(seed)
        self._reference: list[Array32] = []
        self._needs_probe = request.params is not None or request.macs is not None
        self.sensitivity = 1.0

    def curve(self, layer: ConvLayer) -> Curve:
        """Options of the next layer; sets its sensitivity when there is a budget."""
        maps, prior = self._walk.maps(layer.name), _kernels(layer)
        X, _ = _patches(maps, layer, PLAN_ROWS, self._rng)
        raw = own_moments(X, prior.reshape(len(prior), -1), _bias(layer).astype(np.float64))
        problem = raw.with_ridge(FitConfig().ridge, prior.reshape(len(prior), -1))
        ranks, densities = _ranks(layer, self._request), _densities(self._request)
        curve = measured_curve(problem, prior, ranks, densities, self._request.pair)
        if self._needs_probe:
            self.sensitivity = self._probe(layer, curve, raw.bias(curve.probe))
        self._walk.commit(layer.name, layer.weight, _bias(layer))
        return curve

    def _probe(self, layer: ConvLayer, curve: Curve, bias: NDArray[np.float64]) -> float:
        """Relative squared error of the network's output over that of the layer."""
        if not self._reference:
            self._reference = self._outputs(layer.name, layer.weight, _bias(layer))
        weight = curve.probe.reshape(layer.weight.shape).astype(np.float32)
        changed = self._outputs(layer.name, weight, bias.astype(np.float32))
        pairs = list(zip(self._reference, changed, strict=True))
        loss = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
        power = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
        return loss / (power or 1.0) / curve.probe_error

    def _outputs(self, name: str, weight: Array32, bias: Array32) -> list[Array32]:
        return list(self._walk.probe(name, weight, bias, PROBE_SAMPLES))


def _fit_on(
    walk: LayerwiseWalk,
    layer: ConvLayer,
    setting: LayerSetting,
    config: FitConfig,
    rng: np.random.Generator,
) -> FittedLayer:
    maps = walk.maps(layer.name)
    patches, picks = _patches(maps, layer, FIT_ROWS, rng)
    samples = Samples(
        patches=patches,
        targets=pixel_rows(maps.targets, picks),
        shortcut=None if maps.shortcut is None else pixel_rows(maps.shortcut, picks),
        relu=maps.relu,
    )
    fit = fit_layer(samples, _kernels(layer), _bias(layer).astype(np.float64), setting, config)
    factors = _factors(layer, fit)
    assert factors.bias is not None
    walk.commit(layer.name, factors.reconstruct(), factors.bias)
    return FittedLayer(factors=factors, error=samples.error(fit.weight, fit.bias))


def _fit_data_free(layer: ConvLayer, setting: LayerSetting) -> FittedLayer:
    fit = fit_data_free(_kernels(layer), _bias(layer).astype(np.float64), setting)
    factors = _factors(layer, fit)
    return FittedLayer(factors=factors, error=relative_error(layer.weight, factors))


def _factors(layer: ConvLayer, fit: Fit) -> Factors:
    return Factors(
        basis=fit.basis.reshape(-1, *layer.weight.shape[2:]).astype(np.float32),
        coefficients=fit.coefficients.astype(np.float32),
        bias=fit.bias.astype(np.float32),
    )


def _patches(
    maps: LayerMaps, layer: ConvLayer, rows: int, rng: np.random.Generator
) -> tuple[Array32, list[NDArray[np.int64]]]:
    """Rows of the im2col matrix, and the positions they were taken from."""
    counts = [y.shape[0] * int(np.prod(y.shape[2:])) for y in maps.targets]
    width = layer.weight[0].size
    picks = choose_positions(counts, min(rows, max(ROW_BYTES // (4 * width), 1)), rng)
    geometry = layer.geometry
    patches = sample_patches(
        maps.inputs,
        layer.weight.shape[2:],
        geometry.strides,
        geometry.pads,
        geometry.dilations,
        picks,
    )
    return patches, picks


def _requested(options: Sequence[Option]) -> Option:
    """Without a budget there is one rank and one density."""
    [option] = options
    return option


def _within_budget(
    layers: Sequence[ConvLayer],
    options: Sequence[Sequence[Option]],
    weights: Sequence[float],
    request: Request,
) -> list[Option | None]:
    """Allocates; None keeps a layer dense."""
    share = request.params if request.params is not None else request.macs
    assert share is not None
    candidates: list[list[Option | None]] = []
    choices = []
    total = 0.0
    for layer, curve, weight in zip(layers, options, weights, strict=True):
        dense = _cost(layer, None, request)
        total += dense
        fine = [o for o in interpolate(curve, 4) if _cost(layer, o, request) < dense]
        candidates.append([*fine, None])
        choices.append(
            [
                *(Choice(cost=_cost(layer, o, request), damage=weight * o.error) for o in fine),
                Choice(cost=dense, damage=0.0),
            ]
        )
    picked = allocate(choices, share * total)
    return [options_[index] for options_, index in zip(candidates, picked, strict=True)]


def _cost(layer: ConvLayer, option: Option | None, request: Request) -> float:
    """Parameters nnz + M·R·S, or MACs HoWo·(C·M·R·S + nnz); of the dense layer for None."""
    d, C = layer.kernel_size, layer.weight.shape[1]
    positions = 1
    if request.params is None:
        if layer.output_positions is None:
            raise ValueError(f"{layer.name}: output size unknown, MACs cannot be counted")
        positions = layer.output_positions
    if option is None:
        return float(positions * layer.weight.size)
    basis = option.rank * d * (C if request.params is None else 1)
    return float(positions * (basis + option.keep))


def _setting(layer: ConvLayer, option: Option, request: Request) -> LayerSetting:
    coefficients = layer.weight.size // layer.kernel_size * option.rank
    keep = option.keep if option.keep < coefficients else None
    threshold = request.threshold
    return LayerSetting(rank=option.rank, keep=keep, pair=request.pair, threshold=threshold)


def _ranks(layer: ConvLayer, request: Request) -> tuple[int, ...]:
    d = layer.kernel_size
    budget = request.params is not None or request.macs is not None
    if request.rank is not None or not budget:
        return (min(request.rank or DEFAULT_RANK, d),)
    if request.density is not None:
        return tuple(range(1, d + 1))
    return tuple(sorted({max(1, round(d * share / 9)) for share in (3, 5, 7, 9)}))


def _densities(request: Request) -> tuple[float, ...]:
    if request.density is not None:
        return (request.density,)
    return DENSITIES if request.params is not None or request.macs is not None else (1.0,)


def _kernels(layer: ConvLayer) -> NDArray[np.float64]:
    """W as (K, C, d)."""
    K, C = layer.weight.shape[:2]
    return layer.weight.reshape(K, C, layer.kernel_size).astype(np.float64)


def _bias(layer: ConvLayer) -> Array32:
    return np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias
