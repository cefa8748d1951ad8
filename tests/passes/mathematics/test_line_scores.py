"""Scores of lines against least squares on the rows themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics.line_scores import (
    RIDGE,
    input_damage,
    line_energy,
    output_power,
    refit,
    weakest,
)
from passes.mathematics.moments import moments, own_moments

ROWS, OUTPUTS = 300, 5


def layer(seed: int, C: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated rows (rows, C·d) and a weight (K, C·d)."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((ROWS, C * d)) @ rng.standard_normal((C * d, C * d)) + 0.5
    return X.astype(np.float32), rng.standard_normal((OUTPUTS, C * d))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), C=st.integers(2, 5), d=st.sampled_from([1, 3, 4]))
def test_activation_is_the_output_that_a_channel_makes(seed, C, d):
    X, W = layer(seed, C, d)
    damage = input_damage(W, moments(X, X, centred=False).H, "activation", d)
    own = [
        np.square(X[:, c * d : (c + 1) * d] @ W[:, c * d : (c + 1) * d].T).sum() for c in range(C)
    ]
    np.testing.assert_allclose(damage, np.array(own) / np.square(X @ W.T).sum(), rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), C=st.integers(2, 4), d=st.sampled_from([1, 3]))
def test_second_order_is_what_the_others_cannot_make_up_for(seed, C, d):
    X, W = layer(seed, C, d)
    H = moments(X, X, centred=False).H
    # With the ridge, the rows have as many more that reach each input alone.
    ridge = RIDGE * np.trace(H) / len(H) * ROWS
    rows = np.vstack([X.astype(np.float64), np.sqrt(ridge) * np.eye(C * d)])
    T = rows @ W.T
    damage = input_damage(W, H, "second-order", d) * np.square(X @ W.T).sum()
    for c in range(C):
        rest = np.delete(rows, np.arange(c * d, (c + 1) * d), axis=1)
        residual = T - rest @ np.linalg.lstsq(rest, T)[0]
        assert damage[c] == pytest.approx(np.square(residual).sum(), rel=1e-3)


def test_output_power_is_the_mean_square():
    X, W = layer(3, 4, 1)
    own = own_moments(X, W, np.zeros(OUTPUTS))
    np.testing.assert_allclose(output_power(W, own), np.square(X @ W.T).mean(axis=0), rtol=1e-4)


def test_refit_is_least_squares_on_what_remains():
    X, W = layer(4, 6, 1)
    kept = np.array([True, False, True, True, False, True])
    T = (X @ W.T).astype(np.float32)
    fitted = refit(moments(X, T, centred=False), W, kept)
    best = np.linalg.lstsq(X[:, kept].astype(np.float64), T)[0].T
    assert not fitted[:, ~kept].any()

    def loss(V):
        return np.square(X[:, kept] @ V.T - T).sum()

    assert loss(best) <= loss(fitted[:, kept]) < 1.01 * loss(best) < loss(W[:, kept])


def test_energies_are_shares_of_the_whole():
    weight = np.arange(24.0).reshape(2, 3, 4)
    energy = line_energy(weight, 1)
    np.testing.assert_allclose(energy, np.square(weight).sum(axis=(0, 2)) / np.square(weight).sum())
    assert line_energy(np.zeros((2, 3)), 0).tolist() == [0, 0]


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=9), st.floats(0.01, 0.9))
def test_the_weakest_are_the_lowest_and_neither_none_nor_all(scores, share):
    chosen = weakest(np.array(scores), share)
    assert 1 <= chosen.sum() < len(scores)
    assert np.array(scores)[chosen].max() <= np.array(scores)[~chosen].min()
