"""Lines of a model's weights that can only be removed together.

Column j of the query projection of a head goes with column j of its key projection, column j of
the value projection with row j of the output projection, and a neuron of a feed-forward layer is a
line of both its weights and an element of a bias. Which lines go together is not looked up by the
names of layers but found in the exported graph, by the analysis that removes them in the end
(`passes.channels`), so it holds for any network.

Source: TPrune (Mao et al., ACM TCPS 5(3), 2021) for pruning by lines; the coupling is what makes
the removal exact.
"""

from collections.abc import Iterable, Iterator, Mapping
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
"""Classes that a line is made of: its head and the feature of the head, or one class."""


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
    groups = tuple(_group(keys, places) for keys, places in _same_places(graph, names))
    if not groups:
        raise ConfigError("the model has no lines that could be removed")
    return groups


def _same_places(
    graph: ChannelGraph, names: Iterable[str]
) -> Iterator[tuple[list[Key], dict[Place, list[Key]]]]:
    """Keys of lines that are in the same places, and the keys of all slices of these places."""
    frozen = graph.frozen()
    slices = {
        (value.name or "", axis): keys
        for (value, axis), keys in _keys(graph).items()
        if value.name in set(names)
    }
    tables = _tables(graph)
    found: dict[Key, list[Place]] = {}
    for place, keys in slices.items():
        for key in dict.fromkeys(keys):
            found.setdefault(key, []).append(place)
    together: dict[tuple[Place, ...], list[Key]] = {}
    for key, places in found.items():
        if not any(root in frozen for root in key) and not tables & set(places):
            together.setdefault(tuple(places), []).append(key)
    for same, keys in together.items():
        yield keys, {place: slices[place] for place in same}


def _group(keys: list[Key], places: Mapping[Place, list[Key]]) -> LineGroup:
    number = {key: line for line, key in enumerate(keys)}
    heads = {head: row for row, head in enumerate(dict.fromkeys(key[:-1] for key in keys))}
    return LineGroup(
        members={
            place: torch.tensor([number.get(key, len(keys)) for key in slices])
            for place, slices in places.items()
        },
        rows=torch.tensor([heads[key[:-1]] for key in keys]),
    )


def _keys(graph: ChannelGraph) -> dict[tuple[object, int], list[Key]]:
    """The key of every slice of every initializer."""
    roots = graph.roots()
    parts: dict[int, Key] = {}
    for product in graph.products:
        columns = np.stack([roots[part] for part in product.parts], axis=1).tolist()
        for whole, row in zip(roots[product.whole].tolist(), columns, strict=True):
            parts[whole] = tuple(row)

    def key(root: int) -> Key:
        return tuple(k for part in parts[root] for k in key(part)) if root in parts else (root,)

    return {
        place: [key(root) for root in roots[ids].tolist()] for place, ids in graph.slices.items()
    }


def _tables(graph: ChannelGraph) -> set[Place]:
    """Axes of looked-up tables."""
    values = {value for value, _ in graph.slices}
    return {
        (value.name or "", axis)
        for value, axis in graph.slices
        if value in values and any(use.node.op_type == "Gather" for use in value.uses())
    }
