"""Integer least squares against exhaustive search, rounding, and its own objective."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics.integer_fit import descend, fit_integers


def problem(rng: np.random.Generator, D: int, K: int):  # type: ignore[no-untyped-def]
    A = rng.standard_normal((4 * D, D)) @ rng.standard_normal((D, D))
    W = rng.standard_normal((K, D))
    H = A.T @ A / len(A)
    return H, H @ W.T, W


def loss(H, G, W):  # type: ignore[no-untyped-def]
    return np.einsum("kd,kd->k", W @ H, W) - 2 * np.einsum("kd,dk->k", W, G)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 127]))
def test_descent_never_makes_it_worse_and_ends_where_no_single_step_helps(seed, largest) -> None:  # type: ignore[no-untyped-def]
    H, G, W = problem(np.random.default_rng(seed), 6, 3)
    s = np.full(W.shape, np.abs(W).max() / largest)
    start = np.clip(np.rint(W / s), -largest, largest)
    v = descend(H, G, start, s, np.ones(W.shape, bool), largest, 100)
    assert np.all(loss(H, G, v * s) <= loss(H, G, start * s) + 1e-9)
    for n, step in itertools.product(range(6), (-1, 1)):
        other = v.copy()
        other[:, n] = np.clip(other[:, n] + step, -largest, largest)
        assert np.all(loss(H, G, other * s) >= loss(H, G, v * s) - 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_ternary_fit_is_near_the_best_of_all_codes(seed: int) -> None:
    """Against every ternary row of six coefficients, each with its own best scale."""
    H, G, W = problem(np.random.default_rng(seed), 6, 4)
    fit = fit_integers(
        H, G, W, np.ones(W.shape, bool), largest=1, groups=np.zeros(6, np.int64), max_level=1
    )
    codes = np.array(list(itertools.product((-1, 0, 1), repeat=6)), float)
    power = np.einsum("nd,nd->n", codes @ H, codes)
    gain = (codes @ G) ** 2 / np.maximum(power, 1e-300)[:, None]  # (codes, K)
    best = -gain.max(axis=0)
    reached = loss(H, G, fit.weight)
    zero = np.zeros(len(W))
    assert np.all(reached <= zero + 0.75 * best)
    assert (reached.sum() / best.sum()) > 0.85


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(1, 127), (7, 18), (127, 1)]), st.booleans())
def test_what_is_returned_can_be_stored(seed, limits, zero_row) -> None:  # type: ignore[no-untyped-def]
    largest, max_level = limits
    rng = np.random.default_rng(seed)
    H, G, W = problem(rng, 12, 3)
    mask = rng.random(W.shape) < 0.6
    mask[0] &= not zero_row
    groups = np.tile(np.arange(3), 4)
    fit = fit_integers(H, G, W, mask, largest=largest, groups=groups, max_level=max_level)
    assert np.all(fit.symbols == np.rint(fit.symbols)) and np.abs(fit.symbols).max() <= largest
    assert not fit.symbols[~mask].any()
    assert fit.levels.min() >= 1 and fit.levels.max() <= max_level
    assert np.all(fit.scale > 0) and np.isfinite(fit.scale).all()


def test_more_bits_and_finer_scales_fit_better_than_plain_rounding() -> None:
    rng = np.random.default_rng(0)
    H, G, W = problem(rng, 40, 8)
    W = W * np.tile([1.0, 0.1], 20)  # two groups of different size
    G = H @ W.T
    groups, mask = np.tile([0, 1], 20), np.ones(W.shape, bool)
    errors = {
        (largest, level): loss(
            H,
            G,
            fit_integers(H, G, W, mask, largest=largest, groups=groups, max_level=level).weight,
        ).sum()
        - loss(H, G, W).sum()
        for largest, level in [(1, 1), (1, 127), (7, 18), (127, 1)]
    }
    assert errors[127, 1] < errors[7, 18] < errors[1, 127] < errors[1, 1]
    s = np.abs(W).max(axis=1, keepdims=True) / 7
    plain = loss(H, G, s * np.clip(np.rint(W / s), -7, 7)).sum() - loss(H, G, W).sum()
    assert errors[7, 18] < 0.7 * plain
