"""Double-buffered DRAM transfers around the tiles of a layer, as a stream of records.

The DRAM channel serves one request after the other, in the order load i, store i − 2. A load
needs the half buffer that tile i − 2 has left; a tile needs its load, the tile before it, and
the half of the output buffer that store i − 2 has left.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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


def schedule(layer: str, plan: TilePlan, bytes_per_cycle: float, begin: int) -> Iterator[Record]:
    """Records of one layer in order of their issue.

    Args:
        layer: name.
        plan: its tiles.
        bytes_per_cycle: of the DRAM.
        begin: cycle at which the layer starts.
    """
    channel = begin
    ends, stored = [begin, begin], [begin, begin]  # of tiles and stores i − 2 and i − 1
    offsets = dict.fromkeys([*plan.loads, "output"], 0)

    def move(tile: int, op: Literal["load", "store"], tensor: str, nbytes: int) -> Record:
        nonlocal channel
        start, channel = channel, channel + math.ceil(nbytes / bytes_per_cycle)
        offset = offsets[tensor]
        offsets[tensor] += nbytes
        return Record(
            layer=layer, tile=tile, start=start, end=channel, unit="dram", op=op,
            tensor=tensor, offset=offset, nbytes=nbytes,
        )  # fmt: skip

    tiles = len(plan.compute)
    for tile in range(tiles + 2):
        if tile < tiles:
            channel = max(channel, ends[-2])
            for tensor, sizes in plan.loads.items():
                if sizes[tile]:
                    yield move(tile, "load", tensor, int(sizes[tile]))
            loaded = channel
        if tile >= 2:
            channel = max(channel, ends[tile])
            if plan.stores[tile - 2]:
                yield move(tile - 2, "store", "output", int(plan.stores[tile - 2]))
            stored.append(channel)
        if tile < tiles:
            start = max(loaded, ends[-1], stored[tile])
            ends.append(start + int(plan.compute[tile]))
            yield Record(
                layer=layer, tile=tile, start=start, end=ends[-1], unit="array", op="compute"
            )
