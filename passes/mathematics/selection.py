"""Sparse least squares: which coefficients to keep, and their best values.

    minimise tr(C·H·Cᵀ) − 2·tr(C·G)   subject to at most n nonzero blocks of C (K, D)

Blocks are single coefficients or all M coefficients of one channel pair. Selection is by ADMM
over the whole layer (ALPS, Meng et al. 2024, arXiv 2406.07831, algorithm 1) in coordinates
scaled to unit diagonal of H; survivors are then solved by `coefficients.solve_rows`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AdmmConfig:
    """Schedule of the selection.

    Attributes:
        iterations: number of steps.
        start: first penalty ρ, relative to the unit diagonal.
        growth: factor of ρ from step to step.
    """

    iterations: int = 80
    start: float = 0.03
    growth: float = 1.06


def keep_largest(scores: Array, block: int, n_blocks: int) -> Mask:
    """Mask (K, D) of the n blocks with the largest sums of scores (K, D)."""
    sums = scores.reshape(-1, block).sum(axis=1)
    mask = np.zeros(sums.size, bool)
    if n_blocks > 0:
        mask[np.argpartition(-sums, min(n_blocks, sums.size) - 1)[:n_blocks]] = True
    return np.repeat(mask, block).reshape(scores.shape)


def removal_costs(H: Array, C: Array) -> Array:
    """How much the loss grows when one coefficient goes and the rest of its row adapts.

    c² / [H⁻¹]ₙₙ (Optimal Brain Surgeon, Hassibi and Stork 1993, equation 5, without the ½).

    Args:
        H: (D, D), positive definite.
        C: (K, D), the unconstrained optimum.

    Returns:
        (K, D).
    """
    return np.asarray(np.square(C) / np.diag(np.linalg.inv(H)))


def keep_above_deviation(C: Array, s: float) -> Mask:
    """PENNI's rule: keep |c| ≥ s·std(C), over the layer (official code, step C)."""
    return np.asarray(np.abs(C) >= s * C.std())


def select_admm(
    H: Array, G: Array, start: Array, select: Callable[[Array], Mask], config: AdmmConfig
) -> Mask:
    """Chooses the support by ADMM.

    x-step: C = (G̃ᵀ + ρ(Z − U))(H̃ + ρI)⁻¹;  z-step: Z = largest elements of C + U;
    U ← U + C − Z; ρ grows so that C and Z agree at the end.

    Args:
        H: (D, D).
        G: (D, K).
        start: (K, D) initial coefficients.
        select: mask of what to keep by scores (K, D), larger is better.
        config: schedule.

    Returns:
        (K, D) mask.
    """
    scale = np.sqrt(np.maximum(np.diag(H), 1e-30))
    values, vectors = np.linalg.eigh(H / np.outer(scale, scale))
    target = (G / scale[:, None]).T @ vectors  # (K, D) in the eigenbasis
    C = start * scale
    Z = np.where(select(np.square(C)), C, 0.0)
    U = np.zeros_like(C)
    rho = config.start
    for _ in range(config.iterations):
        C = ((target + rho * ((Z - U) @ vectors)) / (values + rho)) @ vectors.T
        sum_ = C + U
        Z = np.where(select(np.square(sum_)), sum_, 0.0)
        U = (sum_ - Z) / config.growth  # U is scaled by 1/ρ
        rho *= config.growth
    return select(np.square(Z))
