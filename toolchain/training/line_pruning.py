"""Penalties on coupled lines, their removal, and a report of how sparse they have become.

Structured Hoyer-Square of a group of lines with n_g = ‖w_g‖₂ over everything that goes with a line:

    S = (Σ n_g)² / Σ n_g²

Source: TPrune (Mao et al., 2021) for Hoyer-Square on lines, modelled from the abstract; DeepHoyer
(Yang et al., ICLR 2020) for its group form. TPrune takes rows or columns of one matrix; here a line
is all that is removed with it, so that what training makes small can go without a trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from passes.framework import ConfigError
from toolchain.training.hooks import Hook, check_penalty
from toolchain.training.lines import LineGroup, Place
from toolchain.training.pruning import Masks
from toolchain.training.regularizers import REGULARIZERS


@dataclass(frozen=True, kw_only=True)
class LinePenalty:
    """strength · Σ_groups regulariser of the norms of coupled lines.

    Attributes:
        regularizer: name in `REGULARIZERS`.
        strength: factor of the sum.
    """

    regularizer: str
    strength: float

    def __post_init__(self) -> None:
        """Checks name and range.

        Raises:
            ConfigError: the regulariser is unknown, or the strength is negative.
        """
        check_penalty(self.regularizer, self.strength)


@dataclass(frozen=True, kw_only=True)
class PenalisedLines(Hook):
    """A penalty on the lines of a model."""

    options: LinePenalty
    groups: Sequence[LineGroup]

    def penalty(self, model: nn.Module) -> Tensor:
        """The weighted sum over all groups, a scalar."""
        function = REGULARIZERS[self.options.regularizer]
        parameters = dict(model.named_parameters())
        terms = [function(group.norms(parameters), "element") for group in self.groups]
        return self.options.strength * torch.stack(terms).sum()


@dataclass(frozen=True, kw_only=True)
class LinePruneConfig:
    """Which lines are dropped: the weakest of the model, each compared with those of its group."""

    params: float | None = field(
        default=None,
        metadata={"help": "budget: share that is left of the parameters of weights with lines"},
    )
    threshold: float | None = field(
        default=None, metadata={"help": "instead: share of the mean energy of the group's lines"}
    )
    multiple: int = field(
        default=8, metadata={"help": "lines of a group (of each of its heads) remain one of it"}
    )

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ConfigError: an option makes no sense, or not one of budget and threshold is given.
        """
        if (self.params is None) == (self.threshold is None):
            raise ConfigError("give params or threshold, one of them")
        if self.params is not None and not 0 < self.params <= 1:
            raise ConfigError(f"params is {self.params:g}, expected a share above 0 and up to 1")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold:g}, expected a share below 1")
        if self.multiple < 1:
            raise ConfigError(f"multiple is {self.multiple}, expected 1 or more")


def prune_lines(model: nn.Module, groups: Sequence[LineGroup], config: LinePruneConfig) -> Masks:
    """Sets the weakest lines to zero, in all their weights.

    Returns what holds them there, and other zeros of weights as well.
    Every head of a group loses as many lines, its own weakest.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    energies = [group.norms(parameters).square() for group in groups]
    units = [_units(group, energy) for group, energy in zip(groups, energies, strict=True)]
    limit = _limit(groups, energies, units, parameters, config)
    masks = Masks.of_nonzeros(model)
    for group, energy, ranked in zip(groups, energies, units, strict=True):
        count = _count(_relative(energy, ranked), limit, config.multiple)
        kept = torch.zeros(len(group) + 1, dtype=torch.bool)
        kept[ranked[:, ranked.shape[1] - count :].reshape(-1)] = True
        kept[-1] = True
        for (name, axis), lines in group.members.items():
            shape = [-1 if other == axis else 1 for other in range(parameters[name].ndim)]
            mask = kept[lines].reshape(shape).expand(parameters[name].shape)
            mask = mask.to(parameters[name].device)
            masks.kept[name] = masks.kept.get(name, torch.ones_like(mask)) & mask
    masks.after_step(model)
    return masks


def _units(group: LineGroup, energy: Tensor) -> Tensor:
    """Lines of every head, weakest first, (heads, lines / heads)."""
    order = energy.cpu().argsort(stable=True)
    rows = group.rows[order]
    return torch.stack([order[rows == head] for head in range(group.heads)])


def _relative(energy: Tensor, units: Tensor) -> Tensor:
    """Energy of the j-th weakest lines of all heads, over the mean; ascending."""
    each = energy.cpu()[units].sum(0)
    return each / each.mean().clamp_min(torch.finfo(each.dtype).tiny)


def _count(relative: Tensor, limit: float, multiple: int) -> int:
    """Lines of a head that remain: those above the limit, one at least, rounded up."""
    count = max(1, int((relative > limit).sum()))
    return min(len(relative), -(-count // multiple) * multiple)


def _limit(
    groups: Sequence[LineGroup],
    energies: Sequence[Tensor],
    units: Sequence[Tensor],
    parameters: Mapping[str, Tensor],
    config: LinePruneConfig,
) -> float:
    """The given threshold, or the lowest one that comes within the budget."""
    if config.threshold is not None:
        return config.threshold
    relative = [_relative(e, u) for e, u in zip(energies, units, strict=True)]

    def left(limit: float) -> float:
        counts = [_count(each, limit, config.multiple) for each in relative]
        shares = [n / len(each) for n, each in zip(counts, relative, strict=True)]
        return _share_left(groups, shares, parameters)

    steps = torch.cat(relative).sort().values.tolist()
    low, high = -1, len(steps) - 1
    assert config.params is not None
    if left(steps[high]) > config.params:
        raise ConfigError(f"params={config.params:g} cannot be reached; lower multiple")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if left(steps[middle]) <= config.params else (middle, high)
    return float(steps[high])


def _share_left(
    groups: Sequence[LineGroup], shares: Sequence[float], parameters: Mapping[str, Tensor]
) -> float:
    """Share of the parameters with lines that is left when groups keep these shares of theirs."""
    along: dict[Place, float] = {}
    for group, share in zip(groups, shares, strict=True):
        for place, lines in group.members.items():
            lost = float((lines < len(group)).float().mean()) * (1 - share)
            along[place] = along.get(place, 1.0) - lost
    left: dict[str, float] = {}
    for (name, _), share in along.items():
        left[name] = left.get(name, float(parameters[name].numel())) * share
    return sum(left.values()) / sum(parameters[name].numel() for name in left)
