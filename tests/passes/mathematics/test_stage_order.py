"""Basis first and coefficients first compute the same, stride and padding included.

    T[c, m] = x[c] ∗ B[m],  y[k] = Σ_{c, m} Ce[k, c, m]·T[c, m]          basis first
    U[k, m] = Σ_c Ce[k, c, m]·x[c],  y[k] = Σ_m U[k, m] ∗ B[m]           coefficients first

Both sums are linear and the first stage of the second has neither bias nor spatial extent, so
zeros around U are zeros around x, and its stride is that of the second stage.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.operators.decomposed_conv import ConvGeometry
from tests.runtimes.operators.test_decomposed_conv import float64_conv


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 5),
)
def test_the_order_of_the_stages_does_not_matter(
    seed: int, stride: int, pad: int, dilation: int, M: int
) -> None:
    rng = np.random.default_rng(seed)
    K, C = 4, 3
    x = rng.standard_normal((2, C, 9, 8)).astype(np.float32)
    B, Ce = rng.standard_normal((M, 3, 3)), rng.standard_normal((K, C, M))
    sliding = {"strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (dilation,) * 2}
    dense = np.tensordot(Ce, B, axes=1)
    expected = float64_conv(x, dense, None, ConvGeometry(**sliding))
    each = float64_conv(
        x, np.tile(B[:, None], (C, 1, 1, 1)), None, ConvGeometry(**sliding, group=C)
    )  # (N, C·M, ...)
    basis_first = np.einsum("kcm,ncmyx->nkyx", Ce, each.reshape(2, C, M, *each.shape[2:]))
    U = np.einsum("kcm,ncyx->nkmyx", Ce, x.astype(np.float64)).reshape(2, K * M, 9, 8)
    kernels = np.tile(B[None], (K, 1, 1, 1))  # (K, M, 3, 3)
    coefficients_first = float64_conv(U, kernels, None, ConvGeometry(**sliding, group=K))
    np.testing.assert_allclose(basis_first, expected, atol=1e-11)
    np.testing.assert_allclose(coefficients_first, expected, atol=1e-11)
