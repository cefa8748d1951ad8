"""Which channels of a network can go without changing what it computes.

    channel c is needed if it is frozen, or if a layer reads it with a nonzero weight
    W[k, c] ≠ 0, in a place where it is not known to be zero, for an output k that is needed.

What is not needed can be removed exactly: every reader either ignores it or reads zeros. At a
residual Add the operands are the same channels, so that the union of what they need remains.
Constants flow forward and needs flow backward; this reaches in one sweep each what removing
dead channels and looking again would reach in many (PENNI, ICML 2020, step "shrink").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.layout import Ids, Layout, Mask, kept_counts


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """What is known of every channel id; both (ids in all,).

    Attributes:
        read: whether a layer whose output is needed reads it.
        needed: the same, or frozen.
    """

    read: Mask
    needed: Mask


def live_channels(graph: ChannelGraph) -> Liveness:
    """Finds the channels that are needed: the least set that satisfies the definition above."""
    roots = graph.roots()
    frozen = np.zeros(len(roots), bool)
    frozen[list(graph.frozen())] = True
    read = np.zeros(len(roots), bool)
    settled = False
    while not settled:  # ties may lead a need forward again: one more round then
        settled = True
        for step in reversed(graph.flow):
            used = roots[step.demand(lambda ids: (read | frozen)[roots[ids]])]
            if not (read | frozen)[used].all() or not read[used].all():
                settled = False
                read[used] = True
    return Liveness(read=read[roots], needed=(read | frozen)[roots])


def kept_channels(
    graph: ChannelGraph, needed: Mask, multiple: int = 1, order: NDArray[np.float64] | None = None
) -> Mask:
    """Channels to keep, (ids in all,): the needed ones, and what makes them rectangular.

    Every axis keeps one channel, and all heads keep as many features as the largest of them. A
    grouped layer keeps two inputs a group, a depthwise one two groups: otherwise it would turn
    into the other kind or an ordinary one, with other ties, and a second run would find more.
    Axes that are a multiple of `multiple` remain one.

    Args:
        graph: from `follow_channels`.
        needed: (ids in all,).
        multiple: of widths.
        order: (ids in all,), what is kept in addition is highest here; by default the first.
    """
    roots = graph.roots()
    rank = np.zeros(len(roots)) if order is None else order
    kept = np.zeros(len(roots), bool)
    kept[roots[needed]] = True  # by root
    for mixing in graph.mixings:
        if mixing.group > 1:
            end = None if mixing.depthwise else len(mixing.reads) // mixing.group
            _keep_at_least(2, roots[mixing.reads[:end]], kept, rank)
    before = -1
    while before != kept.sum():  # what one axis keeps, axes tied to it keep as well
        before = kept.sum()
        for product in graph.products:
            kept[roots[product.demand(lambda ids: kept[roots[ids]])]] = True
        for ids in graph.axes():
            classes = np.unique(roots[ids])
            count = max(1, int(kept[classes].sum()))
            if len(classes) % multiple == 0:
                count = -(-count // multiple) * multiple
            _keep_at_least(count, classes, kept, rank)
        for layout in graph.layouts():
            if len(layout.ids) > 1:
                _even_out(layout, roots, kept, rank)
    return kept[roots]


def _even_out(layout: Layout, roots: Ids, kept: Mask, rank: NDArray[np.float64]) -> None:
    """Keeps as many in every row of every dim as in the fullest one."""
    for index, ids in enumerate(layout.ids):
        rows = np.moveaxis(roots[ids], index, -1)
        alive = np.ones(rows.shape[:-1], bool)
        for other, array in enumerate(layout.ids):
            if other == index or ids.shape[other] == 1:
                continue
            present = np.asarray(np.moveaxis(kept[roots[array]], index, -1).any(axis=-1))
            shared = tuple(axis for axis, size in enumerate(rows.shape[:-1]) if size == 1)
            alive = alive & np.asarray(present.any(axis=shared, keepdims=True))
        rows = rows.reshape(-1, rows.shape[-1])[alive.reshape(-1)]
        count = max(1, int(kept[rows].sum(axis=1).max(initial=0)))
        for row in rows:
            _keep_lines(count, row, kept, rank)


def _keep_lines(count: int, row: Ids, kept: Mask, rank: NDArray[np.float64]) -> None:
    """Keeps the best classes of a row until `count` of its lines are kept."""
    while int(kept[row].sum()) < count:
        left = row[~kept[row]]
        kept[left[np.argmax(rank[left])]] = True


def _keep_at_least(count: int, classes: Ids, kept: Mask, rank: NDArray[np.float64]) -> None:
    """Keeps the best of the classes that are not kept until there are `count`."""
    missing = max(0, count - len(set(classes[kept[classes]].tolist())))
    unkept = np.array(list(dict.fromkeys(classes[~kept[classes]].tolist())), np.int64)
    best = unkept[np.argsort(-rank[unkept], kind="stable")]
    kept[best[:missing]] = True


def uneven(graph: ChannelGraph, kept: Mask) -> Layout | None:
    """A layout that could not be cut out, or None."""
    for layout in graph.layouts():
        for index in range(len(layout.ids)):
            counts = kept_counts(layout, kept, index)
            if counts.size and (counts.min() != counts.max() or not counts.max()):
                return layout
    return None
