"""Allocation against all combinations."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics.allocation import (
    BudgetError,
    Choice,
    allocate,
    allocate_both,
    convex_hull,
)

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


def two_budgets(layers, first, second):
    """Choices of (cost, other cost, damage) as shares of two budgets."""
    return [
        [[Choice(cost=each[axis] / budget, damage=each[2]) for each in layer] for layer in layers]
        for axis, budget in enumerate((first, second))
    ]


numbers = st.integers(0, 20)
both = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5)


@settings(deadline=None, max_examples=80)
@given(st.lists(both, min_size=1, max_size=4), st.integers(1, 60), st.integers(1, 60))
def test_two_budgets_both_hold(layers, first, second):
    try:
        picks = allocate_both(*two_budgets(layers, first, second))
    except BudgetError:
        cheapest = [sum(min(each[axis] for each in layer) for layer in layers) for axis in (0, 1)]
        joint = itertools.product(*layers)
        assert cheapest[0] > first or cheapest[1] > second or len(list(joint)) > 1
        return
    for axis, budget in enumerate((first, second)):
        assert sum(layer[i][axis] for layer, i in zip(layers, picks, strict=True)) <= budget


def test_a_second_budget_that_is_ample_changes_nothing():
    layers = [[(c, 1, (10 - c) ** 2 * s) for c in range(11)] for s in (1, 3, 9)]
    first, second = two_budgets(layers, 15, 100)
    assert allocate_both(first, second) == allocate(first, 1)
    assert allocate_both(second, first) == allocate(first, 1)


def test_each_layer_gives_up_what_is_scarce():
    """One layer costs mostly parameters, the other work; either budget alone would spare one."""
    layers = [
        [(10 * i, i, (10 - i) ** 2) for i in range(11)],
        [(i, 10 * i, (10 - i) ** 2) for i in range(11)],
    ]
    first, second = two_budgets(layers, 55, 55)
    assert allocate_both(first, second) == [5, 5]
    assert allocate(first, 1)[1] == 10 and allocate(second, 1)[0] == 10
