"""What an ESCALATE block does for a layer: cycles of every channel and position, events, bytes."""

from dataclasses import dataclass, field

import numpy as np

from runtimes.accelerator.architecture import Architecture, Words
from runtimes.accelerator.arrays import EscalateArray
from runtimes.accelerator.matching import Counts, match_counts, window_cycles
from runtimes.accelerator.tiles import bitmap_bytes
from runtimes.accelerator.workload import Factors, Layer, Mask, tap_counts, taps

AT_ONCE = 2**19
"""Counts that are worked on at once, so that they stay in the caches."""


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
        input_bytes: of all activations that the layer reads.
        output_bytes: of all that it stores.
        shared: (P,) cycles of one block for what is computed once for all channels.
        held_bits: of a position, kept on chip between the stages for all channels.
        held_traffic_bits: of all positions, read once by every block that works on channels.
    """

    first: Counts
    second: Counts
    counts: dict[tuple[str, str], int]
    macs: tuple[int, int]
    adds: tuple[int, int]
    weight_bytes: Counts
    input_bytes: int
    output_bytes: int
    shared: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    held_bits: int = 0
    held_traffic_bits: int = 0


def map_bytes(layer: Layer, words: Words) -> tuple[int, int]:
    """Activations that a layer reads, and those that it stores, as bitmaps and packed nonzeros."""
    bits = words.activation_bits
    return bitmap_bytes(layer.x != 0, bits), bitmap_bytes(layer.stored, bits)


def decomposed_work(layer: Layer, factors: Factors, architecture: Architecture) -> Work:
    """Both stages of a decomposed layer; items are (channel, basis kernel, input position)."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, EscalateArray)
    K, C, M = factors.coefficients.shape
    ce = (factors.coefficients.transpose(0, 2, 1) != 0).reshape(K * M, C)
    x = (layer.x != 0).reshape(C, -1)
    use = tap_counts(layer).reshape(-1)  # (P,)
    alive = ce.any(axis=1)[:, None] & (use > 0)  # (K·M, P)
    wide = coefficient_cycles(factors, array)
    scan = -(-C // array.scan_bits)
    busy, pairs, slots = combine(ce, x, array)  # (K·M, P)
    first = np.maximum(busy * wide, scan) * alive
    nonzero = (pairs > 0) & alive
    done = pairs if array.skip_activations else slots
    is_item = nonzero if array.skip_activations else alive
    second = -(-use // array.multipliers_per_block) * is_item
    input_bytes, output_bytes = map_bytes(layer, words)
    adds, macs = int((done * alive).sum()), int((is_item * use).sum())
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
        weight_bytes=factor_bytes(factors, array, words),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
    )


def combine(ce: Mask, x: Mask, array: EscalateArray) -> tuple[Counts, Counts, Counts]:
    """What adders do for coefficients (n, C) and activations (C, P).

    Returns:
        Cycles, pairs of nonzeros, and slots taken, which are those pairs if all zeros are skipped;
        (n, P) each.
    """
    groups, P = -(-len(x) // array.combine_width), x.shape[1]
    rows = max(1, AT_ONCE // (groups * P))
    parts = [_combine(ce[n : n + rows], x, array) for n in range(0, len(ce), rows)]
    cycles, pairs, slots = (np.concatenate(each) for each in zip(*parts, strict=True))
    return cycles, pairs, slots


def _combine(ce: Mask, x: Mask, array: EscalateArray) -> tuple[Counts, Counts, Counts]:
    pairs = slots = match_counts(ce, x, array.combine_width)  # (G, n, P)
    if not (array.skip_coefficients and array.skip_activations):
        slots = match_counts(
            ce if array.skip_coefficients else np.ones_like(ce),
            x if array.skip_activations else np.ones_like(x),
            array.combine_width,
        )
    cycles = window_cycles(slots, array.combine_width, array.window)
    return cycles, pairs.sum(axis=0), slots.sum(axis=0)


def coefficient_cycles(factors: Factors, array: EscalateArray) -> int:
    """Adder cycles of one coefficient, bit after bit."""
    bits = factors.stored_bits(array.coefficient_bits)
    return max(1, -(-array.wide_coefficient_cycles * bits // array.coefficient_bits))


def factor_bytes(factors: Factors, array: EscalateArray, words: Words) -> Counts:
    """Bytes (K,) of every channel: mask and packed coefficients, scales; the basis with the first.

    Coefficients narrower than `coefficient_bits` have a scale per (channel, basis kernel).
    """
    _, C, M = factors.coefficients.shape
    width = factors.stored_bits(array.coefficient_bits)
    nonzeros = np.count_nonzero(factors.coefficients, axis=(1, 2))
    scales = M * words.weight_bits if width < array.coefficient_bits else 0
    packed: Counts = -(-(C * M + nonzeros * width + scales) // 8)
    packed[0] += factors.basis.size * words.weight_bits // 8
    return packed


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
    input_bytes, output_bytes = map_bytes(layer, words)
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
        input_bytes=input_bytes,
        output_bytes=output_bytes,
    )


def unfolded(layer: Layer) -> tuple[Mask, Mask]:
    """Nonzeros of filters (K, R·S·C) and of unfolded inputs (R·S·C, Ho·Wo)."""
    views = list(taps(layer.x != 0, layer))
    x = np.concatenate([view.reshape(layer.channels, -1) for _, _, view in views])
    w = np.concatenate([layer.weight[:, :, r, s] != 0 for r, s, _ in views], axis=1)
    return w, x
