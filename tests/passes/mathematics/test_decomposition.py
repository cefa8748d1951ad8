import numpy as np
import pytest

from passes.mathematics.decomposition import Factors, relative_error


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (5, 1)])
def test_reconstruction_is_the_sum_over_the_basis(kernel):
    rng = np.random.default_rng(0)
    B = rng.standard_normal((4, *kernel)).astype(np.float32)
    Ce = rng.standard_normal((3, 2, 4)).astype(np.float32)
    Ce[0] = 0
    factors = Factors(basis=B, coefficients=Ce)
    W = np.zeros((3, 2, *kernel))
    for k, c, m in np.ndindex(3, 2, 4):
        W[k, c] += Ce[k, c, m] * B[m]
    np.testing.assert_allclose(factors.reconstruct(), W, atol=1e-6)
    assert factors.reconstruct().dtype == np.float32
    assert factors.parameters == 16 + B.size
    assert relative_error(W.astype(np.float32), factors) < 1e-6
    assert relative_error(2 * W, factors) == pytest.approx(0.5)


def test_zero_weight_has_no_error():
    zero = Factors(basis=np.zeros((1, 3), np.float32), coefficients=np.zeros((2, 2, 1), np.float32))
    assert relative_error(np.zeros((2, 2, 3), np.float32), zero) == 0


def test_shapes_are_checked():
    basis, coefficients = np.zeros((4, 3, 3), np.float32), np.zeros((3, 2, 5), np.float32)
    with pytest.raises(ValueError, match=r"basis \(4, 3, 3\), coefficients \(3, 2, 5\)"):
        Factors(basis=basis, coefficients=coefficients)
    with pytest.raises(ValueError, match="expected a bias"):
        Factors(basis=basis, coefficients=coefficients[..., :4], bias=np.zeros(2, np.float32))
