"""How a file stores the symbols v (K, C/group, M) of a `HybridDecomposedConv`.

As packed codes of 8, 4 or 1 (sign) bits of the blocks that are not zero, and as positions of these
(`runtimes.operators.positions`). A block is one element, the M elements of a channel pair, or all
elements of an output channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.operators import positions

Int8 = NDArray[np.int8]
UInt8 = NDArray[np.uint8]

VALUE_BITS = (1, 4, 8)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedSymbols:
    """What a model file stores for the symbols v."""

    values: UInt8  # (n_bytes,)
    positions: UInt8  # (n_bytes,)
    value_bits: int
    position_bits: int
    block: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.values.nbytes + self.positions.nbytes


def encode_symbols(symbols: Int8) -> PackedSymbols:
    """Stores v (K, C/group, M) in the fewest bytes: in blocks of some size, of 1, 4 or 8 bits.

    Symbols without nonzeros store one explicit zero.
    """
    packed = [
        _encode(symbols.reshape(-1, block), bits)
        for block in _block_sizes(symbols.shape)
        for bits in VALUE_BITS
    ]
    return min((each for each in packed if each is not None), key=lambda each: each.nbytes)


def _block_sizes(shape: Sequence[int]) -> list[int]:
    _, C_group, M = shape
    return sorted({1, M, C_group * M})


def _encode(blocks: Int8, bits: int) -> PackedSymbols | None:
    """Packs blocks (n_blocks, block); None where the values do not fit into the bits."""
    mask: NDArray[np.bool_] = np.any(blocks != 0, axis=1)
    if not mask.any():
        mask[0] = True
    stored = blocks[mask].ravel().astype(np.int32)
    if bits == 1:
        fits, codes = bool(np.all(np.abs(stored) == 1)), stored < 0
    else:
        half = 2 ** (bits - 1)
        fits, codes = bool(np.all((stored >= -half) & (stored < half))), stored % 2**bits
    if not fits:
        return None
    table = (codes[:, None].astype(np.int32) >> np.arange(bits)) & 1  # (n_symbols, bits)
    values = np.packbits(table.astype(np.uint8), bitorder="little")
    code, width = positions.cheapest_code(mask)
    return PackedSymbols(
        values=values,
        positions=code,
        value_bits=bits,
        position_bits=width,
        block=blocks.shape[1],
    )


def decode_symbols(packed: PackedSymbols, shape: Sequence[int]) -> Int8:
    """Inverse of `encode_symbols` for v of the given (K, C/group, M) shape.

    Raises:
        ValueError: the stored values or positions do not fit the shape.
    """
    size, block, bits = int(np.prod(shape)), packed.block, packed.value_bits
    if bits not in VALUE_BITS:
        raise ValueError(f"value_bits is {bits}, expected 1, 4 or 8")
    sizes = _block_sizes(shape)
    if block not in sizes:
        raise ValueError(f"block is {block}, expected one of {', '.join(map(str, sizes))}")
    mask = positions.decode_runs(packed.positions, packed.position_bits, size // block)
    count = int(mask.sum()) * block
    if packed.values.size != -(-count * bits // 8):
        raise ValueError(f"{packed.values.size} bytes for {count} values of {bits} bits")
    table = np.unpackbits(packed.values, bitorder="little")[: count * bits].reshape(count, bits)
    codes = table.astype(np.int32) @ (1 << np.arange(bits))
    stored = 1 - 2 * codes if bits == 1 else codes - 2**bits * (codes >= 2 ** (bits - 1))
    blocks = np.zeros((size // block, block), np.int8)
    blocks[mask] = stored.reshape(-1, block)
    return blocks.reshape(tuple(shape))
