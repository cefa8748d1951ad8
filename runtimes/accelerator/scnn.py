"""SCNN-like array: Cartesian products of nonzero activations and weights, channel by channel.

    cycles(PE, group) = Σ_c ⌈nnz(X[c] in the PE's part) / I⌉ · ⌈nnz(W[group, c]) / F⌉

All processing elements end a group of output channels together.
"""

import math

import numpy as np

from runtimes.accelerator.architecture import Architecture, TileError
from runtimes.accelerator.arrays import ScnnArray
from runtimes.accelerator.tiles import Ints, Plans, TilePlan, spread
from runtimes.accelerator.workload import Layer, Mask, taps


def plans(layer: Layer, architecture: Architecture) -> Plans:
    """The one way to run a layer of one channel group; a group of output channels is a tile.

    Raises:
        TileError: the accumulators do not hold a part of the plane for one output channel.
    """
    array, words = architecture.array, architecture.words
    assert isinstance(array, ScnnArray)
    x, w = layer.x != 0, layer.weight != 0
    group = group_size(layer, architecture)
    parts = _parts(x, array.grid)  # (C, PE)
    starts = np.arange(0, layer.filters, group)
    weights = np.add.reduceat(w.sum(axis=(2, 3)), starts, axis=0)  # (G, C)
    a, b = array.activations_per_cycle, array.weights_per_cycle
    cycles = -(-weights // b) @ -(-parts // a)  # (G, PE)
    products = int((weights.sum(axis=0) * parts.sum(axis=1)).sum())
    useful = useful_macs(layer)
    input_bytes = run_length_bytes(x, words.activation_bits, array.run_bits)
    weight_bytes = run_length_bytes(w, words.weight_bits, array.run_bits)
    tiles = len(starts)
    fits = input_bytes <= architecture.buffers.input_bytes // 2
    done = TilePlan(
        compute=cycles.max(axis=1),
        loads={
            "input": np.where((np.arange(tiles) == 0) | (not fits), input_bytes, 0),
            "weight": spread(weight_bytes, tiles),
        },
        stores=spread(run_length_bytes(layer.stored, words.activation_bits, array.run_bits), tiles),
        counts=_counts(layer, architecture, int(cycles.sum()), products),
        macs=useful,
        macs_skipped=layer.dense_macs - useful,
        stored_weight_bytes=weight_bytes,
        stored_input_bytes=input_bytes,
    )
    return {"channels outer": done}


def group_size(layer: Layer, architecture: Architecture) -> int:
    """Output channels whose partial sums a processing element holds.

    A part of h × w reaches ⌈(h + R − 1) / stride⌉·⌈(w + S − 1) / stride⌉ outputs, which include
    some of the parts around it.

    Raises:
        TileError: not even those of one.
    """
    array = architecture.array
    assert isinstance(array, ScnnArray)
    needed: int = math.prod(
        -(-(-(-size // array.grid) + dilation * (taps - 1)) // stride)
        for size, taps, stride, dilation in zip(
            layer.x.shape[1:],
            layer.kernel,
            layer.geometry.strides,
            layer.geometry.dilations,
            strict=True,
        )
    )
    if needed > array.accumulators:
        raise TileError(
            f"{architecture.name}, layer '{layer.name}': array.accumulators is too small: "
            f"{array.accumulators}, one channel of a processing element's part needs {needed}"
        )
    return min(layer.filters, array.accumulators // needed)


def _counts(
    layer: Layer, architecture: Architecture, vectors: int, products: int
) -> dict[tuple[str, str], int]:
    """Events of multiplying some vectors."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, ScnnArray)
    return {
        ("input_sram", "read"): vectors
        * array.activations_per_cycle
        * (words.activation_bits + array.run_bits),
        ("weight_sram", "read"): vectors
        * array.weights_per_cycle
        * (words.weight_bits + array.run_bits),
        ("multiplier", "compute"): products,
        ("accumulator", "compute"): products,
        ("accumulator_sram", "access"): 2 * products * words.accumulator_bits,
        ("output_sram", "write"): layer.stored.size * words.activation_bits,
    }


def useful_macs(layer: Layer) -> int:
    """Products of a nonzero weight and a nonzero activation that some output needs."""
    weight = (layer.weight != 0).sum(axis=0)  # (C, R, S)
    return sum(
        int(weight[:, r, s] @ view.sum(axis=(1, 2)))
        for r, s, view in taps((layer.x != 0).astype(np.int64), layer)
    )


def run_length_bytes(mask: Mask, bits: int, run_bits: int) -> int:
    """Bytes of nonzeros with the zeros before each; longer runs hold explicit zeros."""
    (stored,) = np.nonzero(mask.reshape(-1))
    gaps = np.diff(stored, prepend=-1) - 1
    entries = len(stored) + int((gaps >> min(run_bits, 63)).sum())
    return -(-entries * (bits + run_bits) // 8)


def _parts(x: Mask, grid: int) -> Ints:
    """Nonzeros (C, PE) of every processing element's part of the plane."""
    rows, columns = (np.arange(size) // -(-size // grid) for size in x.shape[1:])
    owner = rows[:, None] * grid + columns  # (H, W)
    parts = np.zeros((len(x), grid * grid), np.int64)
    for part in np.unique(owner):
        parts[:, part] = x[:, owner == part].sum(axis=1)
    return parts
