"""Double-buffered DRAM transfers around the tiles of a layer, as a stream of records.

The DRAM channel serves one request after the other, in the order load i, store i − 2. A load
needs the half buffer that tile i − 2 has left; a tile needs its load, the tile before it, and
the half of the output buffer that store i − 2 has left. Partial sums that do not fit are stored
after tile i − 1 and come back before tile i, which overlap with nothing then.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtimes.accelerator.tiles import TilePlan


@dataclass(frozen=True, kw_only=True)
class Record:
    """One thing that happens; everything that is written comes from these.

    Attributes:
        layer: name.
        tile: index in the layer.
        start: cycle, from the start of the network.
        end: cycle after the last.
        unit: what is busy.
        op: what it does.
        tensor: what is moved, "" for computing.
        offset: of the first byte in the tensor's region, wrapping around its end.
        nbytes: moved.
    """

    layer: str
    tile: int
    start: int
    end: int
    unit: Literal["dram", "array"]
    op: Literal["load", "compute", "store"]
    tensor: str = ""
    offset: int = 0
    nbytes: int = 0


Step = tuple[int, Literal["load", "compute", "store"], str, int, int, int]
"""Tile, operation, tensor, start and end, bytes."""


def schedule(layer: str, plan: TilePlan, bytes_per_cycle: float, begin: int) -> Iterator[Record]:
    """Records of one layer in order of their issue.

    Args:
        layer: name.
        plan: its tiles.
        bytes_per_cycle: of the DRAM.
        begin: cycle at which the layer starts.
    """
    regions, offsets = plan.regions, Counter[tuple[str, str]]()
    for tile, op, tensor, start, end, nbytes in _steps(plan, bytes_per_cycle):
        yield Record(
            layer=layer, tile=tile, start=begin + start, end=begin + end,
            unit="array" if op == "compute" else "dram", op=op,
            tensor=tensor, offset=offsets[op, tensor], nbytes=nbytes,
        )  # fmt: skip
        if tensor:
            offsets[op, tensor] = (offsets[op, tensor] + nbytes) % regions[tensor]


def total_cycles(plan: TilePlan, bytes_per_cycle: float) -> int:
    """From the first load of a layer to its last store."""
    return max(end for *_, end, _ in _steps(plan, bytes_per_cycle))


def least_cycles(plan: TilePlan, bytes_per_cycle: float) -> int:
    """No more than `total_cycles`: the array or the channel without any waiting."""
    sizes = [*plan.loads.values(), plan.stores]
    sizes += [] if plan.spills is None else [plan.spills, plan.spills]
    moving = sum(int(np.ceil(each / bytes_per_cycle).sum()) for each in sizes)
    return max(int(plan.compute.sum()), moving)


def _steps(plan: TilePlan, bytes_per_cycle: float) -> Iterator[Step]:
    channel = 0
    ends, stored = [0, 0], [0, 0]  # of tiles and stores i − 2 and i − 1

    def move(nbytes: int) -> tuple[int, int, int]:
        nonlocal channel
        start, channel = channel, channel + math.ceil(nbytes / bytes_per_cycle)
        return start, channel, nbytes

    def store(until: int) -> Iterator[Step]:
        nonlocal channel
        for tile in range(len(stored) - 2, until + 1):
            channel = max(channel, ends[tile + 2])
            for tensor, sizes in leaves:
                if sizes[tile]:
                    yield tile, "store", tensor, *move(sizes[tile])
            stored.append(channel)

    loads = [(tensor, sizes.tolist()) for tensor, sizes in plan.loads.items()]
    compute, tiles = plan.compute.tolist(), len(plan.compute)
    spills = [0] * tiles if plan.spills is None else plan.spills.tolist()
    leaves = (("output", plan.stores.tolist()), ("partial", spills))
    for tile in range(tiles):
        channel = max(channel, ends[-2])
        for tensor, sizes in loads:
            if sizes[tile]:
                yield tile, "load", tensor, *move(sizes[tile])
        loaded = channel
        if tile and spills[tile - 1]:
            yield from store(tile - 1)
            yield tile, "load", "partial", *move(spills[tile - 1])
            loaded = channel
        yield from store(tile - 2)
        start = max(loaded, ends[-1], stored[tile])
        ends.append(start + compute[tile])
        yield tile, "compute", "", start, ends[-1], 0
    yield from store(tiles - 1)
