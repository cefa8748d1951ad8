"""How the channels of a graph hang together: union-find over single channels.

Every channel of every value has an id. Rules (`passes.channels.RULES`) say per operator which
channels are the same channel, such as the two sides of a residual Add, and tie their ids: tied
channels can only be removed together, from every value and every weight slice that has one. So
a group of channels is an equivalence class, and Concat, Flatten or depthwise convolution need
no special case. A class that something else depends on is frozen, with the reason.

Ids may label any axis of a value; the rules for convolutional networks label one, the channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Constants = NDArray[np.float64]
"""What each channel is at every position of every sample; NaN where that is not constant."""


class NotFollowedError(ValueError):
    """A node does something to channels that is not understood; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The labelled axis of a value with C channels.

    Attributes:
        axis: which one, from 0.
        rank: number of axes of the value.
        ids: (C,).
        constants: (C,).
    """

    axis: int
    rank: int
    ids: Ids
    constants: Constants


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixing:
    """A layer that computes K channels as linear combinations of C channels.

    Attributes:
        node: the layer.
        reads: (C,) ids of its input.
        writes: (K,) ids of its output.
        connected: (K, C), whether a weight is not zero and meets an input that may not be zero.
        group: channel groups of the layer.
    """

    node: ir.Node
    reads: Ids
    writes: Ids
    connected: Mask
    group: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether every group has one input channel, so that groups go with channels."""
        return self.group > 1 and self.group == len(self.reads)


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeEntry:
    """A channel count written out in an integer initializer, such as the shape of a Reshape."""

    node: ir.Node
    index: int
    entry: int
    ids: Ids


class ChannelGraph:
    """What the rules note down, one node after the other, in graph order.

    Attributes:
        tracked: labelled values.
        slices: ids along one axis of an initializer.
        mixings: layers in graph order.
        sizes: channel counts to be rewritten.
        refusals: why a node is not followed.
    """

    def __init__(self) -> None:
        self.tracked: dict[ir.Value, Channels] = {}
        self.slices: dict[tuple[ir.Value, int], Ids] = {}
        self.mixings: list[Mixing] = []
        self.sizes: list[SizeEntry] = []
        self.refusals: dict[ir.Node, str] = {}
        self._parents: list[int] = []
        self._frozen: list[tuple[Ids, str]] = []
        self._handled: set[tuple[ir.Node, int]] = set()

    def new(self, size: int) -> Ids:
        """Ids (size,) of channels that are tied to nothing yet."""
        first = len(self._parents)
        self._parents.extend(range(first, first + size))
        return np.arange(first, first + size, dtype=np.int64)

    def tie(self, one: Ids, other: Ids) -> None:
        """Makes channels the same, pair by pair; both (C,).

        Raises:
            NotFollowedError: the lengths differ.
        """
        if len(one) != len(other):
            raise NotFollowedError(f"joins {len(one)} with {len(other)} channels")
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def freeze(self, ids: Ids, reason: str) -> None:
        """Forbids to remove channels."""
        self._frozen.append((ids, reason))

    def read(self, node: ir.Node, index: int, *, axis: int, rank: int, size: int) -> Channels:
        """Channels of a node's input; frozen ones where its producer is not followed.

        Raises:
            NotFollowedError: channels are known, but on another axis or in another number.
        """
        value = node.inputs[index]
        if value is None:
            raise NotFollowedError(f"input {index} is missing")
        if value not in self.tracked:
            ids = self.new(size)
            self.freeze(ids, self._origin(value))
            unknown = np.full(size, np.nan)
            self.tracked[value] = Channels(axis=axis, rank=rank, ids=ids, constants=unknown)
        channels = self.tracked[value]
        if (channels.axis, channels.rank, len(channels.ids)) != (axis, rank, size):
            raise NotFollowedError(
                f"reads {size} channels on axis {axis} of {rank}, not {len(channels.ids)} on "
                f"axis {channels.axis} of {channels.rank}"
            )
        self._handled.add((node, index))
        return channels

    def slice(self, node: ir.Node, index: int, axis: int, ids: Ids) -> None:
        """Labels an axis of a node's constant input; ties it where it was labelled before.

        Raises:
            NotFollowedError: the axis has another size.
        """
        value = node.inputs[index]
        assert value is not None and value.const_value is not None
        size = value.const_value.shape[axis]
        if size != len(ids):
            raise NotFollowedError(f"input {index} has size {size} for {len(ids)} channels")
        if (value, axis) in self.slices:
            self.tie(self.slices[value, axis], ids)
        else:
            self.slices[value, axis] = ids
        self._handled.add((node, index))

    def write(self, node: ir.Node, channels: Channels) -> None:
        """Labels a node's output.

        Raises:
            NotFollowedError: a further output is used.
        """
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise NotFollowedError("more than one output is used")
        self.tracked[node.outputs[0]] = channels

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Takes back what a rule said of a node: its inputs will be frozen."""
        self.refusals[node] = reason
        self.mixings = [mixing for mixing in self.mixings if mixing.node is not node]
        for output in node.outputs:
            self.tracked.pop(output, None)
        self._handled -= {(node, index) for index in range(len(node.inputs))}

    def seal(self) -> None:
        """Freezes what is used outside of the rules; call it once, after the last node."""
        labelled = [(value, channels.ids) for value, channels in self.tracked.items()]
        labelled += [(value, ids) for (value, _), ids in self.slices.items()]
        for value, ids in labelled:
            if value.is_graph_output():
                self.freeze(ids, "graph output")
            for use in value.uses():
                if (use.node, use.idx) not in self._handled:
                    reason = self.refusals.get(use.node, "its channels are not followed")
                    self.freeze(ids, f"{describe(use.node)}: {reason}")

    def roots(self) -> Ids:
        """Class of every id, (ids in all,): the lowest id tied to it."""
        return np.array([self._root(i) for i in range(len(self._parents))], dtype=np.int64)

    def frozen(self) -> dict[int, str]:
        """First reason for every frozen class, by root."""
        reasons: dict[int, str] = {}
        for ids, reason in self._frozen:
            for i in ids.tolist():
                reasons.setdefault(self._root(i), reason)
        return reasons

    def axes(self) -> Iterator[Ids]:
        """Every labelled axis, of values and initializers."""
        yield from (channels.ids for channels in self.tracked.values())
        yield from self.slices.values()

    def _root(self, i: int) -> int:
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    def _origin(self, value: ir.Value) -> str:
        node = value.producer()
        if node is None:
            return "graph input" if value.is_graph_input() else "constant"
        return f"{describe(node)}: {self.refusals.get(node, 'its channels are not followed')}"


def describe(node: ir.Node) -> str:
    """Operator and name, for messages."""
    return f"{node.op_type} '{node.name}'"


def constant(node: ir.Node, index: int, what: str) -> NDArray[Any]:
    """A node's constant input.

    Raises:
        NotFollowedError: it is missing, or may be different at run time.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise NotFollowedError(f"{what} is missing")
    if value.is_graph_input():
        raise NotFollowedError(f"{what} is a graph input, it may change at run time")
    if value.const_value is None:
        raise NotFollowedError(f"{what} is computed at run time")
    return value.const_value.numpy()


def has_input(node: ir.Node, index: int) -> bool:
    """Whether an optional input is given."""
    return index < len(node.inputs) and node.inputs[index] is not None
