"""Drops weights that became small, holds them at zero, and reports what is left.

Source: DeepHoyer (Yang et al., ICLR 2020) and PENNI (Li et al., ICML 2020): after training with a
regulariser, a threshold for each tensor, then training on with the zeros held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from passes.framework import ConfigError
from toolchain.training.hooks import Hook, has_groups, matching_parameters
from toolchain.training.modules import wrap_strings
from toolchain.training.regularizers import GroupName, group_axes

WEIGHT_AXES = 2
"""Of a weight; biases and scales of normalisation have one."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which weights are dropped.

    The size of a group is the root mean square of its elements, so that the same threshold serves
    groups of any extent; that of an element is its magnitude.
    """

    rule: Literal["threshold", "deviation", "sparsity", "remaining"] = field(
        metadata={
            "help": "size below value, or value·std of the tensor; or the smallest ones: a share "
            "of all groups, or of those that are left"
        }
    )
    value: float = field(metadata={"help": "of the rule"})
    groups: tuple[GroupName, ...] = field(
        default=("element",), metadata={"help": "dropped whole; one grouping after the other"}
    )
    parameters: tuple[str, ...] = field(
        default=("*",), metadata={"help": "globs of parameter names; biases stay"}
    )
    biases: bool = field(default=False, metadata={"help": "drop elements of biases as well"})

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ConfigError: the value makes no sense for the rule.
        """
        wrap_strings(self, "groups", "parameters")
        if not self.value >= 0:
            raise ConfigError(f"value is {self.value:g}, expected 0 or more")
        if self.rule in ("sparsity", "remaining") and self.value >= 1:
            raise ConfigError(f"value is {self.value:g}, expected a share below 1")
        if not self.groups:
            raise ConfigError("groups is empty; give element, or one or more groupings")


@dataclass(kw_only=True)
class Masks(Hook):
    """Which elements may differ from zero, by name of the parameter; a hook that holds zeros.

    Attributes:
        kept: boolean tensors of the parameters' shapes.
    """

    kept: dict[str, Tensor]

    @classmethod
    def of_nonzeros(cls, model: nn.Module, parameters: Sequence[str] = ("*",)) -> "Masks":
        """Holds the zeros that weights have now."""
        found = matching_parameters(model, parameters)
        return cls(kept={name: p.detach() != 0 for name, p in found if p.ndim >= WEIGHT_AXES})

    @classmethod
    def combined(cls, model: nn.Module, parts: Sequence["Masks"]) -> "Masks":
        """Holds what any of them does, in the parameters that the model has."""
        kept: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            found = [part.kept[name].to(parameter.device) for part in parts if name in part.kept]
            if found:
                kept[name] = torch.stack(found).all(0)
        return cls(kept=kept)

    def before_clip(self, model: nn.Module) -> None:
        """Sets gradients of dropped elements to zero, which would count in the norm."""
        for parameter, kept in self._held(model):
            if parameter.grad is not None:
                parameter.grad.mul_(kept)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Sets dropped elements to zero again, whatever the optimiser did with them."""
        for parameter, kept in self._held(model):
            parameter.mul_(kept)

    def _held(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Parameters and which of their elements may differ from zero, on the same device."""
        parameters = dict(model.named_parameters())
        for name, kept in self.kept.items():
            parameter = parameters[name]
            if kept.device != parameter.device:
                kept = self.kept[name] = kept.to(parameter.device)
            yield parameter, kept


def prune(model: nn.Module, config: PruneConfig) -> Masks:
    """Sets the small groups of every matching tensor to zero; returns what holds them there.

    Raises:
        ConfigError: no parameter matches.
    """
    masks = Masks(kept={})
    for name, parameter in matching_parameters(model, config.parameters):
        if parameter.ndim >= WEIGHT_AXES or config.biases:
            masks.kept[name] = keep_mask(parameter.detach(), config)
    masks.after_step(model)
    return masks


def keep_mask(weight: Tensor, config: PruneConfig) -> Tensor:
    """Which elements a rule keeps, boolean of the weight's shape.

    Groupings are applied one after the other, so that a share counts groups that are still there.
    """
    kept = weight != 0
    std = weight.std().item() if weight.numel() > 1 else 0.0
    for groups in config.groups:
        if has_groups(weight, groups):
            kept = kept & _keep_groups(weight * kept, groups, config, std)
    return kept


def _keep_groups(weight: Tensor, groups: GroupName, config: PruneConfig, std: float) -> Tensor:
    sizes = _sizes(weight, groups)  # broadcasts to the weight
    if config.rule in ("sparsity", "remaining"):
        left = sizes.numel() if config.rule == "sparsity" else int(torch.count_nonzero(sizes))
        dropped = sizes.numel() - left + round(config.value * left)
        ranks = sizes.flatten().argsort(stable=True).argsort().reshape(sizes.shape)
        return ranks >= dropped
    limit = config.value * (std if config.rule == "deviation" else 1.0)
    return sizes >= limit


def _sizes(weight: Tensor, groups: GroupName) -> Tensor:
    """Root mean square of every group, with axes of length 1 in place of those summed over."""
    if groups == "element":
        return weight.abs()
    axes = group_axes(weight.shape, groups)
    return weight.square().mean(dim=axes, keepdim=True).sqrt()


@dataclass(frozen=True, kw_only=True)
class TensorSparsity:
    """What is left of one weight.

    Attributes:
        name: of the parameter.
        shape: of the tensor.
        nonzero: elements that are not zero.
        outputs: slices of axis 0 that are not all zero.
        inputs: the same of axis 1.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    outputs: int
    inputs: int

    @property
    def size(self) -> int:
        """Elements in all."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True, kw_only=True)
class SparsityReport:
    """What is left of all weights (tensors of two axes or more) of a model."""

    tensors: tuple[TensorSparsity, ...]

    @property
    def nonzero(self) -> int:
        """Elements that are not zero."""
        return sum(tensor.nonzero for tensor in self.tensors)

    @property
    def size(self) -> int:
        """Elements in all."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def sparsity(self) -> float:
        """Share of elements that are zero."""
        return 1 - self.nonzero / self.size

    @property
    def compression(self) -> float:
        """Elements in all for each one that is left; infinite if none is."""
        return self.size / self.nonzero if self.nonzero else float("inf")


def report_sparsity(model: nn.Module, parameters: Sequence[str] = ("*",)) -> SparsityReport:
    """Counts what is left of every matching weight.

    Raises:
        ConfigError: no parameter matches.
    """
    found = matching_parameters(model, parameters)
    return SparsityReport(
        tensors=tuple(_count(name, p.detach()) for name, p in found if p.ndim >= WEIGHT_AXES)
    )


def _count(name: str, weight: Tensor) -> TensorSparsity:
    used = weight != 0
    return TensorSparsity(
        name=name,
        shape=tuple(weight.shape),
        nonzero=int(used.sum()),
        outputs=int(used.flatten(1).any(1).sum()),
        inputs=int(used.transpose(0, 1).flatten(1).any(1).sum()),
    )
