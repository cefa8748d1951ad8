"""ESCALATE, modelled from the abstract: blocks that work on a channel and a tile of positions each.

    U[k, m] = Σ_c Ce[k, c, m]·X[c]   by adders that take matched nonzeros only
    Y[k]    = Σ_m U[k, m] ∗ s·B[m]   by multipliers; a zero U is skipped

`escalate_work` says what a channel costs at a position, `basis_first` the same for the other
order of the stages. Here channels and positions are dealt to blocks: `side` blocks share the
channels, the others the positions; all blocks start the next round of tiles together. The ways to
run a layer differ in how many channels have their weights on chip at a time, and in the order of
the two loops.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtimes.accelerator import basis_first
from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray
from runtimes.accelerator.escalate_work import Work, decomposed_work, plain_work
from runtimes.accelerator.matching import Counts, pipeline_cycles, pipeline_ends
from runtimes.accelerator.tiles import Ints, Plans, TilePlan, repeated_loads, spread
from runtimes.accelerator.workload import Array, Layer


@dataclass(frozen=True, kw_only=True)
class Way:
    """How channels and positions are dealt.

    Attributes:
        side: blocks that share the channels.
        across: blocks that share the positions.
        size: positions of a tile.
        channels: whose weights are on chip at a time.
    """

    side: int
    across: int
    size: int
    channels: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.side}x{self.across} blocks, {self.size} positions, {self.channels} channels"


def plans(layer: Layer, architecture: Architecture) -> Plans:
    """Ways to run a layer of one channel group; a round of tiles over all blocks is a tile.

    Raises:
        TileError: no way fits into the buffers.
    """
    array = architecture.array
    assert isinstance(array, EscalateArray)
    work = layer_work(layer, architecture)
    every = ways(work, architecture)
    sizes = {way.size for way in every}
    times = {size: tile_cycles(work, size, array.fifo_depth) for size in sizes}  # (K, tiles)
    fitting: dict[str, TilePlan] = {}
    for way in every:
        if not architecture.excess_bytes(needed_bytes(work, way)):
            fitting |= _plans_of(layer, work, times[way.size], way, architecture)
    if not fitting:
        for buffer, nbytes in needed_bytes(work, every[0]).items():
            architecture.check_tile(buffer, nbytes, layer.name)
    return fitting


def layer_work(layer: Layer, architecture: Architecture) -> Work:
    """What the blocks do for a layer, decomposed or not."""
    array = architecture.array
    assert isinstance(array, EscalateArray)
    if layer.factors is None:
        return plain_work(layer, architecture)
    if array.stage_order == "basis-first":
        return basis_first.decomposed_work(layer, layer.factors, architecture)
    return decomposed_work(layer, layer.factors, architecture)


def ways(work: Work, architecture: Architecture) -> list[Way]:
    """Every size of a tile and number of channels at a time, in powers of two.

    The first one, with the smallest tiles and the fewest channels, fits if any does. Buffers only
    decide which of them fit, so that a larger buffer loses none.
    """
    array = architecture.array
    assert isinstance(array, EscalateArray)
    K, _, P = work.first.shape
    side, across = block_grid(array.blocks, K, P)
    largest = max(1, min(array.tile_positions, -(-P // across)))
    sizes = [*(1 << n for n in range(largest.bit_length()) if 1 << n < largest), largest]
    counts = [*(1 << n for n in range(K.bit_length()) if 1 << n < K), K]
    return [
        Way(side=side, across=across, size=size, channels=channels)
        for size in sizes
        for channels in counts
    ]


def block_grid(blocks: int, K: int, P: int) -> tuple[int, int]:
    """Blocks along channels and along positions, so that the fewest rounds are left.

    Of equals the most along channels: then positions share the weights that are read.
    """
    divisors = [n for n in range(1, blocks + 1) if blocks % n == 0]
    side = min(divisors, key=lambda n: (-(-K // n) * -(-P // (blocks // n)), -n))
    return side, blocks // side


def needed_bytes(work: Work, way: Way) -> dict[str, int]:
    """Largest tile in every buffer."""
    P = work.first.shape[2]
    rounds, groups = rounds_and_groups(work, way)
    held = work.held_bits * min(way.size * way.across, P)
    results = -(-work.output_bytes // (rounds * len(groups)))
    return {
        "input_bytes": -(-work.input_bytes // rounds),
        "weight_bytes": max(int(work.weight_bytes[group].sum()) for group in groups),
        "output_bytes": results + -(-held // 8),
    }


def rounds_and_groups(work: Work, way: Way) -> tuple[int, list[slice]]:
    """Rounds of tiles, and runs of channels that are on chip at a time."""
    K, _, P = work.first.shape
    groups = [slice(k, min(k + way.channels, K)) for k in range(0, K, way.channels)]
    return -(-P // (way.size * way.across)), groups


def _plans_of(
    layer: Layer, work: Work, times: Counts, way: Way, architecture: Architecture
) -> Iterator[tuple[str, TilePlan]]:
    """Both loop orders of one way; results that are held between the stages allow only one."""
    array, words, buffers = architecture.array, architecture.words, architecture.buffers
    assert isinstance(array, EscalateArray)
    rounds, groups = rounds_and_groups(work, way)
    compute = np.stack(
        [round_cycles(times[g], work.weight_bytes[g], way, array.balance) for g in groups], axis=1
    )  # (rounds, groups)
    weight_bytes = int(work.weight_bytes.sum())
    orders = repeated_loads(
        spread(work.input_bytes, rounds),
        np.array([work.weight_bytes[g].sum() for g in groups]),
        fit_inputs=work.input_bytes <= buffers.input_bytes // 2,
        fit_weights=weight_bytes <= buffers.weight_bytes // 2,
    )
    counts = _counts(work, way, layer.stored.size * words.activation_bits, times.shape[1])
    for order, loads, pairs in orders:
        if work.held_bits and order != "positions outer":
            continue
        cycles = compute[pairs[:, 0], pairs[:, 1]]
        if work.held_bits:
            cycles = held_cycles(work, way, cycles, len(groups))
        yield (
            f"{way.name}, {order}",
            TilePlan(
                compute=cycles,
                loads=loads,
                stores=spread(work.output_bytes, len(pairs)),
                counts=counts,
                macs=work.macs[0],
                macs_skipped=work.macs[1],
                adds=work.adds[0],
                adds_skipped=work.adds[1],
                stored_weight_bytes=weight_bytes,
                stored_input_bytes=work.input_bytes,
            ),
        )


def _counts(work: Work, way: Way, result_bits: int, tiles: int) -> Counter[tuple[str, str]]:
    """Events, with those that depend on how work is dealt."""
    _, groups = rounds_and_groups(work, way)
    channel_rounds = sum(-(-(g.stop - g.start) // way.side) for g in groups)
    counts = Counter(work.counts)
    counts["input_sram", "read"] += 8 * work.input_bytes * (1 if work.held_bits else channel_rounds)
    counts["weight_sram", "read"] += 8 * int(work.weight_bytes.sum()) * tiles
    counts["output_sram", "read"] += work.held_traffic_bits * channel_rounds
    counts["output_sram", "write"] += result_bits
    return counts


def tile_cycles(work: Work, size: int, depth: int) -> Counts:
    """Cycles (K, tiles) of one block for each channel and tile of `size` positions."""
    K, M, P = work.first.shape
    tiles = -(-P // size)

    def items(cycles: Array) -> Array:
        padded = np.pad(cycles, ((0, 0), (0, 0), (0, tiles * size - P)))
        table = padded.reshape(K, M, tiles, size).transpose(3, 1, 0, 2)
        return table.reshape(size * M, K * tiles)

    return pipeline_cycles(items(work.first), items(work.second), depth).reshape(K, tiles)


def round_cycles(times: Counts, weight_bytes: Counts, way: Way, balance: str) -> Ints:
    """Cycles (rounds,) until the last of the blocks has done its channels for its tile.

    Args:
        times: (K, tiles) of one block a channel and tile.
        weight_bytes: (K,) decides who takes which channel.
        way: how many blocks share them.
        balance: "greedy" or "round-robin".
    """
    owner = np.arange(len(times)) % way.side
    if balance == "greedy":
        heap = [(0, block) for block in range(way.side)]
        for k in np.argsort(-weight_bytes, kind="stable"):
            load, owner[k] = heapq.heappop(heap)
            heapq.heappush(heap, (load + int(weight_bytes[k]), int(owner[k])))
    total = np.zeros((way.side, times.shape[1]), np.int64)
    np.add.at(total, owner, times)
    slowest = total.max(axis=0)  # (tiles,)
    return np.maximum.reduceat(slowest, np.arange(0, len(slowest), way.across))


def held_cycles(work: Work, way: Way, second: Ints, groups: int) -> Ints:
    """Cycles of every pair of a round and a group where the first stage serves all channels.

    It works on the next round while the second stage is on this one.

    Args:
        work: with what the first stage takes.
        way: how positions are dealt.
        second: (rounds·groups,) cycles of the second stage.
        groups: of a round.
    """
    starts = np.arange(0, len(work.shared), way.size * way.across)
    blocks = way.side * way.across
    first = np.zeros_like(second)
    first[::groups] = -(-np.add.reduceat(work.shared, starts) // blocks)
    ends = [int(end[0]) for end in pipeline_ends(first[:, None], second[:, None], 1)]
    return np.diff(ends, prepend=0)
