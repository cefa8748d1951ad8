"""Moments against least squares on the rows themselves."""

import numpy as np
import pytest

from passes.mathematics.moments import moments, own_moments


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    X = (rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6)) + 2).astype(np.float32)
    T = (X @ rng.standard_normal((6, 4)) - 1 + rng.standard_normal((400, 4))).astype(np.float32)
    return X, T


def test_solution_and_bias_are_those_of_lstsq(rows):
    X, T = rows
    m = moments(X, T)
    W = np.linalg.solve(m.H, m.G).T
    augmented = np.column_stack([X, np.ones(len(X))]).astype(np.float64)
    reference = np.linalg.lstsq(augmented, T.astype(np.float64))[0].T
    np.testing.assert_allclose(W, reference[:, :-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(m.bias(W), reference[:, -1], rtol=1e-3, atol=1e-4)


def test_error_is_that_of_the_rows(rows):
    X, T = rows
    m = moments(X, T)
    W = np.random.default_rng(0).standard_normal((4, 6))
    residual = X @ W.T + m.bias(W) - T
    expected = np.square(residual).sum() / np.square(T - T.mean(axis=0)).sum()
    assert m.error(W) == pytest.approx(expected, rel=1e-4)


def test_ridge_pulls_to_the_prior(rows):
    prior = np.random.default_rng(1).standard_normal((4, 6))
    m = moments(*rows).with_ridge(1e9, prior)
    np.testing.assert_allclose(np.linalg.solve(m.H, m.G).T, prior, atol=1e-6)


def test_new_targets_equal_new_moments(rows):
    X, T = rows
    again, fresh = moments(X, T).with_targets(X, T**2), moments(X, T**2)
    for name in ("H", "G", "x_mean", "t_mean", "t_power"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fresh, name))


def test_own_outputs_need_no_targets(rows):
    X, _ = rows
    rng = np.random.default_rng(2)
    W, b = rng.standard_normal((4, 6)), rng.standard_normal(4)
    own, direct = own_moments(X, W, b), moments(X, (X @ W.T + b).astype(np.float32))
    for name in ("H", "G", "t_mean", "t_power"):
        np.testing.assert_allclose(getattr(own, name), getattr(direct, name), rtol=1e-4, atol=1e-4)
    assert own.error(W) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(own.bias(W), b, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_large_means_take_no_digits(offset: float) -> None:
    """As the raw columns of a table have them: years, altitudes, prices."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((20_000, 6)) + offset).astype(np.float32)
    T = (X @ rng.standard_normal((6, 3)) + offset).astype(np.float32)
    centred_x, centred_t = (A.astype(np.float64) - A.mean(axis=0, dtype=np.float64) for A in (X, T))
    found = moments(X, T)
    np.testing.assert_allclose(found.H, centred_x.T @ centred_x / len(X), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.G, centred_x.T @ centred_t / len(X), rtol=0, atol=1e-4)
    assert found.t_power == pytest.approx(np.square(centred_t).sum() / len(X), rel=1e-6)
