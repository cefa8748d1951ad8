"""Fits the factors of one layer to calibration samples, without gradients.

Targets come from the original network, inputs from the already compressed one, so every layer
also corrects the errors of those before it. Where the fitted value goes into a Relu, negative
targets need not be met, only kept negative (Zhang et al. 2015, "Accelerating very deep CNNs",
nonlinear asymmetric reconstruction); majorisation turns that into least squares with the same
H: where t ≤ 0 the target becomes min(ŷ, 0) of the current fit ŷ.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from passes.mathematics.basis import normalise, solve_basis, svd_basis
from passes.mathematics.coefficients import dense, improve_rows, project, solve_rows
from passes.mathematics.moments import Moments, moments
from passes.mathematics.selection import (
    AdmmConfig,
    keep_above_deviation,
    keep_largest,
    select_admm,
)

Array32 = NDArray[np.float32]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LayerSetting:
    """What the plan asks of one layer.

    Attributes:
        rank: M, number of basis kernels, at most the kernel size.
        keep: number of coefficients kept, None keeps all.
        pair: keep or drop all M coefficients of a channel pair together.
        threshold: keep |c| ≥ threshold·std instead of a number, when not None.
    """

    rank: int
    keep: int | None = None
    pair: bool = False
    threshold: float | None = None

    def select_largest(self, scores: Array) -> Mask:
        """The coefficients (or pairs) of the highest scores, (K, C·M) ≥ 0."""
        block = self.rank if self.pair else 1
        keep = scores.size if self.keep is None else self.keep
        return keep_largest(scores, block, min(keep, scores.size) // block)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Effort of the fit; the defaults are what the published tables use."""

    ridge: float = 1e-3
    basis_rounds: int = 8
    selection_rounds: int = 2
    refit_steps: int = 6
    relu_rounds: int = 3
    admm: AdmmConfig = field(default_factory=AdmmConfig)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Calibration rows of one layer, n rows of D = C·kernel size.

    Attributes:
        patches: (n, D) inputs in the compressed network.
        targets: (n, K) what the original network has where the fit is measured.
        shortcut: (n, K) what the compressed network adds to this layer, or None.
        relu: a Relu follows.
    """

    patches: Array32
    targets: Array32
    shortcut: Array32 | None
    relu: bool

    def convolution_targets(self, W: Array, bias: Array) -> Array32:
        """Targets of the convolution alone, given the current fit W (K, D)."""
        shortcut = 0.0 if self.shortcut is None else self.shortcut
        if not self.relu:
            return np.asarray(self.targets - shortcut, np.float32)
        fit = self.patches @ W.T.astype(np.float32) + bias.astype(np.float32) + shortcut
        return np.asarray(
            np.where(self.targets > 0, self.targets, np.minimum(fit, 0)) - shortcut, np.float32
        )

    def error(self, W: Array, bias: Array) -> float:
        """‖f(t) − f(ŷ)‖ / ‖f(t)‖ with f = Relu where one follows."""
        fit = self.patches @ W.T.astype(np.float32) + bias.astype(np.float32)
        if self.shortcut is not None:
            fit += self.shortcut
        return self.distance(fit)

    def distance(self, fit: Array32) -> float:
        """The same of given outputs (n, K), shortcut included."""
        target = self.targets
        if self.relu:
            fit, target = np.maximum(fit, 0), np.maximum(target, 0)
        norm = float(np.linalg.norm(target))
        return float(np.linalg.norm(fit - target)) / norm if norm else 0.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Factors of a layer: B (M, d), Ce (K, C, M), bias (K,)."""

    basis: Array
    coefficients: Array
    bias: Array

    @property
    def weight(self) -> Array:
        """W = Ce·B, (K, C·d)."""
        return dense(self.basis, self.coefficients)


def fit_layer(
    samples: Samples, W: Array, bias: Array, setting: LayerSetting, config: FitConfig
) -> Fit:
    """Fits basis, coefficients and bias of one layer.

    Args:
        samples: calibration rows.
        W: (K, C, d) original weight.
        bias: (K,) original bias.
        setting: rank and sparsity.
        config: effort.
    """
    K, C, d = W.shape
    prior = W.reshape(K, C * d)
    raw = moments(samples.patches, samples.convolution_targets(prior, bias))
    problem = raw.with_ridge(config.ridge, prior)
    best = np.asarray(np.linalg.solve(problem.H, problem.G).T, np.float64)  # (K, C·d)
    B, Ce = svd_basis(best.reshape(K, C, d), setting.rank)
    mask = np.ones((K, C * setting.rank), bool)
    state = _State(raw=raw, problem=problem, B=B, Ce=Ce, mask=mask)
    state = state.alternate(config.basis_rounds, config.refit_steps)
    if setting.keep is not None or setting.threshold is not None:
        for _ in range(config.selection_rounds):
            mask = _select(state, setting, config.admm)
            state = replace(state, mask=mask).alternate(config.basis_rounds, config.refit_steps)
            state = _follow_relu(samples, state, prior, config, 1)
    state = _follow_relu(samples, state, prior, config, config.relu_rounds).finish()
    B, Ce = normalise(state.B, state.Ce)
    return Fit(basis=B, coefficients=Ce, bias=state.raw.bias(dense(B, Ce)))


@dataclass(frozen=True, kw_only=True)
class _State:
    """A fit under way: moments without and with ridge, factors, support (K, C·M)."""

    raw: Moments
    problem: Moments
    B: Array
    Ce: Array
    mask: Mask

    def alternate(self, rounds: int, steps: int) -> "_State":
        B, Ce = alternate(self.problem, self.B, self.Ce, self.mask, rounds, steps)
        return replace(self, B=B, Ce=Ce)

    def finish(self) -> "_State":
        """Exact coefficients for the basis, support and targets at hand."""
        H, G = project(self.problem.H, self.problem.G, self.B)
        return replace(self, Ce=solve_rows(H, G, self.mask).reshape(self.Ce.shape))


def alternate(
    problem: Moments, B: Array, Ce: Array, mask: Mask, rounds: int, steps: int
) -> tuple[Array, Array]:
    """Alternating least squares on a fixed support.

    Dense coefficients are solved exactly, sparse ones improved from where they are.

    Args:
        problem: moments of the layer.
        B: (M, d) start.
        Ce: (K, C, M) start.
        mask: (K, C·M) support of the coefficients.
        rounds: basis updates.
        steps: conjugate-gradient steps of every sparse coefficient update.
    """

    def coefficients(B: Array, Ce: Array) -> Array:
        H, G = project(problem.H, problem.G, B)
        if mask.all():
            return solve_rows(H, G, mask).reshape(Ce.shape)
        return improve_rows(H, G, mask, Ce.reshape(mask.shape), steps).reshape(Ce.shape)

    Ce = coefficients(B, Ce)
    if B.shape[1] == len(B) and mask.all():  # every W can be reached: the basis is free
        return B, Ce
    for _ in range(rounds):
        B, Ce = normalise(solve_basis(problem.H, problem.G, Ce, B), Ce)
        Ce = coefficients(B, Ce)
    return B, Ce


def _follow_relu(
    samples: Samples, state: _State, prior: Array, config: FitConfig, rounds: int
) -> _State:
    """Repeats: targets of the current fit, then one round of least squares."""
    for _ in range(rounds if samples.relu else 0):
        W = dense(state.B, state.Ce)
        targets = samples.convolution_targets(W, state.raw.bias(W))
        raw = state.raw.with_targets(samples.patches, targets)
        state = replace(state, raw=raw, problem=raw.with_ridge(config.ridge, prior)).alternate(
            1, config.refit_steps
        )
    return state


def _select(state: _State, setting: LayerSetting, admm: AdmmConfig) -> Mask:
    flat = state.Ce.reshape(len(state.Ce), -1)
    if setting.threshold is not None:
        return keep_above_deviation(flat, setting.threshold)
    H, G = project(state.problem.H, state.problem.G, state.B)
    return select_admm(H, G, flat, setting.select_largest, admm)


def fit_data_free(W: Array, bias: Array, setting: LayerSetting) -> Fit:
    """Truncated SVD, then selection by magnitude: no calibration data. W (K, C, d)."""
    B, Ce = svd_basis(W, setting.rank)
    flat = Ce.reshape(len(W), -1)
    if setting.threshold is not None:
        mask = keep_above_deviation(flat, setting.threshold)
    else:
        mask = setting.select_largest(np.square(flat))
    return Fit(basis=B, coefficients=np.where(mask.reshape(Ce.shape), Ce, 0.0), bias=bias)
