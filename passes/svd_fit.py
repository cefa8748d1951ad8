"""Fits the planned splits of a whole network, layer by layer.

With `refit` every layer sees the inputs that the layers fitted before it produce, and corrects
their errors: reduced-rank regression on the original network's outputs. Without, it is the
truncation of its own weight on its own inputs, whose error is the one predicted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.framework import Context
from passes.linear import LinearLayer, LinearUse
from passes.mathematics import separable
from passes.mathematics.fit import Samples
from passes.mathematics.lowrank import (
    principal_outputs,
    regress,
    truncate,
    truncation_errors,
)
from passes.mathematics.moments import Moments, moments, pooled, weight_moments
from passes.rows import draw_rows, samples_at
from passes.split import Factors, Split, store
from passes.svd_plan import RIDGE, ROWS, visit
from passes.uses import dense, own_bias, uses_in_order
from runtimes.external_data import spill

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
"""U and V, see `passes.split.store`."""

RELU_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedSplit:
    """A layer's factors.

    Attributes:
        split: form and rank.
        factors: as they are stored.
        biases: (K,) of every use by its name; of a MatMul what is added to its bias.
        errors: relative error of every use's output by its name, of the weight without data.
    """

    split: Split
    factors: Factors
    biases: dict[str, NDArray[np.float32]]
    errors: dict[str, float]


def fit_network(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    chosen: Mapping[str, Split],
    context: Context,
    *,
    refit: bool,
) -> dict[str, FittedSplit]:
    """Fits every layer that has a split, by the layer's name.

    Args:
        model: prepared model, not changed.
        layers: that can be split.
        chosen: splits by name of the layer; others stay as they are.
        context: calibration, seed and progress.
        refit: fit to what the layers before leave, instead of truncating alone.
    """
    todo = [layer for layer in layers if layer.name in chosen]
    if context.calibration is None or not todo:
        return {layer.name: _fit_blind(layer, chosen[layer.name]) for layer in todo}
    fitting = _Fitting(model, todo, chosen, context, refit)
    for done, (use, layer) in enumerate(fitting.uses, start=1):
        fitting.fit(use, layer)
        context.progress(done, len(fitting.uses), f"fit {use.name}")
    return fitting.fitted


class _Fitting:
    """One walk through the network, fitting as it goes."""

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[LinearLayer],
        chosen: Mapping[str, Split],
        context: Context,
        refit: bool,
    ) -> None:
        assert context.calibration is not None
        self.uses = uses_in_order(model, layers)
        self.fitted: dict[str, FittedSplit] = {}
        self._chosen, self._refit = chosen, refit
        self._rng = np.random.default_rng(context.seed + 1)
        self._shared = self._fit_shared(model, layers, context)
        self._walk = context.calibration.walk(model, [use.name for use, _ in self.uses])

    def fit(self, use: LinearUse, layer: LinearLayer) -> None:
        """Fits the next use."""
        W, bias, split = layer.read(), own_bias(layer, use), self._chosen[layer.name]
        maps = self._walk.maps(use.name)
        X, picks = draw_rows(maps, layer.shape[2:], use.geometry, ROWS, self._rng)
        samples = samples_at(maps, X, picks, channels_last=use.geometry is None)
        if not self._refit:  # measured at the layer's own output
            samples = replace(samples, relu=False)
        raw = moments(X, samples.convolution_targets(W, bias), layer.takes_bias)
        if layer.name in self._shared:
            pair = self._shared[layer.name]
        elif self._refit:
            pair, raw = _regress(samples, raw, layer, W, split)
        else:
            pair = _truncate(raw, layer, W, split)
        fit = product(split, *pair)
        new_bias = raw.bias(fit)
        error = samples.error(fit, new_bias) if self._refit else float(np.sqrt(raw.error(fit)))
        kept = (fit, new_bias) if self._refit else (W, bias)
        self._walk.commit(use.name, *dense(layer, use, *kept))
        self._record(use, layer, pair, new_bias.astype(np.float32), error)

    def _record(
        self,
        use: LinearUse,
        layer: LinearLayer,
        pair: Pair,
        bias: NDArray[np.float32],
        error: float,
    ) -> None:
        if layer.name not in self.fitted:
            split = self._chosen[layer.name]
            factors = _stored(layer, split, pair)
            self.fitted[layer.name] = FittedSplit(
                split=split, factors=factors, biases={}, errors={}
            )
        self.fitted[layer.name].biases[use.name] = bias
        self.fitted[layer.name].errors[use.name] = error

    def _fit_shared(
        self, model: ir.Model, layers: Sequence[LinearLayer], context: Context
    ) -> dict[str, Pair]:
        """Factors of weights with several uses: they fit all original inputs alike."""
        shared = [layer for layer in layers if len(layer.uses) > 1]
        if not shared or context.calibration is None:
            return {}
        uses = uses_in_order(model, shared)
        walk = context.calibration.walk(model, [use.name for use, _ in uses])
        parts: dict[str, list[Moments]] = {}
        for use, layer in uses:
            W = layer.read()
            parts.setdefault(layer.name, []).append(visit(walk, use, layer, W, self._rng))
            walk.commit(use.name, *dense(layer, use, W))
        return {
            layer.name: _truncate(
                pooled(parts[layer.name]), layer, layer.read(), self._chosen[layer.name]
            )
            for layer in shared
        }


def product(split: Split, U: Array, V: Array) -> Array:
    """The dense weight (K, D) of two factors."""
    return separable.product(U, V) if split.form == "spatial" else U @ V


def _regress(
    samples: Samples, raw: Moments, layer: LinearLayer, W: Array, split: Split
) -> tuple[Pair, Moments]:
    """Best factors for the samples' targets, which behind a Relu follow the fit; and moments."""
    pair = _solve(raw.with_ridge(RIDGE, W), layer, split, None)
    for _ in range(RELU_ROUNDS if samples.relu else 0):
        fit = product(split, *pair)
        targets = samples.convolution_targets(fit, raw.bias(fit))
        raw = raw.with_targets(samples.patches, targets, layer.takes_bias)
        pair = _solve(raw.with_ridge(RIDGE, W), layer, split, pair)
    return pair, raw


def _solve(problem: Moments, layer: LinearLayer, split: Split, before: Pair | None) -> Pair:
    if split.form != "spatial":
        return regress(problem, split.rank)
    K, C, R, S = layer.shape
    if before is not None:
        return separable.fit(problem, before[1], (K, C, R, S), rounds=1)
    best = np.asarray(np.linalg.solve(problem.H, problem.G).T.reshape(K, C, R, S), np.float64)
    start = separable.start(best, problem.H, split.rank)
    return separable.fit(problem, start, (K, C, R, S))


def _truncate(own: Moments, layer: LinearLayer, W: Array, split: Split) -> Pair:
    problem = own.with_ridge(RIDGE, W)
    if split.form != "spatial":
        return truncate(W, principal_outputs(W, problem.H), split.rank)
    K, C, R, S = layer.shape
    start = separable.start(W.reshape(K, C, R, S), problem.H, split.rank)
    return separable.fit(problem, start, (K, C, R, S))


def _fit_blind(layer: LinearLayer, split: Split) -> FittedSplit:
    W = layer.read()
    if split.form == "spatial":
        own = weight_moments(W)
        pair = _truncate(own, layer, W, split)
        error = float(np.sqrt(own.error(product(split, *pair))))
    else:
        E = principal_outputs(W)
        pair = truncate(W, E, split.rank)
        error = float(np.sqrt(truncation_errors(E, W)[split.rank - 1]))
    return FittedSplit(
        split=split,
        factors=_stored(layer, split, pair),
        biases={use.name: own_bias(layer, use).astype(np.float32) for use in layer.uses},
        errors={use.name: error for use in layer.uses},
    )


def _stored(layer: LinearLayer, split: Split, pair: Pair) -> Factors:
    """Factors in memory, or in temporary files where the weight is in a file too."""
    factors = store(layer, split, *pair)
    if not isinstance(layer.tensor, ir.ExternalTensor):
        return factors
    first, second = spill(factors.first), spill(factors.second)
    return Factors(first=np.asarray(first), second=np.asarray(second))
