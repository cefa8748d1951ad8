"""ESCALATE, modelled from the abstract: channels are combined first, then the basis is applied.

    U[k, m] = Σ_c Ce[k, c, m]·X[c]   by adders that take matched nonzeros only
    Y[k]    = Σ_m U[k, m] ∗ s·B[m]   by multipliers; a zero U is skipped

A block works on one output channel and one tile of positions at a time. Blocks share the tile
and start the next round of tiles together. A layer that is not decomposed runs as a sparse dot
product on the multipliers.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray
from runtimes.accelerator.matching import Counts, match_counts, pipeline_cycles, window_cycles
from runtimes.accelerator.tiles import TilePlan, bitmap_bytes, repeated_loads, spread
from runtimes.accelerator.workload import Array, Factors, Layer, Mask, tap_counts, taps


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the blocks do for a layer.

    Attributes:
        first: (K, M, P) cycles of every item in the first stage.
        second: (K, M, P) cycles in the second.
        counts: events.
        macs: multiply-accumulates done, and skipped.
        adds: additions done, and skipped.
        weight_bytes: (K,) of every channel.
    """

    first: Counts
    second: Counts
    counts: dict[tuple[str, str], int]
    macs: tuple[int, int]
    adds: tuple[int, int]
    weight_bytes: Counts


def plan(layer: Layer, architecture: Architecture) -> TilePlan:
    """Tiles of a layer of one channel group; a round of tiles over all blocks is a tile.

    Raises:
        TileError: a buffer is too small for a round, or for the weights of one channel.
    """
    array, words = architecture.array, architecture.words
    assert isinstance(array, EscalateArray)
    work = layer_work(layer, architecture)
    K, _, P = work.first.shape
    side, across = block_grid(array.blocks, K, P)
    size = max(1, min(array.tile_positions, -(-P // across)))
    times = tile_cycles(work, size, array.fifo_depth)  # (K, tiles)
    limit = architecture.buffers.weight_bytes // 2
    architecture.check_tile("weight_bytes", int(work.weight_bytes.max()), layer.name)
    groups = channel_groups(work.weight_bytes, side, limit)
    compute = np.array(
        [
            [round_cycles(tiles[g], work.weight_bytes[g], side, array) for g in groups]
            for tiles in np.split(times, range(across, times.shape[1], across), axis=1)
        ]
    )  # (rounds, groups)
    input_bytes = bitmap_bytes(layer.x != 0, words.activation_bits)
    inputs = spread(input_bytes, len(compute))
    architecture.check_tile("input_bytes", int(inputs.max()), layer.name)
    loads, pairs = repeated_loads(
        inputs,
        np.array([work.weight_bytes[g].sum() for g in groups]),
        fit_inputs=input_bytes <= architecture.buffers.input_bytes // 2,
        fit_weights=bool(work.weight_bytes.sum() <= limit),
    )
    stores = spread(bitmap_bytes(layer.stored, words.activation_bits), len(pairs))
    architecture.check_tile("output_bytes", int(stores.max()), layer.name)
    counts = {
        **work.counts,
        ("input_sram", "read"): 8 * input_bytes * -(-K // side),
        ("weight_sram", "read"): 8 * int(work.weight_bytes.sum()) * times.shape[1],
        ("output_sram", "write"): layer.stored.size * words.activation_bits,
    }
    return TilePlan(
        compute=compute[pairs[:, 0], pairs[:, 1]],
        loads=loads,
        stores=stores,
        counts=counts,
        macs=work.macs[0],
        macs_skipped=work.macs[1],
        adds=work.adds[0],
        adds_skipped=work.adds[1],
    )


def layer_work(layer: Layer, architecture: Architecture) -> Work:
    """What the blocks do for a layer, decomposed or not."""
    if layer.factors is None:
        return plain_work(layer, architecture)
    return decomposed_work(layer, layer.factors, architecture)


def decomposed_work(layer: Layer, factors: Factors, architecture: Architecture) -> Work:
    """Both stages of a decomposed layer; items are (channel, basis kernel, input position)."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, EscalateArray)
    K, C, M = factors.coefficients.shape
    ce = (factors.coefficients.transpose(0, 2, 1) != 0).reshape(K * M, C)
    x = (layer.x != 0).reshape(C, -1)
    pairs = match_counts(ce, x, array.combine_width)  # (G, K·M, P), what is really nonzero
    slots = match_counts(
        ce if array.skip_coefficients else np.ones_like(ce),
        x if array.skip_activations else np.ones_like(x),
        array.combine_width,
    )
    use = tap_counts(layer).reshape(-1)  # (P,)
    alive = ce.any(axis=1)[:, None] & (use > 0)  # (K·M, P)
    wide = 1 if factors.is_ternary else array.wide_coefficient_cycles
    scan = -(-C // array.scan_bits)
    busy = window_cycles(slots, array.combine_width, array.window)
    first = np.maximum(busy * wide, scan) * alive
    nonzero = (pairs.sum(axis=0) > 0) & alive
    done = slots if not array.skip_activations else pairs
    is_item = nonzero if array.skip_activations else alive
    second = -(-use // array.multipliers_per_block) * is_item
    adds, macs = int((done.sum(axis=0) * alive).sum()), int((is_item * use).sum())
    sign = 1 if factors.is_ternary else array.coefficient_bits
    nonzeros = ce.reshape(K, -1).sum(axis=1)
    bits = C * M + nonzeros * sign + (M * words.weight_bits if factors.is_ternary else 0)
    basis = np.where(np.arange(K) == 0, layer.kernel[0] * layer.kernel[1] * M, 0)
    counts = {
        ("tile_buffer", "read"): adds * words.activation_bits + int(alive.sum()) * C,
        ("combine_adder", "compute"): adds * wide,
        ("fifo", "access"): 2 * int(nonzero.sum()) * array.intermediate_bits,
        ("basis_multiplier", "compute"): macs,
        ("accumulator", "compute"): macs,
        ("register", "access"): 2 * macs * words.accumulator_bits,
    }
    return Work(
        first=first.reshape(K, M, -1),
        second=second.reshape(K, M, -1),
        counts=counts,
        macs=(macs, int(K * M * use.sum()) - macs),
        adds=(adds, K * M * C * int((use > 0).sum()) - adds),
        weight_bytes=-(-bits // 8) + basis * words.weight_bits // 8,
    )


def plain_work(layer: Layer, architecture: Architecture) -> Work:
    """A layer without factors; items are (channel, output position)."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, EscalateArray)
    K = layer.filters
    w, x = unfolded(layer)
    length = w.shape[1]
    width = array.window * array.combine_width
    pairs = match_counts(
        w if array.skip_coefficients else np.ones_like(w),
        x if array.skip_activations else np.ones_like(x),
        width,
    )
    cycles = (-(-pairs // array.multipliers_per_block)).sum(axis=0)  # (K, P)
    first = np.maximum(cycles, -(-length // array.scan_bits))[:, None]
    macs = int(pairs.sum())
    bits = length + w.sum(axis=1) * words.weight_bits
    counts = {
        ("tile_buffer", "read"): macs * words.activation_bits + K * layer.positions * length,
        ("multiplier", "compute"): macs,
        ("accumulator", "compute"): macs,
        ("register", "access"): 2 * macs * words.accumulator_bits,
    }
    return Work(
        first=first,
        second=np.zeros_like(first),
        counts=counts,
        macs=(macs, layer.dense_macs - macs),
        adds=(0, 0),
        weight_bytes=-(-bits // 8),
    )


def unfolded(layer: Layer) -> tuple[Mask, Mask]:
    """Nonzeros of filters (K, R·S·C) and of unfolded inputs (R·S·C, Ho·Wo)."""
    views = list(taps(layer.x != 0, layer))
    x = np.concatenate([view.reshape(layer.channels, -1) for _, _, view in views])
    w = np.concatenate([layer.weight[:, :, r, s] != 0 for r, s, _ in views], axis=1)
    return w, x


def block_grid(blocks: int, K: int, P: int) -> tuple[int, int]:
    """Blocks along output channels and along positions, so that the fewest rounds are left."""
    divisors = [n for n in range(1, blocks + 1) if blocks % n == 0]
    side = min(divisors, key=lambda n: (-(-K // n) * -(-P // (blocks // n)), -n))
    return side, blocks // side


def tile_cycles(work: Work, size: int, depth: int) -> Counts:
    """Cycles (K, tiles) of one block for each channel and tile of `size` positions."""
    K, M, P = work.first.shape
    tiles = -(-P // size)

    def items(cycles: Array) -> Array:
        padded = np.pad(cycles, ((0, 0), (0, 0), (0, tiles * size - P)))
        table = padded.reshape(K, M, tiles, size).transpose(3, 1, 0, 2)
        return table.reshape(size * M, K * tiles)

    return pipeline_cycles(items(work.first), items(work.second), depth).reshape(K, tiles)


def channel_groups(weight_bytes: Counts, side: int, limit: int) -> list[slice]:
    """Runs of whole rounds of channels whose weights fit into half of the weight buffer."""
    groups, start, total = [], 0, 0
    for first in range(0, len(weight_bytes), side):
        size = int(weight_bytes[first : first + side].sum())
        if first > start and total + size > limit:
            groups.append(slice(start, first))
            start, total = first, 0
        total += size
    return [*groups, slice(start, len(weight_bytes))]


def round_cycles(times: Counts, weight_bytes: Counts, side: int, array: EscalateArray) -> int:
    """Cycles until the last of the blocks has done its channels for its tile.

    Args:
        times: (K, tiles) of one block a channel and tile, one tile a column of blocks.
        weight_bytes: (K,) decides the balance.
        side: blocks that share the channels.
        array: says how.
    """
    owner = np.arange(len(times)) % side
    if array.balance == "greedy":
        heap = [(0, block) for block in range(side)]
        for k in np.argsort(-weight_bytes, kind="stable"):
            load, owner[k] = heapq.heappop(heap)
            heapq.heappush(heap, (load + int(weight_bytes[k]), int(owner[k])))
    total = np.zeros((side, times.shape[1]), np.int64)
    np.add.at(total, owner, times)
    return int(total.max())
