"""Dense systolic array: the closed form of SCALE-Sim 3.0.0, fold by fold.

With M = Ho·Wo positions, K = R·S·C, N filters and an array of H rows and W columns:

    ws   ⌈K/H⌉·⌈N/W⌉ folds of 2H + W + M − 2 cycles
    is   ⌈K/H⌉·⌈M/W⌉ folds of 2H + W + N − 2
    os   ⌈M/H⌉·⌈N/W⌉ folds of H + W + K − 2
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runtimes.accelerator.architecture import Architecture, Words
from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.tiles import Ints, Plans, TilePlan, repeated_loads, spread
from runtimes.accelerator.workload import Layer


def fold_grid(array: SystolicArray, M: int, K: int, N: int) -> tuple[int, int, int]:
    """Folds along the rows, folds along the columns, cycles of one fold."""
    H, W = array.height, array.width
    if array.dataflow == "ws":
        return -(-K // H), -(-N // W), 2 * H + W + M - 2
    if array.dataflow == "is":
        return -(-K // H), -(-M // W), 2 * H + W + N - 2
    return -(-M // H), -(-N // W), H + W + K - 2


def fold_of(fold: int, grid: tuple[int, int], way: str, array: SystolicArray) -> tuple[int, int]:
    """Row and column of a fold in the order of a way: columns are outer, unless rows are asked."""
    rows, columns = grid
    if array.dataflow == "os" and way == "positions outer":
        return divmod(fold, columns)
    column, row = divmod(fold, rows)
    return row, column


def plans(layer: Layer, architecture: Architecture) -> Plans:
    """Ways to run a layer of one channel group; a fold is a tile."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, SystolicArray)
    M, N, K = layer.positions, layer.filters, layer.weight[0].size
    rows, columns, cycles = fold_grid(array, M, K, N)
    done = TilePlan(
        compute=np.full(rows * columns, cycles, np.int64),
        loads={},
        stores=spread(-(-M * N * words.activation_bits // 8), rows * columns),
        counts=_counts(array.dataflow, words, (M, N, K), (rows, columns)),
        macs=M * N * K,
        stored_weight_bytes=-(-layer.weight.size * words.weight_bits // 8),
        stored_input_bytes=-(-layer.x.size * words.activation_bits // 8),
    )
    traffic = _in_place if array.dataflow == "os" else _partial_sums
    return {
        name: replace(done, loads=loads, stores=stores, spills=spills)
        for name, loads, stores, spills in traffic(layer, architecture, done, (rows, columns))
    }


Traffic = Iterator[tuple[str, dict[str, Ints], Ints, Ints | None]]
"""Name of a way, its loads, stores and spills."""


def _bytes_and_fit(layer: Layer, architecture: Architecture) -> tuple[tuple[int, bool], ...]:
    """Bytes of inputs and of weights, and whether half of their buffer holds them."""
    words, buffers = architecture.words, architecture.buffers
    inputs = -(-layer.x.size * words.activation_bits // 8)
    weights = -(-layer.weight.size * words.weight_bits // 8)
    return (
        (inputs, inputs <= buffers.input_bytes // 2),
        (weights, weights <= buffers.weight_bytes // 2),
    )


def _in_place(
    layer: Layer, architecture: Architecture, done: TilePlan, grid: tuple[int, int]
) -> Traffic:
    """Loads and stores where results stay: a fold reads its rows of inputs and columns of weights.

    The outer loop reads its operand once; the inner one again each time, unless it stays on chip.
    """
    (inputs, fit_inputs), (weights, fit_weights) = _bytes_and_fit(layer, architecture)
    orders = repeated_loads(
        spread(inputs, grid[0]),
        spread(weights, grid[1]),
        fit_inputs=fit_inputs,
        fit_weights=fit_weights,
    )
    for name, loads, _ in orders:
        yield name, loads, done.stores, None


def _partial_sums(
    layer: Layer, architecture: Architecture, done: TilePlan, grid: tuple[int, int]
) -> Traffic:
    """Loads and stores where weights or inputs stay: the rows of a column add up its results.

    What stays is read once. What moves is read in the first column, and again in every other one
    unless it stays on chip. Partial sums that do not fit go to DRAM after a row and come back.
    """
    array, words = architecture.array, architecture.words
    assert isinstance(array, SystolicArray)
    rows, columns = grid
    column, row = np.divmod(np.arange(rows * columns), rows)
    own = _bytes_and_fit(layer, architecture)
    moves, stays = ("input", "weight") if array.dataflow == "ws" else ("weight", "input")
    (moving, fits), (staying, _) = own if array.dataflow == "ws" else own[::-1]
    M, N = layer.positions, layer.filters
    deep, wide = (M, N) if array.dataflow == "ws" else (N, M)
    partial = deep * min(wide, array.width) * words.accumulator_bits // 8
    fit_sums = rows == 1 or partial <= architecture.buffers.output_bytes // 2
    sums = spread(M * N * words.accumulator_bits // 8, columns)[column]
    results = spread(int(done.stores.sum()), columns)[column]
    loads = {
        moves: spread(moving, rows)[row] * ((column == 0) | (not fits)),
        stays: spread(staying, rows * columns),
    }
    name = "channels outer" if array.dataflow == "ws" else "positions outer"
    spills = None if fit_sums else sums * (row < rows - 1)
    yield name, loads, results * (row == rows - 1), spills


def _counts(
    dataflow: str, words: Words, sizes: tuple[int, int, int], grid: tuple[int, int]
) -> dict[tuple[str, str], int]:
    """Events of a layer of M, N, K on a grid of folds."""
    (M, N, K), (rows, columns) = sizes, grid
    macs = M * N * K
    reads = {"ws": (M * columns, 1), "is": (M, columns), "os": (M * columns, rows)}
    input_reads, weight_reads = reads[dataflow]
    writes = M * N * (1 if dataflow == "os" else rows)
    return {
        ("input_sram", "read"): input_reads * K * words.activation_bits,
        ("weight_sram", "read"): weight_reads * K * N * words.weight_bits,
        ("output_sram", "write"): writes * words.accumulator_bits,
        ("output_sram", "read"): (writes - M * N) * words.accumulator_bits,
        ("multiplier", "compute"): macs,
        ("accumulator", "compute"): macs,
        ("register", "access"): macs * (2 * words.activation_bits + words.accumulator_bits),
    }
