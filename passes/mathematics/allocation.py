"""Shares one budget between layers.

Every layer has options of known cost and predicted damage, damages add up, and

    minimise Σ_l damage_l(o_l)   subject to   Σ_l cost_l(o_l) ≤ budget

is solved on the lower convex hulls of the layers: steps along the hulls are taken in the order
of damage saved per cost (Shoham and Gersho 1988, "Efficient bit allocation"; optimal up to one
step, Everett 1963).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


class BudgetError(ValueError):
    """The cheapest options together cost more than the budget; the message names both."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to treat a layer.

    Attributes:
        cost: in the unit of the budget.
        damage: predicted, additive over layers.
    """

    cost: float
    damage: float


def convex_hull(choices: Sequence[Choice]) -> list[int]:
    """Indices on the lower convex hull, cheapest first: cost rises, damage falls."""
    order = sorted(range(len(choices)), key=lambda i: (choices[i].cost, choices[i].damage))
    hull: list[int] = []
    for index in order:
        if hull and choices[index].damage >= choices[hull[-1]].damage:
            continue
        while len(hull) > 1 and _saving(choices[hull[-2]], choices[hull[-1]]) <= _saving(
            choices[hull[-2]], choices[index]
        ):
            hull.pop()
        hull.append(index)
    return hull


def allocate(layers: Sequence[Sequence[Choice]], budget: float) -> list[int]:
    """Picks one choice a layer.

    Args:
        layers: the choices of every layer, at least one each.
        budget: upper bound of the summed cost.

    Returns:
        The index of the picked choice, layer by layer.

    Raises:
        BudgetError: even the cheapest choices exceed the budget.
    """
    hulls = [convex_hull(choices) for choices in layers]
    spent = sum(choices[hull[0]].cost for choices, hull in zip(layers, hulls, strict=True))
    if spent > budget:
        raise BudgetError(f"at least {spent:.6g} is needed, the budget is {budget:.6g}")
    steps = [
        (-_saving(choices[before], choices[after]), layer, position)
        for layer, (choices, hull) in enumerate(zip(layers, hulls, strict=True))
        for position, (before, after) in enumerate(pairwise(hull))
    ]
    taken = [0] * len(layers)
    for _, layer, position in sorted(steps):
        choices, hull = layers[layer], hulls[layer]
        extra = choices[hull[position + 1]].cost - choices[hull[position]].cost
        if taken[layer] == position and spent + extra <= budget:
            taken[layer] += 1
            spent += extra
    return [hull[position] for hull, position in zip(hulls, taken, strict=True)]


def _saving(before: Choice, after: Choice) -> float:
    """Damage saved per extra cost; never called with equal costs."""
    return (before.damage - after.damage) / (after.cost - before.cost)
