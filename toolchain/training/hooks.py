"""Where a training method acts inside a loop.

`Trainer` calls the hooks; in a loop of one's own that is

    loss = criterion(model(x), y) + penalty.penalty(model)
    loss.backward()
    optimizer.step()
    masks.after_step(model)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from passes.framework import ConfigError
from toolchain.training.modules import matches, wrap_strings
from toolchain.training.regularizers import LEAST_AXES, REGULARIZERS, Blocks, Groups


class Hook:
    """Does nothing; a method overrides what it needs.

    Hooks keep no state that changes from step to step, so a resumed run needs none.
    """

    def before_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before the first step of every epoch, counted from 0."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A scalar that is added to the loss, or None."""
        return None

    def before_clip(self, model: nn.Module) -> None:
        """Called before gradients are clipped, in runs that do."""

    def after_step(self, model: nn.Module) -> None:
        """Called after every step of the optimiser."""

    def after_run(self, model: nn.Module) -> None:
        """Called when all epochs are done."""


@dataclass(frozen=True, kw_only=True)
class Penalty(Hook):
    """strength · Σ_W Σ_groups regulariser(W): one term for each tensor, as DeepHoyer has it.

    Attributes:
        regularizer: name in `REGULARIZERS`.
        strength: factor of the sum.
        groups: what the elements are grouped by; terms of several groupings are added.
        parameters: globs of parameter names.
    """

    regularizer: str
    strength: float
    groups: Sequence[Groups] = ("element",)
    parameters: Sequence[str] = ("*",)

    def __post_init__(self) -> None:
        """Checks names and range.

        Raises:
            ConfigError: the regulariser is unknown, or the strength is negative.
        """
        wrap_strings(self, "groups", "parameters")
        check_penalty(self.regularizer, self.strength)
        if not self.groups:
            raise ConfigError("groups is empty; give element, or one or more groupings")

    def penalty(self, model: nn.Module) -> Tensor:
        """The weighted sum over trainable parameters, a scalar.

        Raises:
            ConfigError: no parameter matches.
        """
        function = REGULARIZERS[self.regularizer]
        terms = [
            function(parameter, groups)
            for _, parameter in matching_parameters(model, self.parameters)
            if parameter.requires_grad
            for groups in self.groups
            if has_groups(parameter, groups)
        ]
        return self.strength * torch.stack(terms).sum() if terms else torch.zeros(())


def check_penalty(regularizer: str, strength: float) -> None:
    """Checks what all penalties have.

    Raises:
        ConfigError: the regulariser is unknown, or the strength is negative.
    """
    if regularizer not in REGULARIZERS:
        known = ", ".join(REGULARIZERS)
        raise ConfigError(f"regularizer is '{regularizer}', known are {known}")
    if not strength >= 0:
        raise ConfigError(f"strength is {strength:g}, expected 0 or more")


def matching_parameters(
    model: nn.Module, globs: str | Sequence[str]
) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters whose name matches a glob, in the model's order.

    Raises:
        ConfigError: there is none.
    """
    globs = (globs,) if isinstance(globs, str) else globs
    found = [
        (name, parameter) for name, parameter in model.named_parameters() if matches(name, globs)
    ]
    if not found:
        raise ConfigError(f"no parameter is named like {' or '.join(globs)}")
    return iter(found)


def has_groups(tensor: Tensor, groups: Groups) -> bool:
    """Whether a tensor has enough axes: biases have elements but no channels to group by."""
    if isinstance(groups, tuple):
        return tensor.ndim > max(groups, default=0)
    return tensor.ndim >= (2 if isinstance(groups, Blocks) else LEAST_AXES[groups])
