"""Shares a budget, or two, between layers.

Every layer has options of known cost and predicted damage, damages add up, and

    minimise Σ_l damage_l(o_l)   subject to   Σ_l cost_l(o_l) ≤ budget

is solved on the lower convex hulls of the layers: steps along the hulls are taken in the order
of damage saved per cost (Shoham and Gersho 1988, "Efficient bit allocation"; optimal up to one
step, Everett 1963).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MIXTURES = 20
"""Of two costs, so many of which are tried besides one cost alone."""
ROUNDING = 1e-9
"""Of sums of shares."""


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


Layers = Sequence[Sequence[Choice]]


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


def allocate(layers: Layers, budget: float) -> list[int]:
    """Picks one choice a layer.

    Args:
        layers: the choices of every layer, at least one each.
        budget: upper bound of the summed cost.

    Returns:
        The index of the picked choice, layer by layer.

    Raises:
        BudgetError: even the cheapest choices exceed the budget.
    """
    return _fill(layers, [(layers, budget)])


def allocate_both(first: Layers, second: Layers) -> list[int]:
    """Picks one choice a layer within two budgets.

    With w·first + (1 − w)·second as the cost the budgets have multipliers in the ratio w : 1 − w;
    of some w, the one that leaves the least damage is taken.

    Args:
        first: choices, whose costs are shares of the first budget.
        second: the same choices with their costs as shares of the second.

    Returns:
        The index of the picked choice, layer by layer.

    Raises:
        BudgetError: no cheapest choices keep both budgets.
    """
    budgets = [(first, 1 + ROUNDING), (second, 1 + ROUNDING)]
    found, failures = [], []
    for step in range(MIXTURES + 1):
        mixed = _mixed(first, second, step / MIXTURES)
        try:
            picks = _fill(mixed, budgets)
        except BudgetError as error:
            failures.append(error)
        else:
            damage = sum(own[i].damage for own, i in zip(first, picks, strict=True))
            found.append((damage, step, picks))
    if not found:
        raise failures[0]
    return min(found)[-1]


def _mixed(first: Layers, second: Layers, w: float) -> Layers:
    return [
        [
            Choice(cost=w * a.cost + (1 - w) * b.cost, damage=a.damage)
            for a, b in zip(ones, others, strict=True)
        ]
        for ones, others in zip(first, second, strict=True)
    ]


def _fill(order: Layers, budgets: Sequence[tuple[Layers, float]]) -> list[int]:
    """Takes steps along the hulls of `order`, the best first, as far as all budgets allow."""
    hulls = [convex_hull(choices) for choices in order]
    spent = []
    for layers, budget in budgets:
        least = sum(own[hull[0]].cost for own, hull in zip(layers, hulls, strict=True))
        if least > budget:
            raise BudgetError(f"at least {least:.6g} is needed, the budget is {budget:.6g}")
        spent.append(least)
    steps = [
        (-_saving(choices[before], choices[after]), layer, position)
        for layer, (choices, hull) in enumerate(zip(order, hulls, strict=True))
        for position, (before, after) in enumerate(pairwise(hull))
    ]
    taken = [0] * len(order)
    for _, layer, position in sorted(steps):
        before, after = hulls[layer][position : position + 2]
        costs = [own[layer][after].cost - own[layer][before].cost for own, _ in budgets]
        after_step = [old + cost for old, cost in zip(spent, costs, strict=True)]
        fits = all(new <= budget for new, (_, budget) in zip(after_step, budgets, strict=True))
        if taken[layer] == position and fits:
            taken[layer] += 1
            spent = after_step
    return [hull[position] for hull, position in zip(hulls, taken, strict=True)]


def _saving(before: Choice, after: Choice) -> float:
    """Damage saved per extra cost; never called with equal costs."""
    return (before.damage - after.damage) / (after.cost - before.cost)
