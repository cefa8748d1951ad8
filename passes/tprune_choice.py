"""Which lines the pass `tprune` removes: the weakest first, until a budget is met."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.groups import Group, channel_groups
from passes.channels.layout import Ids, Mask
from passes.channels.liveness import kept_channels
from passes.framework import ConfigError
from passes.tprune_budget import Budget, mac_budget, parameter_budget
from passes.tprune_config import DEFAULT_PARAMS, TpruneConfig

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Units of a group that are removed in one step.

    Attributes:
        roots: of their classes.
        damage: summed score.
        units: how many.
    """

    roots: Ids
    damage: float
    units: int


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
        ConfigError: the budget cannot be reached, or what it counts is unknown.
    """
    groups = [g for g in channel_groups(graph, scores) if _is_candidate(g, model, config)]
    queues = [_chunks(group, scores, config) for group in groups]
    if config.density is not None or config.threshold is not None:
        taken = [chunk for queue in queues for chunk in queue]
        return _kept_without(graph, taken, scores)
    if config.macs is not None:
        budget = mac_budget(model, graph, config.macs)
    else:
        share = DEFAULT_PARAMS if config.params is None else config.params
        budget = parameter_budget(model, graph, share)
    prices = [budget.saved(graph.without([group.units[0]])) for group in groups]
    return _first_within(graph, _in_order(queues, prices), scores, budget)


def _is_candidate(group: Group, model: ir.Model, config: TpruneConfig) -> bool:
    if group.frozen is not None:
        return False
    if group.kind != "channels":
        return config.heads == "both" or (group.kind == "heads") == (config.heads == "whole")
    tables = {
        node.inputs[0].name
        for node in model.graph
        if node.op_type == "Gather" and node.inputs[0] is not None
    }
    looked_up = any(name in tables and axis > 0 for name, axis, _ in group.members)
    return bool(config.embeddings or not looked_up)


def _chunks(group: Group, scores: Scores, config: TpruneConfig) -> list[Chunk]:
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
    chunks, start = [], 0
    for end in bounds:
        picked = order[start:end]
        chunks.append(
            Chunk(
                roots=np.concatenate([group.units[i] for i in picked]),
                damage=sum(damages[i] for i in picked),
                units=len(picked),
            )
        )
        start = end
    return chunks


def _in_order(queues: Sequence[Sequence[Chunk]], prices: Sequence[float]) -> list[Chunk]:
    """All chunks by damage for what they save; those of one group stay in their order.

    Args:
        queues: chunks of each group.
        prices: what a unit of the group saves.
    """
    steps = []
    for number, (queue, price) in enumerate(zip(queues, prices, strict=True)):
        worst = 0.0
        for place, chunk in enumerate(queue):
            worst = max(worst, chunk.damage / max(chunk.units * price, 1))
            steps.append((worst, number, place, chunk))
    return [chunk for *_, chunk in sorted(steps, key=lambda step: step[:3])]


def _first_within(
    graph: ChannelGraph, steps: Sequence[Chunk], scores: Scores, budget: Budget
) -> Mask:
    """The fewest steps that come within the budget.

    Raises:
        ConfigError: all of them together do not.
    """
    low, high = 0, len(steps)
    excess = budget.excess(_kept_without(graph, steps, scores))
    if excess > 0:
        what = "MACs" if budget.key == "macs" else "parameters"
        raise ConfigError(
            f"{budget.key}={budget.share:g} cannot be reached: {excess:.3f} of the model's {what} "
            "too many are left when every group is cut to its floor; raise it, or lower floor or "
            "multiple"
        )
    while low < high:
        middle = (low + high) // 2
        if budget.excess(_kept_without(graph, steps[:middle], scores)) <= 0:
            high = middle
        else:
            low = middle + 1
    return _kept_without(graph, steps[:low], scores)


def _kept_without(graph: ChannelGraph, chunks: Sequence[Chunk], scores: Scores) -> Mask:
    """What is kept when chunks are removed, (ids in all,): rectangular, and all that is frozen."""
    left = graph.without([chunk.roots for chunk in chunks])
    left |= np.isin(graph.roots(), list(graph.frozen()))
    return kept_channels(graph, left, order=scores)
