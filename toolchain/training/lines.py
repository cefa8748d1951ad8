"""Lines of a model's weights that can only be removed together.

Column j of the query projection of a head goes with column j of its key projection, column j of
the value projection with row j of the output projection, and a neuron of a feed-forward layer is a
line of both its weights and an element of a bias. Which lines go together is not looked up by the
names of layers but found in the exported graph, by the analysis that removes them in the end
(`passes.channels`), so it holds for any network.

Source: TPrune (Mao et al., ACM TCPS 5(3), 2021) for pruning by lines; the coupling is what makes
the removal exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from passes.channels.graph import ChannelGraph
from passes.channels.groups import prunable
from passes.cleanup import fold_around_weights
from passes.framework import ConfigError
from toolchain.training.export import dense_onnx
from toolchain.training.regularizers import full_precision, safe_sqrt

Place = tuple[str, int]
"""Name of a parameter and one of its axes."""
Key = tuple[int, ...]
"""Classes that a slice is made of, such as its head and the feature of the head, or one class. The
last one is the line: a feature belongs to one head unless all heads share it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LineGroup:
    """Lines of the same weights.

    Attributes:
        members: for every place, which line each of its slices belongs to, (size,); slices of no
            line have the number of lines.
        rows: which head a line is in, (lines,); zeros where there are no heads.
    """

    members: Mapping[Place, Tensor]
    rows: Tensor

    def __len__(self) -> int:
        """Number of lines."""
        return len(self.rows)

    @property
    def name(self) -> str:
        """Its places, for people: ``"decoder.0.cross.query.weight:0, …"``."""
        return ", ".join(f"{parameter}:{axis}" for parameter, axis in self.members)

    @cached_property
    def heads(self) -> int:
        """Number of heads, 1 where there are none."""
        return int(self.rows.max()) + 1

    def norms(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """‖w_g‖₂ over all slices of a line, in all members, (lines,)."""
        energy: Tensor | None = None
        for (name, axis), lines in self.members.items():
            squares = full_precision(parameters[name]).square()
            others = [other for other in range(squares.ndim) if other != axis]
            each = squares.sum(others) if others else squares  # (size,)
            if energy is None:
                energy = each.new_zeros(len(self) + 1)
            energy = energy.index_add(0, lines.to(energy.device), each)
        assert energy is not None
        return safe_sqrt(energy[:-1])


def coupled_lines(model: nn.Module, examples: tuple[Tensor, ...]) -> tuple[LineGroup, ...]:
    """All groups of lines that may be removed, in the order of the graph.

    Lines of embeddings and of what is added to them, the width of the whole model, are not
    among them.

    Args:
        model: in any mode, not changed.
        examples: what it is called with, two or more samples.

    Raises:
        ConfigError: no line can be removed.
    """
    training = model.training
    exported = dense_onnx(model, *examples)
    model.train(training)
    fold_around_weights(exported)
    graph = prunable(exported)
    names = {name for name, _ in model.named_parameters()}
    groups = tuple(_groups(graph, names))
    if not groups:
        raise ConfigError("the model has no lines that could be removed")
    return groups


def _groups(graph: ChannelGraph, names: set[str]) -> Iterator[LineGroup]:
    """Lines that are in the same places of parameters of these names."""
    frozen, tables = graph.frozen(), _tables(graph)
    keys = {place: key for place, key in _keys(graph).items() if place[0] in names}
    places: dict[int, list[Place]] = {}
    heads: dict[int, set[Key]] = {}
    for place, slices in keys.items():
        for line in dict.fromkeys(key[-1] for key in slices):
            places.setdefault(line, []).append(place)
        for key in slices:
            heads.setdefault(key[-1], set()).add(key[-2:-1])
    together: dict[tuple[Place, ...], list[int]] = {}
    for line, same in places.items():
        if line not in frozen and not tables & set(same):
            together.setdefault(tuple(same), []).append(line)
    for where, lines in together.items():
        number = {line: index for index, line in enumerate(lines)}
        found = [min(heads[line]) if len(heads[line]) == 1 else () for line in lines]
        rows = {head: row for row, head in enumerate(dict.fromkeys(found))}
        yield LineGroup(
            members={
                place: torch.tensor([number.get(key[-1], len(lines)) for key in keys[place]])
                for place in where
            },
            rows=torch.tensor([rows[head] for head in found]),
        )


def _keys(graph: ChannelGraph) -> dict[Place, list[Key]]:
    """What every slice of every initializer is made of."""
    roots = graph.roots()
    parts: dict[int, Key] = {}
    for product in graph.products:
        columns = np.stack([roots[part] for part in product.parts], axis=1).tolist()
        for whole, row in zip(roots[product.whole].tolist(), columns, strict=True):
            parts[whole] = tuple(row)

    def key(root: int) -> Key:
        return tuple(k for part in parts[root] for k in key(part)) if root in parts else (root,)

    return {
        (value.name or "", axis): [key(root) for root in roots[ids].tolist()]
        for (value, axis), ids in graph.slices.items()
    }


def _tables(graph: ChannelGraph) -> set[Place]:
    """Axes of looked-up tables."""
    return {
        (value.name or "", axis)
        for value, axis in graph.slices
        if any(use.node.op_type == "Gather" and use.idx == 0 for use in value.uses())
    }
