"""How much a line of weights matters, and the best weights for the lines that remain.

For a layer y = W·x with W (K, C) and H = E[x·xᵀ] (C, C), losing input c costs

    magnitude       ‖W[:, c]‖²
    activation      ‖W[:, c]‖²·H[c, c]
    second-order    ‖W[:, c]‖² / (H⁻¹)[c, c]        when the other weights are fitted again

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


def input_damage(W: Array, H: Array, kind: Literal["activation", "second-order"]) -> Array:
    """Share of E‖y‖² that is lost with every input; (C,)."""
    power = np.square(W).sum(axis=0)  # (C,)
    total = max(float(np.vdot(W @ H, W)), 1e-300)
    if kind == "activation":
        return np.asarray(power * np.diag(H) / total)
    ridge = RIDGE * np.trace(H) / len(H) + 1e-12
    inverse = np.linalg.inv(H + ridge * np.eye(len(H)))
    return np.asarray(power / np.diag(inverse) / total)


def refit(moments: Moments, W: Array, kept: NDArray[np.bool_]) -> Array:
    """The best W (K, C) with zeros in the columns that are not kept, pulled towards W."""
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
