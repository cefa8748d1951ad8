"""Positions of the nonzero blocks of a sparse tensor, as fixed-width run lengths.

A stream of ``w``-bit symbols (1 ≤ w ≤ 16) walks over the blocks of a tensor in row-major order.
With the escape symbol ``e = 2^w - 1``:

    symbol s < e:  skip s empty blocks, then one stored block
    symbol s = e:  skip e empty blocks, store nothing

``w = 1`` is a plain bitmap (inverted), larger widths are run lengths, so one code and one
decoder serve every density. The stream is packed least significant bit first and padded with
ones, which decode to escapes past the end. At its best width the code stays within a few per
cent of the entropy of values and positions together (see ``entropy_bits``).
"""

import numpy as np
from numpy.typing import NDArray

WIDTHS = range(1, 17)


def encode_runs(mask: NDArray[np.bool_], width: int) -> NDArray[np.uint8]:
    """Encodes which blocks are stored.

    Args:
        mask: (n_blocks,), true where a block is stored.
        width: bits of one symbol, 1 to 16.

    Returns:
        (n_bytes,) packed symbols; at least one byte.
    """
    escape = 2**width - 1
    (stored,) = np.nonzero(mask)
    gaps = np.diff(stored, prepend=-1) - 1  # (n_stored,) empty blocks before each stored one
    ends = np.cumsum(gaps // escape + 1)  # one symbol a block after its escapes
    symbols = np.full(int(ends[-1]) if len(ends) else 0, escape, np.int64)
    symbols[ends - 1] = gaps % escape
    bits = (symbols[:, None] >> np.arange(width)).astype(np.uint8) & 1  # (n_symbols, width)
    padding = np.ones(max(-bits.size % 8, 0 if bits.size else 8), np.uint8)
    return np.packbits(np.concatenate([bits.ravel(), padding]), bitorder="little")


def decode_runs(code: NDArray[np.uint8], width: int, n_blocks: int) -> NDArray[np.bool_]:
    """Inverse of `encode_runs`.

    Raises:
        ValueError: the width is not 1 to 16, or the code points outside the tensor.
    """
    if width not in WIDTHS:
        raise ValueError(f"position_bits is {width}, expected 1 to 16")
    bits = np.unpackbits(code, bitorder="little")
    table = bits[: bits.size // width * width].reshape(-1, width)  # (n_symbols, width)
    symbols = table @ (1 << np.arange(width))
    is_stored = symbols < 2**width - 1
    stored = (np.cumsum(symbols + is_stored) - 1)[is_stored]
    if stored.size and stored[-1] >= n_blocks:
        raise ValueError(f"position {stored[-1]} lies outside {n_blocks} blocks")
    mask = np.zeros(n_blocks, bool)
    mask[stored] = True
    return mask


def cheapest_code(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], int]:
    """Returns the shortest code of `mask` over all widths, and its width."""
    codes = [(encode_runs(mask, width), width) for width in WIDTHS]
    return min(codes, key=lambda code_and_width: code_and_width[0].size)


def entropy_bits(n_stored: int, n_blocks: int) -> float:
    """Bits that the positions need: n·H(ρ) with ρ = n_stored / n_blocks (binary entropy)."""
    density = n_stored / n_blocks if n_blocks else 0.0
    if density in (0.0, 1.0):
        return 0.0
    return -n_blocks * float(density * np.log2(density) + (1 - density) * np.log2(1 - density))
