"""What an engine says about a layer: time and bytes of every tile, and counts of events."""

from collections.abc import Iterator, Mapping
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
        stores: (T,) bytes of results written after it.
        spills: (T,) bytes of partial sums written after it and read again before the next one, or
            None where they stay on chip.
        counts: bits moved or operations done, by component and action.
        macs: multiply-accumulates done that count for a result.
        stored_weight_bytes: of the weights as they are stored, each once.
        stored_input_bytes: likewise of the activations that are read.
        macs_skipped: those that zeros saved.
        adds: channel-combining additions done.
        adds_skipped: those that zeros saved.
    """

    compute: Ints
    loads: Mapping[str, Ints]
    stores: Ints
    counts: Mapping[tuple[str, str], int]
    macs: int
    stored_weight_bytes: int
    stored_input_bytes: int
    spills: Ints | None = None
    macs_skipped: int = 0
    adds: int = 0
    adds_skipped: int = 0

    @property
    def regions(self) -> dict[str, int]:
        """Bytes of every tensor in DRAM, each once however often it is read.

        All tiles leave their partial sums at one place.
        """
        totals = {tensor: int(sizes.sum()) for tensor, sizes in self.loads.items()}
        once = {"input": self.stored_input_bytes, "weight": self.stored_weight_bytes}
        regions = {**totals, **once, "output": int(self.stores.sum())}
        return regions if self.spills is None else {**regions, "partial": int(self.spills.max())}

    @property
    def spilled_bytes(self) -> int:
        """Partial sums that are written, and read again."""
        return 0 if self.spills is None else int(self.spills.sum())

    @property
    def bytes(self) -> int:
        """Read and written."""
        moved = sum(int(sizes.sum()) for sizes in (*self.loads.values(), self.stores))
        return moved + 2 * self.spilled_bytes


Plans = Mapping[str, TilePlan]
"""Ways to run a layer that fit into the buffers, by a name that says how.

The loads of a way never grow with a buffer, and no way is lost: so neither do the cycles of the
fastest one.
"""


def spread(total: int, tiles: int) -> Ints:
    """A number of bytes in equal parts that sum to it, (tiles,)."""
    return np.diff(total * np.arange(tiles + 1) // tiles)


def bitmap_bytes(mask: Mask, bits: int) -> int:
    """Bytes of a bitmap and packed nonzeros."""
    return -(-(mask.size + bits * int(np.count_nonzero(mask))) // 8)


def repeated_loads(
    inputs: Ints, weights: Ints, *, fit_inputs: bool, fit_weights: bool
) -> Iterator[tuple[str, dict[str, Ints], Ints]]:
    """Loads of all (tile, channel group) pairs, for both loop orders.

    Args:
        inputs: (P,) bytes of every tile of the map.
        weights: (G,) bytes of every group of channels.
        fit_inputs: all inputs stay on chip once loaded.
        fit_weights: likewise the weights.

    Yields:
        The order's name, loads by tensor (P·G,), the pairs (P·G, 2) in execution order.
    """
    P, G = len(inputs), len(weights)
    for outer in ("channels", "positions"):
        grid = np.meshgrid(range(P), range(G), indexing="ij" if outer == "positions" else "xy")
        p, g = (each.ravel() for each in grid)
        new_input = g == 0 if outer == "positions" or fit_inputs else np.ones(P * G, np.bool_)
        new_weight = p == 0 if outer == "channels" or fit_weights else np.ones(P * G, np.bool_)
        loads = {"input": inputs[p] * new_input, "weight": weights[g] * new_weight}
        yield f"{outer} outer", loads, np.stack([p, g], axis=-1)
