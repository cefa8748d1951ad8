"""Plans the PENNI decomposition of a whole network: rank and density of every layer.

Under a budget the plan minimises

    Σ_l D_l(e_l(rank, density)),    D_l = output error when only layer l is perturbed

where e_l is the predicted relative squared error of the layer and the output error is measured
by forward runs (see `passes.sensitivity`); without calibration D_l(e) = e is the error of the
weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import ConvLayer
from passes.framework import Progress
from passes.layerwise import LayerwiseCalibration
from passes.mathematics.basis import rank_for_energy, svd_basis
from passes.mathematics.curves import Curve, Option, measured_curve, weight_curve
from passes.mathematics.fit import FitConfig, LayerSetting
from passes.mathematics.moments import Moments, own_moments
from passes.mathematics.selection import keep_above_deviation
from passes.penni_budget import Budget, within_budgets
from passes.penni_fit import bias_of, kernels_of
from passes.rows import draw_rows
from passes.sensitivity import PROPORTIONAL, Damage, Sensitivity

Array32 = NDArray[np.float32]

DEFAULT_RANK = 5
PLAN_ROWS = 16384
PLAN_SAMPLES = 128
DENSITIES = (0.03, 0.06, 0.12, 0.2, 0.35, 0.6, 1.0)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks of the whole network.

    Attributes:
        rank: M of every layer; None lets a budget choose it, 5 without a budget.
        energy: instead of rank, the smallest M whose basis keeps this share of ‖W‖².
        density: share of coefficients kept in every layer; None lets a budget choose it.
        threshold: PENNI's s, keep |c| ≥ s·std; instead of density.
        params: budget, as a share of the parameters of the layers.
        macs: budget, as a share of the multiply-accumulates of the layers.
        pair: drop all coefficients of a channel pair together.
    """

    rank: int | None = None
    energy: float | None = None
    density: float | None = None
    threshold: float | None = None
    params: float | None = None
    macs: float | None = None
    pair: bool = False

    @property
    def budgets(self) -> dict[Budget, float]:
        """Those that are given."""
        given: dict[Budget, float | None] = {"params": self.params, "macs": self.macs}
        return {key: share for key, share in given.items() if share is not None}

    @property
    def has_budget(self) -> bool:
        """Whether layers share a budget."""
        return bool(self.budgets)


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """A setting and the error predicted for it.

    Attributes:
        setting: rank and number of coefficients.
        predicted_error: ‖Δy‖/‖y‖ of the pre-activation, ‖ΔW‖/‖W‖ without calibration.
    """

    setting: LayerSetting
    predicted_error: float


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
    options, damages = _curves(model, layers, request, calibration, seed, progress)
    if not request.has_budget:
        chosen: list[Option | None] = [_requested(curve) for curve in options]
    else:
        chosen = within_budgets(layers, options, damages, request.budgets)
    return {
        layer.name: LayerPlan(
            setting=_setting(layer, option, request), predicted_error=float(np.sqrt(option.error))
        )
        for layer, option in zip(layers, chosen, strict=True)
        if option is not None
    }


def _curves(
    model: ir.Model,
    layers: Sequence[ConvLayer],
    request: Request,
    calibration: LayerwiseCalibration | None,
    seed: int,
    progress: Progress,
) -> tuple[list[Sequence[Option]], list[Damage]]:
    """Options of every layer, and what errors of it do to the network."""
    options: list[Sequence[Option]] = []
    if calibration is None:
        for layer in layers:
            ranks, densities = _ranks(layer, request), _densities(layer, request)
            options.append(weight_curve(kernels_of(layer), ranks, densities, request.pair))
        return options, [PROPORTIONAL] * len(layers)
    damages = []
    analysis = _Analysis(model, layers, request, calibration, seed)
    for done, layer in enumerate(layers, start=1):
        curve, damage = analysis.of(layer)
        options.append(curve.options)
        damages.append(damage)
        progress(done, len(layers), layer.name)
    return options, damages


class _Analysis:
    """One walk through the unchanged network, measuring curves and damage."""

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
        self._probe = Sensitivity(self._walk) if request.has_budget else None

    def of(self, layer: ConvLayer) -> tuple[Curve, Damage]:
        """Options of the next layer, and what its errors do where there is a budget."""
        maps, prior = self._walk.maps(layer.name), kernels_of(layer)
        X, _ = draw_rows(maps, layer.weight.shape[2:], layer.geometry, PLAN_ROWS, self._rng)
        raw = own_moments(X, prior.reshape(len(prior), -1), bias_of(layer).astype(np.float64))
        problem = raw.with_ridge(FitConfig().ridge, prior.reshape(len(prior), -1))
        ranks, densities = _ranks(layer, self._request), _densities(layer, self._request)
        curve = measured_curve(problem, prior, ranks, densities, self._request.pair)
        damage = self._damage(layer, curve, raw)
        self._walk.commit(layer.name, layer.weight, bias_of(layer))
        return curve, damage

    def _damage(self, layer: ConvLayer, curve: Curve, moments: Moments) -> Damage:
        if self._probe is None:
            return PROPORTIONAL

        def option(place: int) -> tuple[Array32, Array32]:
            W = curve.weights[place]
            weight = W.reshape(layer.weight.shape).astype(np.float32)
            return weight, moments.bias(W).astype(np.float32)

        errors = [each.error for each in curve.options]
        return self._probe.curve(layer.name, (layer.weight, bias_of(layer)), errors, option)


def _requested(options: Sequence[Option]) -> Option:
    """Without a budget there is one rank and one density."""
    [option] = options
    return option


def _setting(layer: ConvLayer, option: Option, request: Request) -> LayerSetting:
    coefficients = layer.weight.size // layer.kernel_size * option.rank
    keep = option.keep if option.keep < coefficients else None
    threshold = request.threshold
    return LayerSetting(rank=option.rank, keep=keep, pair=request.pair, threshold=threshold)


def _ranks(layer: ConvLayer, request: Request) -> tuple[int, ...]:
    d = layer.kernel_size
    if request.energy is not None:
        return (rank_for_energy(kernels_of(layer), request.energy),)
    if request.rank is not None or not request.has_budget:
        return (min(request.rank or DEFAULT_RANK, d),)
    if request.density is not None:
        return tuple(range(1, d + 1))
    return tuple(sorted({max(1, round(d * share / 9)) for share in (3, 5, 7, 9)}))


def _densities(layer: ConvLayer, request: Request) -> tuple[float, ...]:
    if request.density is not None:
        return (request.density,)
    if request.threshold is not None:  # what the rule keeps of the SVD's coefficients
        [rank] = _ranks(layer, request)
        _, Ce = svd_basis(kernels_of(layer), rank)
        return (float(keep_above_deviation(Ce, request.threshold).mean()),)
    return DENSITIES if request.has_budget else (1.0,)
