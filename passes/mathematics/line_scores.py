"""How much a line of weights matters, and the best weights for the lines that remain.

For a layer y = W·x with W (K, D) and H = E[x·xᵀ] (D, D), an input channel c is d columns, W_c
(K, d): one, or for a convolution one for each element of its kernel. Losing it costs

    magnitude       ‖W_c‖²
    activation      tr(W_c·H_cc·W_cᵀ)
    second-order    tr(W_c·[(H⁻¹)_cc]⁻¹·W_cᵀ)        when the other weights are fitted again

each as a share of the layer's whole. Second-order: Optimal Brain Surgeon (Hassibi, Stork 1993),
summed over the outputs of a line. What remains, the columns S, is fitted by least squares,

    W'[:, S] = W·H[:, S]·(H[S, S] + λI)⁻¹, with λ pulling towards W[:, S].
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from passes.mathematics.moments import Moments

Array = NDArray[np.float64]
RIDGE = 1e-3
"""λ as a share of mean diag(H)."""


def line_energy(weight: Array, axis: int) -> Array:
    """Squared norm of every line along an axis, as a share of the whole; (size,)."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    energy = np.square(weight, dtype=np.float64).sum(axis=others)
    return np.asarray(energy / max(energy.sum(), 1e-300))


def input_damage(
    W: Array, H: Array, kind: Literal["activation", "second-order"], d: int = 1
) -> Array:
    """Share of E‖y‖² that is lost with every input channel; (C,).

    Args:
        W: (K, C·d).
        H: (C·d, C·d).
        kind: without or with a fit of the other weights.
        d: columns of a channel.
    """
    C = len(H) // d
    total = max(float(np.vdot(W @ H, W)), 1e-300)
    columns = W.reshape(len(W), C, d)  # (K, C, d)
    if kind == "activation":
        blocks = _diagonal_blocks(H, d)  # (C, d, d)
    else:
        ridge = RIDGE * np.trace(H) / len(H) + 1e-12
        inverse = np.asarray(np.linalg.inv(H + ridge * np.eye(len(H))), np.float64)
        blocks = np.asarray(np.linalg.inv(_diagonal_blocks(inverse, d)), np.float64)
    power = np.einsum("kci,kcj->cij", columns, columns, optimize=True)  # W_cᵀ·W_c
    return np.asarray(np.einsum("cij,cij->c", power, blocks) / total)


def output_power(W: Array, moments: Moments) -> Array:
    """E[(W·x)²] of every output, without a bias; (K,)."""
    centred = np.einsum("kd,kd->k", W @ moments.H, W)
    return np.asarray(centred + np.square(W @ moments.x_mean))


def refit(moments: Moments, W: Array, kept: NDArray[np.bool_]) -> Array:
    """The best W (K, D) with zeros in the columns that are not kept, pulled towards W."""
    part = Moments(
        H=moments.H[np.ix_(kept, kept)],
        G=moments.G[kept],
        x_mean=moments.x_mean[kept],
        t_mean=moments.t_mean,
        t_power=moments.t_power,
    ).with_ridge(RIDGE, W[:, kept])
    fitted = np.zeros_like(W)
    fitted[:, kept] = np.linalg.solve(part.H, part.G).T
    return fitted


def weakest(scores: Array, share: float) -> NDArray[np.bool_]:
    """The lowest scores that together are at most a share of all, and never all or none; (n,)."""
    order = np.argsort(scores, kind="stable")
    sums = np.cumsum(scores[order]) / max(float(scores.sum()), 1e-300)
    count = min(max(int(np.searchsorted(sums, share, side="right")), 1), max(len(scores) - 1, 0))
    chosen = np.zeros(len(scores), bool)
    chosen[order[:count]] = True
    return chosen


def _diagonal_blocks(H: Array, d: int) -> Array:
    """(C, d, d) of (C·d, C·d)."""
    C = len(H) // d
    each = np.arange(C)
    return np.asarray(H.reshape(C, d, C, d)[each, :, each])
