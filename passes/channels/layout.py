"""Where the channels of one value lie: which parts of which axes are labelled with which ids.

An axis is a product of dims, outermost first: after a Reshape into heads and a Transpose back, the
last axis of attention's output is the dims (H, d) on one axis. Only dims that consist of channels
are labelled. The label of an element along a dim may depend on where it is in other dims: feature
j of head 0 is not feature j of head 1. So the ids of a dim are an array that broadcasts over all
labelled dims: (H, 1) for the heads, (H, d) for the features of every head, or (1, d) where all
heads share them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Constants = NDArray[np.float64]
"""What each channel is at every position of every sample; NaN where that is not constant."""


@dataclass(frozen=True, kw_only=True)
class Dim:
    """A factor of an axis.

    Attributes:
        axis: which one, from 0.
        size: number of elements.
        labelled: whether it counts channels; else it is something like the pixels behind them.
    """

    axis: int
    size: int
    labelled: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The channels of a value.

    Attributes:
        rank: number of axes of the value.
        dims: factors of the axes that have channels, in order; other axes have none.
        ids: one array a labelled dim; its number of axes is that of labelled dims, its size on
            each that of the dim, or 1.
        constants: broadcasts over the labelled dims likewise.
    """

    rank: int
    dims: tuple[Dim, ...]
    ids: tuple[Ids, ...]
    constants: Constants

    @property
    def labelled(self) -> tuple[Dim, ...]:
        """The dims that have ids, in the order of `ids`."""
        return tuple(dim for dim in self.dims if dim.labelled)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the labelled dims."""
        return tuple(dim.size for dim in self.labelled)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes that have channels, in order."""
        return tuple(sorted({dim.axis for dim in self.labelled}))

    def on(self, axis: int) -> tuple[Dim, ...]:
        """The dims of one axis."""
        return tuple(dim for dim in self.dims if dim.axis == axis)

    def positions(self, axis: int) -> tuple[int, ...]:
        """Which of the labelled dims are on an axis."""
        return tuple(i for i, dim in enumerate(self.labelled) if dim.axis == axis)

    def size(self, axis: int) -> int:
        """Size of an axis that has channels."""
        return int(np.prod([dim.size for dim in self.on(axis)], dtype=np.int64))

    def with_constants(self, constants: Constants) -> "Layout":
        """The same channels with other constants, an array or a number."""
        array = np.asarray(constants, np.float64)
        return replace(
            self, constants=array.reshape((1,) * (len(self.ids) - array.ndim) + array.shape)
        )

    def unknown(self) -> "Layout":
        """The same channels, of which no constant is known."""
        return self.with_constants(np.array(np.nan))


def single(axis: int, rank: int, ids: Ids, constants: Constants) -> Layout:
    """A layout with one axis of channels: ids (C,), constants (C,) or a number."""
    constants = np.broadcast_to(np.asarray(constants, np.float64), ids.shape)
    return Layout(rank=rank, dims=(Dim(axis=axis, size=len(ids)),), ids=(ids,), constants=constants)


def placed(layout: Layout, axes: Sequence[int], rank: int) -> Layout:
    """The layout with dim i on axis `axes[i]`, in the order of the new axes."""
    order = sorted(range(len(layout.dims)), key=lambda i: axes[i])
    dims = tuple(replace(layout.dims[i], axis=axes[i]) for i in order)
    old = [i for i, dim in enumerate(layout.dims) if dim.labelled]
    permutation = [old.index(i) for i in order if layout.dims[i].labelled]
    return Layout(
        rank=rank,
        dims=dims,
        ids=tuple(layout.ids[p].transpose(permutation) for p in permutation),
        constants=layout.constants.transpose(permutation),
    )


def renumbered(layout: Layout, new_axis: dict[int, int], rank: int) -> Layout:
    """The layout with every axis moved to `new_axis[axis]`."""
    return placed(layout, [new_axis[dim.axis] for dim in layout.dims], rank)


def without_dims(layout: Layout, gone: Sequence[int], rank: int) -> Layout:
    """The layout without some labelled dims, on which nothing else depends any more."""
    index = tuple(0 if i in gone else slice(None) for i in range(len(layout.ids)))
    labelled = layout.labelled
    dims = tuple(dim for dim in layout.dims if not any(dim is labelled[i] for i in gone))
    constants = layout.constants
    for i in sorted(gone, reverse=True):  # constant only if it is so everywhere
        constants = _common(constants, (i,))
    ids = tuple(array[index] for i, array in enumerate(layout.ids) if i not in gone)
    return Layout(rank=rank, dims=dims, ids=ids, constants=constants)


def with_axis(x: Layout, axis: int, ids: Ids, constants: Constants) -> Layout:
    """The layout with one axis replaced by new channels."""
    rest = without_dims(x, x.positions(axis), x.rank)
    rest = replace(rest, dims=tuple(dim for dim in rest.dims if dim.axis != axis))
    p = sum(dim.axis < axis for dim in rest.labelled)
    n = len(rest.ids) + 1
    dims = sorted((*rest.dims, Dim(axis=axis, size=len(ids))), key=lambda dim: dim.axis)
    shape = [len(ids) if i == p else 1 for i in range(n)]
    others = [np.expand_dims(array, p) for array in rest.ids]
    return Layout(
        rank=x.rank,
        dims=tuple(dims),
        ids=(*others[:p], ids.reshape(shape), *others[p:]),
        constants=np.asarray(constants, np.float64).reshape(shape),
    )


def axis_constants(layout: Layout, axis: int) -> Constants:
    """The constant of every element along an axis, NaN where it differs elsewhere; (size,)."""
    full = np.broadcast_to(layout.constants, layout.sizes)
    others = tuple(i for i, dim in enumerate(layout.labelled) if dim.axis != axis)
    if others:
        full = _common(full, others)
    return spread_over_axis(layout, axis, full)


def _common(constants: Constants, axes: tuple[int, ...]) -> Constants:
    """The constant along some axes, NaN where it differs or there is none."""
    low = constants.min(axis=axes, initial=np.inf)
    return np.where(low == constants.max(axis=axes, initial=-np.inf), low, np.nan)


def spread_over_axis(layout: Layout, axis: int, array: NDArray[Any]) -> NDArray[Any]:
    """An array over the labelled dims of an axis, repeated over its other dims; (size,)."""
    own = iter(array.shape)
    dims = layout.on(axis)
    shape = [next(own) if dim.labelled else 1 for dim in dims]
    return np.broadcast_to(array.reshape(shape), [dim.size for dim in dims]).reshape(-1)


def kept_counts(layout: Layout, kept: Mask, index: int) -> NDArray[np.int64]:
    """How many elements of a labelled dim are kept in each of its rows that is itself kept.

    The layout can be cut out only if these are all the same.

    Args:
        layout: of a value.
        kept: (ids in all,).
        index: of the labelled dim.
    """
    ids = layout.ids[index]
    counts = kept[ids].sum(axis=index, keepdims=True)
    rows = np.ones_like(counts, bool)
    for other, array in enumerate(layout.ids):
        if other != index and ids.shape[other] > 1:
            rows = rows & kept[array].any(axis=index, keepdims=True)
    counts, rows = np.broadcast_arrays(counts, rows)
    return np.asarray(counts[rows])


def kept_size(layout: Layout, kept: Mask, axis: int) -> int:
    """Size of an axis when only the kept channels remain."""
    size = 1
    for dim in layout.on(axis):
        size *= 1 if dim.labelled else dim.size
    for index in layout.positions(axis):
        size *= int(kept_counts(layout, kept, index).max(initial=0))
    return size
