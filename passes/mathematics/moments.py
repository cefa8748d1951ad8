"""Least squares over a layer's outputs, reduced to second moments.

For a layer y = W·x + b with input patches x and targets t, after centring both,

    E‖W·x − t‖² = tr(W·H·Wᵀ) − 2·tr(W·G) + E‖t‖²,     H = E[x·xᵀ], G = E[x·tᵀ]

so every fit below needs only H (D, D) and G (D, K); the bias is t̄ − W·x̄. A layer that cannot have
a bias takes moments that are not centred. A ridge λ pulls W towards a prior W₀ (the original
weight): H ← H + λI, G ← G + λ·W₀ᵀ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Second moments of a layer, D = C·kernel size, channel-major.

    Attributes:
        H: (D, D) covariance of the patches.
        G: (D, K) covariance of patches and targets.
        x_mean: (D,); zero where moments are not centred, like `t_mean`.
        t_mean: (K,).
        t_power: E‖t − t̄‖², summed over outputs.
    """

    H: Array
    G: Array
    x_mean: Array
    t_mean: Array
    t_power: float

    def error(self, W: Array) -> float:
        """E‖W·x + b − t‖² / E‖t − t̄‖² at the best bias; W is (K, D)."""
        WH = W @ self.H
        loss = np.vdot(WH, W) - 2 * np.vdot(W.T, self.G) + self.t_power
        return max(float(loss), 0.0) / self.t_power if self.t_power > 0 else 0.0

    def bias(self, W: Array) -> Array:
        """The best bias for W (K, D): t̄ − W·x̄, (K,)."""
        return self.t_mean - W @ self.x_mean

    def with_ridge(self, strength: float, prior: Array) -> "Moments":
        """Adds λ = strength · mean diag(H), pulling towards `prior` (K, D)."""
        ridge = strength * float(np.trace(self.H)) / len(self.H) + 1e-12
        H = self.H + ridge * np.eye(len(self.H))
        power = self.t_power + ridge * float(np.vdot(prior, prior))
        return replace(self, H=H, G=self.G + ridge * prior.T, t_power=power)

    def with_targets(self, X: Array32, T: Array32, centred: bool = True) -> "Moments":
        """The same patches (rows, D) with new targets (rows, K): H is reused."""
        G, t_mean, t_power = _target_moments(X, T, self.x_mean, centred)
        return replace(self, G=G, t_mean=t_mean, t_power=t_power)


def moments(X: Array32, T: Array32, centred: bool = True) -> Moments:
    """Second moments of patches (rows, D) and targets (rows, K)."""
    H, x_mean = _input_moments(X, centred)
    G, t_mean, t_power = _target_moments(X, T, x_mean, centred)
    return Moments(H=H, G=G, x_mean=x_mean, t_mean=t_mean, t_power=t_power)


def own_moments(X: Array32, W: Array, bias: Array, centred: bool = True) -> Moments:
    """Second moments with the layer's own outputs W·x + b as targets: W (K, D), bias (K,).

    Without centring the bias must be zero.
    """
    H, x_mean = _input_moments(X, centred)
    G = H @ W.T
    power = float(np.vdot(W.T, G))
    return Moments(H=H, G=G, x_mean=x_mean, t_mean=W @ x_mean + bias, t_power=power)


def weight_moments(W: Array) -> Moments:
    """Moments of white inputs, H = I: errors are those of the weight (K, D)."""
    K, D = W.shape
    power = float(np.vdot(W, W))
    return Moments(H=np.eye(D), G=W.T, x_mean=np.zeros(D), t_mean=np.zeros(K), t_power=power)


def pooled(parts: Sequence[Moments]) -> Moments:
    """The mean of several moments: of one weight that several nodes use equally often.

    Means are those of the first; a bias belongs to one use.
    """
    first, count = parts[0], len(parts)
    if count == 1:
        return first
    H, G = np.mean([part.H for part in parts], axis=0), np.mean([part.G for part in parts], axis=0)
    return replace(first, H=H, G=G, t_power=sum(part.t_power for part in parts) / count)


def _input_moments(X: Array32, centred: bool) -> tuple[Array, Array]:
    x_mean = X.mean(axis=0, dtype=np.float64) if centred else np.zeros(X.shape[1])
    return _covariance(X, X, x_mean, x_mean), x_mean


def _target_moments(
    X: Array32, T: Array32, x_mean: Array, centred: bool
) -> tuple[Array, Array, float]:
    t_mean = T.mean(axis=0, dtype=np.float64) if centred else np.zeros(T.shape[1])
    near = t_mean.astype(np.float32)
    power = np.mean(np.square(T - near, dtype=np.float64), axis=0).sum()
    G = _covariance(X, T, x_mean, t_mean)
    return G, t_mean, float(power - np.sum(np.square(t_mean - near)))


def _covariance(A: Array32, B: Array32, a_mean: Array, b_mean: Array, chunk: int = 8192) -> Array:
    """E[(a − ā)·(b − b̄)ᵀ]: float32 within a chunk of rows, float64 across chunks.

    Means are taken off before products are formed, which would lose all digits where means are
    large, in float32 and so up to a rest: E[(a − m)·(b − n)ᵀ] − (ā − m)·(b̄ − n)ᵀ.
    """
    m, n = a_mean.astype(np.float32), b_mean.astype(np.float32)
    total = np.zeros((A.shape[1], B.shape[1]))
    for start in range(0, len(A), chunk):
        rows = slice(start, start + chunk)
        total += (A[rows] - m).T @ (B[rows] - n)
    return total / len(A) - np.outer(a_mean - m, b_mean - n)
