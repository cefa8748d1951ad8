"""What the rules note down: layers and products through which needs flow, and written-out sizes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.channels.layout import Ids, Layout, Mask

Wanted = Callable[[Ids], Mask]
"""Which of the given ids are needed."""


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
