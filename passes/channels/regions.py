"""Attention as a region of the graph: what lies between its projections and the layer behind it.

Of the output Y = Σ_h Y_h·W_h, W_h the rows of the projection behind head h, every head is a term of
its own. So copies of the region, each with some of the heads, add up to the whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.channels.follow import follow_channels
from passes.channels.graph import ChannelGraph
from passes.channels.groups import channel_groups
from passes.channels.layout import Ids
from passes.channels.records import Mixing
from passes.channels.rewrite import remove_channels
from passes.conv import free_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """One attention.

    Attributes:
        closing: the MatMul that sums over its heads.
        nodes: from the projections to `closing`, in graph order.
        weights: initializers that have heads.
        heads: roots of the heads, (H,).
        units: head of every channel that `closing` reads, (C,).
    """

    closing: Mixing
    nodes: tuple[ir.Node, ...]
    weights: tuple[ir.Value, ...]
    heads: Ids
    units: Ids

    @property
    def name(self) -> str:
        """That of the closing node."""
        return self.closing.node.name or ""


def find_regions(model: ir.Model, graph: ChannelGraph) -> Iterator[Region | tuple[str, str]]:
    """Every attention whose heads are free, or the layer behind it and why it cannot be copied.

    Args:
        model: prepared model.
        graph: from `prunable`.
    """
    roots = graph.roots()
    seen: set[str] = set()
    for group in channel_groups(graph):
        if group.kind != "heads" or group.frozen is not None or len(group.units) < 2:
            continue
        if any(len(unit) > 1 for unit in group.units):
            continue
        heads = np.concatenate(group.units)
        found = _region(model, graph, roots, heads)
        name = found[0] if isinstance(found, tuple) else "" if found is None else found.name
        if found is not None and name not in seen:
            seen.add(name)
            yield found


def _region(
    model: ir.Model, graph: ChannelGraph, roots: Ids, heads: Ids
) -> Region | tuple[str, str] | None:
    owner = np.full(len(roots), -1, np.int64)  # head of every root that is one, or made of one
    owner[heads] = np.arange(len(heads))
    before = -1
    while before != (owner >= 0).sum():  # a part may itself be made of parts
        before = int((owner >= 0).sum())
        for product in graph.products:
            for part in product.parts:
                of = owner[roots[part]]
                owner[roots[product.whole[of >= 0]]] = of[of >= 0]
    marked = owner >= 0
    closings = [m for m in graph.mixings if marked[roots[m.reads]].any()]
    if not closings:
        return None
    name = closings[0].node.name or ""
    closing_nodes = {mixing.node for mixing in closings}
    inside = {
        value
        for value, layout in graph.tracked.items()
        if any(marked[roots[ids]].any() for ids in layout.ids)
    }
    nodes = tuple(n for n in model.graph if n in closing_nodes or inside & set(n.outputs))
    labelled = (v for (v, _), ids in graph.slices.items() if marked[roots[ids]].any())
    weights = tuple(dict.fromkeys(labelled))
    reason = _why_not(closings, nodes, inside, weights)
    if reason:
        return name, reason
    units = owner[roots[closings[0].reads]]
    return Region(closing=closings[0], nodes=nodes, weights=weights, heads=heads, units=units)


def _why_not(
    closings: Sequence[Mixing],
    nodes: Sequence[ir.Node],
    inside: set[ir.Value],
    weights: Sequence[ir.Value],
) -> str:
    """Why a region cannot be copied, or nothing."""
    if len(closings) > 1 or closings[0].node.op_type != "MatMul":
        return "its heads are not summed up by one MatMul"
    if closings[0].node.outputs[0].is_graph_output() or any(v.is_graph_output() for v in inside):
        return "a graph output"
    region = set(nodes)
    used = [use.node for value in (*inside, *weights) for use in value.uses()]
    if not all(node in region or node.op_type == "Shape" for node in used):
        return "its heads are used elsewhere"
    return ""


def split_regions(model: ir.Model, parts: Sequence[tuple[Region, Sequence[Sequence[int]]]]) -> None:
    """Copies regions, and leaves some heads to each copy; in place.

    Args:
        model: prepared model.
        parts: regions, each with the heads of its copies; every head is in one of them.
    """
    copies = []
    for region, chosen in parts:
        closings = [region.closing.node]
        for _ in chosen[1:]:
            closings.append(_copy(model.graph, region, after=closings[-1], number=len(closings)))
        _add_up(model.graph, closings)
        names = [node.name for node in closings]
        copies += list(zip(names, chosen, [region.units] * len(names), strict=True))
    graph = follow_channels(model, masked=True)
    mixings = {mixing.node.name: mixing for mixing in graph.mixings}
    roots, made_of = graph.roots(), _parts(graph)
    gone = []
    for name, heads, units in copies:
        owners = _owners(roots[mixings[name].reads], units, made_of)
        gone += [owners[head] for head in range(len(owners)) if head not in heads]
    remove_channels(model, graph, graph.without(gone), {})


def _parts(graph: ChannelGraph) -> dict[int, set[int]]:
    """What every root is made of."""
    roots = graph.roots()
    parts: dict[int, set[int]] = {}
    for product in graph.products:
        for part in product.parts:
            pairs = zip(roots[product.whole].tolist(), roots[part].tolist(), strict=True)
            for whole, root in pairs:
                parts.setdefault(whole, set()).add(root)
    return parts


def _owners(channels: Ids, units: Ids, parts: Mapping[int, set[int]]) -> list[Ids]:
    """Roots of every head: what all channels (C,) of the head are made of, and no others."""

    def made_of(root: int) -> set[int]:
        own = parts.get(root, set())
        return own.union(*(made_of(part) for part in own))

    shared: dict[int, set[int]] = {}
    every: dict[int, set[int]] = {}
    for root, unit in zip(channels.tolist(), units.tolist(), strict=True):
        found = made_of(root)
        shared[unit] = shared.get(unit, found) & found
        every[unit] = every.get(unit, set()) | found
    owners = []
    for unit in range(len(shared)):
        others = set().union(*(every[other] for other in every if other != unit))
        owners.append(np.array(sorted(shared[unit] - others), np.int64))
    return owners


def _copy(graph: ir.Graph, region: Region, after: ir.Node, number: int) -> ir.Node:
    """Another copy of a region, behind a node; returns its closing node."""
    copied: dict[ir.Value, ir.Value] = {}
    last = after
    for value in region.weights:
        assert value.const_value is not None
        name = free_name(graph, f"{value.name}.heads{number}")
        copied[value] = ir.Value(
            name=name, type=value.type, shape=value.shape, const_value=value.const_value
        )
        graph.initializers.add(copied[value])
    for node in region.nodes:
        inputs = [None if value is None else copied.get(value, value) for value in node.inputs]
        outputs = [
            ir.Value(name=f"{v.name}.heads{number}", type=v.type, shape=v.shape)
            for v in node.outputs
        ]
        copied.update(zip(node.outputs, outputs, strict=True))
        new = ir.Node(
            node.domain, node.op_type, inputs, list(node.attributes.values()),
            name=f"{node.name}.heads{number}", outputs=outputs,
        )  # fmt: skip
        graph.insert_after(last, new)
        last = new
    return last


def _add_up(graph: ir.Graph, closings: Sequence[ir.Node]) -> None:
    """Uses the sum of the outputs of nodes in the place of the first, under its name."""
    first, last = closings[0].outputs[0], closings[-1]
    readers = [(use.node, use.idx) for use in first.uses()]
    total = first
    for number, node in enumerate(closings[1:], start=1):
        out = ir.Value(name=f"{first.name}.sum{number}", type=first.type, shape=first.shape)
        operands = [total, node.outputs[0]]
        add = ir.Node("", "Add", operands, name=f"{node.name}.sum", outputs=[out])
        graph.insert_after(last, add)
        total, last = out, add
    for reader, index in readers:
        reader.replace_input_with(index, total)
    whole = first.name
    first.name, total.name = f"{whole}.heads0", whole
