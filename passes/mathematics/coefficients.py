"""Coefficients Ce of W[k, c] = Σ_m Ce[k, c, m]·B[m] for a given basis, dense or on a support.

With E = I_C ⊗ B (C·M, C·d), the loss tr(W·H·Wᵀ) − 2·tr(W·G) at W = Ce·E has the normal equations

    Ce·(E·H·Eᵀ) = (E·G)ᵀ

restricted, for each output channel, to its support. The matrix is shared by all channels.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

JITTER = 1e-10
"""Added to the diagonal, relative to its mean."""


def project(H: Array, G: Array, B: Array) -> tuple[Array, Array]:
    """Moments of the basis responses E·x.

    Args:
        H: (C·d, C·d).
        G: (C·d, K).
        B: (M, d).

    Returns:
        E·H·Eᵀ (C·M, C·M), positive definite even where rows of B depend on each other, and
        E·G (C·M, K).
    """
    M, d = B.shape
    C = len(H) // d
    half = H.reshape(C * d * C, d) @ B.T  # (C·d·C, M)
    half = half.reshape(C, d, C * M)
    full = np.einsum("mi,cix->cmx", B, half, optimize=True)  # (C, M, C·M)
    responses = np.einsum("mi,cik->cmk", B, G.reshape(C, d, -1), optimize=True)
    projected = full.reshape(C * M, C * M)
    projected[np.diag_indices(C * M)] += JITTER * np.trace(projected) / (C * M) + 1e-300
    return projected, responses.reshape(C * M, -1)


def solve_rows(H: Array, G: Array, mask: Mask) -> Array:
    """The best values on a given support, exactly: one solve for each output channel.

    Args:
        H: (D, D), positive definite.
        G: (D, K).
        mask: (K, D), true where a coefficient may be nonzero.

    Returns:
        (K, D) with exact zeros outside the mask.
    """
    if mask.all():
        return np.ascontiguousarray(np.linalg.solve(H, G).T)
    C = np.zeros(mask.shape)
    for k, row in enumerate(mask):
        (support,) = np.nonzero(row)
        if support.size:
            C[k, support] = np.linalg.solve(H[np.ix_(support, support)], G[support, k])
    return C


def improve_rows(H: Array, G: Array, mask: Mask, start: Array, iterations: int) -> Array:
    """A few conjugate-gradient steps towards `solve_rows`, for all rows at once.

    Preconditioned by diag(H); every iteration is one (K, D)·(D, D) product.

    Args:
        H: (D, D), positive definite.
        G: (D, K).
        mask: (K, D).
        start: (K, D); values outside the mask are ignored.
        iterations: number of steps.

    Returns:
        (K, D) with exact zeros outside the mask.
    """
    scale = 1.0 / np.maximum(np.diag(H), 1e-300)
    C = np.where(mask, start, 0.0)
    R = np.where(mask, G.T - C @ H, 0.0)
    Z = R * scale
    P, rz = Z, np.einsum("kd,kd->k", R, Z)
    for _ in range(iterations):
        HP = np.where(mask, P @ H, 0.0)
        step = rz / np.maximum(np.einsum("kd,kd->k", P, HP), 1e-300)
        C = C + step[:, None] * P
        R = R - step[:, None] * HP
        Z = R * scale
        new = np.einsum("kd,kd->k", R, Z)
        P = Z + (new / np.maximum(rz, 1e-300))[:, None] * P
        rz = new
    return C


def dense(B: Array, Ce: Array) -> Array:
    """W = Ce·B as a (K, C·d) matrix."""
    return (Ce @ B).reshape(len(Ce), -1)
