"""Truncation in a metric against dense SVD, and against random factors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics import separable
from passes.mathematics.lowrank import (
    principal_outputs,
    rank_of_energy,
    regress,
    solve_second,
    truncate,
    truncation_errors,
)
from passes.mathematics.moments import moments, own_moments, pooled, weight_moments

shapes = st.tuples(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7))


def case(seed, K, D, rows=60):
    """W (K, D), inputs (rows, D) that are far from white, and their uncentred H."""
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((rows, D)) @ rng.standard_normal((D, D))).astype(np.float32)
    W = rng.standard_normal((K, D))
    return W, X, own_moments(X, W, np.zeros(K), centred=False).H


@settings(deadline=None, max_examples=40)
@given(shapes)
def test_loss_is_that_of_the_dropped_singular_values(given_):
    W, X, H = case(*given_)
    outputs = X.astype(np.float64) @ W.T  # (rows, K)
    values = np.linalg.svd(outputs, compute_uv=False)
    E = principal_outputs(W, H)
    errors = truncation_errors(E, W, H)
    for rank in range(1, E.shape[1] + 1):
        U, V = truncate(W, E, rank)
        loss = np.square(outputs - X @ (U @ V).T).sum()  # Eckart–Young: nothing is smaller
        assert loss == pytest.approx(np.square(values[rank:]).sum(), rel=1e-3, abs=1e-5)
        assert errors[rank - 1] == pytest.approx(loss / np.square(values).sum(), abs=1e-5)
        np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(shapes)
def test_white_inputs_give_plain_svd(given_):
    W, _, _ = case(*given_)
    own = weight_moments(W)
    errors = truncation_errors(principal_outputs(W, own.H), W, own.H)
    energy = np.square(np.linalg.svd(W, compute_uv=False))
    np.testing.assert_allclose(errors, 1 - np.cumsum(energy) / energy.sum(), atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(shapes)
def test_full_rank_is_exact_and_signs_are_canonical(given_):
    W, _, H = case(*given_)
    E = principal_outputs(W, H)
    U, V = truncate(W, E, E.shape[1])
    np.testing.assert_allclose(U @ V, W, atol=1e-8)
    np.testing.assert_allclose(principal_outputs(-W, H), E, atol=1e-6)
    assert (E[np.abs(E).argmax(axis=0), np.arange(E.shape[1])] > 0).all()


def test_both_sides_of_a_rectangle_agree():
    W, _, H = case(3, 9, 5)
    wide = np.linalg.eigh(W @ H @ W.T)[1][:, ::-1][:, :5]  # the (K, K) form, K > D
    E = principal_outputs(W, H)
    np.testing.assert_allclose(E @ E.T, wide @ wide.T, atol=1e-8)


def test_rank_of_energy_is_the_rule_of_the_paper():
    errors = np.array([0.5, 0.1, 0.03, 0.0])  # e: share of energy removed
    assert [rank_of_energy(errors, 1 - e) for e in (0.5, 0.3, 0.1, 0.05, 0.0)] == [1, 2, 2, 3, 4]


def test_no_random_factors_beat_the_truncation():
    W, _, H = case(4, 6, 6)
    E = principal_outputs(W, H)
    best = truncation_errors(E, W, H)[1]
    rng, power = np.random.default_rng(0), np.vdot(W @ H, W)
    for _ in range(200):
        V = truncate(W, E, 2)[1] + 0.1 * rng.standard_normal((2, 6))
        own = own_moments(np.zeros((1, 6), np.float32), W, np.zeros(6), centred=False)
        U = solve_second(type(own)(**{**own.__dict__, "H": H, "G": H @ W.T}), V)
        D = W - U @ V
        assert np.vdot(D @ H, D) / power >= best - 1e-12


def test_regression_reaches_targets_of_low_rank():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((200, 8)).astype(np.float32)
    low = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 8))
    T = (X @ low.T + 3).astype(np.float32)
    own = moments(X, T)
    U, V = regress(own, 2)
    np.testing.assert_allclose(U @ V, low, atol=1e-4)
    np.testing.assert_allclose(own.bias(U @ V), 3, atol=1e-4)
    np.testing.assert_allclose(solve_second(own, V), U, atol=1e-4)


def test_pooled_moments_are_those_of_all_rows():
    W, X, H = case(6, 3, 4)
    halves = [own_moments(part, W, np.zeros(3), centred=False) for part in (X[:30], X[30:])]
    np.testing.assert_allclose(pooled(halves).H, H, rtol=1e-5, atol=1e-6)


SHAPE = (5, 3, 3, 2)  # K, C, R, S


def spatial_problem(seed=0, shape=SHAPE):
    K, C, R, S = shape
    W, X, _ = case(seed, K, C * R * S, rows=400)
    return W, own_moments(X, W, np.zeros(K), centred=False)


def test_spatial_full_rank_is_exact():
    W, own = spatial_problem()
    rank = min(SHAPE[1] * SHAPE[2], SHAPE[0] * SHAPE[3])
    V = separable.start(W.reshape(SHAPE), own.H, rank)
    assert own.error(separable.product(*separable.fit(own, V, SHAPE))) < 1e-9


def test_spatial_factors_on_white_inputs_are_the_svd():
    W, _ = spatial_problem()
    own = weight_moments(W)
    energy = np.square(np.linalg.svd(separable.column_matrix(W.reshape(SHAPE)), compute_uv=False))
    for rank in (1, 3, 5):
        V = separable.start(W.reshape(SHAPE), own.H, rank)
        error = own.error(separable.product(*separable.fit(own, V, SHAPE)))
        assert error == pytest.approx(energy[rank:].sum() / energy.sum(), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_spatial_fit_improves_on_its_start(rank):
    W, own = spatial_problem(1)
    V = separable.start(W.reshape(SHAPE), own.H, rank)
    before = own.error(separable.product(separable.solve_rows(own, V, SHAPE), V))
    fitted = separable.fit(own, V, SHAPE)
    assert own.error(separable.product(*fitted)) <= before + 1e-12
    np.testing.assert_allclose(np.linalg.norm(fitted[1], axis=1), 1)


def test_spatial_rows_are_dense_least_squares():
    W, own = spatial_problem(2)
    K, C, R, S = SHAPE
    rng = np.random.default_rng(0)
    V = rng.standard_normal((2, C * R))
    X = rng.standard_normal((300, C * R * S)).astype(np.float32)
    own = own_moments(X, W, np.zeros(K), centred=False)
    Z = np.einsum("nax,ra->nrx", X.reshape(-1, C * R, S), V).reshape(len(X), -1)
    reference = np.linalg.lstsq(Z, X @ W.T, rcond=None)[0].T.reshape(K, 2, S)
    np.testing.assert_allclose(separable.solve_rows(own, V, SHAPE), reference, atol=1e-4)
