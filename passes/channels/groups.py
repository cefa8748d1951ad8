"""Groups of channels: what goes together, how many there are, and what holds them.

The classes of a `ChannelGraph` are single channels with all lines of weights that go with them. A
group is all classes that have lines in the same weights, such as the neurons of one feed-forward
layer, the heads of one attention, or the features of its heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.follow import follow_channels
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import describe
from passes.channels.layout import Ids
from passes.channels.records import Contraction
from runtimes.operators.decomposed_conv import is_decomposed_conv


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels of the same kind.

    Attributes:
        name: of the weight that has most of them.
        kind: "channels", or for axes that are divided "heads" and "features".
        units: roots that are removed together; in every head one feature, for features.
        members: (initializer, axis, lines of a unit there).
        width: lines of a unit along the divided axis, in one head for features.
        frozen: why none of them can be removed, or None.
    """

    name: str
    kind: str
    units: tuple[Ids, ...]
    members: tuple[tuple[str, int, int], ...]
    width: int
    frozen: str | None


def prunable(model: ir.Model) -> ChannelGraph:
    """The channel graph in which what could not be removed after its weights are zero is frozen."""
    graph = follow_channels(model, masked=True)
    for step in graph.flow:
        if isinstance(step, Contraction) and step.nonzero.any():
            reads = np.broadcast_to(step.reads, step.nonzero.shape)[step.nonzero]
            graph.freeze(reads, f"{describe(step.node)}: not zero when the weights are")
    for mixing in graph.mixings:
        if is_decomposed_conv(mixing.node):
            ids = np.concatenate([mixing.reads, mixing.writes])
            graph.freeze(ids, f"{describe(mixing.node)}: decomposed already")
    return graph


def channel_groups(graph: ChannelGraph, scores: NDArray[np.float64] | None = None) -> list[Group]:
    """All groups, in order of the graph; the weakest features of all heads are paired.

    Args:
        graph: from `prunable`.
        scores: (ids in all,) by root, which feature of a head is paired with which of another.
    """
    roots, frozen = graph.roots(), graph.frozen()
    order = np.zeros(len(roots)) if scores is None else scores
    lines = _lines(graph, roots)
    groups = []
    seen: set[int] = set()
    for kind, rows, size in _rows(graph, roots):
        fresh = [row for row in rows if not seen & set(row.tolist())]
        if not fresh:
            continue
        seen |= {int(root) for row in fresh for root in row}
        paired = _paired(fresh, order)
        for units, reason in _parted(paired, frozen):
            members = _members(units[0], lines)
            if members:
                groups.append(
                    Group(
                        name=max(members, key=lambda m: m[2])[0],
                        kind=kind,
                        units=tuple(units),
                        members=members,
                        width=size // len(paired) or max(n for _, _, n in members),
                        frozen=reason,
                    )
                )
    return groups


def _rows(graph: ChannelGraph, roots: Ids) -> Iterator[tuple[str, list[Ids], int]]:
    """Classes of one kind, heads and features first, and the size of the axis they divide."""
    wholes = {int(root) for product in graph.products for root in roots[product.whole]}
    parts = {int(r) for product in graph.products for part in product.parts for r in roots[part]}
    for layout in graph.layouts():
        for index, ids in enumerate(layout.ids):
            if len(layout.ids) > 1:
                is_innermost = index == len(layout.ids) - 1
                last = is_innermost and layout.labelled[index].axis == layout.rank - 1
                table = np.moveaxis(roots[ids], index, -1).reshape(-1, ids.shape[index])
                if set(table.reshape(-1).tolist()) <= parts - wholes:
                    rows = [_unique(row) for row in table]
                    distinct = {row.tobytes(): row for row in rows}
                    kind = "features" if last else "heads"
                    yield kind, list(distinct.values()), ids.shape[index]
    signature: dict[int, list[int]] = {}
    for number, ids in enumerate(graph.slices.values()):
        for root in np.unique(roots[ids]).tolist():
            if root not in wholes:
                signature.setdefault(root, []).append(number)
    same: dict[tuple[int, ...], list[int]] = {}
    for root, numbers in signature.items():
        same.setdefault(tuple(numbers), []).append(root)
    for members in same.values():
        yield "channels", [np.array(members, np.int64)], 0


def _paired(rows: Sequence[Ids], order: NDArray[np.float64]) -> list[Ids]:
    """One class of every row together, weakest first; rows may share classes."""
    sorted_rows = [row[np.argsort(order[row], kind="stable")] for row in rows]
    if len({len(row) for row in sorted_rows}) > 1:
        return [np.unique(np.concatenate(sorted_rows))]
    return [np.unique(np.array(column)) for column in zip(*sorted_rows, strict=True)]


def _parted(units: Sequence[Ids], frozen: dict[int, str]) -> Iterator[tuple[list[Ids], str | None]]:
    """Units that are free, and units that are frozen by the same reason."""
    parts: dict[str | None, list[Ids]] = {}
    for unit in units:
        reason = next((frozen[int(root)] for root in unit if int(root) in frozen), None)
        parts.setdefault(reason, []).append(unit)
    for reason, members in parts.items():
        yield members, reason


def _lines(graph: ChannelGraph, roots: Ids) -> dict[int, dict[tuple[str, int], int]]:
    """How many lines of which axes of initializers every class has; parts have their wholes'."""
    lines: dict[int, dict[tuple[str, int], int]] = {}
    for (value, axis), ids in graph.slices.items():
        for root, count in zip(*np.unique(roots[ids], return_counts=True), strict=True):
            lines.setdefault(int(root), {})[value.name or "", axis] = int(count)
    for product in graph.products:
        for part in product.parts:
            for whole, root in zip(
                roots[product.whole].tolist(), roots[part].tolist(), strict=True
            ):
                own = lines.setdefault(root, {})
                for key, count in lines.get(whole, {}).items():
                    own[key] = own.get(key, 0) + count
    return lines


def _members(
    unit: Ids, lines: dict[int, dict[tuple[str, int], int]]
) -> tuple[tuple[str, int, int], ...]:
    total: dict[tuple[str, int], int] = {}
    for root in unit.tolist():
        for key, count in lines.get(root, {}).items():
            total[key] = total.get(key, 0) + count
    return tuple((name, axis, count) for (name, axis), count in total.items())


def _unique(row: Ids) -> Ids:
    return np.array(list(dict.fromkeys(row.tolist())), np.int64)
