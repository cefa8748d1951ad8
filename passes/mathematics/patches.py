"""Convolution inputs as a matrix: one row an output position (im2col)."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]


def patch_view(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> Array:
    """Every window that a convolution sees.

    Args:
        x: (N, C, *spatial).
        kernel: (n,) sizes.
        strides: (n,).
        pads: (2n,), begin of every axis, then end of every axis.
        dilations: (n,).

    Returns:
        (N, C, *out, *kernel), a view of the zero-padded input.
    """
    n = len(kernel)
    around = [(pads[axis], pads[axis + n]) for axis in range(n)]
    padded = np.pad(x, [(0, 0), (0, 0), *around])
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    windows = sliding_window_view(padded, extent, axis=tuple(range(2, 2 + n)))
    steps = (1, 1, *strides, *dilations)
    return windows[tuple(slice(None, None, step) for step in steps)]


def sample_patches(
    batches: Iterable[Array],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    picks: Sequence[NDArray[np.int64]],
) -> Array:
    """Rows of the im2col matrix at chosen output positions.

    Args:
        batches: inputs (N, C, *spatial).
        kernel: as in `patch_view`, like `strides`, `pads` and `dilations`.
        strides: see above.
        pads: see above.
        dilations: see above.
        picks: for each batch, flat indices into (N, *out).

    Returns:
        (rows, C·kernel size), channel-major.
    """
    rows = []
    for x, pick in zip(batches, picks, strict=True):
        view = patch_view(x, kernel, strides, pads, dilations)
        out = view.shape[2 : 2 + len(kernel)]
        by_pixel = np.moveaxis(view, 1, 1 + len(out))  # (N, *out, C, *kernel)
        chosen = by_pixel[np.unravel_index(pick, (len(view), *out))]  # (rows, C, *kernel)
        rows.append(chosen.reshape(len(pick), -1))
    return np.concatenate(rows)


def pixel_rows(batches: Iterable[Array], picks: Sequence[NDArray[np.int64]]) -> Array:
    """The same rows of maps (N, K, *out): (rows, K)."""
    rows = []
    for y, pick in zip(batches, picks, strict=True):
        where = np.unravel_index(pick, (len(y), *y.shape[2:]))
        rows.append(np.moveaxis(y, 1, -1)[where])
    return np.concatenate(rows)


def feature_rows(batches: Iterable[Array], picks: Sequence[NDArray[np.int64]]) -> Array:
    """Rows at chosen positions of arrays (N, ..., D) with their features last: (rows, D)."""
    rows = [x.reshape(-1, x.shape[-1])[pick] for x, pick in zip(batches, picks, strict=True)]
    return np.concatenate(rows)


def choose_positions(
    counts: Sequence[int], limit: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draws at most `limit` positions, spread over batches in proportion to their counts."""
    total = sum(counts)
    picks = []
    for count in counts:
        share = count if total <= limit else max(1, count * limit // total)
        picks.append(np.sort(rng.choice(count, share, replace=False)))
    return picks
