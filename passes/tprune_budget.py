"""Parameters or multiply-accumulates of a model when only some of its channels are left.

Either is a sum over weights or layers, each of which keeps the product of what its axes keep: a
weight (K, C) the shares of its rows and columns, a layer those of what it writes and of what it
sums over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from passes.budget import model_amount
from passes.channels.graph import ChannelGraph
from passes.channels.layout import Ids, Mask
from passes.channels.records import Contraction, Mixing
from passes.cost import layer_table


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What a weight or a layer costs.

    Attributes:
        size: in full.
        factors: axes, or lists of axes that belong together; the ids of one broadcast.
    """

    size: float
    factors: tuple[tuple[Ids, ...], ...]

    def left(self, kept: Mask) -> float:
        """Size when only `kept` (ids in all,) stay."""
        size = self.size
        for factor in self.factors if size else ():  # without elements there is no share
            size *= float(reduce(np.logical_and, (kept[ids] for ids in factor)).mean())
        return size


@dataclass(frozen=True, kw_only=True, eq=False)
class Budget:
    """How much may be left.

    Attributes:
        key: "params" or "macs".
        share: of the whole model.
        total: of the whole model.
        parts: what can become less.
    """

    key: str
    share: float
    total: float
    parts: tuple[Part, ...]

    def excess(self, kept: Mask) -> float:
        """Share of the model that is too much when only `kept` (ids in all,) stay, or ≤ 0."""
        left = round(self.total - self.saved(kept))
        return left / self.total - self.share if self.total else 0.0

    def saved(self, kept: Mask) -> float:
        """What is saved when only `kept` (ids in all,) stay."""
        return sum(part.size - part.left(kept) for part in self.parts)


def parameter_budget(model: ir.Model, graph: ChannelGraph, share: float) -> Budget:
    """A budget of the elements of all floating-point initializers."""
    axes: dict[ir.Value, list[tuple[Ids, ...]]] = {}
    for (value, _), ids in graph.slices.items():
        axes.setdefault(value, []).append((ids,))
    sizes = {
        value: value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    }
    parts = tuple(
        Part(size=sizes[value], factors=tuple(factors))
        for value, factors in axes.items()
        if value in sizes
    )
    return Budget(key="params", share=share, total=sum(sizes.values()), parts=parts)


def mac_budget(model: ir.Model, graph: ChannelGraph, share: float) -> Budget:
    """A budget of multiply-accumulates.

    Raises:
        ConfigError: they depend on sizes that are not known.
    """
    total = model_amount(model, "macs")
    summed: dict[ir.Node, list[Mixing | Contraction]] = {}
    for step in graph.flow:
        if isinstance(step, Mixing | Contraction):
            summed.setdefault(step.node, []).append(step)
    parts = tuple(
        Part(size=cost.macs or 0, factors=tuple(_axes(node, summed.get(node, []), graph)))
        for node, cost in layer_table(model)
    )
    return Budget(key="macs", share=share, total=total, parts=parts)


def _axes(
    node: ir.Node, steps: list[Mixing | Contraction], graph: ChannelGraph
) -> Iterator[tuple[Ids, ...]]:
    """What a layer writes, and what it sums over."""
    sums = [step for step in steps if isinstance(step, Contraction)]
    if sums:  # features of heads, for the heads that are written
        yield (*(ids for step in sums for ids in (step.reads, *step.writes)),)
        return
    layout = graph.tracked.get(node.outputs[0])
    if layout is not None:
        yield layout.ids
    for step in steps:
        if isinstance(step, Mixing) and not step.depthwise:
            yield (step.reads,)
