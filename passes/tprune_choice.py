"""Which lines the pass `tprune` removes: the weakest first, until a budget is met."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.groups import Group, channel_groups
from passes.channels.layout import Ids, Mask
from passes.channels.liveness import kept_channels
from passes.framework import ConfigError
from passes.tprune_config import DEFAULT_PARAMS, TpruneConfig

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Units of a group that are removed in one step.

    Attributes:
        roots: of their classes.
        damage: summed score.
        parameters: weights that have them.
    """

    roots: Ids
    damage: float
    parameters: int


def choose_channels(
    model: ir.Model, graph: ChannelGraph, scores: Scores, config: TpruneConfig
) -> Mask:
    """Channels to keep, (ids in all,).

    Args:
        model: the model that `graph` describes.
        graph: from `prunable`.
        scores: (ids in all,) by root; higher is kept.
        config: what may go, and how much.

    Raises:
        ConfigError: the share of parameters cannot be reached.
    """
    groups = [g for g in channel_groups(graph, scores) if _is_candidate(g, model, config)]
    sizes = _weight_sizes(graph)
    queues = [_chunks(group, scores, sizes, config) for group in groups]
    if config.density is not None or config.threshold is not None:
        taken = [chunk for queue in queues for chunk in queue]
        return _kept_without(graph, taken, scores)
    total = sum(
        v.const_value.size
        for v in model.graph.initializers.values()
        if v.const_value is not None and v.const_value.dtype.is_floating_point()
    )
    share = DEFAULT_PARAMS if config.params is None else config.params
    fixed = total - _count(graph, np.ones(len(graph.roots()), bool))
    what = f"params={share:g}"
    return _first_within(graph, _in_order(queues), scores, share * total - fixed, what, total)


def _is_candidate(group: Group, model: ir.Model, config: TpruneConfig) -> bool:
    if group.frozen is not None:
        return False
    if group.kind != "channels" and config.heads != "both":
        return (group.kind == "heads") == (config.heads == "whole")
    tables = {
        node.inputs[0].name
        for node in model.graph
        if node.op_type == "Gather" and node.inputs[0] is not None
    }
    looked_up = any(name in tables and axis > 0 for name, axis, _ in group.members)
    return bool(config.embeddings or not looked_up)


def _chunks(
    group: Group, scores: Scores, sizes: Mapping[tuple[str, int], int], config: TpruneConfig
) -> list[Chunk]:
    """What may be removed of a group, weakest first, in steps that keep widths multiples."""
    damages = [float(scores[unit].sum()) for unit in group.units]
    order = np.argsort(damages, kind="stable")
    count = len(order)
    allowed = count - max(1, math.ceil(config.floor * count))
    if config.density is not None:
        allowed = min(allowed, count - max(1, round(config.density * count)))
    if config.threshold is not None:
        mean = float(np.mean(damages))
        small = sum(damage <= config.threshold * mean for damage in damages)
        allowed = min(count - 1, small)
    step = config.multiple // math.gcd(config.multiple, group.width)
    if group.kind == "heads" or count % step:
        step = 1
    bounds = [count - left for left in range(count) if (count - left) <= allowed]
    bounds = sorted(n for n in bounds if n and (count - n) % step == 0)
    if config.density is not None or config.threshold is not None:
        bounds = bounds[-1:]
    unit = sum(n * sizes[name, axis] for name, axis, n in group.members)
    chunks, start = [], 0
    for end in bounds:
        picked = order[start:end]
        chunks.append(
            Chunk(
                roots=np.concatenate([group.units[i] for i in picked]),
                damage=sum(damages[i] for i in picked),
                parameters=unit * len(picked),
            )
        )
        start = end
    return chunks


def _in_order(queues: Sequence[Sequence[Chunk]]) -> list[Chunk]:
    """All chunks by damage per parameter; those of one group stay in their order."""
    steps = []
    for number, queue in enumerate(queues):
        worst = 0.0
        for place, chunk in enumerate(queue):
            worst = max(worst, chunk.damage / max(chunk.parameters, 1))
            steps.append((worst, number, place, chunk))
    return [chunk for *_, chunk in sorted(steps, key=lambda step: step[:3])]


def _first_within(
    graph: ChannelGraph,
    steps: Sequence[Chunk],
    scores: Scores,
    budget: float,
    what: str,
    total: int,
) -> Mask:
    """The fewest steps that come within the budget.

    Raises:
        ConfigError: all of them together do not.
    """
    low, high = 0, len(steps)
    least = _count(graph, _kept_without(graph, steps, scores))
    if least > budget:
        rest = (least - budget) / total
        raise ConfigError(
            f"{what} cannot be reached: {rest:.3f} of the model's parameters too many are left "
            "when every group is cut to its floor; raise it, or lower floor or multiple"
        )
    while low < high:
        middle = (low + high) // 2
        if _count(graph, _kept_without(graph, steps[:middle], scores)) <= budget:
            high = middle
        else:
            low = middle + 1
    return _kept_without(graph, steps[:low], scores)


def _kept_without(graph: ChannelGraph, chunks: Sequence[Chunk], scores: Scores) -> Mask:
    """What is kept when chunks are removed, (ids in all,)."""
    roots = graph.roots()
    kept = np.ones(len(roots), bool)
    for chunk in chunks:
        kept[chunk.roots] = False
    before = -1
    while before != kept.sum():  # a part may itself be made of parts
        before = kept.sum()
        for product in graph.products:
            gone = ~np.all([kept[roots[part]] for part in product.parts], axis=0)
            kept[roots[product.whole[gone]]] = False
    kept[list(graph.frozen())] = True
    return kept_channels(graph, kept[roots], order=scores)


def _weight_sizes(graph: ChannelGraph) -> dict[tuple[str, int], int]:
    """Elements of one line along each labelled axis of the initializers."""
    return {
        (value.name or "", axis): value.const_value.size // max(len(ids), 1)
        for (value, axis), ids in graph.slices.items()
        if value.const_value is not None
    }


def _count(graph: ChannelGraph, kept: Mask) -> int:
    """Elements of all initializers with labelled axes when only `kept` (ids in all,) stay."""
    shares: dict[ir.Value, float] = {}
    for (value, _), ids in graph.slices.items():
        assert value.const_value is not None
        shares[value] = shares.get(value, float(value.const_value.size)) * float(kept[ids].mean())
    return round(sum(shares.values()))
