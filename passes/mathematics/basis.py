"""The shared basis B of W[k, c] = Σ_m Ce[k, c, m]·B[m]: by SVD, or by least squares.

The loss tr(W·H·Wᵀ) − 2·tr(W·G) is quadratic in B for fixed Ce. PENNI (Li et al., ICML 2020),
section 3, decomposes by SVD; the fit against layer outputs is ours. d is the kernel size R·S.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def svd_basis(W: Array, rank: int) -> tuple[Array, Array]:
    """Best shared basis in the Frobenius norm, by uncentred SVD of the (K·C, d) kernels.

    The published code centres the kernels and drops the mean; without centring the truncation
    is optimal (Eckart–Young). Signs are canonical: the largest element of a row is positive.

    Args:
        W: (K, C, d).
        rank: M, at most d.

    Returns:
        B (M, d), orthonormal rows, and Ce (K, C, M).
    """
    K, C, d = W.shape
    _, vectors = np.linalg.eigh(np.einsum("kci,kcj->ij", W, W))
    B = vectors[:, ::-1][:, :rank].T  # (M, d)
    largest = B[np.arange(len(B)), np.abs(B).argmax(axis=1)]
    B = B * np.where(largest < 0, -1.0, 1.0)[:, None]
    return B, (W.reshape(K * C, d) @ B.T).reshape(K, C, len(B))


def spectrum(W: Array) -> Array:
    """Energies of the SVD basis, descending: ‖W − W_M‖² = Σ_{m ≥ M} energy_m. W (K, C, d)."""
    return np.maximum(np.linalg.eigvalsh(np.einsum("kci,kcj->ij", W, W))[::-1], 0.0)


def rank_for_energy(W: Array, share: float) -> int:
    """Smallest rank whose SVD basis keeps `share` of ‖W‖²; 1 for W = 0. W (K, C, d)."""
    energy = spectrum(W)
    if energy.sum() == 0:
        return 1
    kept = np.cumsum(energy) / energy.sum()
    return min(int(np.searchsorted(kept, share - 1e-12)) + 1, len(energy))


def solve_basis(H: Array, G: Array, Ce: Array, unused: Array) -> Array:
    """The best basis (M, d) for fixed coefficients.

    Normal equations over (m, s):  Σ_{n,t} A[m,s,n,t]·B[n,t] = R[m,s] with
    A = Σ_{c,e} P[c,m,e,n]·H[c,s,e,t], P = CeᵀCe, and R = Σ_{k,c} Ce[k,c,m]·G[c,s,k].

    Args:
        H: (C·d, C·d).
        G: (C·d, K).
        Ce: (K, C, M).
        unused: (M, d) kernels to take where the best one is zero, so that the rows stay a basis.
    """
    K, C, M = Ce.shape
    d = len(H) // C
    flat = Ce.reshape(K, C * M)
    P = (flat.T @ flat).reshape(C, M, C, M).transpose(1, 3, 0, 2).reshape(M * M, C * C)
    pairs = H.reshape(C, d, C, d).transpose(0, 2, 1, 3).reshape(C * C, d * d)
    A = (P @ pairs).reshape(M, M, d, d).transpose(0, 2, 1, 3).reshape(M * d, M * d)
    R = np.einsum("kcm,csk->ms", Ce, G.reshape(C, d, K), optimize=True).ravel()
    jitter = 1e-9 * np.trace(A) / len(A) + 1e-30
    B = np.linalg.solve(A + jitter * np.eye(len(A)), R).reshape(M, d)
    return np.where(B.any(axis=1, keepdims=True), B, unused)


def normalise(B: Array, Ce: Array) -> tuple[Array, Array]:
    """Unit-norm basis rows, the scale moved into Ce (K, C, M): the product is unchanged."""
    norms = np.linalg.norm(B, axis=1)
    norms[norms == 0] = 1.0
    return B / norms[:, None], Ce * norms
