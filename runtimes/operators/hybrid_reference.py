"""`optc::HybridDecomposedConv` in numpy: exact integers, and float32 where the operator has it.

The definition that the function body and the native kernels are tested against.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from runtimes.operators.decomposed_conv import ConvGeometry
from runtimes.operators.hybrid_conv import HybridWeights

UInt8 = NDArray[np.uint8]
Int = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedArray:
    """values uint8 that stand for scale·(values − zero_point)."""

    values: UInt8
    scale: float
    zero_point: int


def responses(x: UInt8, x_zero_point: int, weights: HybridWeights, geometry: ConvGeometry) -> Int:
    """T (N, C, M, *out) of x (N, C, *spatial)."""
    kernel, n = weights.basis.shape[1:], len(geometry.strides)
    pads = [(geometry.pads[axis], geometry.pads[axis + n]) for axis in range(n)]
    centred = x.astype(np.int64) - x_zero_point
    padded = np.pad(centred, [(0, 0), (0, 0), *pads])
    extent = [d * (k - 1) + 1 for d, k in zip(geometry.dilations, kernel, strict=True)]
    windows = sliding_window_view(padded, extent, axis=tuple(range(2, 2 + n)))
    steps = (1, 1, *geometry.strides, *geometry.dilations)
    windows = windows[tuple(slice(None, None, step) for step in steps)]  # (N, C, *out, *kernel)
    axes = list(range(-n, 0))
    basis = weights.basis.astype(np.int64)
    R = np.tensordot(windows, basis, axes=(axes, list(range(1, n + 1))))  # (N, C, *out, M)
    shift = weights.shift.astype(np.int64)
    T = np.clip((R + ((1 << shift) >> 1)) >> shift, *weights.response_bounds)
    return np.moveaxis(T, -1, 2)


def accumulate(T: Int, weights: HybridWeights, group: int) -> Int:
    """The sums (N, K, *out) of responses T (N, C, M, *out)."""
    N, _, _, *out = T.shape
    Ce = weights.coefficients.astype(np.int64)
    Ce = Ce.reshape(group, len(Ce) // group, -1)  # (group, K/group, C/group·M)
    grouped = T.reshape(N, group, Ce.shape[2], -1)
    return np.asarray(Ce @ grouped).reshape(N, -1, *out)


def reference(
    x: QuantizedArray,
    weights: HybridWeights,
    geometry: ConvGeometry,
    *,
    y_scale: float,
    y_zero_point: int,
    bounds: tuple[int, int] = (0, 255),
    residual: QuantizedArray | None = None,
) -> UInt8:
    """The output (N, K, *out) of x (N, C, *spatial); the residual is like it."""
    T = responses(x.values, x.zero_point, weights, geometry)
    acc = accumulate(T, weights, geometry.group)
    one, per_channel = np.float32(y_scale), (-1, *(1,) * len(geometry.strides))
    u = acc.astype(np.float32) * (weights.scale / one).reshape(per_channel)
    u = u + (weights.bias / one).reshape(per_channel)
    if residual is not None:
        difference = residual.values.astype(np.float32) - np.float32(residual.zero_point)
        u = u + difference * (np.float32(residual.scale) / one)
    return np.clip(np.rint(u) + np.float32(y_zero_point), *bounds).astype(np.uint8)
