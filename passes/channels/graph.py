"""How the channels of a graph hang together: union-find over single channels.

Every channel of every value has an id. Rules (`passes.channels.follow.RULES`) say per operator
which channels are the same channel, such as the two sides of a residual Add, and tie their ids:
tied channels can only be removed together, from every value and every weight slice that has one.
So a group of channels is an equivalence class, and Concat, Flatten or depthwise convolution need
no special case. A class that something else depends on is frozen, with the reason.

Where a Reshape splits C channels into H heads of d features, a channel goes when its head goes or
its feature of that head: `Product` holds this relation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.layout import Ids, Layout, Mask, single, spread_over_axis

Shape = tuple[int | None, ...]
Wanted = Callable[[Ids], Mask]
"""Which of the given ids are needed."""


class NotFollowedError(ValueError):
    """A node does something to channels that is not understood; the message says what."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixing:
    """A layer that computes K channels as linear combinations of C channels.

    Attributes:
        node: the layer.
        reads: (C,) ids of its input.
        writes: (K,) ids of its output.
        connected: (K, C), whether a weight is not zero and meets an input that may not be zero;
            computed when it is asked for, because it is as large as the weight.
        group: channel groups of the layer.
    """

    node: ir.Node
    reads: Ids
    writes: Ids
    connected: Callable[[], Mask]
    group: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether every group has one input channel, so that groups go with channels."""
        return self.group > 1 and self.group == len(self.reads)

    def demand(self, wanted: Wanted) -> Ids:
        """Ids that are needed because an output that is needed reads them."""
        rows = wanted(self.writes)
        return self.reads[self.connected()[rows].any(axis=0)] if rows.any() else self.reads[:0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contraction:
    """Two values multiplied and summed over channels, such as queries and keys.

    Attributes:
        node: the operator.
        reads: ids that are summed over, any shape S.
        writes: ids of the outputs that they reach, each broadcasting over S.
        nonzero: S, whether the product may differ from zero.
    """

    node: ir.Node
    reads: Ids
    writes: tuple[Ids, ...]
    nonzero: Mask

    def demand(self, wanted: Wanted) -> Ids:
        """Ids that are needed because an output that is needed sums over them."""
        needed = self.nonzero
        for ids in self.writes:
            needed = needed & wanted(ids)
        return np.broadcast_to(self.reads, needed.shape)[needed]


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """Channels that remain where all of their parts do, such as head and feature of the head.

    Attributes:
        whole: (C,).
        parts: each (C,).
    """

    whole: Ids
    parts: tuple[Ids, ...]

    def demand(self, wanted: Wanted) -> Ids:
        """A whole needs its parts, and is needed where all of them are."""
        used = wanted(self.whole)
        all_parts = np.all([wanted(part) for part in self.parts], axis=0)
        return np.concatenate([self.whole[all_parts], *(part[used] for part in self.parts)])


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeEntry:
    """A size of channels that is written out in a constant or an attribute.

    Attributes:
        node: whose it is.
        index: of the input, where it is one.
        attribute: its name, where it is one.
        entry: position in the list; None for a number.
        layout: of a value that has this size.
        axis: of that value.
        dim: only this labelled dim of the axis counts; None for all.
        reader: the Reshape or Expand that gets its shape from the node, where it is another one.
        default: what the attribute means where it is missing, to be written down before the
            channels change (the scale of attention); None for sizes.
    """

    node: ir.Node
    index: int = -1
    attribute: str = ""
    entry: int | None = None
    layout: Layout
    axis: int
    dim: int | None = None
    reader: ir.Node | None = None
    default: float | None = None


@dataclass
class ChannelGraph:
    """What the rules note down, one node after the other, in graph order.

    Attributes:
        shapes: sizes of values by name, for one set of sizes of the dynamic axes.
        masked: take the weights of every channel as zero. What is then not zero where channels
            are summed up without weights cannot be removed as if it were.
        tracked: labelled values.
        slices: ids along one axis of an initializer.
        views: transposed initializers, with the order of axes.
        flow: how needs flow, in graph order.
        sizes: channel counts to be rewritten.
        regular: layouts besides `tracked` that must remain rectangular.
        refusals: why a node is not followed.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    masked: bool = False
    tracked: dict[ir.Value, Layout] = field(default_factory=dict)
    slices: dict[tuple[ir.Value, int], Ids] = field(default_factory=dict)
    views: dict[ir.Value, tuple[ir.Value, tuple[int, ...]]] = field(default_factory=dict)
    flow: list[Mixing | Contraction | Product] = field(default_factory=list)
    sizes: list[SizeEntry] = field(default_factory=list)
    regular: list[Layout] = field(default_factory=list)
    refusals: dict[ir.Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parents: list[int] = []
        self._frozen: list[tuple[Ids, str]] = []
        self._handled: set[tuple[ir.Node, int]] = set()
        self._splits: dict[tuple[bytes, tuple[int, ...]], tuple[Ids, ...]] = {}
        self._wholes: dict[tuple[bytes, ...], Ids] = {}
        self._held: dict[tuple[ir.Value, int], Ids] = {}

    @property
    def mixings(self) -> list[Mixing]:
        """Layers in graph order."""
        return [each for each in self.flow if isinstance(each, Mixing)]

    @property
    def products(self) -> list[Product]:
        """Channels that are made of parts."""
        return [each for each in self.flow if isinstance(each, Product)]

    # Ids.

    def new(self, *shape: int) -> Ids:
        """Ids of channels that are tied to nothing yet."""
        first, size = len(self._parents), math.prod(shape)
        self._parents.extend(range(first, first + size))
        return np.arange(first, first + size, dtype=np.int64).reshape(shape)

    def tie(self, one: Ids, other: Ids) -> None:
        """Makes channels the same, pair by pair; the arrays are broadcast unless they are flat.

        Raises:
            NotFollowedError: the lengths differ.
        """
        if one.ndim == other.ndim == 1 and len(one) != len(other):
            raise NotFollowedError(f"joins {len(one)} with {len(other)} channels")
        one, other = np.broadcast_arrays(one, other)
        differ = one != other
        for a, b in set(zip(one[differ].tolist(), other[differ].tolist(), strict=True)):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def freeze(self, ids: Ids, reason: str) -> None:
        """Forbids to remove channels."""
        self._frozen.append((ids.reshape(-1), reason))

    def roots(self) -> Ids:
        """Class of every id, (ids in all,): the lowest id tied to it."""
        roots = np.array(self._parents, dtype=np.int64)
        while True:
            above = roots[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def frozen(self) -> dict[int, str]:
        """First reason for every frozen class, by root."""
        reasons: dict[int, str] = {}
        roots = self.roots()
        for ids, reason in self._frozen:
            for root in np.unique(roots[ids]).tolist():
                reasons.setdefault(root, reason)
        while self._freeze_products(reasons, roots):
            pass
        return reasons

    def _freeze_products(self, reasons: dict[int, str], roots: Ids) -> bool:
        """What is made of frozen parts is frozen, and so are the parts of what is frozen."""
        before = len(reasons)
        fixed_ids = np.zeros(len(roots), bool)
        fixed_ids[list(reasons)] = True
        for product in self.products:
            whole, parts = roots[product.whole], [roots[part] for part in product.parts]
            for i in np.flatnonzero(fixed_ids[whole]).tolist():
                for part in parts:
                    reasons.setdefault(int(part[i]), reasons[int(whole[i])])
            for i in np.flatnonzero(np.all([fixed_ids[part] for part in parts], axis=0)).tolist():
                reasons.setdefault(int(whole[i]), reasons[int(parts[-1][i])])
        return len(reasons) > before

    def _root(self, i: int) -> int:
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    # Structure of axes.

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

    # What the rules read and write.

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Sizes of a value, as far as they are known."""
        if value is None:
            return None
        if value.const_value is not None:
            return stored_shape(value)
        if (value.name or "") in self.shapes:
            return self.shapes[value.name or ""]
        if value.shape is None:
            return None
        return tuple(size if isinstance(size, int) else None for size in value.shape)

    def rank(self, value: ir.Value | None) -> int:
        """Number of axes of a value.

        Raises:
            NotFollowedError: it is unknown.
        """
        if value in self.tracked:
            return self.tracked[value].rank
        shape = self.shape(value)
        if shape is None:
            raise NotFollowedError("the rank of an input is unknown")
        return len(shape)

    def layout(self, node: ir.Node, index: int) -> Layout | None:
        """Channels of a node's input, which its rule takes care of; None where it has none."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or value not in self.tracked:
            return None
        self._handled.add((node, index))
        return self.tracked[value]

    def handle(self, node: ir.Node, index: int) -> None:
        """Says that a rule takes care of an input."""
        self._handled.add((node, index))

    def read(self, node: ir.Node, index: int, *, axis: int, rank: int, size: int) -> Ids:
        """Ids along an axis of a node's input; frozen ones where its producer is not followed.

        Raises:
            NotFollowedError: the axis has another size.
        """
        value = node.inputs[index]
        if value is None:
            raise NotFollowedError(f"input {index} is missing")
        layout = self.layout(node, index)
        if layout is not None and axis in layout.axes:
            if (layout.rank, layout.size(axis)) != (rank, size):
                raise NotFollowedError(
                    f"reads {size} channels on axis {axis} of {rank}, not {layout.size(axis)} "
                    f"of {layout.rank}"
                )
            return self.flat(layout, axis)
        if is_fixed(value):
            ids = self.new(size)
            self.slice(node, index, axis, ids)
            return ids
        if (value, axis) not in self._held:
            self._held[value, axis] = self.new(size)
            self.freeze(self._held[value, axis], self.origin(value))
        ids = self._held[value, axis]
        if layout is None:
            self.tracked[value] = single(axis, rank, ids, np.array(np.nan))
            self._handled.add((node, index))
        return ids

    def slice(self, node: ir.Node, index: int, axis: int, ids: Ids) -> None:
        """Labels an axis of a node's constant input; ties it where it was labelled before.

        Raises:
            NotFollowedError: the axis has another size, or the input may change at run time.
        """
        value, order = self.weight(node, index)
        assert value.const_value is not None
        axis = order[axis]
        size = value.const_value.shape[axis]
        if size != len(ids):
            raise NotFollowedError(f"input {index} has size {size} for {len(ids)} channels")
        if (value, axis) in self.slices:
            self.tie(self.slices[value, axis], ids)
        else:
            self.slices[value, axis] = ids
        self._handled.add((node, index))

    def weight(self, node: ir.Node, index: int) -> tuple[ir.Value, tuple[int, ...]]:
        """The initializer that an input is, and which of its axes are the input's.

        Raises:
            NotFollowedError: it is none, or a graph input as well.
        """
        value = fixed(node, index, f"input {index}")
        if value in self.views:
            return self.views[value]
        if value.const_value is None:
            raise NotFollowedError(f"input {index} is computed at run time")
        return value, tuple(range(len(value.const_value.shape)))

    def write(self, node: ir.Node, layout: Layout, output: int = 0) -> None:
        """Labels a node's output."""
        self.tracked[node.outputs[output]] = layout

    def single_output(self, node: ir.Node) -> None:
        """Refuses nodes of which more than the first output is used.

        Raises:
            NotFollowedError: a further output is used.
        """
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise NotFollowedError("more than one output is used")

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Takes back what a rule said of a node: its inputs will be frozen."""
        self.refusals[node] = reason
        self.flow = [
            each for each in self.flow if isinstance(each, Product) or each.node is not node
        ]
        self.sizes = [entry for entry in self.sizes if entry.node is not node]
        for output in node.outputs:
            self.tracked.pop(output, None)
        self._handled -= {(node, index) for index in range(len(node.inputs))}

    def seal(self) -> None:
        """Freezes what is used outside of the rules; call it once, after the last node."""
        labelled = [(value, ids) for value, layout in self.tracked.items() for ids in layout.ids]
        for (value, _), ids in self.slices.items():
            labelled.append((value, ids))
            labelled += [(view, ids) for view, (base, _) in self.views.items() if base is value]
        for value, ids in labelled:
            if value.is_graph_output():
                self.freeze(ids, "graph output")
            for use in value.uses():
                if (use.node, use.idx) not in self._handled:
                    reason = self.refusals.get(use.node, "its channels are not followed")
                    self.freeze(ids, f"{describe(use.node)}: {reason}")

    def origin(self, value: ir.Value) -> str:
        """Why the channels of a value are not known."""
        node = value.producer()
        if node is None:
            return "graph input" if value.is_graph_input() else "constant"
        return f"{describe(node)}: {self.refusals.get(node, 'its channels are not followed')}"

    def layouts(self) -> Iterator[Layout]:
        """Every layout that must remain rectangular."""
        yield from self.tracked.values()
        yield from self.regular

    def axes(self) -> Iterator[Ids]:
        """Every labelled line of values and initializers, (size,)."""
        for layout in self.layouts():
            if len(layout.ids) == 1:
                yield layout.ids[0]
        yield from self.slices.values()


def describe(node: ir.Node) -> str:
    """Operator and name, for messages."""
    return f"{node.op_type} '{node.name}'"


def stored_shape(value: ir.Value) -> tuple[int, ...]:
    """Sizes of a constant."""
    assert value.const_value is not None
    return tuple(size for size in value.const_value.shape if isinstance(size, int))


def is_fixed(value: ir.Value | None) -> bool:
    """Whether a value is a constant that cannot be fed at run time."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def fixed(node: ir.Node, index: int, what: str) -> ir.Value:
    """A node's input that is the same at every run.

    Raises:
        NotFollowedError: it is missing, or may be different at run time.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise NotFollowedError(f"{what} is missing")
    if value.is_graph_input():
        raise NotFollowedError(f"{what} is a graph input, it may change at run time")
    return value


def constant(node: ir.Node, index: int, what: str) -> NDArray[Any]:
    """A node's constant input.

    Raises:
        NotFollowedError: it is missing, or may be different at run time.
    """
    value = fixed(node, index, what)
    if value.const_value is None:
        raise NotFollowedError(f"{what} is computed at run time")
    return value.const_value.numpy()


def has_input(node: ir.Node, index: int) -> bool:
    """Whether an optional input is given."""
    return index < len(node.inputs) and node.inputs[index] is not None
