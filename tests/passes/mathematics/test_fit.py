"""The layer fit on synthetic layers whose best answer is known."""

import numpy as np
import pytest

from passes.mathematics.basis import svd_basis
from passes.mathematics.coefficients import dense
from passes.mathematics.curves import interpolate, measured_curve, weight_curve
from passes.mathematics.fit import FitConfig, LayerSetting, Samples, fit_data_free, fit_layer
from passes.mathematics.moments import own_moments

K, C, D = 6, 4, 9


def layer(seed, rank=None, relu=True, shortcut=False):
    rng = np.random.default_rng(seed)
    if rank is None:
        W = rng.standard_normal((K, C, D))
    else:
        W = rng.standard_normal((K, C, rank)) @ rng.standard_normal((rank, D))
    bias = rng.standard_normal(K)
    mix = rng.standard_normal((C * D, C * D)) / 6 + np.eye(C * D)
    X = (rng.standard_normal((3000, C * D)) @ mix).astype(np.float32)
    S = rng.standard_normal((3000, K)).astype(np.float32) if shortcut else None
    T = (X @ W.reshape(K, -1).T + bias + (0 if S is None else S)).astype(np.float32)
    return Samples(patches=X, targets=T, shortcut=S, relu=relu), W, bias


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_weight_of_low_rank_is_recovered(relu, shortcut):
    samples, W, bias = layer(0, rank=3, relu=relu, shortcut=shortcut)
    fit = fit_layer(samples, W, bias, LayerSetting(rank=3), FitConfig())
    np.testing.assert_allclose(fit.weight, W.reshape(K, -1), atol=1e-3)
    np.testing.assert_allclose(fit.bias, bias, atol=1e-3)
    assert samples.error(fit.weight, fit.bias) < 1e-3


@pytest.mark.parametrize("relu", [False, True])
def test_fit_beats_the_svd(relu):
    samples, W, bias = layer(1, relu=relu)
    B, Ce = svd_basis(W, 4)
    fit = fit_layer(samples, W, bias, LayerSetting(rank=4), FitConfig())
    assert samples.error(fit.weight, fit.bias) < 0.95 * samples.error(dense(B, Ce), bias)


def test_relu_awareness_lowers_the_error_after_the_relu():
    samples, W, bias = layer(2)
    aware = fit_layer(samples, W, bias, LayerSetting(rank=3), FitConfig(relu_rounds=6))
    plain = fit_layer(samples, W, bias, LayerSetting(rank=3), FitConfig(relu_rounds=0))
    assert samples.error(aware.weight, aware.bias) < samples.error(plain.weight, plain.bias)


def test_error_of_earlier_layers_is_corrected():
    samples, W, bias = layer(3, relu=False, shortcut=True)
    drift = samples.patches @ np.full((C * D, K), 0.05, np.float32)
    drifted = Samples(
        patches=samples.patches,
        targets=samples.targets,
        shortcut=samples.shortcut + drift,
        relu=False,
    )
    fit = fit_layer(drifted, W, bias, LayerSetting(rank=D), FitConfig(ridge=1e-6))
    assert drifted.error(fit.weight, fit.bias) < 1e-3
    assert drifted.error(W.reshape(K, -1), bias) > 0.03


@pytest.mark.parametrize("rank", [4, 9])
def test_number_of_coefficients_is_exact(rank):
    samples, W, bias = layer(4)
    fit = fit_layer(samples, W, bias, LayerSetting(rank=rank, keep=37), FitConfig())
    assert np.count_nonzero(fit.coefficients) == 37
    magnitude = fit_data_free(W, bias, LayerSetting(rank=rank, keep=37))
    assert samples.error(fit.weight, fit.bias) < samples.error(magnitude.weight, bias)


def test_pairs_are_kept_or_dropped_whole():
    samples, W, bias = layer(5)
    fit = fit_layer(samples, W, bias, LayerSetting(rank=4, keep=41, pair=True), FitConfig())
    alive = (fit.coefficients != 0).sum(axis=2)
    assert set(alive.ravel().tolist()) == {0, 4}
    assert alive.sum() == 40


def test_threshold_leaves_few_survivors_of_a_heavy_tail():
    samples, W, bias = layer(6)
    fit = fit_layer(samples, W, bias, LayerSetting(rank=5, threshold=1.0), FitConfig())
    assert 0.1 < np.count_nonzero(fit.coefficients) / fit.coefficients.size < 0.6


def test_next_to_nothing_kept_stays_finite():
    samples, W, bias = layer(7)
    for keep in (0, 1, 3):
        fit = fit_layer(samples, W, bias, LayerSetting(rank=9, keep=keep), FitConfig())
        assert np.isfinite(fit.weight).all()
        assert np.count_nonzero(fit.coefficients) <= keep


def test_dead_input_channel_is_no_trouble():
    samples, W, bias = layer(8)
    samples.patches[:, :D] = 0
    fit = fit_layer(samples, W, bias, LayerSetting(rank=5, keep=50), FitConfig())
    assert np.isfinite(fit.weight).all()


def test_same_input_same_bits():
    samples, W, bias = layer(9)
    one, two = (
        fit_layer(samples, W, bias, LayerSetting(rank=5, keep=60), FitConfig()) for _ in range(2)
    )
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_array_equal(one.bias, two.bias)


@pytest.mark.parametrize("pair", [False, True])
def test_weight_curve_predicts_the_data_free_fit(pair):
    _, W, bias = layer(10)
    for option in weight_curve(W, (2, 5, 9), (0.2, 0.5, 1.0), pair):
        fit = fit_data_free(W, bias, LayerSetting(rank=option.rank, keep=option.keep, pair=pair))
        error = np.square(fit.weight - W.reshape(K, -1)).sum() / np.square(W).sum()
        assert option.error == pytest.approx(error, abs=2e-9)
        assert np.count_nonzero(fit.coefficients) == option.keep


def test_measured_curve_falls_with_density_and_rank():
    samples, W, bias = layer(11)
    raw = own_moments(samples.patches, W.reshape(K, -1), bias)
    problem = raw.with_ridge(1e-3, W.reshape(K, -1))
    curve = measured_curve(problem, W, (3, 6, 9), (0.1, 0.3, 1.0), False)
    errors = np.array([option.error for option in curve.options]).reshape(3, 3)
    assert (np.diff(errors, axis=1) < 0).all()
    assert (np.diff(errors[:, -1]) < 0).all()
    assert errors[-1, -1] < 1e-6
    for option, weight in zip(curve.options, curve.weights, strict=True):
        assert raw.error(weight) == pytest.approx(option.error, rel=0.05, abs=1e-6)
    fine = interpolate(curve.options, 2)
    assert len(fine) == 9 + 2 * 6
    assert [o for o in fine if o in curve.options] == list(curve.options)
