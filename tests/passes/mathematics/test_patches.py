"""Patches against a convolution written out as loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.mathematics.patches import choose_positions, pixel_rows, sample_patches


def direct_convolution(x, W, strides, pads, dilations):
    """(N, C, *in), (K, C, *kernel) -> (N, K, *out), in float64."""
    n = len(strides)
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
    out = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(padded.shape[2:], W.shape[2:], strides, dilations, strict=True)
    ]
    y = np.zeros((len(x), len(W), *out))
    for position in itertools.product(*map(range, out)):
        for tap in itertools.product(*map(range, W.shape[2:])):
            at = [
                p * s + t * d for p, s, t, d in zip(position, strides, tap, dilations, strict=True)
            ]
            pixel = padded[(slice(None), slice(None), *at)]  # (N, C)
            weight = W[(slice(None), slice(None), *tap)]  # (K, C)
            y[(slice(None), slice(None), *position)] += pixel @ weight.T
    return y


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_rows_times_weight_is_the_convolution(data, n, seed):
    def draw(low, high, count=n):
        return tuple(data.draw(st.integers(low, high)) for _ in range(count))

    kernel, strides, dilations, pads = draw(1, 3), draw(1, 3), draw(1, 2), draw(0, 2, 2 * n)
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal((size, 2, *draw(5, 7))).astype(np.float32) for size in (2, 1)]
    batches[1] = rng.standard_normal((1, *batches[0].shape[1:])).astype(np.float32)
    W = rng.standard_normal((3, 2, *kernel))
    maps = [direct_convolution(x, W, strides, pads, dilations) for x in batches]
    counts = [y.shape[0] * int(np.prod(y.shape[2:])) for y in maps]
    picks = choose_positions(counts, 20, rng)
    rows = sample_patches(batches, kernel, strides, pads, dilations, picks)
    np.testing.assert_allclose(rows @ W.reshape(3, -1).T, pixel_rows(maps, picks), atol=1e-5)


def test_positions_are_distinct_and_bounded():
    picks = choose_positions([100, 300], 40, np.random.default_rng(0))
    assert [len(pick) for pick in picks] == [10, 30]
    assert all(len(set(pick.tolist())) == len(pick) for pick in picks)
    everything = choose_positions([3, 5], 8, np.random.default_rng(0))
    assert [pick.tolist() for pick in everything] == [[0, 1, 2], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("limit", [1, 7])
def test_every_batch_is_drawn_from(limit):
    assert all(len(p) >= 1 for p in choose_positions([50] * 3, limit, np.random.default_rng(0)))
