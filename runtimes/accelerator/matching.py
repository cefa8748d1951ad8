"""Matched pairs of nonzeros, and how long adders and a two-stage pipeline take for them."""

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from runtimes.accelerator.workload import Mask

Counts = NDArray[np.int64]


def match_counts(left: Mask, right: Mask, width: int) -> Counts:
    """Matched pairs in every group of `width` positions.

    Args:
        left: (n, C) nonzeros of weight vectors.
        right: (C, P) nonzeros of activation vectors.
        width: positions of a group; the last one may be shorter.

    Returns:
        (G, n, P) with G = ⌈C / width⌉.
    """
    groups = range(0, left.shape[1], width)
    a, b = left.astype(np.float32), right.astype(np.float32)
    return np.stack([a[:, g : g + width] @ b[g : g + width] for g in groups]).astype(np.int64)


def window_cycles(counts: Counts, width: int, look_ahead: int) -> Counts:
    """Cycles in which `width` adder lanes take all pairs.

    A cycle empties the first group that has pairs left, and fills its free lanes from the
    `look_ahead` − 1 groups behind it. Groups without pairs take no cycle.

    Args:
        counts: (G, ...) pairs, at most `width` in a group.
        width: lanes.
        look_ahead: groups of a window; 1 for no concentration.

    Returns:
        (...) cycles.
    """
    left = counts.copy()
    cycles = np.zeros(counts.shape[1:], np.int64)
    for g in range(len(left)):
        active = left[g] > 0
        cycles += active
        free = np.where(active, width - left[g], 0)
        for behind in left[g + 1 : g + look_ahead]:
            moved = np.minimum(free, behind)
            behind -= moved
            free -= moved
    return cycles


def pipeline_ends(first: Counts, second: Counts, depth: int) -> Iterator[Counts]:
    """When each item leaves two stages with a FIFO of `depth` items between them.

        leave[i] = max(leave[i−1] + first[i], start[i−depth])      out of the first stage
        start[i] = max(leave[i], start[i−1] + second[i−1])         into the second

    Args:
        first: (items, n) cycles in the first stage, of n independent pipelines.
        second: (items, n) cycles in the second.
        depth: items that wait between them.

    Yields:
        (n,) cycles until the item has left the second stage.
    """
    leave = end = np.zeros(first.shape[1], np.int64)
    starts: deque[Counts] = deque(maxlen=depth)
    for in_first, in_second in zip(first, second, strict=True):
        leave = leave + in_first
        if len(starts) == depth:
            leave = np.maximum(leave, starts[0])
        starts.append(np.maximum(leave, end))
        end = starts[-1] + in_second
        yield end


def pipeline_cycles(first: Counts, second: Counts, depth: int) -> Counts:
    """Time (n,) until all items have left both stages, see `pipeline_ends`."""
    return deque(pipeline_ends(first, second, depth), maxlen=1)[0]
