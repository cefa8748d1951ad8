"""Quantises a decomposed layer: 8-bit basis responses, then integer coefficients for them.

    R = Σ_t B_q[m, t]·x_q[c, t],   T = clamp((R + 2^(shift − 1)) >> shift, −128, 127)

A unit of T[m] stands for s_T[m] = s_x·s_B[m]·2^shift[m]. The scale s_B[m] of the basis is free
above max|B[m]| / 127, and so is the clipping of T: the pair with the least error of the responses
on the calibration data is taken. After that T is exact, whole numbers, and the coefficients are
fitted to the layer's output on T: they absorb s_T.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passes.mathematics.coefficients import improve_rows
from passes.mathematics.fit import Samples
from passes.mathematics.integer_fit import IntegerRows, fit_integers
from passes.mathematics.moments import Moments, moments
from passes.mathematics.quantization import Affine
from runtimes.operators.hybrid_conv import MAX_SHIFT

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

LARGEST = {8: 127, 4: 7, 2: 1}
"""vmax by bits of a coefficient; two bits are ternary."""
INT8 = 127
RESPONSE_ROWS = 2048
RANGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Parts of the largest response that are tried as the range of T."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerBasis:
    """B[m] ≈ scale[m]·values[m], and how far responses are shifted.

    Attributes:
        values: (M, d) whole numbers, |.| ≤ 127.
        scale: (M,) s_B.
        shift: (M,) whole numbers.
    """

    values: Array32
    scale: Array
    shift: NDArray[np.int64]

    def responses(self, x: Array32, channels: int) -> Array32:
        """T (n, C·M) of quantised patches x (n, C·d) less their zero point."""
        M, d = self.values.shape
        R = (x.reshape(-1, d) @ self.values.T) / np.exp2(self.shift).astype(np.float32)
        T = np.clip(np.floor(R + np.float32(0.5)), -128, 127)
        return T.reshape(-1, channels * M).astype(np.float32)


IDENTITY = IntegerBasis(
    values=np.ones((1, 1), np.float32), scale=np.ones(1), shift=np.zeros(1, np.int64)
)


@dataclass(frozen=True, kw_only=True, eq=False)
class HybridFit:
    """A quantised layer: basis, rows over T, bias (K,), and the relative error of its output."""

    basis: IntegerBasis
    rows: IntegerRows
    bias: Array
    error: float


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to search: rounds of the targets behind a Relu, and of the scales."""

    relu_rounds: int = 2
    scale_rounds: int = 3
    ridge: float = 1e-4


FULL = Effort()


def fit_hybrid(
    samples: Samples,
    B: Array,
    Ce: Array,
    bias: Array,
    code: Affine,
    *,
    bits: int,
    per_basis: bool = True,
    effort: Effort = FULL,
) -> HybridFit:
    """Quantises one layer.

    Args:
        samples: rows of the layer; patches are still real numbers.
        B: (M, d) basis.
        Ce: (K, C, M) coefficients; zeros stay zero.
        bias: (K,).
        code: of the input.
        bits: of a coefficient: 8, 4 or 2 (ternary).
        per_basis: a scale for each (output, basis) instead of each output; 8 bits have the latter.
        effort: of the fit.
    """
    K, C, M = Ce.shape
    x = code.quantize(samples.patches)
    basis = quantize_basis(B, x[:RESPONSE_ROWS], code.scale)
    T = basis.responses(x, C)
    unit = code.scale * basis.scale * np.exp2(basis.shift)  # s_T (M,)
    prior = (Ce * unit).reshape(K, C * M)  # coefficients of T
    mask = prior != 0
    of_T = replace(samples, patches=T)
    raw = moments(T, of_T.convolution_targets(prior, bias))
    largest = LARGEST[bits]
    levels = INT8 // largest if per_basis and bits < 8 else 1
    groups = np.tile(np.arange(M), C)
    rows = IntegerRows(symbols=prior, levels=np.ones((K, M)), scale=np.ones(K), groups=groups)
    for _ in range(1 + (effort.relu_rounds if samples.relu else 0)):
        problem = raw.with_ridge(effort.ridge, prior)
        rows = fit_integers(
            problem.H,
            problem.G,
            _solve(problem, prior, mask),
            mask,
            largest=largest,
            groups=groups,
            max_level=levels,
            rounds=effort.scale_rounds if bits < 8 else 1,
        )
        W = rows.weight
        raw = raw.with_targets(T, of_T.convolution_targets(W, raw.bias(W)))
    W = rows.weight
    best = raw.bias(W)
    return HybridFit(basis=basis, rows=rows, bias=best, error=of_T.error(W, best))


def _solve(problem: Moments, prior: Array, mask: Mask) -> Array:
    """Real coefficients to round: the prior improved a little on its support."""
    return improve_rows(problem.H, problem.G, mask, prior, 12)


def quantize_basis(B: Array, x: Array32, x_scale: float) -> IntegerBasis:
    """Chooses s_B and shift of every basis kernel by the error of its responses.

    Args:
        B: (M, d).
        x: (n, C·d) quantised patches less their zero point.
        x_scale: of the input.
    """
    d = B.shape[1]
    windows = x.reshape(-1, d)
    exact = windows.astype(np.float64) @ B.T  # (n·C, M), in units of x
    values, scales, shifts = [], [], []
    for m, kernel in enumerate(B):
        peak = float(np.abs(kernel).max()) or 1.0
        reach = float(np.abs(exact[:, m]).max()) or peak
        tried = [
            _quantize_kernel(kernel, peak / INT8, reach * part / INT8, finer)
            for part in RANGES
            for finer in (False, True)
        ]
        losses = [_response_loss(candidate, windows, exact[:, m]) for candidate in tried]
        value, scale, shift = tried[int(np.argmin(losses))]
        values.append(value)
        scales.append(scale)
        shifts.append(shift)
    return IntegerBasis(
        values=np.array(values, np.float32),
        scale=np.array(scales),
        shift=np.array(shifts, np.int64),
    )


def _quantize_kernel(
    kernel: Array, least: float, wanted: float, finer: bool
) -> tuple[Array, float, int]:
    """Values, s_B and shift; `wanted` is s_T / s_x.

    finer: the finest s_B, and s_T up to twice what is wanted; else s_T exact, and s_B up to
    twice as coarse as it could be.
    """
    steps = np.log2(wanted / least)
    shift = int(np.clip(np.ceil(steps) if finer else np.floor(steps), 0, MAX_SHIFT))
    scale = least if finer else max(wanted / 2.0**shift, least)
    return np.clip(np.rint(kernel / scale), -INT8, INT8), scale, shift


def _response_loss(candidate: tuple[Array, float, int], windows: Array32, exact: Array) -> float:
    value, scale, shift = candidate
    R = windows @ value.astype(np.float32)
    T = np.clip(np.floor(R / np.float32(2.0**shift) + np.float32(0.5)), -128, 127)
    return float(np.square(T * (scale * 2.0**shift) - exact).sum())


def fit_dense(
    samples: Samples, W: Array, bias: Array, code: Affine, *, effort: Effort = FULL
) -> HybridFit:
    """Quantises an ordinary layer: 8-bit weights with a scale for each output.

    The basis is that of the identity: T is the quantised input itself.

    Args:
        samples: rows of the layer; patches are still real numbers.
        W: (K, D).
        bias: (K,).
        code: of the input.
        effort: of the fit.
    """
    x = code.quantize(samples.patches)
    prior = W * code.scale
    of_x = replace(samples, patches=x)
    raw = moments(x, of_x.convolution_targets(prior, bias))
    problem = raw.with_ridge(effort.ridge, prior)
    rows = fit_integers(
        problem.H,
        problem.G,
        prior,
        np.ones(W.shape, bool),
        largest=INT8,
        groups=np.zeros(W.shape[1], np.int64),
        max_level=1,
        rounds=0,
    )
    best = raw.bias(rows.weight)
    return HybridFit(basis=IDENTITY, rows=rows, bias=best, error=of_x.error(rows.weight, best))


def fit_grouped(samples: Samples, W: Array, bias: Array, code: Affine, group: int) -> HybridFit:
    """Quantises a grouped layer by rounding, and corrects the bias for the mean error.

    Args:
        samples: rows of the layer over all C channels.
        W: (K, C/group·d).
        bias: (K,).
        code: of the input.
        group: number of groups.
    """
    K, D = W.shape
    x = code.quantize(samples.patches).reshape(-1, group, D)
    prior = W * code.scale
    scale = np.abs(prior).max(axis=1) / INT8
    scale[scale == 0] = 1.0
    symbols = np.rint(prior / scale[:, None])
    error = (prior - scale[:, None] * symbols).reshape(group, K // group, D)
    mean = x.mean(axis=0, dtype=np.float64)  # (group, D)
    corrected = bias + np.einsum("gkd,gd->gk", error, mean).ravel()
    rows = IntegerRows(
        symbols=symbols, levels=np.ones((K, 1)), scale=scale, groups=np.zeros(D, np.int64)
    )
    Y = np.einsum("ngd,gkd->ngk", x, rows.weight.reshape(group, K // group, D), optimize=True)
    fit = Y.reshape(len(x), K) + corrected + (0 if samples.shortcut is None else samples.shortcut)
    return HybridFit(
        basis=IDENTITY, rows=rows, bias=corrected, error=samples.distance(fit.astype(np.float32))
    )
