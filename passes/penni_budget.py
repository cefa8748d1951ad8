"""Chooses rank and density of every layer for `penni`, within one budget or two."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from passes.conv import ConvLayer
from passes.mathematics.allocation import ROUNDING, Choice, allocate, allocate_both
from passes.mathematics.curves import Option, interpolate
from passes.sensitivity import Damage

Budget = Literal["params", "macs"]


def within_budgets(
    layers: Sequence[ConvLayer],
    options: Sequence[Sequence[Option]],
    damages: Sequence[Damage],
    budgets: Mapping[Budget, float],
) -> list[Option | None]:
    """One option a layer; None keeps it dense.

    Args:
        layers: convolutions of one group.
        options: of each.
        damages: of each, what its error does to the network.
        budgets: shares of parameters, MACs or both that these layers may keep.

    Raises:
        BudgetError: a budget is below the smallest factors.
        ValueError: a budget of MACs, and the output size of a layer is unknown.
    """
    candidates: list[list[Option | None]] = [
        [*(o for o in interpolate(curve, 4) if _saves(layer, o, budgets)), None]
        for layer, curve in zip(layers, options, strict=True)
    ]
    choices = [_choices(layers, candidates, damages, key, share) for key, share in budgets.items()]
    picked = allocate_both(*choices) if len(choices) > 1 else allocate(choices[0], 1 + ROUNDING)
    return [own[index] for own, index in zip(candidates, picked, strict=True)]


def _choices(
    layers: Sequence[ConvLayer],
    candidates: Sequence[Sequence[Option | None]],
    damages: Sequence[Damage],
    key: Budget,
    share: float,
) -> list[list[Choice]]:
    """What the candidates cost, as shares of a budget, and what harm they do."""
    budget = share * sum(_cost(layer, None, key) for layer in layers)
    return [
        [
            Choice(cost=_cost(layer, o, key) / budget, damage=damage.at(o.error) if o else 0.0)
            for o in own
        ]
        for layer, own, damage in zip(layers, candidates, damages, strict=True)
    ]


def _saves(layer: ConvLayer, option: Option, keys: Iterable[Budget]) -> bool:
    return all(_cost(layer, option, key) < _cost(layer, None, key) for key in keys)


def _cost(layer: ConvLayer, option: Option | None, key: Budget) -> float:
    """Parameters nnz + M·R·S, or MACs HoWo·(C·M·R·S + nnz); of the dense layer for None."""
    d, C = layer.kernel_size, layer.weight.shape[1]
    positions = 1
    if key == "macs":
        if layer.output_positions is None:
            raise ValueError(f"{layer.name}: output size unknown, MACs cannot be counted")
        positions = layer.output_positions
    if option is None:
        return float(positions * layer.weight.size)
    basis = option.rank * d * (C if key == "macs" else 1)
    return float(positions * (basis + option.keep))
