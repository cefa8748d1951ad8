"""SVD training: layers that are trained as their own singular value decomposition.

    W = U·diag(|σ|)·V,   L = L_task + λ_o·L_o + λ_s·L_s(σ)
    L_o = Σ_layers ‖UᵀU − I‖² / r² + ‖V·Vᵀ − I‖² / r²

With U and V orthogonal, σ are the singular values, and a regulariser on them lowers the rank
without an SVD at any step. √|σ| goes to both factors.

Source: Yang et al., "Learning low-rank deep neural networks via singular vector orthogonality
regularization and singular value sparsification", CVPRW 2020, arXiv 2004.09031, and its code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from passes.framework import ConfigError
from toolchain.training.hooks import Hook
from toolchain.training.modules import matches, replace_module, wrap_strings

Form = Literal["channel", "spatial"]
Pair = tuple[int, int]
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
SIGMA = "*.sigma"
"""Glob of the singular values among a model's parameters, for `hooks.Penalty`."""
DENSE_ABOVE = 0.5
"""Share of the dense weights above which factors are multiplied in training. With 40 % of the MACs
an epoch of ResNet-56 takes 240 s of a core as two layers, 290 s multiplied (bfloat16, spatial)."""


@dataclass(frozen=True, kw_only=True)
class LowRankConfig:
    """Which layers are factored, and how."""

    form: Form = field(
        default="channel",
        metadata={"help": "convolutions as k×k and 1×1 (channel) or k×1 and 1×k (spatial)"},
    )
    start: Literal["weights", "random"] = field(
        default="weights", metadata={"help": "from the SVD of the weights, or of random ones"}
    )
    layers: tuple[str, ...] = field(default=("*",), metadata={"help": "globs of module names"})

    def __post_init__(self) -> None:
        """A single glob is a list of one."""
        wrap_strings(self, "layers")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Of a convolution."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution."""
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def layer(self, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
        """The convolution as a layer of its own."""
        K, C, R, S = weight.shape
        layer = nn.Conv2d(
            C,
            K,
            (R, S),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            bias=bias is not None,
        )
        return _filled(layer, weight, bias)


class LowRank(nn.Module):
    """A linear map W (K, D) as U (K·S, r), sigma (r) and V (r, D/S); S > 1 in the spatial form.

    In training at high rank the product is one dense layer, which costs less; otherwise the two
    factors are two layers, as in the file that is exported. Both compute the same.
    """

    def __init__(self, dense: nn.Conv2d | nn.Linear, form: Form) -> None:
        """Takes over the weight and bias of a layer."""
        super().__init__()
        self.form: Form = form if isinstance(dense, nn.Conv2d) else "channel"
        self.shape = tuple(dense.weight.shape)
        self.bias = dense.bias
        self.geometry = _geometry(dense) if isinstance(dense, nn.Conv2d) else None
        U, sigma, V = torch.linalg.svd(_as_matrix(dense.weight.detach(), self.form), False)
        self.U, self.sigma, self.V = (nn.Parameter(each.contiguous()) for each in (U, sigma, V))

    @property
    def rank(self) -> int:
        """Number of singular values."""
        return len(self.sigma)

    @property
    def weight(self) -> Tensor:
        """The dense weight, of the shape of the layer it was made of; in full precision."""
        with torch.autocast(self.U.device.type, enabled=False):
            return _as_weight((self.U * self.sigma.abs()) @ self.V, self.shape, self.form)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Weights of the first and the second layer, √|σ| on both."""
        root = self.sigma.abs().clamp_min(torch.finfo(self.sigma.dtype).tiny).sqrt()
        first, second = root[:, None] * self.V, self.U * root
        if self.geometry is None:
            return first, second
        K, C, R, S = self.shape
        if self.form == "channel":
            return first.reshape(-1, C, R, S), second[:, :, None, None]
        second = second.reshape(K, S, -1).transpose(1, 2)  # (K, r, S)
        return first.reshape(-1, C, R, 1), second[:, :, None, :]

    def forward(self, x: Tensor) -> Tensor:
        """What the dense layer takes and gives."""
        if self.training and self.U.numel() + self.V.numel() > DENSE_ABOVE * prod(self.shape):
            if self.geometry is None:
                return functional.linear(x, self.weight, self.bias)
            return self.geometry.apply(x, self.weight, self.bias)
        first, second = self.factors()
        if self.geometry is None:
            return functional.linear(functional.linear(x, first), second, self.bias)
        one, two = self._geometries(self.geometry)
        return two.apply(one.apply(x, first, None), second, self.bias)

    def plain(self) -> nn.Sequential:
        """The two layers as torch has them."""
        first, second = (factor.detach() for factor in self.factors())
        if self.geometry is None:
            return nn.Sequential(linear_layer(first, None), linear_layer(second, self.bias))
        one, two = self._geometries(self.geometry)
        return nn.Sequential(one.layer(first, None), two.layer(second, self.bias))

    def dense(self) -> nn.Conv2d | nn.Linear:
        """The layer that was factored, with the weight it has now."""
        weight = self.weight.detach()
        if self.geometry is None:
            return linear_layer(weight, self.bias)
        return self.geometry.layer(weight, self.bias)

    def orthogonality(self) -> Tensor:
        """‖UᵀU − I‖² / r² + ‖V·Vᵀ − I‖² / r², a scalar."""
        eye = torch.eye(self.rank, device=self.U.device, dtype=self.U.dtype)
        grams = (self.U.T @ self.U, self.V @ self.V.T)
        return torch.stack([(gram - eye).square().sum() for gram in grams]).sum() / self.rank**2

    def keep(self, chosen: Tensor) -> None:
        """Reduces the rank to the singular values at some indices (r')."""
        self.U = nn.Parameter(self.U.detach()[:, chosen])
        self.sigma = nn.Parameter(self.sigma.detach()[chosen])
        self.V = nn.Parameter(self.V.detach()[chosen])

    def _geometries(self, whole: Geometry) -> tuple[Geometry, Geometry]:
        """Of both convolutions."""
        if self.form == "channel":
            return whole, Geometry()
        (sy, sx), (py, px), (dy, dx) = whole.stride, whole.padding, whole.dilation
        return (
            Geometry(stride=(sy, 1), padding=(py, 0), dilation=(dy, 1)),
            Geometry(stride=(1, sx), padding=(0, px), dilation=(1, dx)),
        )


@dataclass(frozen=True, kw_only=True)
class Orthogonality(Hook):
    """λ_o · L_o over all factored layers.

    Attributes:
        strength: λ_o; the code of the paper has 1 on CIFAR-10 and 2 on ImageNet.
    """

    strength: float = 1.0

    def penalty(self, model: nn.Module) -> Tensor:
        """The weighted sum, a scalar."""
        terms = [layer.orthogonality() for _, layer in low_rank_layers(model)]
        return self.strength * torch.stack(terms).sum() if terms else torch.zeros(())


def factorize(model: nn.Module, config: LowRankConfig | None = None) -> nn.Module:
    """Replaces Conv2d (of one group, zero padding) and Linear by factored layers of full rank.

    The output layer of `nn.MultiheadAttention` stays.

    Args:
        model: changed in place.
        config: which layers and how; all, in channel form, if None.

    Returns:
        The model.

    Raises:
        ConfigError: no layer matches, or the model is a single layer.
    """
    config = config or LowRankConfig()
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and _can_be_factored(module)
        if matches(name, config.layers)
    ]
    if not found:
        raise ConfigError(f"no layer that can be factored is named like {config.layers}")
    for name, module in found:
        if config.start == "random":
            nn.init.kaiming_normal_(module.weight)
        replace_module(model, name, LowRank(module, config.form))
    return model


def low_rank_layers(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Factored layers by name, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LowRank))


def to_plain(model: nn.Module) -> nn.Module:
    """Replaces factored layers by pairs of ordinary ones in place, for export; gives the model."""
    for name, layer in list(low_rank_layers(model)):
        replace_module(model, name, layer.plain())
    return model


def _can_be_factored(module: nn.Conv2d | nn.Linear) -> bool:
    if isinstance(module, nn.Linear):
        # The output of nn.MultiheadAttention is never called: only its weight is read.
        return not isinstance(module, NonDynamicallyQuantizableLinear)
    explicit = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return module.groups == 1 and explicit


def _as_matrix(weight: Tensor, form: Form) -> Tensor:
    """(K, D), or (K·S, C·R) in the spatial form."""
    if form == "channel":
        return weight.reshape(len(weight), -1)
    K, C, R, S = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(K * S, C * R)


def _as_weight(matrix: Tensor, shape: tuple[int, ...], form: Form) -> Tensor:
    if form == "channel":
        return matrix.reshape(shape)
    K, C, R, S = shape
    return matrix.reshape(K, S, C, R).permute(0, 2, 3, 1)


def _geometry(layer: nn.Conv2d) -> Geometry:
    padding = layer.padding
    assert not isinstance(padding, str)  # refused by `factorize`
    return Geometry(
        stride=(layer.stride[0], layer.stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(layer.dilation[0], layer.dilation[1]),
    )


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear with such parameters."""
    outputs, inputs = weight.shape
    return _filled(nn.Linear(inputs, outputs, bias=bias is not None), weight, bias)


def _filled(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    layer = layer.to(weight.device, weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer
