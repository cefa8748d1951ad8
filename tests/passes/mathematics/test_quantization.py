"""Codes of activations, against their definition and against each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.mathematics.quantization import Affine, CalibrationError, calibrate

METHODS = ["minmax", "percentile", "mse", "entropy"]


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.integers(0, 2**32))
def test_a_range_is_covered_and_zero_is_exact(low: float, width: float, seed: int) -> None:
    code = Affine.of_range(low, low + width)
    low, high = min(low, 0.0), max(low + width, 0.0)
    x = np.random.default_rng(seed).uniform(low, high, 50).astype(np.float32)
    error = np.abs(code.restore(x).astype(np.float64) - x)
    assert np.all(error <= 1.01 * code.scale + 1e-6 * max(-low, high))
    assert code.restore(np.zeros(1, np.float32)) == 0
    assert 0 <= code.zero_point <= 255


@pytest.mark.parametrize("method", METHODS)
def test_every_method_serves_relu_and_signed_values(method: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 5000)).astype(np.float32)
    for values in (x, np.maximum(x, 0)):
        code = calibrate([values[:2], values[2:]], method)  # type: ignore[arg-type]
        error = np.linalg.norm(code.restore(values) - values) / np.linalg.norm(values)
        assert error < 0.02
    assert code.zero_point == 0


def test_mse_has_the_least_error_and_ignores_an_outlier_where_that_pays() -> None:
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    x[0] = 40.0
    errors = {
        method: float(np.square(calibrate([x], method).restore(x) - x).sum())  # type: ignore[arg-type]
        for method in METHODS
    }
    assert errors["mse"] <= 1.05 * min(errors.values())
    assert errors["mse"] < 0.9 * errors["minmax"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_constant_values_are_exact_or_within_a_step(method: str, value: float) -> None:
    x = np.full((2, 3, 4), value, np.float32)
    code = calibrate([x], method)  # type: ignore[arg-type]
    assert code.scale > 0
    assert np.abs(code.restore(x) - x).max() <= 0.5 * code.scale + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.ones((2, 3), np.float32)
    x[1, 2] = bad
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        calibrate([x], "mse")
