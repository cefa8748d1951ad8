"""What an engine says about a layer: time and bytes of every tile, and counts of events."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.accelerator.workload import Mask

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """The tiles of one layer (or of one group of its channels) in execution order.

    Attributes:
        compute: (T,) cycles.
        loads: (T,) bytes read from DRAM before a tile, by tensor.
        stores: (T,) bytes written after it.
        counts: bits moved or operations done, by component and action.
        macs: multiply-accumulates done that count for a result.
        macs_skipped: those that zeros saved.
        adds: channel-combining additions done.
        adds_skipped: those that zeros saved.
    """

    compute: Ints
    loads: Mapping[str, Ints]
    stores: Ints
    counts: Mapping[tuple[str, str], int]
    macs: int
    macs_skipped: int = 0
    adds: int = 0
    adds_skipped: int = 0


def spread(total: int, tiles: int) -> Ints:
    """A number of bytes in equal parts that sum to it, (tiles,)."""
    return np.diff(total * np.arange(tiles + 1) // tiles)


def bitmap_bytes(mask: Mask, bits: int) -> int:
    """Bytes of a bitmap and packed nonzeros."""
    return -(-(mask.size + bits * int(np.count_nonzero(mask))) // 8)


def repeated_loads(
    inputs: Ints, weights: Ints, *, fit_inputs: bool, fit_weights: bool
) -> tuple[dict[str, Ints], NDArray[np.int64]]:
    """Loads of all (tile, channel group) pairs, in the loop order that moves the fewest bytes.

    Args:
        inputs: (P,) bytes of every tile of the map.
        weights: (G,) bytes of every group of channels.
        fit_inputs: all inputs stay on chip once loaded.
        fit_weights: likewise the weights.

    Returns:
        Loads by tensor, (P·G,), and the pairs (P·G, 2) in execution order.
    """
    P, G = len(inputs), len(weights)
    tiles_outer = int(inputs.sum()) + int(weights.sum()) * (1 if fit_weights else P)
    groups_outer = int(weights.sum()) + int(inputs.sum()) * (1 if fit_inputs else G)
    if tiles_outer <= groups_outer:
        pairs = np.stack(np.meshgrid(range(P), range(G), indexing="ij"), -1).reshape(-1, 2)
    else:
        pairs = np.stack(np.meshgrid(range(P), range(G)), -1).reshape(-1, 2)
    p, g = pairs.T
    if tiles_outer <= groups_outer:
        new_input, new_weight = g == 0, (p == 0) if fit_weights else np.ones(P * G, np.bool_)
    else:
        new_weight, new_input = p == 0, (g == 0) if fit_inputs else np.ones(P * G, np.bool_)
    if G == 1:
        new_weight = p == 0
    return {"input": inputs[p] * new_input, "weight": weights[g] * new_weight}, pairs
