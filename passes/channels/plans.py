"""What the passes that remove channels share: decisions, and plans read back."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from passes.channels.graph import ChannelGraph
from passes.channels.layout import Mask
from passes.channels.removal import Removal, format_indices, parse_indices
from passes.cost import layer_costs
from passes.framework import Context, Cost, LayerDecision, Plan, PlanError, keep
from runtimes.operators.decomposed_conv import is_decomposed_conv
from runtimes.operators.hybrid_conv import is_hybrid_conv

LAYERS = {
    *(("", name) for name in ("Conv", "ConvTranspose", "Gemm", "MatMul")),
    ("com.microsoft", "FusedConv"),
    ("com.microsoft", "FusedMatMul"),
    ("com.microsoft", "Attention"),  # it projects by a weight of its own
}
PARTS = ("outputs", "inputs", "basis")
_UNKNOWN_COST = Cost(parameters=0, macs=None, nbytes=0)


def mixes_channels(node: ir.Node) -> bool:
    """Whether a decision is made about a node."""
    return (node.domain, node.op_type) in LAYERS or is_decomposed_conv(node) or is_hybrid_conv(node)


def left_out(model: ir.Model, context: Context) -> dict[str, str]:
    """Why nodes are no candidates, by name."""
    reasons: dict[str, str] = {}
    seen: set[str] = set()
    for name in (node.name or "" for node in model.graph):
        reason = context.exclusion(name)
        if reason is not None:
            reasons[name] = reason
        elif not name or name in seen:
            reasons[name] = "frozen: its name is empty or not unique"
        seen.add(name)
    return reasons


def freeze_left_out(graph: ChannelGraph, reasons: Mapping[str, str]) -> None:
    """What is left out must stay as it is, and so must all that goes with it."""
    for mixing in graph.mixings:
        if (name := mixing.node.name or "") in reasons:
            graph.freeze(np.concatenate([mixing.reads, mixing.writes]), reasons[name])


def decide_layers(
    model: ir.Model,
    removals: Mapping[str, Removal],
    reasons: Mapping[str, str],
    after: Mapping[str, Cost],
) -> tuple[LayerDecision, ...]:
    """A decision for every layer that mixes channels, followed or not."""
    before = layer_costs(model)
    decisions = []
    for node in model.graph:
        name = node.name or ""
        removal = removals.get(name, Removal())
        decision = LayerDecision(
            layer=name,
            op_type=node.op_type,
            action="apply",
            reason=reasons.get(name) or "a product of two values: it follows its operands",
            settings={key: format_indices(getattr(removal, key)) for key in PARTS},
            before=before.get(name, _UNKNOWN_COST),
            after=after.get(name, _UNKNOWN_COST),
            predicted_error=0.0,
        )
        if removal.empty:
            decision = keep(decision, decision.reason)
        if mixes_channels(node):
            decisions.append(decision)
    return tuple(decisions)


def read_settings(layer: LayerDecision, name: str) -> Removal:
    """What a plan of the named pass takes from a layer.

    Raises:
        PlanError: a setting is missing or has another form.
    """
    try:
        return Removal(**{key: parse_indices(str(layer.settings[key])) for key in PARTS})
    except (KeyError, ValueError) as error:
        raise PlanError(f"plan of {name}, layer '{layer.layer}': bad setting {error}") from error


def read_plan(plan: Plan, graph: ChannelGraph, name: str) -> tuple[dict[str, Removal], Mask]:
    """What a plan takes from every layer, and the channels that it keeps, (ids in all,).

    Raises:
        PlanError: the plan is another pass's, or does not fit the model of the graph.
    """
    if plan.pass_name != name:
        raise PlanError(f"plan of {plan.pass_name}, not of {name}")
    planned = {layer.layer: read_settings(layer, name) for layer in plan.applied}
    return planned, planned_channels(graph, planned, name)


def planned_channels(graph: ChannelGraph, planned: Mapping[str, Removal], name: str) -> Mask:
    """Channels that a plan keeps, (ids in all,)."""
    mixings = {mixing.node.name: mixing for mixing in graph.mixings}
    roots = graph.roots()
    kept = np.ones(len(roots), bool)  # by root
    for layer, removal in planned.items():
        if layer not in mixings:
            raise PlanError(f"plan of {name}: the model has no layer '{layer}' to shrink")
        mixing = mixings[layer]
        try:
            kept[roots[mixing.writes[list(removal.outputs)]]] = False
            kept[roots[mixing.reads[list(removal.inputs)]]] = False
        except IndexError as error:
            raise PlanError(f"plan of {name}, layer '{layer}': {error}") from error
    frozen = np.isin(np.arange(len(roots)), list(graph.frozen()))
    told = np.zeros(len(roots), bool)  # what layers say something of
    for mixing in graph.mixings:
        told[roots[mixing.reads]] = told[roots[mixing.writes]] = True
    for product in graph.products:  # heads and features go when all that is made of them does
        for part in product.parts:
            kept[roots[part]] = frozen[roots[part]]
            told[roots[part]] = True
    untold = [product for product in graph.products if not told[roots[product.whole]].any()]
    for product in untold:  # such as constants: they follow from their parts
        kept[roots[product.whole]] = frozen[roots[product.whole]]
    before = -1
    while before != kept.sum():
        before = kept.sum()
        for product in graph.products:
            for part in product.parts:
                kept[roots[part[kept[roots[product.whole]]]]] = True
    for product in untold:
        parts = [kept[roots[part]] for part in product.parts]
        kept[roots[product.whole]] = np.all(parts, axis=0)
    return kept[roots]
