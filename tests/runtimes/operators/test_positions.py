import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.operators.positions import (
    WIDTHS,
    cheapest_code,
    decode_runs,
    encode_runs,
    entropy_bits,
)

masks = st.builds(
    lambda size, density, seed: np.random.default_rng(seed).random(size) < density,
    st.integers(1, 3000),
    st.floats(0, 1),
    st.integers(0, 2**32),
)


@given(masks, st.sampled_from(WIDTHS))
def test_decoding_inverts_encoding(mask: np.ndarray, width: int) -> None:
    code = encode_runs(mask, width)
    assert code.dtype == np.uint8
    np.testing.assert_array_equal(decode_runs(code, width, mask.size), mask)


@given(masks)
def test_cheapest_code_is_no_longer_than_a_bitmap(mask: np.ndarray) -> None:
    code, width = cheapest_code(mask)
    assert code.size <= -(-mask.size // 8)
    np.testing.assert_array_equal(decode_runs(code, width, mask.size), mask)


def test_width_one_is_the_inverted_bitmap() -> None:
    mask = np.array([1, 0, 0, 1, 1, 0, 1, 1], bool)
    assert encode_runs(mask, 1).tolist() == np.packbits(~mask, bitorder="little").tolist()


@pytest.mark.parametrize("density", [0.9, 0.5, 0.3, 0.1, 0.05, 0.01, 0.002])
def test_values_and_positions_stay_near_their_entropy(density: float) -> None:
    mask = np.random.default_rng(0).random(300_000) < density
    code, _ = cheapest_code(mask)
    needed = 32 * mask.sum() + entropy_bits(int(mask.sum()), mask.size)
    assert 32 * mask.sum() + 8 * code.size <= 1.05 * needed


def test_entropy_is_that_of_a_fair_coin_at_one_half() -> None:
    assert entropy_bits(50, 100) == pytest.approx(100)
    assert entropy_bits(0, 100) == entropy_bits(100, 100) == entropy_bits(0, 0) == 0


@pytest.mark.parametrize("width", [0, 17, -1])
def test_a_width_outside_the_range_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="position_bits"):
        decode_runs(np.zeros(1, np.uint8), width, 8)


def test_a_position_outside_the_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="outside 3 blocks"):
        decode_runs(np.array([0b11110111], np.uint8), 1, 3)
