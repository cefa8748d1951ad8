"""Calibration activations of a layer as rows: one a pixel of a convolution, or a token."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from passes.layerwise import LayerMaps
from passes.mathematics.fit import Samples
from passes.mathematics.patches import (
    choose_positions,
    feature_rows,
    pixel_rows,
    sample_patches,
)
from runtimes.operators.decomposed_conv import ConvGeometry

Array = NDArray[np.float32]
Picks = list[NDArray[np.int64]]

ROW_BYTES = 2**29
"""Bytes of input rows above which fewer are drawn."""


def draw_rows(
    maps: LayerMaps,
    kernel: Sequence[int],
    geometry: ConvGeometry | None,
    limit: int,
    rng: np.random.Generator,
) -> tuple[Array, Picks]:
    """Input rows (rows, D), and the positions they were taken from.

    Args:
        maps: around the layer.
        kernel: (K, C, *kernel)[2:] of a convolution.
        geometry: of a convolution; None where inputs are (N, ..., D) already.
        limit: number of rows.
        rng: draws the positions.
    """
    first = maps.inputs[0]
    width = first.shape[-1] if geometry is None else first.shape[1] * prod(kernel)
    rows = min(limit, max(ROW_BYTES // (4 * width), 1))
    if geometry is None:
        picks = choose_positions([prod(x.shape[:-1]) for x in maps.inputs], rows, rng)
        return feature_rows(maps.inputs, picks), picks
    counts = [y.shape[0] * prod(y.shape[2:]) for y in maps.targets]
    picks = choose_positions(counts, rows, rng)
    patches = sample_patches(
        maps.inputs, kernel, geometry.strides, geometry.pads, geometry.dilations, picks
    )
    return patches, picks


def samples_at(maps: LayerMaps, patches: Array, picks: Picks, *, channels_last: bool) -> Samples:
    """Inputs with what belongs to them at the point of comparison."""
    take = feature_rows if channels_last else pixel_rows
    return Samples(
        patches=patches,
        targets=take(maps.targets, picks),
        shortcut=None if maps.shortcut is None else take(maps.shortcut, picks),
        relu=maps.relu,
    )
