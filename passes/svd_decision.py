"""What the pass `svd` decides about one node, as a `LayerDecision` and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from passes.framework import Cost, LayerDecision, PlanError
from passes.linear import LinearLayer, LinearUse
from passes.split import Split, dimensions, forms_of, macs, parameters, use_macs
from passes.svd_plan import Option

FLOAT_BYTES = 4


def decide(
    layer: LinearLayer, use: LinearUse, before: Cost, option: Option | None, refusal: str
) -> LayerDecision:
    """The decision about one use of a layer.

    Args:
        layer: that is split or kept.
        use: one of its nodes.
        before: cost of the node.
        option: the split; None keeps the layer.
        refusal: why it is kept.
    """
    decision = LayerDecision(
        layer=use.name,
        op_type=use.op_type,
        action="keep",
        reason=refusal,
        before=before,
        after=before,
    )
    if option is None:
        return decision
    split = option.split
    timed = {} if option.milliseconds is None else {"ms": option.milliseconds}
    return replace(
        decision,
        action="apply",
        reason=_reason(layer, use, option),
        after=_cost(layer, use, split),
        settings={"form": split.form, "rank": split.rank, **timed},
        predicted_error=float(np.sqrt(option.error)),
    )


def read_splits(
    decisions: Sequence[LayerDecision], layers: Sequence[LinearLayer]
) -> dict[str, Split]:
    """Splits by name of the layer.

    Raises:
        PlanError: the model has no such layer, a setting is missing or out of range, or the nodes
            of a shared weight are treated differently.
    """
    owners = {use.name: layer for layer in layers for use in layer.uses}
    given: dict[str, Split] = {}
    for decision in decisions:
        where = f"plan of svd, layer '{decision.layer}'"
        if decision.layer not in owners:
            raise PlanError(f"{where}: the model has no such layer that can be split")
        given[decision.layer] = _read_split(where, decision.settings, owners[decision.layer])
    for layer in layers:
        own = {given.get(use.name) for use in layer.uses}
        if len(own) > 1:
            names = ", ".join(f"'{use.name}'" for use in layer.uses)
            raise PlanError(f"plan of svd: {names} share a weight and need the same settings")
    return {owners[name].name: split for name, split in given.items()}


def _read_split(where: str, settings: Mapping[str, object], layer: LinearLayer) -> Split:
    try:
        form, rank = settings["form"], int(str(settings["rank"]))
    except (KeyError, ValueError) as error:
        raise PlanError(f"{where}: bad setting {error}") from error
    for known in forms_of(layer):
        if known == form and 1 <= rank <= min(dimensions(layer, known)):
            return Split(form=known, rank=rank)
    raise PlanError(f"{where}: no split of form '{form}' and rank {rank}")


def _reason(layer: LinearLayer, use: LinearUse, option: Option) -> str:
    split = option.split
    shares = [f"{parameters(layer, split) / (layer.outputs * layer.width):.0%} of its parameters"]
    whole, left = macs(layer), macs(layer, split)
    if whole is not None and left is not None:
        shares.append(f"{left / whole:.0%} of its MACs")
    shared = f", shared by {len(layer.uses)} nodes" if len(layer.uses) > 1 else ""
    full = min(dimensions(layer, split.form))
    return f"{split.form}, rank {split.rank} of {full}{shared}: {', '.join(shares)}"


def _cost(layer: LinearLayer, use: LinearUse, split: Split) -> Cost:
    """Both nodes; weights count at the first use only."""
    weights = parameters(layer, split) if use is layer.uses[0] else 0
    bias = 0 if use.op_type == "MatMul" else layer.outputs
    return Cost(
        parameters=weights,
        macs=use_macs(layer, use, split),
        nbytes=FLOAT_BYTES * (weights + bias),
    )
