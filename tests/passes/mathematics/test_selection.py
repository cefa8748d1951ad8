"""Support selection against every possible support of a small problem."""

import itertools

import numpy as np
import pytest

from passes.mathematics.coefficients import solve_rows
from passes.mathematics.selection import (
    AdmmConfig,
    keep_above_deviation,
    keep_largest,
    removal_costs,
    select_admm,
)


def correlated(seed, D=9, K=2):
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((D, D)) + 2 * rng.standard_normal((D, 1))
    H = mix @ mix.T + 0.1 * np.eye(D)
    return H, H @ rng.standard_normal((D, K))


def loss(H, G, C):
    return np.einsum("kd,de,ke->", C, H, C) - 2 * np.vdot(C.T, G)


def baseline(H, G):
    return loss(H, G, solve_rows(H, G, np.ones(G.T.shape, bool)))


@pytest.mark.parametrize("block", [1, 3])
def test_admm_comes_near_the_best_of_all_supports(block):
    keep, excess, magnitude_excess = 6 // block, [], []
    for seed in range(12):
        H, G = correlated(seed)
        full = solve_rows(H, G, np.ones((2, 9), bool))
        floor = baseline(H, G)

        def select(scores):
            return keep_largest(scores, block, keep)

        def gap(mask, H=H, G=G, floor=floor):
            return loss(H, G, solve_rows(H, G, mask)) - floor

        best = np.inf
        for chosen in itertools.combinations(range(18 // block), keep):
            mask = np.zeros(18 // block, bool)
            mask[list(chosen)] = True
            best = min(best, gap(np.repeat(mask, block).reshape(2, 9)))
            if block == 1 and len(excess) >= 2:
                break  # 18,564 supports: only for two seeds
        found = select_admm(H, G, full, select, AdmmConfig())
        assert found.sum() == 6
        excess.append(gap(found) / best)
        magnitude_excess.append(gap(select(full**2)) / best)
    counted = excess[:2] if block == 1 else excess
    assert np.median(counted) < 2
    assert np.median(excess) < np.median(magnitude_excess)


def test_removal_cost_is_exact_for_one_coefficient():
    H, G = correlated(0)
    full = solve_rows(H, G, np.ones((2, 9), bool))
    costs = removal_costs(H, full)
    for k, n in itertools.product(range(2), range(9)):
        mask = np.ones((2, 9), bool)
        mask[k, n] = False
        growth = loss(H, G, solve_rows(H, G, mask)) - baseline(H, G)
        assert costs[k, n] == pytest.approx(growth, rel=1e-5, abs=1e-9)


def test_largest_blocks():
    scores = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(keep_largest(scores, 1, 2), scores >= 10)
    np.testing.assert_array_equal(keep_largest(scores, 3, 1), scores >= 9)
    assert not keep_largest(scores, 3, 0).any()
    assert keep_largest(scores, 1, 99).all()


def test_published_threshold():
    C = np.array([[3.0, -3.0, 0.1, -0.1]])
    np.testing.assert_array_equal(keep_above_deviation(C, 1.0), [[True, True, False, False]])
    assert keep_above_deviation(C, 0.0).all()
