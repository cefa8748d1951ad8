"""What an accelerator is given: layers with their real weights and activations, as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.operators.decomposed_conv import ConvGeometry

Array = NDArray[Any]
Mask = NDArray[np.bool_]


class SimulationError(ValueError):
    """A model or input that cannot be simulated; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Factors of a decomposed kernel, W[k, c] = Σ_m Ce[k, c, m]·B[m].

    Attributes:
        basis: (M, R, S).
        coefficients: (K, C/group, M), zeros where dropped.
        bits: of a coefficient in the file, sign included; None where it is a real number.
    """

    basis: Array
    coefficients: Array
    bits: int | None = None

    @cached_property
    def is_ternary(self) -> bool:
        """Whether the nonzeros of every (k, m) have one magnitude: a sign and a shared scale."""
        size = np.abs(self.coefficients)  # (K, C, M)
        largest = size.max(axis=1, keepdims=True)
        return bool(np.all((size == 0) | (size >= largest * (1 - 1e-5))))

    def stored_bits(self, real_bits: int) -> int:
        """Bits of a nonzero coefficient on an accelerator; real numbers take `real_bits`."""
        return 1 if self.is_ternary else self.bits or real_bits


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution of one sample; a matrix product is a 1×1 convolution over its rows.

    Attributes:
        name: of the node.
        op_type: its operator.
        x: activations (C, H, W).
        weight: dense kernel (K, C/group, R, S).
        factors: what the file stores in its place, or None for a plain layer.
        geometry: strides, pads, dilations over two axes, and group.
        output_size: (Ho, Wo).
        stored: (K, Ho, Wo), true where the value written back, after all that is fused, is not 0.
        residual: nonzeros of what is added on the way out, (K, Ho, Wo) each, one after the other.
        fused: operators applied on the way out.
        input_name: value read.
        output_name: value written.
    """

    name: str
    op_type: str
    x: Array
    weight: Array
    factors: Factors | None
    geometry: ConvGeometry
    output_size: tuple[int, int]
    stored: Mask
    residual: Mask | None = None
    fused: tuple[str, ...] = ()
    input_name: str = ""
    output_name: str = ""

    @property
    def channels(self) -> int:
        """C."""
        return int(self.x.shape[0])

    @property
    def filters(self) -> int:
        """K."""
        return int(self.weight.shape[0])

    @property
    def kernel(self) -> tuple[int, int]:
        """(R, S)."""
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    @property
    def positions(self) -> int:
        """Ho·Wo."""
        return self.output_size[0] * self.output_size[1]

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense convolution."""
        return int(self.weight.size) * self.positions

    def groups(self) -> Iterator["Layer"]:
        """The convolution of every channel group as a layer of its own."""
        n = self.geometry.group
        if n == 1:
            yield self
            return
        K, C = self.filters // n, self.channels // n
        one = replace(self.geometry, group=1)
        for g in range(n):
            out, own = slice(g * K, (g + 1) * K), slice(g * C, (g + 1) * C)
            factors = self.factors and replace(
                self.factors, coefficients=self.factors.coefficients[out]
            )
            yield replace(
                self,
                x=self.x[own],
                weight=self.weight[out],
                factors=factors,
                geometry=one,
                stored=self.stored[out],
                residual=None if self.residual is None else self.residual[out],
            )


@dataclass(frozen=True, kw_only=True)
class HostOperation:
    """An operator that runs beside the accelerator.

    Attributes:
        name: of the node.
        op_type: its operator, with its domain where that is not ONNX's.
        reason: why the accelerator does not run it.
        elements: read and written.
    """

    name: str
    op_type: str
    reason: str
    elements: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A network's layers after one run.

    Attributes:
        layers: in execution order.
        host: all other operators that move data.
        outputs: of the network, as computed by the accelerator's arithmetic.
    """

    layers: tuple[Layer, ...]
    host: tuple[HostOperation, ...]
    outputs: dict[str, Array]


def padded(x: Array, geometry: ConvGeometry) -> Array:
    """X (C, H, W) with its zero padding, (C, H + pads, W + pads)."""
    top, left, bottom, right = geometry.pads
    return np.pad(x, ((0, 0), (top, bottom), (left, right)))


def taps(x: Array, layer: Layer) -> Iterator[tuple[int, int, Array]]:
    """For every kernel element (r, s) the view (C, Ho, Wo) of padded x that it multiplies."""
    (Ho, Wo), (sh, sw), (dh, dw) = (
        layer.output_size,
        layer.geometry.strides,
        layer.geometry.dilations,
    )
    full = padded(x, layer.geometry)
    for r in range(layer.kernel[0]):
        for s in range(layer.kernel[1]):
            rows = slice(r * dh, r * dh + (Ho - 1) * sh + 1, sh)
            columns = slice(s * dw, s * dw + (Wo - 1) * sw + 1, sw)
            yield r, s, full[:, rows, columns]


def tap_counts(layer: Layer) -> NDArray[np.int64]:
    """Kernel elements (H, W) that carry each input position to some output position."""
    counts = []
    for axis in range(2):
        size, out = layer.x.shape[1 + axis], layer.output_size[axis]
        place = np.arange(size)[:, None] + layer.geometry.pads[axis]
        place = place - np.arange(layer.kernel[axis]) * layer.geometry.dilations[axis]
        stride = layer.geometry.strides[axis]
        counts.append(((place >= 0) & (place % stride == 0) & (place // stride < out)).sum(1))
    return np.outer(counts[0], counts[1])
