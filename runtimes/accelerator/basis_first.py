"""The other order of ESCALATE's stages, PENNI's: convolve with the basis, then combine channels.

    T[c, m] = X[c] ∗ B[m]            by multipliers, once for all output channels
    Y[k]    = Σ_(c,m) Ce[k, c, m]·T[c, m]   by adders that take matched nonzeros only

Fewer multiplications where K > C·(share of zeros), but T, C·M values a position, is needed by every
output channel: it is held on chip for a round of tiles, while T of the next one is computed.
In favour of this order: the first stage spreads evenly over all blocks, T of a kernel that no
output channel uses is not computed, and the scales of ternary coefficients take no time.
"""

import numpy as np

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray
from runtimes.accelerator.escalate_work import (
    Work,
    coefficient_cycles,
    combine,
    factor_bytes,
    map_bytes,
)
from runtimes.accelerator.matching import Counts
from runtimes.accelerator.tiles import Ints
from runtimes.accelerator.workload import Array, Factors, Layer, taps


def patch_counts(x: Array, layer: Layer) -> Ints:
    """Nonzeros of x that a kernel covers at every output position, (C, Ho·Wo)."""
    covered = sum(view.astype(np.int64) for _, _, view in taps(x != 0, layer))
    assert isinstance(covered, np.ndarray)
    return covered.reshape(layer.channels, -1)


def decomposed_work(layer: Layer, factors: Factors, architecture: Architecture) -> Work:
    """Both stages of a decomposed layer; items are (channel, output position)."""
    array, words = architecture.array, architecture.words
    assert isinstance(array, EscalateArray)
    K, C, M = factors.coefficients.shape
    ce = (factors.coefficients != 0).reshape(K, C * M)
    inside = patch_counts(np.ones_like(layer.x), layer)  # (C, P)
    covered = patch_counts(layer.x, layer) if array.skip_activations else inside
    kernels = ce.any(axis=0).reshape(C, M).sum(axis=1)  # (C,) basis kernels in use
    shared = kernels @ -(-covered // array.multipliers_per_block)  # (P,)
    macs = int(kernels @ covered.sum(axis=1))
    present = np.repeat(covered > 0, M, axis=0)  # (C·M, P) nonzeros of T
    wide = coefficient_cycles(factors, array)
    alive = ce.any(axis=1)[:, None]  # (K, 1)
    busy, _, slots = combine(ce, present, array)  # (K, P)
    first: Counts = (np.maximum(busy * wide, -(-C * M // array.scan_bits)) * alive)[:, None]
    adds = int((slots * alive).sum())
    input_bytes, output_bytes = map_bytes(layer, words)
    written = int(kernels @ (covered > 0).sum(axis=1)) * array.intermediate_bits
    counts = {
        ("multiplier", "compute"): macs,
        ("accumulator", "compute"): macs,
        ("register", "access"): 2 * macs * words.accumulator_bits,
        ("output_sram", "write"): written,
        ("tile_buffer", "read"): adds * array.intermediate_bits
        + int(alive.sum()) * first[0].size * C * M,
        ("combine_adder", "compute"): adds * wide,
    }
    return Work(
        first=first,
        second=np.zeros_like(first),
        counts=counts,
        macs=(macs, M * int(inside.sum()) - macs),
        adds=(adds, ce.size * layer.positions - adds),
        weight_bytes=factor_bytes(factors, array, words),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        shared=shared,
        held_bits=C * M * array.intermediate_bits,
        held_traffic_bits=written,
    )
