"""Predicted error of a layer for many ranks and densities, from its moments alone.

For every rank the basis is that of the SVD in the metric of the kernels' covariance, improved by
one least-squares round. For every density the support is chosen by removal cost and refitted by
a few conjugate-gradient steps. Errors are relative squared errors of the pre-activation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from passes.mathematics.basis import solve_basis, spectrum, svd_basis
from passes.mathematics.coefficients import dense, improve_rows, project
from passes.mathematics.moments import Moments
from passes.mathematics.selection import keep_largest, removal_costs

Array = NDArray[np.float64]

FLOOR = 1e-9
"""Relative squared error below which a fit counts as exact."""
REFIT_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to factor a layer.

    Attributes:
        rank: M.
        keep: number of nonzero coefficients.
        error: predicted E‖Δy‖² / E‖y − ȳ‖² (of the weight, ‖ΔW‖²/‖W‖², without calibration).
    """

    rank: int
    keep: int
    error: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Options of one layer, and the weights that belong to them.

    Attributes:
        options: by rank, then by rising density.
        weights: (K, C·d) of each.
    """

    options: tuple[Option, ...]
    weights: tuple[Array, ...]


def measured_curve(
    moments: Moments,
    prior: Array,
    ranks: Iterable[int],
    densities: Sequence[float],
    pair: bool,
) -> Curve:
    """Options from calibrated moments.

    Args:
        moments: of the layer, with ridge; targets are the layer's own outputs.
        prior: (K, C, d) weight.
        ranks: candidates for M.
        densities: rising shares of the coefficients.
        pair: drop all M coefficients of a channel pair together.
    """
    options: list[Option] = []
    weights: list[Array] = []
    for rank in ranks:
        B = _basis(moments, prior, rank)
        H, G = project(moments.H, moments.G, B)
        full = np.ascontiguousarray(np.linalg.solve(H, G).T)  # (K, C·M)
        scores = removal_costs(H, full)
        block = rank if pair else 1
        for density in densities:
            mask = keep_largest(scores, block, round(density * full.size) // block)
            Ce = full if mask.all() else improve_rows(H, G, mask, full, REFIT_STEPS)
            W = dense(B, Ce.reshape(*prior.shape[:2], rank))
            error = moments.error(W)
            options.append(Option(rank=rank, keep=int(mask.sum()), error=max(error, FLOOR)))
            weights.append(W)
    return Curve(options=tuple(options), weights=tuple(weights))


def weight_curve(
    W: Array, ranks: Iterable[int], densities: Sequence[float], pair: bool
) -> tuple[Option, ...]:
    """Options without calibration: SVD, then magnitudes; exact, as the basis is orthonormal.

    ‖W − W'‖² = Σ_{m ≥ M} energy_m + Σ dropped c².

    Args:
        W: (K, C, d).
        ranks: candidates for M.
        densities: shares of the coefficients.
        pair: drop all M coefficients of a channel pair together.
    """
    energy = spectrum(W)
    total = float(energy.sum()) or 1.0
    options = []
    for rank in ranks:
        _, Ce = svd_basis(W, rank)
        block = rank if pair else 1
        sizes = np.sort(np.square(Ce).reshape(-1, block).sum(axis=1))[::-1]
        kept = np.concatenate([[0.0], np.cumsum(sizes)])
        for density in densities:
            blocks = round(density * Ce.size) // block
            error = max(float(energy.sum() - kept[blocks]), 0.0) / total
            options.append(Option(rank=rank, keep=blocks * block, error=max(error, FLOOR)))
    return tuple(options)


def interpolate(options: Sequence[Option], points: int) -> list[Option]:
    """Adds options between neighbours of the same rank: log error is linear in the density.

    Args:
        options: by rank, then by rising density.
        points: options added between two neighbours.
    """
    result = []
    for before, after in pairwise(options):
        result.append(before)
        if before.rank != after.rank:
            continue
        for step in range(1, points + 1):
            t = step / (points + 1)
            error = before.error ** (1 - t) * after.error**t
            keep = round(before.keep + t * (after.keep - before.keep))
            result.append(Option(rank=before.rank, keep=keep, error=error))
    return [*result, *options[-1:]]


def _basis(moments: Moments, prior: Array, rank: int) -> Array:
    """SVD basis in the metric of the mean kernel covariance, and one round of least squares.

    S = mean over channels of the (d, d) diagonal blocks of H, S = LLᵀ; rows of W·L are truncated.
    """
    K, C, d = prior.shape
    blocks = np.einsum("csct->st", moments.H.reshape(C, d, C, d)) / C
    L = np.linalg.cholesky(blocks)
    basis, _ = svd_basis(prior @ L, rank)
    B = np.asarray(np.linalg.solve(L.T, basis.T).T, np.float64)  # (M, d)
    if rank == d:
        return B
    H, G = project(moments.H, moments.G, B)
    Ce = np.asarray(np.linalg.solve(H, G).T, np.float64)
    return solve_basis(moments.H, moments.G, Ce.reshape(K, C, rank), B)
