"""Integer coefficients for the least error of a layer's output.

    minimise over v, s   tr(W·H·Wᵀ) − 2·tr(W·G),   W[k, n] = s[k, n]·v[k, n],  v whole, |v| ≤ vmax

with the moments H (D, D), G (D, K) of `passes.mathematics.moments`. One column of v at a time is
rounded to its best value given all others (coordinate descent: the loss never grows), which moves
the rounding error of a coefficient into the coefficients after it, as Optimal Brain Quantisation
does (Frantar and Alistarh 2022). Between the sweeps the scales s are refitted by least squares.
Ternary coefficients are vmax = 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHARES = np.linspace(0.15, 1.0, 35)
"""Parts of the largest coefficient that are tried as vmax·s."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerRows:
    """W[k, n] = scale[k]·levels[k, g]·v[k, n] for n in group g.

    Attributes:
        symbols: v (K, D), whole numbers.
        levels: (K, groups) whole numbers from 1.
        scale: (K,) positive.
        groups: (D,) group of each column.
    """

    symbols: Array
    levels: Array
    scale: Array
    groups: NDArray[np.int64]

    @property
    def weight(self) -> Array:
        """W (K, D)."""
        return self.scale[:, None] * self.levels[:, self.groups] * self.symbols


def fit_integers(
    H: Array,
    G: Array,
    start: Array,
    mask: Mask,
    *,
    largest: int,
    groups: NDArray[np.int64],
    max_level: int,
    rounds: int = 3,
    sweeps: int = 2,
) -> IntegerRows:
    """Fits symbols, levels and scales.

    Args:
        H: (D, D), positive definite.
        G: (D, K).
        start: (K, D) real coefficients, the best without rounding.
        mask: (K, D), true where a coefficient may be nonzero.
        largest: vmax.
        groups: (D,) which columns of a row share a scale, numbered from 0.
        max_level: largest ratio of scales in a row; 1 for one scale a row.
        rounds: refits of the scales.
        sweeps: of coordinate descent after each refit.
    """
    start = np.where(mask, start, 0.0)
    if max_level == 1:
        groups = np.zeros_like(groups)
    s = _first_scales(start, np.diag(H), largest, groups)  # (K, groups)
    v = _nearest(start, s[:, groups], largest)
    for _ in range(rounds):
        v = descend(H, G, v, s[:, groups], mask, largest, sweeps)
        v, s = _refit(H, G, v, s, groups)
    levels, scale = _split(s, max_level)
    v = descend(H, G, v, (scale[:, None] * levels)[:, groups], mask, largest, sweeps)
    whole = levels[:, groups] * v  # (K, D)
    power = np.einsum("kd,kd->k", whole @ H, whole)
    best = np.einsum("kd,dk->k", whole, G) / np.maximum(power, 1e-300)
    scale = np.where((power > 0) & (best > 0), best, scale)
    return IntegerRows(symbols=v, levels=levels, scale=scale, groups=groups)


def descend(H: Array, G: Array, v: Array, s: Array, mask: Mask, largest: int, sweeps: int) -> Array:
    """Coordinate descent over the columns of v (K, D) for fixed scales s (K, D)."""
    v = v.copy()
    gradient = G.T - (v * s) @ H  # (K, D)
    for _ in range(sweeps):
        moved = False
        for n in range(len(H)):
            best = v[:, n] + gradient[:, n] / (H[n, n] * s[:, n])
            new = np.where(mask[:, n], np.clip(np.rint(best), -largest, largest), 0.0)
            (rows,) = np.nonzero(new != v[:, n])
            if rows.size:
                change = (new - v[:, n])[rows] * s[rows, n]
                gradient[rows] -= change[:, None] * H[n]
                v[rows, n] = new[rows]
                moved = True
        if not moved:
            break
    return v


def _nearest(W: Array, s: Array, largest: int) -> Array:
    return np.clip(np.rint(W / s), -largest, largest)


def _first_scales(W: Array, weights: Array, largest: int, groups: NDArray[np.int64]) -> Array:
    """For every row and group the s of the least Σ H_nn·(W − s·v)², (K, groups)."""
    count = int(groups.max()) + 1
    peak = np.stack([np.abs(W[:, groups == g]).max(axis=1, initial=0) for g in range(count)], 1)
    peak[peak == 0] = 1.0
    member = np.zeros((W.shape[1], count))
    member[np.arange(W.shape[1]), groups] = 1.0
    best, least = peak / largest, np.full(peak.shape, np.inf)
    for share in SHARES:
        s = share * peak / largest
        spread = s[:, groups]
        loss = (np.square(W - spread * _nearest(W, spread, largest)) * weights) @ member
        best, least = np.where(loss < least, s, best), np.minimum(loss, least)
    return best


def _refit(
    H: Array, G: Array, v: Array, s: Array, groups: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Least-squares scales of every row for given symbols; negative ones turn the symbols."""
    count = s.shape[1]
    member = np.zeros((len(H), count))
    member[np.arange(len(H)), groups] = 1.0
    s, v = s.copy(), v.copy()
    for k, row in enumerate(v):
        Z = row[:, None] * member  # (D, groups)
        used = np.any(Z != 0, axis=0)
        if not used.any():
            continue
        A, b = Z[:, used].T @ (H @ Z[:, used]), Z[:, used].T @ G[:, k]
        A[np.diag_indices(len(A))] *= 1 + 1e-9
        solved = np.linalg.solve(A, b)
        new = np.where(np.abs(solved) > 1e-3 * s[k, used], solved, s[k, used])
        s[k, used] = np.abs(new)
        turned = np.ones(count)
        turned[used] = np.sign(new)
        v[k] *= turned[groups]
    return v, s


def _split(s: Array, max_level: int) -> tuple[Array, Array]:
    """Levels (K, groups), whole numbers from 1, and scales (K,) with levels·scale ≈ s."""
    scale = s.max(axis=1) / max_level
    return np.clip(np.rint(s / scale[:, None]), 1, max_level), scale
