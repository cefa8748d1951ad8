"""What a layer computes, in the accelerator's order of operations and in float64.

    decomposed   U[k, m] = Σ_c Ce[k, c, m]·X[c],   Y[k] = Σ_m U[k, m] ∗ B[m]
    plain        Y[k] = Σ_(c,r,s) W[k, c, r, s]·X[c] shifted by (r, s)

The first equals the second for W = Ce·B: both stages are linear and the padding is zero.
"""

from dataclasses import replace

import numpy as np

from runtimes.accelerator.workload import Array, Factors, Layer, taps

CHUNK = 2**24
"""Elements of the intermediate map that are held at once."""


def convolve(layer: Layer) -> Array:
    """The convolution alone, without bias: (K, Ho, Wo), float64."""
    parts = [
        _plain(each) if each.factors is None else _decomposed(each, each.factors)
        for each in layer.groups()
    ]
    return np.concatenate(parts)


def _plain(layer: Layer) -> Array:
    weight = layer.weight.astype(np.float64)
    y = np.zeros((layer.filters, layer.positions))
    for r, s, view in taps(layer.x.astype(np.float64), layer):
        y += weight[:, :, r, s] @ view.reshape(layer.channels, -1)
    return y.reshape(layer.filters, *layer.output_size)


def _decomposed(layer: Layer, factors: Factors) -> Array:
    C, H, W = layer.x.shape
    x = layer.x.reshape(C, H * W).astype(np.float64)
    basis = factors.basis.astype(np.float64)
    M = len(basis)
    at_once = max(1, CHUNK // (M * H * W))
    parts = []
    for start in range(0, layer.filters, at_once):
        coefficients = factors.coefficients[start : start + at_once].astype(np.float64)
        K = len(coefficients)
        combined = coefficients.transpose(0, 2, 1).reshape(K * M, C) @ x  # U, (K·M, H·W)
        u = combined.reshape(K * M, H, W)
        y = np.zeros((K, *layer.output_size))
        for r, s, view in taps(u, replace(layer, x=u)):
            y += np.tensordot(view.reshape(K, M, *layer.output_size), basis[:, r, s], (1, 0))
        parts.append(y)
    return np.concatenate(parts)
