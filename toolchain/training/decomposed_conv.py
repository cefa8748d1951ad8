"""Convolutions with a shared basis as modules that take the place of `nn.Conv2d`.

    W[k, c] = Σ_m Ce[k, c, m]·B[m]

Source: PENNI (Li et al., ICML 2020), step A; both factors are trained through W.
"""

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from passes.framework import ConfigError
from passes.mathematics.basis import svd_basis
from passes.mathematics.decomposition import Factors
from toolchain.training.modules import matches, replace_module, wrap_strings


@dataclass(frozen=True, kw_only=True)
class DecomposeConfig:
    """Which convolutions are decomposed, and how."""

    rank: int = field(default=5, metadata={"help": "basis kernels of every layer"})
    include: tuple[str, ...] = field(default=("*",), metadata={"help": "globs of module names"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "globs to leave alone"})

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ConfigError: the rank is below 1.
        """
        wrap_strings(self, "include", "exclude")
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was done with one convolution, and why."""

    layer: str
    applied: bool
    reason: str


class DecomposedConv2d(nn.Module):
    """A convolution that computes its weight from a basis (M, R, S) and coefficients (K, C, M).

    Geometry and bias are those of the convolution whose place it takes.
    """

    def __init__(self, conv: nn.Conv2d, basis: Tensor, coefficients: Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis.to(conv.weight))
        self.coefficients = nn.Parameter(coefficients.to(conv.weight))
        self.bias = conv.bias
        self._conv: nn.Conv2d  # no submodule: it has no weights that others could work on
        object.__setattr__(self, "_conv", _without_parameters(conv))

    @property
    def weight(self) -> Tensor:
        """The dense weight, (K, C, R, S)."""
        weight: Tensor = torch.einsum("kcm,mrs->kcrs", self.coefficients, self.basis)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K, H', W')."""
        y: Tensor = self._conv._conv_forward(x, self.weight, self.bias)
        return y

    def factors(self) -> Factors:
        """Basis, coefficients and bias as arrays."""
        basis, coefficients = (
            _array(each) for each in (self.basis.detach(), self.coefficients.detach())
        )
        bias = None if self.bias is None else _array(self.bias.detach())
        return Factors(basis=basis, coefficients=coefficients, bias=bias)

    def dense(self) -> nn.Conv2d:
        """An ordinary convolution with the same output."""
        conv = copy.copy(self._conv)
        conv._parameters = {
            "weight": nn.Parameter(self.weight.detach().clone()),
            "bias": None if self.bias is None else nn.Parameter(self.bias.detach().clone()),
        }
        return conv


def decompose(model: nn.Module, config: DecomposeConfig) -> tuple[Decision, ...]:
    """Replaces convolutions in place by the best decomposition of the rank.

    Returns:
        A decision for every convolution; those that are decomposed already stay as they are.

    Raises:
        ConfigError: no convolution can be decomposed.
    """
    decisions = []
    for name, conv in list(model.named_modules()):
        if isinstance(conv, DecomposedConv2d):
            decisions.append(Decision(layer=name, applied=False, reason="decomposed already"))
        if not isinstance(conv, nn.Conv2d):
            continue
        refusal = _refusal(name, conv, config)
        if refusal is None:
            replace_module(model, name, best_decomposition(conv, config.rank))
        kept = f"{config.rank} of {conv.weight[0, 0].numel()} basis kernels"
        decision = Decision(layer=name, applied=refusal is None, reason=refusal or kept)
        decisions.append(decision)
    if not any(decision.applied for decision in decisions):
        reasons = "; ".join(f"{each.layer}: {each.reason}" for each in decisions)
        raise ConfigError(f"nothing to decompose: {reasons or 'the model has no Conv2d'}")
    return tuple(decisions)


def best_decomposition(conv: nn.Conv2d, rank: int) -> DecomposedConv2d:
    """The module of this rank whose weight is nearest to that of a convolution."""
    K, C, R, S = conv.weight.shape
    kernels = conv.weight.detach().cpu().double().numpy().reshape(K, C, R * S)
    basis, coefficients = svd_basis(kernels, rank)  # (M, R·S), (K, C, M)
    return DecomposedConv2d(conv, torch.tensor(basis.reshape(-1, R, S)), torch.tensor(coefficients))


def decomposed_convs(model: nn.Module) -> dict[str, DecomposedConv2d]:
    """All decomposed convolutions by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DecomposedConv2d)
    }


def dense_copy(model: nn.Module) -> nn.Module:
    """A copy with ordinary convolutions in the place of decomposed ones."""
    dense = copy.deepcopy(model)
    for name, module in decomposed_convs(dense).items():
        replace_module(dense, name, module.dense())
    return dense


def _refusal(name: str, conv: nn.Conv2d, config: DecomposeConfig) -> str | None:
    size = conv.weight[0, 0].numel()
    if not matches(name, config.include):
        return f"not matched by include {' '.join(config.include)}"
    if matches(name, config.exclude):
        return f"matched by exclude {' '.join(config.exclude)}"
    if conv.groups > 1:
        return f"{conv.groups} groups: too few weights a kernel share a basis"
    if size == 1:
        return "1×1: no spatial kernel to decompose"
    return f"rank {config.rank} of {size} saves nothing" if config.rank > size else None


def _without_parameters(conv: nn.Conv2d) -> nn.Conv2d:
    """The geometry of a convolution; it holds no weights of its own."""
    bare = copy.copy(conv)
    bare._parameters = {"weight": None, "bias": None}
    return bare


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return tensor.float().cpu().contiguous().numpy().copy()
