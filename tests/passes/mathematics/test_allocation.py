"""Allocation against all combinations."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics.allocation import BudgetError, Choice, allocate, convex_hull

choices = st.lists(
    st.builds(Choice, cost=st.integers(0, 20), damage=st.integers(0, 50)), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=80)
@given(st.lists(choices, min_size=1, max_size=4), st.integers(0, 80))
def test_within_budget_and_within_one_step_of_the_best(layers, budget):
    def total(picks, key):
        return sum(getattr(layer[i], key) for layer, i in zip(layers, picks, strict=True))

    every = list(itertools.product(*(range(len(layer)) for layer in layers)))
    feasible = [picks for picks in every if total(picks, "cost") <= budget]
    cheapest = sum(min(choice.cost for choice in layer) for layer in layers)
    if cheapest > budget:
        with pytest.raises(BudgetError):
            allocate(layers, budget)
        return
    picks = allocate(layers, budget)
    assert total(picks, "cost") <= budget
    best = min(total(other, "damage") for other in feasible)
    step = max(
        (
            layer[a].damage - layer[b].damage
            for layer in layers
            for a, b in itertools.pairwise(convex_hull(layer))
        ),
        default=0,
    )
    assert best <= total(picks, "damage") <= best + step


def test_hull_drops_points_above_the_line():
    points = [Choice(cost=c, damage=d) for c, d in ((0, 10), (5, 9), (10, 0), (12, 3), (0, 11))]
    assert convex_hull(points) == [0, 2]


def test_sensitive_layer_gets_the_budget():
    def layer(s):
        return [Choice(cost=1, damage=s * 4), Choice(cost=2, damage=s), Choice(cost=3, damage=0)]

    assert allocate([layer(1), layer(10)], 4) == [0, 2]


def test_message_names_both_numbers():
    with pytest.raises(BudgetError, match="at least 3 is needed, the budget is 2"):
        allocate([[Choice(cost=3, damage=0)]], 2)
