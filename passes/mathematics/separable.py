"""Spatial factors of a convolution: a k×1 convolution, then a 1×k one.

    W[k, c, y, x] ≈ Σ_r U[k, r, x]·V[r, c, y]

a rank-r factorisation of W as (K·S, C·R) (SVD training, Yang et al., CVPRW 2020, "spatial"
decomposition). In the metric of the inputs it is not an SVD any more, since columns x of the
kernel see correlated inputs. It starts from the SVD in the metric of one column of the kernel, then
alternates: U by least squares, V by conjugate gradients.
"""

import numpy as np
from numpy.typing import NDArray

from passes.mathematics.lowrank import canonical_signs, principal_outputs
from passes.mathematics.moments import Moments

Array = NDArray[np.float64]
Shape = tuple[int, int, int, int]
"""K, C, R, S."""

ROUNDS = 2
STEPS = 6


def column_matrix(W: Array) -> Array:
    """W (K, C, R, S) as (K·S, C·R)."""
    K, C, R, S = W.shape
    return W.transpose(0, 3, 1, 2).reshape(K * S, C * R)


def column_metric(H: Array, shape: Shape) -> Array:
    """Covariance (C·R, C·R) of the inputs below one kernel column, from H (D, D)."""
    _, C, R, S = shape
    blocks = H.reshape(C * R, S, C * R, S)
    return np.asarray(np.einsum("axbx->ab", blocks) / S)


def start(W: Array, H: Array, rank: int) -> Array:
    """V (r, C·R) of the SVD in the metric of one column, for W (K, C, R, S)."""
    K, C, R, S = W.shape
    M = column_matrix(W)
    E = principal_outputs(M, column_metric(H, (K, C, R, S)))
    return E[:, :rank].T @ M


def product(U: Array, V: Array) -> Array:
    """The weight (K, D) of U (K, r, S) and V (r, C·R)."""
    return np.asarray(np.einsum("krx,ra->kax", U, V, optimize=True).reshape(len(U), -1))


def fit(problem: Moments, V: Array, shape: Shape, rounds: int = ROUNDS) -> tuple[Array, Array]:
    """Improves the factors in turns, from V (r, C·R).

    Args:
        problem: moments of the layer, with a ridge.
        V: where to start from.
        shape: of the weight.
        rounds: updates of V.

    Returns:
        U (K, r, S) and V (r, C·R) with rows of unit norm and canonical signs.
    """
    U = solve_rows(problem, V, shape)
    if len(V) < V.shape[1]:  # else every W can be reached: V is free
        for _ in range(rounds):
            V = _normalised(improve_columns(problem, U, V, STEPS))
            U = solve_rows(problem, V, shape)
    V = _normalised(V)
    return solve_rows(problem, V, shape), V


def solve_rows(problem: Moments, V: Array, shape: Shape) -> Array:
    """The best U (K, r, S) for V (r, C·R): least squares on the compressed inputs."""
    K, _, _, S = shape
    rank, A = V.shape
    half = np.einsum("ra,axd->rxd", V, problem.H.reshape(A, S, A * S), optimize=True)
    H = np.einsum("rxaw,qa->rxqw", half.reshape(rank, S, A, S), V, optimize=True)
    H = H.reshape(rank * S, rank * S)
    G = np.einsum("ra,axk->rxk", V, problem.G.reshape(A, S, K), optimize=True)
    jitter = 1e-12 * float(np.trace(H)) / len(H) + 1e-30
    U = np.linalg.solve(H + jitter * np.eye(len(H)), G.reshape(rank * S, K))
    return np.asarray(U.T.reshape(K, rank, S), np.float64)


def improve_columns(problem: Moments, U: Array, V: Array, steps: int) -> Array:
    """V (r, C·R) after some conjugate-gradient steps for fixed U (K, r, S).

    ∂loss/∂V[r, a] = 2·Σ_{k,x} U[k, r, x]·(W'·H − Gᵀ)[k, a, x].
    """
    K, _, S = U.shape

    def back(residual: Array) -> Array:  # (K, D) → (r, C·R)
        return np.asarray(
            np.einsum("krx,kax->ra", U, residual.reshape(K, -1, S), optimize=True), np.float64
        )

    residual = back(problem.G.T - product(U, V) @ problem.H)
    direction, energy = residual, float(np.vdot(residual, residual))
    for _ in range(steps):
        curved = back(product(U, direction) @ problem.H)
        curvature = float(np.vdot(direction, curved))
        if curvature <= 0 or energy <= 0:
            break
        step = energy / curvature
        V, residual = V + step * direction, residual - step * curved
        before, energy = energy, float(np.vdot(residual, residual))
        direction = residual + energy / before * direction
    return V


def _normalised(V: Array) -> Array:
    norms = np.linalg.norm(V, axis=1, keepdims=True)
    return canonical_signs((V / np.where(norms > 0, norms, 1.0)).T).T
