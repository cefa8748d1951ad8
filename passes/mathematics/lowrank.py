"""Rank-r factors W ≈ U·V of a layer y = W·x, truncated in the metric of its inputs.

With H = E[x·xᵀ] = L·Lᵀ the loss of any W' is E‖(W − W')·x‖² = ‖(W − W')·L‖², so the best factors
are those of the truncated SVD of W·L (whitening; Eckart and Young 1936). Its left singular vectors
are the principal components of the outputs, and no inverse is needed:

    W·H·Wᵀ = E·Λ·Eᵀ,   U = E_r,   V = E_rᵀ·W,   E‖(W − U·V)·x‖² = Σ_{i>r} λ_i

H = I is plain SVD. Where the targets are not W·x the optimum is reduced-rank regression (Izenman
1975): the same with the least-squares solution in the place of W.
"""

import numpy as np
from numpy.typing import NDArray

from passes.mathematics.moments import Moments

Array = NDArray[np.float64]


def principal_outputs(W: Array, H: Array | None = None) -> Array:
    """Orthonormal directions of the outputs, by falling energy; signs are canonical.

    Args:
        W: (K, D).
        H: (D, D), positive definite where D < K; None for I.

    Returns:
        E (K, min(K, D)): E_r·E_rᵀ·W is the best weight of rank r.
    """
    if W.shape[0] <= W.shape[1]:
        _, vectors = np.linalg.eigh(_times(W, H) @ W.T)
        return canonical_signs(vectors[:, ::-1])
    A = W if H is None else W @ np.linalg.cholesky(H)  # (K, D)
    _, right = np.linalg.eigh(A.T @ A)
    vectors, _ = np.linalg.qr(A @ right[:, ::-1])
    return canonical_signs(vectors)


def canonical_signs(E: Array) -> Array:
    """Columns of E (K, R) turned so that the largest element of each is positive."""
    largest = E[np.abs(E).argmax(axis=0), np.arange(E.shape[1])]
    return np.asarray(E * np.where(largest < 0, -1.0, 1.0))


def truncation_errors(E: Array, W: Array, H: Array | None = None) -> Array:
    """Relative squared error of every rank: Σ_{i>r} λ_i / Σ λ_i, λ_i = E_iᵀ·W·H·Wᵀ·E_i.

    Args:
        E: (K, R), from `principal_outputs`.
        W: (K, D).
        H: (D, D); another one than that of E measures E on other inputs; None for I.

    Returns:
        (R,), entry r − 1 for rank r.
    """
    V = E.T @ W  # (R, D)
    energy = np.maximum(np.einsum("rd,rd->r", _times(V, H), V), 0.0)
    total = max(float(np.einsum("kd,kd->", _times(W, H), W)), float(energy.sum()))
    return np.maximum(total - np.cumsum(energy), 0.0) / (total or 1.0)


def _times(W: Array, H: Array | None) -> Array:
    return W if H is None else W @ H


def rank_of_energy(errors: Array, share: float) -> int:
    """Smallest rank that keeps a share of the energy: 1 − errors[r − 1] ≥ share."""
    enough = np.flatnonzero(1 - errors >= share - 1e-12)
    return int(enough[0]) + 1 if len(enough) else len(errors)


def truncate(W: Array, E: Array, rank: int) -> tuple[Array, Array]:
    """U (K, r) and V (r, D) of one rank."""
    U = E[:, :rank]
    return U, U.T @ W


def regress(problem: Moments, rank: int) -> tuple[Array, Array]:
    """Best U (K, r) and V (r, D) for targets of their own, given moments with a ridge."""
    W = np.asarray(np.linalg.solve(problem.H, problem.G).T, np.float64)
    return truncate(W, principal_outputs(W, problem.H), rank)


def solve_second(problem: Moments, V: Array) -> Array:
    """The best U (K, r) for a given V (r, D): least squares on the compressed inputs V·x."""
    H = V @ problem.H @ V.T
    jitter = 1e-12 * float(np.trace(H)) / len(H) + 1e-30
    U = np.linalg.solve(H + jitter * np.eye(len(H)), V @ problem.G)
    return np.asarray(U.T, np.float64)
