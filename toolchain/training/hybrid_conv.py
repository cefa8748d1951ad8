"""A `HybridDecomposedConv` that can be trained: quantised forward, straight-through backward.

    W[k, c] = Σ_m s[k, m]·v[k, c, m]·B[m],     v = rint(clamp(c / s, −vmax, vmax))

Latent coefficients c and scales s are trained; rounding counts as the identity in the gradient,
which for s is the rule of LSQ (Esser et al. 2020). Scales are those the
file can hold: s[k, m] = scale[k]·levels[k, m] with whole levels. The basis B is trained in the same
way on its 8-bit grid. All parameters are relative to where they start or end, so that one learning
rate suits all layers. Responses are not rounded between the stages, which would cost M times the
memory; their range is kept instead (see `Bounded`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from passes.mathematics.hybrid_fit import INT8
from runtimes.operators.decomposed_conv import DecomposedWeights, read_geometry
from runtimes.operators.hybrid_conv import HybridWeights, read_scale, read_weights
from toolchain.training.hooks import Hook
from toolchain.training.int8_layers import Int8Weight
from toolchain.training.straight_through import quantize_through, round_through

INSIDE = 0.25
"""How far from its code a latent coefficient may start. Half a step would be its edge, where the
first updates turn many codes at once: the loss then grows before it falls."""


def convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """A convolution with the pads of ONNX: top, left, bottom, right."""
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = nn.functional.pad(x, (left, right, top, bottom)), 0, 0
    return nn.functional.conv2d(
        x, kernel, bias, tuple(strides), (top, left), tuple(dilations), groups
    )


class Bounded(Hook):
    """Keeps latent weights where codes are (BinaryConnect, Courbariaux et al. 2015).

    Those that are clamped still have a gradient; without the bound they would drift too far away
    to come back. The L1 norm of a basis kernel cannot grow either: it bounds the responses, whose
    8 bits were laid out for the kernel as it was.
    """

    def after_step(self, model: nn.Module) -> None:
        """Clamps them."""
        for layer in model.modules():
            if isinstance(layer, HybridConv2d | Int8Weight):
                layer.bound()


class HybridConv2d(nn.Module):
    """One layer.

    Args:
        node: the operator, quantised by `escalate`.
        start: the real factors it was quantised from. Latent coefficients start at the codes, and
            with these where in the cell of its code each one lies.
    """

    step: Tensor
    reach: Tensor
    unit: Tensor
    mask: Tensor

    def __init__(self, node: ir.Node, start: DecomposedWeights | None = None) -> None:
        super().__init__()
        weights, geometry = read_weights(node), read_geometry(node)
        x_scale, _ = read_scale(node, "x")
        lower, upper = (node.attributes[key].as_int() for key in ("lower", "upper"))
        y_scale, zero_point = read_scale(node, "y")
        self._output = (float(y_scale), lower - zero_point, upper - zero_point)
        self.geometry, self._weights = geometry, weights
        stored = int(np.abs(weights.symbols).max(initial=1))
        self.largest = 1 if stored == 1 else 7 if stored <= 7 else INT8
        self.max_level = INT8 // self.largest if weights.levels.max() > 1 else 1
        ones = (1,) * (weights.basis.ndim - 1)
        step = 1 / np.exp2(weights.shift.astype(np.float64)).reshape(-1, *ones) / x_scale
        unit = weights.scale[:, None].astype(np.float64) * weights.levels  # s (K, M)
        symbols = weights.symbols.astype(np.float64)
        latent, mask = symbols, symbols != 0
        if start is not None:
            mask = start.coefficients != 0
            latent = _latent(start, weights.basis * step) / unit[:, None]
            latent = np.clip(latent, symbols - INSIDE, symbols + INSIDE) * mask
        basis = _tensor(weights.basis / INT8)
        self.register_buffer("step", _tensor(step))
        self.register_buffer("reach", basis.abs().flatten(1).sum(dim=1))  # (M,)
        self.register_buffer("unit", _tensor(unit))
        self.register_buffer("mask", _tensor(mask))
        self.latent = nn.Parameter(_tensor(latent))  # (K, C, M), in units of `unit`
        # (M, R, S), in units of 127. A kernel of one tap is a factor, as the scales are.
        self.basis = nn.Parameter(basis, requires_grad=basis[0].numel() > 1)
        self.ratio = nn.Parameter(torch.ones(unit.shape))  # (K, M), in units of `unit`
        # About a tenth of the output's range; a power of two keeps biases exact.
        self._range = float(np.exp2(np.rint(np.log2(25.0 * y_scale))))
        self.bias = nn.Parameter(_tensor(weights.bias / self._range))

    def scales(self) -> tuple[Tensor, Tensor]:
        """Levels (K, M) and scale (K,) with s = scale·levels."""
        s = (self.unit * self.ratio).abs()
        scale = s.amax(dim=1) / self.max_level
        return round_through(s / scale[:, None]).clamp(1, self.max_level), scale

    def symbols(self) -> Tensor:
        """The codes v, (K, C, M)."""
        levels, scale = self.scales()
        unit = (self.unit / (levels * scale[:, None]))[:, None]
        return _codes(self.latent, unit, self.largest) * self.mask

    def kernels(self) -> Tensor:
        """The basis as whole numbers of 8 bits, (M, R, S)."""
        return round_through(self.basis.clamp(-1, 1) * INT8)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) real numbers → (N, K, H', W') likewise, on the grid of the output."""
        levels, scale = self.scales()
        coefficients = self.symbols() * (levels * scale[:, None])[:, None]
        kernel = torch.einsum("kcm,mrs->kcrs", coefficients, self.kernels() * self.step)
        geometry = self.geometry
        y = convolve(
            x, kernel, self.bias * self._range, geometry.strides, geometry.pads, geometry.dilations
        )
        return quantize_through(y if residual is None else y + residual, *self._output)

    @torch.no_grad()
    def bound(self) -> None:
        """Takes latent coefficients back to the edge of the codes, kernels to their first norm."""
        self.latent.clamp_(-self.largest, self.largest)
        norm = self.basis.abs().flatten(1).sum(dim=1)  # (M,)
        grown = norm > self.reach
        shrink = torch.where(grown, self.reach / norm, 1.0)  # a kernel may be all zero
        self.basis.mul_(shrink.reshape(-1, *[1] * (self.basis.ndim - 1)))

    @torch.no_grad()
    def weights(self) -> HybridWeights:
        """What the file stores."""
        levels, scale = self.scales()
        return replace(
            self._weights,
            basis=_array(self.kernels().round()).astype(np.int8),
            symbols=_array(self.symbols().round()).astype(np.int8),
            levels=_array(levels.round()).astype(np.int8),
            scale=_array(scale),
            bias=_array(self.bias * self._range),
        )


def _codes(latent: Tensor, unit: Tensor, largest: int) -> Tensor:
    """rint(clamp(latent·unit, −largest, largest)).

    The latent has the gradient of the identity, also where it is clamped: a ternary coefficient
    that is not zero could never become zero otherwise (see `Bounded`). The scale has that of LSQ.
    """
    steps = latent * unit.detach()
    scaled = (latent.detach() * unit).clamp(-largest, largest)
    codes = scaled.detach().round()
    return codes + (steps - steps.detach()) + (scaled - scaled.detach())


def _latent(start: DecomposedWeights, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients (K, C, M) of the quantised basis (M, R, S) that come nearest to W."""
    W = start.dense().astype(np.float64)
    flat = basis.reshape(len(basis), -1)  # (M, RS)
    return np.asarray(W.reshape(*W.shape[:2], -1) @ np.linalg.pinv(flat))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().float().numpy().copy()
