"""Dense systolic array: the closed form of SCALE-Sim 3.0.0, fold by fold.

With M = Ho·Wo positions, K = R·S·C, N filters and an array of H rows and W columns:

    ws   ⌈K/H⌉·⌈N/W⌉ folds of 2H + W + M − 2 cycles
    is   ⌈K/H⌉·⌈M/W⌉ folds of 2H + W + N − 2
    os   ⌈M/H⌉·⌈N/W⌉ folds of H + W + K − 2
"""

import numpy as np

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.tiles import TilePlan, spread
from runtimes.accelerator.workload import Layer


def fold_grid(array: SystolicArray, M: int, K: int, N: int) -> tuple[int, int, int]:
    """Folds along the rows, folds along the columns, cycles of one fold."""
    H, W = array.height, array.width
    if array.dataflow == "ws":
        return -(-K // H), -(-N // W), 2 * H + W + M - 2
    if array.dataflow == "is":
        return -(-K // H), -(-M // W), 2 * H + W + N - 2
    return -(-M // H), -(-N // W), H + W + K - 2


def plan(layer: Layer, architecture: Architecture) -> TilePlan:
    """Tiles of a layer of one channel group; a fold is a tile."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, SystolicArray)
    M, N, K = layer.positions, layer.filters, layer.weight[0].size
    rows, columns, cycles = fold_grid(array, M, K, N)
    folds = rows * columns
    input_bytes = -(-layer.x.size * words.activation_bits // 8)
    weight_bytes = -(-layer.weight.size * words.weight_bits // 8)
    partial_bytes = M * min(N, array.width) * words.accumulator_bits // 8
    # Columns are the outer loop; what is not on chip is read again for each of them.
    input_passes = columns if input_bytes > architecture.buffers.input_bytes // 2 else 1
    weight_passes = 1
    spill = 0
    if array.dataflow == "is":
        input_passes = 1
        weight_passes = columns if weight_bytes > architecture.buffers.weight_bytes // 2 else 1
        partial_bytes = N * min(M, array.width) * words.accumulator_bits // 8
    elif array.dataflow == "os":
        weight_passes = rows if weight_bytes > architecture.buffers.weight_bytes // 2 else 1
        input_passes = 1 if weight_passes > 1 else input_passes
    if array.dataflow != "os" and partial_bytes > architecture.buffers.output_bytes // 2:
        spill = (rows - 1) * M * N * words.accumulator_bits // 8
    macs = M * N * K
    reads = {"ws": (M * columns, 1), "is": (M, columns), "os": (M * columns, rows)}
    input_reads, weight_reads = reads[array.dataflow]
    writes = M * N * (1 if array.dataflow == "os" else rows)
    counts = {
        ("input_sram", "read"): input_reads * K * words.activation_bits,
        ("weight_sram", "read"): weight_reads * K * N * words.weight_bits,
        ("output_sram", "write"): writes * words.accumulator_bits,
        ("output_sram", "read"): (writes - M * N) * words.accumulator_bits,
        ("multiplier", "compute"): macs,
        ("accumulator", "compute"): macs,
        ("register", "access"): macs * (2 * words.activation_bits + words.accumulator_bits),
    }
    return TilePlan(
        compute=np.full(folds, cycles, np.int64),
        loads={
            "input": spread(input_bytes * input_passes, folds),
            "weight": spread(weight_bytes * weight_passes, folds),
            "partial": spread(spill, folds),
        },
        stores=spread(spill + -(-M * N * words.activation_bits // 8), folds),
        counts=counts,
        macs=macs,
    )
