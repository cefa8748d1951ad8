"""How the channels of a graph hang together: what every value and weight is labelled with.

Every channel of every value has an id. Rules (`passes.channels.follow.RULES`) say per operator
which channels are the same channel, such as the two sides of a residual Add, and tie their ids:
tied channels can only be removed together, from every value and every weight slice that has one.
So a group of channels is an equivalence class, and Concat, Flatten or depthwise convolution need
no special case. A class that something else depends on is frozen, with the reason.

`passes.channels.classes` has the ids and `passes.channels.axes` divided axes; this module adds what
the rules read and write.
"""

from collections.abc import Container, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from passes.channels.axes import DividedAxes
from passes.channels.inputs import NotFollowedError, Shape, describe, fixed, is_fixed, stored_shape
from passes.channels.layout import Ids, Layout, single
from passes.channels.records import Mixing, Product, SizeEntry

Use = tuple[ir.Node | None, int]
"""A node and which of its inputs."""


class ChannelGraph(DividedAxes):
    """What the rules note down, one node after the other, in graph order.

    Args:
        shapes: sizes of values by name, for one set of sizes of the dynamic axes.
        masked: take the weights of every channel as zero. What is then not zero where channels
            are summed up without weights cannot be removed as if it were.

    Attributes:
        tracked: labelled values.
        slices: ids along one axis of an initializer.
        views: transposed initializers, with the order of axes.
        sizes: channel counts to be rewritten.
        counting: Shapes of which every number becomes a size of other values.
        adapting: entries of the shape that a node brings its data to, which are read at run time
            and lose the channels that the data loses there.
        regular: layouts besides `tracked` that must remain rectangular.
        refusals: why a node is not followed.
    """

    def __init__(self, shapes: Mapping[str, Shape] | None = None, *, masked: bool = False) -> None:
        super().__init__()
        self.shapes: Mapping[str, Shape] = {} if shapes is None else shapes
        self.masked = masked
        self.tracked: dict[ir.Value, Layout] = {}
        self.slices: dict[tuple[ir.Value, int], Ids] = {}
        self.views: dict[ir.Value, tuple[ir.Value, tuple[int, ...]]] = {}
        self.sizes: list[SizeEntry] = []
        self.counting: list[ir.Node] = []
        self.adapting: set[tuple[ir.Node, int]] = set()
        self.regular: list[Layout] = []
        self.refusals: dict[ir.Node, str] = {}
        self._handled: set[Use] = set()
        self._cut: dict[tuple[ir.Value, int], set[Use]] = {}
        self._held: dict[tuple[ir.Value, int], Ids] = {}

    @property
    def mixings(self) -> list[Mixing]:
        """Layers in graph order."""
        return [each for each in self.flow if isinstance(each, Mixing)]

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
        self._cut.setdefault((value, axis), set()).add((node, index))

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
        self.adapting = {entry for entry in self.adapting if entry[0] is not node}
        for output in node.outputs:
            self.tracked.pop(output, None)
        inputs = {(node, index) for index in range(len(node.inputs))}
        for uses in (self._handled, *self._cut.values()):
            uses.difference_update(inputs)

    def seal(self) -> None:
        """Freezes what is used outside of the rules; call it once, after the last node."""
        for value, layout in self.tracked.items():
            for ids in layout.ids:
                self._seal(value, ids, self._handled, "its channels are not followed")
        for (value, axis), ids in self.slices.items():
            views = [view for view, (base, _) in self.views.items() if base is value]
            cut = self._cut[value, axis] | {(view.producer(), 0) for view in views}
            for each in (value, *views):
                self._seal(each, ids, cut, "needs the whole of a shared constant")

    def _seal(self, value: ir.Value, ids: Ids, followed: Container[Use], why: str) -> None:
        """Freezes ids of a value that is used in other places than those that are followed."""
        if value.is_graph_output():
            self.freeze(ids, "graph output")
        for use in value.uses():
            if (use.node, use.idx) not in followed:
                self.freeze(ids, f"{describe(use.node)}: {self.refusals.get(use.node, why)}")

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
