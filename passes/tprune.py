"""`tprune`: removes whole lines of weights, with everything that has to go with them.

Source: TPrune (Mao et al., ACM TCPS 5(3), 2021): rows and columns of a Transformer's matrices are
removed where they belong together: a neuron of a feed-forward layer is a column of the first and
a row of the second matrix; a feature of a head is a column in the query and key projections, or
one in the value projection and a row behind it. Here `passes.channels` finds what belongs together
in any graph, so channels of convolutional networks are removed in the same way. The paper trains
until lines are small; this pass scores the lines of a model as it comes and fits the weights that
remain to calibration data, or removes the lines that training has made small (`threshold`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.channels.follow import follow_channels
from passes.channels.graph import ChannelGraph
from passes.channels.groups import prunable
from passes.channels.layout import Mask
from passes.channels.liveness import live_channels, uneven
from passes.channels.plans import (
    decide_layers,
    freeze_left_out,
    left_out,
    mixes_channels,
    read_plan,
)
from passes.channels.removal import Removal, lost_channels
from passes.channels.rewrite import remove_channels
from passes.cost import layer_costs
from passes.framework import (
    CompressionPass,
    ConfigError,
    Cost,
    LayerDecision,
    Plan,
    PlanError,
)
from passes.heads import HeadsConfig, HeadsPass
from passes.shrink import ShrinkPass
from passes.tprune_choice import choose_channels
from passes.tprune_config import TpruneConfig
from passes.tprune_fit import Repaired, repair, write_repaired
from passes.tprune_scores import Score, channel_scores


class TprunePass(CompressionPass):
    """Removes lines."""

    name: ClassVar[str] = "tprune"
    summary: ClassVar[str] = "remove whole lines: heads, features, neurons, channels"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False  # a budget is a share of the model at hand
    config_type: ClassVar[type] = TpruneConfig

    def leaders(self, model: ir.Model) -> tuple[CompressionPass, ...]:
        """Lines that training has made small differ in number from head to head."""
        threshold, multiple = self.config.threshold, self.config.multiple
        if threshold is None:
            return ()
        return (HeadsPass(HeadsConfig(threshold=threshold, multiple=multiple), self.context),)

    def followers(self) -> tuple[CompressionPass, ...]:
        """What is dead after the removal goes as well."""
        return (ShrinkPass(context=self.context),)

    def analyse(self, model: ir.Model) -> Plan:
        """Chooses the lines; costs after are those of a pruned copy."""
        graph = prunable(model)
        excluded = left_out(model, self.context)
        freeze_left_out(graph, excluded)
        scores = channel_scores(
            model, graph, self._score(), self.context, repaired=self.config.repair
        )
        kept = choose_channels(model, graph, scores, self.config)
        removals = {m.node.name or "": lost_channels(m, kept) for m in graph.mixings}
        reasons = {**_reasons(model, graph, removals), **excluded}
        after = _predict(model, kept, removals)
        layers = decide_layers(model, removals, reasons, after)
        layers = tuple(_with_error(layer, removals, graph) for layer in layers)
        notes = () if self.context.calibration else ("no calibration data: the weights decide",)
        return Plan(pass_name=self.name, config=asdict(self.config), layers=layers, notes=notes)

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Zeroes the lines, fits what reads them, and takes them out."""
        graph = prunable(model)
        planned, kept = read_plan(plan, graph, self.name)
        _check(graph, planned, kept)
        repaired: dict[str, Repaired] = {}
        if self.context.calibration is not None and self.config.repair:
            repaired = repair(model, graph, kept, self.context)
        mask_lines(graph, kept)
        write_repaired(model, graph, kept, repaired)
        remove_masked(model, kept)
        costs = layer_costs(model)
        return replace(plan, layers=tuple(_measured(each, costs, repaired) for each in plan.layers))

    def _score(self) -> Score:
        score: Score | Literal["auto"] = self.config.score
        if score == "auto":
            return "second-order" if self.context.calibration else "magnitude"
        if score != "magnitude" and self.context.calibration is None:
            raise ConfigError(f"score={score} needs calibration data (--calib)")
        return score


def _reasons(
    model: ir.Model, graph: ChannelGraph, removals: Mapping[str, Removal]
) -> dict[str, str]:
    """One line for every layer."""
    frozen, roots = graph.frozen(), graph.roots()
    reasons = {
        node.name or "": f"frozen: {graph.refusals[node]}"
        for node in model.graph
        if node in graph.refusals and mixes_channels(node)
    }
    for mixing in graph.mixings:
        removal = removals[mixing.node.name or ""]
        sides = (("output", mixing.writes), ("input", mixing.reads))
        held = [
            f"{side}s frozen: {frozen[int(roots[ids[0]])]}"
            for side, ids in sides
            if len(ids) and all(int(root) in frozen for root in roots[ids])
        ]
        lost = [
            f"{len(which)} of {len(ids)} {side} lines"
            for (side, ids), which in zip(sides, (removal.outputs, removal.inputs), strict=True)
            if which
        ]
        reasons[mixing.node.name or ""] = (
            f"removed: {', '.join(lost)}" if lost else "; ".join(held) or "within the budget"
        )
    return reasons


def _predict(model: ir.Model, kept: Mask, removals: Mapping[str, Removal]) -> Mapping[str, Cost]:
    """Costs of a pruned copy; its ids are the same."""
    copy = model.clone()
    graph = follow_channels(copy, masked=True)
    remove_channels(copy, graph, kept, removals)
    return layer_costs(copy)


def _with_error(
    layer: LayerDecision, removals: Mapping[str, Removal], graph: ChannelGraph
) -> LayerDecision:
    """Predicts ‖ΔW‖ / ‖W‖ of a layer that loses lines."""
    if not layer.applies:
        return layer
    mixing = next(m for m in graph.mixings if m.node.name == layer.layer)
    value = mixing.node.inputs[1]
    if value is None or value.const_value is None or not layer.before.parameters:
        return layer
    share = layer.after.parameters / layer.before.parameters
    return replace(layer, predicted_error=math.sqrt(max(1 - share, 0.0)))


def _check(graph: ChannelGraph, planned: Mapping[str, Removal], kept: Mask) -> None:
    """Refuses a plan that would leave layers that do not fit together."""
    frozen, roots = graph.frozen(), graph.roots()
    if any(root in frozen for root in roots[~kept].tolist()):
        raise PlanError("plan of tprune: it removes lines that something depends on")
    if uneven(graph, kept) is not None or not all(kept[i].any() for i in graph.axes() if len(i)):
        raise PlanError("plan of tprune: heads would differ in size, or a tensor would be empty")
    for mixing in graph.mixings:
        name = mixing.node.name or ""
        removal, lost = planned.get(name, Removal()), lost_channels(mixing, kept)
        if (removal.outputs, removal.inputs) != (lost.outputs, lost.inputs):
            raise PlanError(f"plan of tprune: layer '{name}' would not fit its neighbours")


def mask_lines(graph: ChannelGraph, kept: Mask) -> None:
    """Zeroes every line that is not kept, in all weights."""
    for (value, axis), ids in graph.slices.items():
        if kept[ids].all():
            continue
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        np.moveaxis(array, axis, 0)[~kept[ids]] = 0
        value.const_value = ir.tensor(array, name=value.name)


def remove_masked(model: ir.Model, kept: Mask) -> None:
    """Takes out lines that are zero.

    Raises:
        PlanError: one of them still has an effect.
    """
    graph = follow_channels(model)
    if (live_channels(graph).needed & ~kept).any():
        raise PlanError("plan of tprune: a removed line would still have an effect")
    remove_channels(model, graph, kept, {})


def _measured(
    layer: LayerDecision, costs: Mapping[str, Cost], repaired: Mapping[str, Repaired]
) -> LayerDecision:
    """The decision with what was measured."""
    result = repaired.get(layer.layer)
    layer = replace(layer, after=costs.get(layer.layer, layer.after))
    if result is None or not layer.applies:
        return layer
    return replace(layer, measured_error=result.error, reason=f"{layer.reason}; {result.reason}")
