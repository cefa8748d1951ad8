"""SparTen-like array: chunks of two sparse vectors are compared, a unit takes a match a cycle.

cycles(cluster, position) = Σ_chunk max(1, max over units of Σ over its filters of matches)
"""

from collections.abc import Sequence

import numpy as np

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import SpartenArray
from runtimes.accelerator.tiles import Plans, TilePlan, bitmap_bytes
from runtimes.accelerator.workload import Array, Layer, Mask, taps


def plans(layer: Layer, architecture: Architecture) -> Plans:
    """The one way to run a layer of one channel group; a round of filters is a tile.

    Inputs that do not stay on chip are read again in every round.
    """
    array, words = architecture.array, architecture.words
    assert isinstance(array, SpartenArray)
    units = units_of(layer.weight != 0, array.filters_per_unit)  # (U, n) filters
    chunks = list(chunked(layer, array.chunk))
    rounds = [units[start : start + array.units] for start in range(0, len(units), array.units)]
    times = np.array([position_cycles(chunks, each) for each in rounds])  # (rounds, P)
    share = -(-layer.positions // array.clusters)
    starts = np.arange(0, layer.positions, share)
    compute = np.add.reduceat(times, starts, axis=1).max(axis=1)  # (rounds,)
    macs = matches(chunks)
    weights = [layer.weight[each[each >= 0]] != 0 for each in rounds]
    weight_bytes = np.array([bitmap_bytes(w, words.weight_bits) for w in weights], np.int64)
    input_bytes = bitmap_bytes(layer.x != 0, words.activation_bits)
    fits = input_bytes <= architecture.buffers.input_bytes // 2
    stored = [bitmap_bytes(layer.stored[each[each >= 0]], words.activation_bits) for each in rounds]
    read_bytes = int(weight_bytes.sum()) * len(starts)
    done = TilePlan(
        compute=compute,
        loads={
            "input": np.where((np.arange(len(rounds)) == 0) | (not fits), input_bytes, 0),
            "weight": weight_bytes,
        },
        stores=np.array(stored, np.int64),
        counts=_counts(layer, architecture, len(rounds), read_bytes, chunks),
        macs=macs,
        macs_skipped=layer.dense_macs - macs,
        stored_weight_bytes=int(weight_bytes.sum()),
        stored_input_bytes=input_bytes,
    )
    return {"channels outer": done}


def matches(chunks: Sequence[tuple[Mask, Mask]]) -> int:
    """Pairs of nonzeros."""
    return sum(int(w.sum(axis=0, dtype=np.int64) @ x.sum(axis=1)) for w, x in chunks)


def _counts(
    layer: Layer,
    architecture: Architecture,
    rounds: int,
    weight_bytes: int,
    chunks: Sequence[tuple[Mask, Mask]],
) -> dict[tuple[str, str], int]:
    """Events, where every cluster reads all weights, `weight_bytes` together."""
    words, macs, length = architecture.words, matches(chunks), layer.weight[0].size
    inputs = sum(int(x.sum()) for _, x in chunks)
    return {
        ("input_sram", "read"): rounds
        * (inputs * words.activation_bits + length * layer.positions),
        ("weight_sram", "read"): 8 * weight_bytes,
        ("unit_buffer", "access"): macs * (words.activation_bits + words.weight_bits)
        + 2 * layer.dense_macs,
        ("multiplier", "compute"): macs,
        ("accumulator", "compute"): macs,
        ("register", "access"): 2 * macs * words.accumulator_bits,
        ("output_sram", "write"): layer.stored.size * words.activation_bits,
    }


def units_of(weight: Mask, filters_per_unit: int) -> Array:
    """Filters of every unit, (U, n), −1 where it has fewer: dense ones with sparse ones."""
    order = np.argsort(-weight.sum(axis=(1, 2, 3)), kind="stable")
    n_units = -(-len(order) // filters_per_unit)
    table = np.full((filters_per_unit, n_units), -1, np.int64)
    table.reshape(-1)[: len(order)] = order
    table[1::2] = table[1::2, ::-1].copy()
    return table.T


def chunked(layer: Layer, chunk: int) -> list[tuple[Mask, Mask]]:
    """Nonzeros of filters (K, chunk) and of unfolded inputs (chunk, P), channels first."""
    views = list(taps(layer.x != 0, layer))
    x = np.concatenate([view.reshape(layer.channels, -1) for _, _, view in views])
    w = np.concatenate([layer.weight[:, :, r, s] != 0 for r, s, _ in views], axis=1)
    return [(w[:, i : i + chunk], x[i : i + chunk]) for i in range(0, len(x), chunk)]


def position_cycles(chunks: list[tuple[Mask, Mask]], units: Array) -> Array:
    """Cycles (P,) of one cluster for every position, for the filters of its units (U, n)."""
    total = np.zeros(chunks[0][1].shape[1], np.int64)
    for w, x in chunks:
        padded = np.concatenate([w, np.zeros_like(w[:1])]).astype(np.float32)  # −1 is empty
        work = padded[units].sum(axis=1) @ x.astype(np.float32)  # (U, P)
        total += np.maximum(work.max(axis=0), 1).astype(np.int64)
    return total
