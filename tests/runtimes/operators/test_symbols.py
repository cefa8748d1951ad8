"""Storage of symbols: lossless, near the entropy, and strict about what it reads."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from runtimes.operators.decomposed_conv import ConvGeometry
from runtimes.operators.hybrid_conv import HybridWeights
from runtimes.operators.symbols import PackedSymbols, decode_symbols, encode_symbols
from tests.runtimes.operators.test_hybrid_conv import layers, random_hybrid


@given(layers())
def test_encoding_is_lossless(
    layer: tuple[HybridWeights, ConvGeometry, NDArray[np.uint8]],
) -> None:
    symbols = layer[0].symbols
    packed = encode_symbols(symbols)
    np.testing.assert_array_equal(decode_symbols(packed, symbols.shape), symbols)


def test_ternary_costs_a_bit_a_sign_and_positions_near_their_entropy() -> None:
    weights = random_hybrid(np.random.default_rng(0), (64, 64, 5), (3, 3), density=0.1, bits=1)
    packed = encode_symbols(weights.symbols)
    assert packed.value_bits == 1
    stored = np.count_nonzero(weights.symbols)
    assert packed.values.size == -(-stored // 8)
    entropy = -weights.symbols.size * (0.1 * np.log2(0.1) + 0.9 * np.log2(0.9)) / 8
    assert packed.positions.size < 1.1 * entropy


def test_full_ternary_pairs_take_the_pair_form() -> None:
    rng = np.random.default_rng(0)
    weights = random_hybrid(rng, (64, 64, 4), (3, 3), density=0.1, bits=1, pair=True)
    packed = encode_symbols(weights.symbols)
    assert (packed.value_bits, packed.block) == (1, 4)


def test_dense_symbols_store_a_position_for_each_output_channel() -> None:
    rng = np.random.default_rng(0)
    symbols = rng.integers(-127, 128, (64, 32, 1)).astype(np.int8)
    symbols[7] = 0
    packed = encode_symbols(symbols)
    assert packed.block == 32
    assert packed.values.size == 63 * 32
    assert packed.positions.size <= 64 // 8
    np.testing.assert_array_equal(decode_symbols(packed, symbols.shape), symbols)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros(1, np.uint8)}, "bytes for"),
        ({"value_bits": 3}, "value_bits is 3"),
        ({"block": 2}, "block is 2"),
        ({"positions": np.zeros(99, np.uint8)}, "outside"),
    ],
)
def test_symbols_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    packed = encode_symbols(random_hybrid(np.random.default_rng(0), (4, 4, 3), (3, 3)).symbols)
    broken: PackedSymbols = replace(packed, **change)
    with pytest.raises(ValueError, match=message):
        decode_symbols(broken, (4, 4, 3))
