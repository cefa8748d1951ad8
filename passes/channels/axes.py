"""Divided axes: into heads and features, or at the bounds where another operand divides them.

Where a Reshape splits C channels into H heads of d features, a channel goes when its head goes or
its feature of that head: `Product` holds this relation.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.channels.classes import ChannelClasses
from passes.channels.inputs import NotFollowedError
from passes.channels.layout import Ids, Layout, spread_over_axis
from passes.channels.records import Product


class DividedAxes(ChannelClasses):
    """Ids of heads, features and whole axes, the same wherever the same axis is divided alike."""

    def __init__(self) -> None:
        super().__init__()
        self._splits: dict[tuple[bytes, tuple[int, ...]], tuple[Ids, ...]] = {}
        self._wholes: dict[tuple[bytes, ...], Ids] = {}

    def split(self, layout: Layout, index: int, sizes: Sequence[int]) -> Layout:
        """Divides a dim, by its position in `layout.dims`, into dims of the given sizes."""
        dim = layout.dims[index]
        parts = tuple(replace(dim, size=size, labelled=False) for size in sizes)
        if not dim.labelled:
            return replace(layout, dims=(*layout.dims[:index], *parts, *layout.dims[index + 1 :]))
        p = sum(other.labelled for other in layout.dims[:index])
        true = [i for i, size in enumerate(sizes) if size > 1] or [len(sizes) - 1]
        parts = tuple(replace(part, labelled=i in true) for i, part in enumerate(parts))
        inner = [sizes[i] for i in true]

        def unfolded(array: NDArray[Any]) -> NDArray[Any]:
            own = inner if array.shape[p] > 1 or dim.size == 1 else [1] * len(inner)
            return array.reshape(*array.shape[:p], *own, *array.shape[p + 1 :])

        levels: tuple[Ids, ...] = (unfolded(layout.ids[p]),)
        if len(true) > 1:
            levels = self._levels(levels[0], range(p, p + len(true)))
        ids = [unfolded(array) for array in layout.ids]
        return Layout(
            rank=layout.rank,
            dims=(*layout.dims[:index], *parts, *layout.dims[index + 1 :]),
            ids=(*ids[:p], *levels, *ids[p + 1 :]),
            constants=unfolded(layout.constants),
        )

    def _levels(self, whole: Ids, axes: Sequence[int]) -> tuple[Ids, ...]:
        """Ids of heads, of features of every head and so on, for the axes of `whole` that split."""
        key = (whole.tobytes(), whole.shape)
        if key not in self._splits:
            made = []
            for last in axes:
                shape = [
                    1 if axis > last and axis in axes else n for axis, n in enumerate(whole.shape)
                ]
                made.append(self.new(*shape))
            self._splits[key] = tuple(made)
            parts = tuple(np.broadcast_to(part, whole.shape).reshape(-1) for part in made)
            self.flow.append(Product(whole=whole.reshape(-1), parts=parts))
        return self._splits[key]

    def refine(self, layout: Layout, axis: int, bounds: Sequence[int]) -> Layout:
        """Divides the dims of an axis at cumulative sizes, counted from its outer end.

        Raises:
            NotFollowedError: a bound lies inside a channel.
        """
        for bound in bounds:
            before = 1
            for index, dim in enumerate(layout.dims):
                if dim.axis != axis:
                    continue
                if before < bound < before * dim.size:
                    if bound % before or (before * dim.size) % bound:
                        raise NotFollowedError("splits or mixes the channels unevenly")
                    outer = bound // before
                    layout = self.split(layout, index, (outer, dim.size // outer))
                    break
                before *= dim.size
        return layout

    def flat(self, layout: Layout, axis: int) -> Ids:
        """Ids along a whole axis (size,), the same wherever it is in other axes."""
        positions = layout.positions(axis)
        parts = []
        for place, p in enumerate(positions):
            free = set(positions[: place + 1])
            parts.append(self.independent(layout.ids[p], free))
        spread = [
            spread_over_axis(layout, axis, part.reshape([part.shape[p] for p in positions]))
            for part in parts
        ]
        if len(spread) == 1:
            return spread[0]
        key = tuple(part.tobytes() for part in spread)
        if key not in self._wholes:
            self._wholes[key] = self.new(len(spread[0]))
            self.flow.append(Product(whole=self._wholes[key], parts=tuple(spread)))
        return self._wholes[key]

    def independent(self, ids: Ids, free: set[int]) -> Ids:
        """Ids that depend on the free axes of the array only; what differs elsewhere is tied."""
        for axis, size in enumerate(ids.shape):
            if axis not in free and size > 1:
                first = np.take(ids, [0], axis=axis)
                self.tie(first, ids)
                ids = first
        return ids
