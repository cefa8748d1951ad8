"""Basis and coefficient solves against dense least squares with Kronecker matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics.basis import normalise, rank_for_energy, solve_basis, spectrum, svd_basis
from passes.mathematics.coefficients import dense, improve_rows, project, solve_rows


def problem(seed, K=4, C=3, d=9, rows=200):
    """X (rows, C·d), T (rows, K) and their moments."""
    rng = np.random.default_rng(seed)
    X, T = rng.standard_normal((rows, C * d)), rng.standard_normal((rows, K))
    return X, T, X.T @ X / rows, X.T @ T / rows


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(2, 9))
def test_svd_error_is_the_tail_of_the_spectrum(seed, K, C, d):
    W = np.random.default_rng(seed).standard_normal((K, C, d))
    values = np.linalg.svd(W.reshape(K * C, d), compute_uv=False)
    for rank in range(1, d + 1):
        B, Ce = svd_basis(W, rank)
        loss = np.square(W.reshape(K, -1) - dense(B, Ce)).sum()
        assert loss == pytest.approx(np.square(values[rank:]).sum(), abs=1e-9)
        np.testing.assert_allclose(B @ B.T, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(spectrum(W)[: len(values)], values**2, atol=1e-9)


def test_signs_do_not_depend_on_the_sign_of_the_weight():
    W = np.random.default_rng(0).standard_normal((5, 4, 9))
    np.testing.assert_allclose(svd_basis(W, 4)[0], svd_basis(-W, 4)[0], atol=1e-9)


def test_rank_for_energy():
    W = np.diag([3.0, 2.0, 1.0, 0.0])[None]  # energies 9, 4, 1, 0
    assert [rank_for_energy(W, s) for s in (0.5, 9 / 14, 0.7, 13 / 14, 0.95, 1)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert rank_for_energy(np.zeros((2, 2, 9)), 0.9) == 1


def test_projection_is_the_kronecker_product():
    _, _, H, G = problem(1)
    B = np.random.default_rng(2).standard_normal((5, 9))
    E = np.kron(np.eye(3), B)
    projected = project(H, G, B)
    np.testing.assert_allclose(projected[0], E @ H @ E.T, atol=1e-10)
    np.testing.assert_allclose(projected[1], E @ G, atol=1e-10)


def test_basis_solve_is_dense_least_squares():
    X, T, H, G = problem(3)
    Ce = np.random.default_rng(4).standard_normal((4, 3, 5))
    rows, K, C, M, d = len(X), 4, 3, 5, 9
    # prediction[r, k] = Σ_ms (Σ_c Ce[k, c, m]·X[r, c, s])·B[m, s]
    design = np.einsum("kcm,rcs->rkms", Ce, X.reshape(rows, C, d)).reshape(rows * K, M * d)
    reference = np.linalg.lstsq(design, T.ravel())[0].reshape(M, d)
    np.testing.assert_allclose(
        solve_basis(H, G, Ce, np.zeros_like(reference)), reference, atol=1e-6
    )


def test_masked_solve_is_least_squares_on_each_support():
    X, T, H, G = problem(5)
    mask = np.random.default_rng(6).random((4, 27)) < 0.4
    mask[1] = False
    Ce = solve_rows(H, G, mask)
    assert not Ce[~mask].any()
    for k in (0, 2, 3):
        reference = np.linalg.lstsq(X[:, mask[k]], T[:, k])[0]
        np.testing.assert_allclose(Ce[k, mask[k]], reference, atol=1e-8)
    full = solve_rows(H, G, np.ones_like(mask))
    np.testing.assert_allclose(full.T, np.linalg.lstsq(X, T)[0], atol=1e-8)


def test_conjugate_gradients_reach_the_exact_solve():
    _, _, H, G = problem(7)
    mask = np.random.default_rng(8).random((4, 27)) < 0.5
    exact = solve_rows(H, G, mask)
    Ce = improve_rows(H, G, mask, np.ones((4, 27)), 30)
    assert not Ce[~mask].any()
    np.testing.assert_allclose(Ce, exact, atol=1e-8)
    np.testing.assert_allclose(improve_rows(H, G, mask, exact, 3), exact, atol=1e-10)


def test_normalising_keeps_the_product():
    rng = np.random.default_rng(9)
    B, Ce = rng.standard_normal((5, 9)), rng.standard_normal((4, 3, 5))
    B[2] = 0
    unit, scaled = normalise(B, Ce)
    np.testing.assert_allclose(dense(unit, scaled), dense(B, Ce), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(np.delete(unit, 2, 0), axis=1), 1)
