"""`shrink`: removes channels and basis kernels that do not matter. The output stays the same.

Source: PENNI (Li et al., ICML 2020), step D. Pruning leaves all-zero slices behind; a channel
goes when everything that reads it ignores it or reads zeros, together with the slices of every
weight that writes or reads it. Two differences to the published code, both for exactness: a
channel without weights still carries its bias through the activation and counts as zero only if
that gives zero, and where the paper iterates, `passes.channels.liveness` finds the fixed point
directly.
Widths stay multiples of 16 where they are: onnxruntime's convolutions work on blocks of 8 or 16
channels, and a ResNet-20 with blocks of 14 channels ran 15 % slower than with 16.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.channels.follow import follow_channels
from passes.channels.graph import ChannelGraph
from passes.channels.layout import Mask
from passes.channels.liveness import Liveness, kept_channels, live_channels
from passes.channels.plans import (
    decide_layers,
    freeze_left_out,
    left_out,
    mixes_channels,
    read_plan,
)
from passes.channels.removal import (
    Removal,
    dead_basis,
    describe_removal,
    find_removal,
    lost_channels,
)
from passes.channels.rewrite import remove_channels
from passes.cost import layer_costs
from passes.framework import CompressionPass, ConfigError, Cost, Plan, PlanError


@dataclass(frozen=True, kw_only=True)
class ShrinkConfig:
    """Options of the pass."""

    channels: bool = field(default=True, metadata={"help": "remove dead channels"})
    basis: bool = field(default=True, metadata={"help": "remove unused basis kernels"})
    multiple: int = field(
        default=16,
        metadata={"help": "widths that are a multiple of this remain one; 1 removes all it can"},
    )

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ConfigError: `multiple` is below 1.
        """
        if self.multiple < 1:
            raise ConfigError(f"multiple is {self.multiple}, expected 1 or more")


class ShrinkPass(CompressionPass):
    """Removes what contributes nothing."""

    name: ClassVar[str] = "shrink"
    summary: ClassVar[str] = "remove dead channels and basis kernels, exactly"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True
    config_type: ClassVar[type] = ShrinkConfig

    def analyse(self, model: ir.Model) -> Plan:
        """Finds what every layer loses; costs after are those of a shrunk copy."""
        graph = follow_channels(model)
        excluded = left_out(model, self.context)
        freeze_left_out(graph, excluded)
        live = live_channels(graph)
        everything = np.ones_like(live.needed)
        needed = live.needed if self.config.channels else everything
        kept = kept_channels(graph, needed, self.config.multiple)
        removals, reasons = {}, self._keep_reasons(model, graph, live) | excluded
        for mixing in graph.mixings:
            name = mixing.node.name or ""
            basis = self.config.basis and name not in excluded
            removals[name] = find_removal(mixing, kept, basis=basis)
            if not removals[name].empty:
                reasons[name] = describe_removal(mixing, removals[name])
        after = predict_costs(model, kept, removals)
        layers = decide_layers(model, removals, reasons, after)
        return Plan(pass_name=self.name, config=asdict(self.config), layers=layers)

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Removes what the plan names, after checking that it is dead in this model."""
        graph = follow_channels(model)
        planned, kept = read_plan(plan, graph, self.name)
        _check_plan(graph, planned, kept)
        remove_channels(model, graph, kept, planned)
        costs = layer_costs(model)
        measured = (replace(d, after=costs.get(d.layer, d.after)) for d in plan.layers)
        return replace(plan, layers=tuple(measured))

    def _keep_reasons(self, model: ir.Model, graph: ChannelGraph, live: Liveness) -> dict[str, str]:
        """Why a candidate layer would stay as it is, by name."""
        frozen, roots = graph.frozen(), graph.roots()
        reasons = {}
        for node in model.graph:
            if node in graph.refusals and mixes_channels(node):
                reasons[node.name or ""] = f"frozen: {graph.refusals[node]}"
        for mixing in graph.mixings:
            ids = np.concatenate([mixing.writes, mixing.reads])
            unread = roots[ids[~live.read[ids]]].tolist()
            held = [f"frozen: {frozen[root]}" for root in unread if root in frozen]
            stay = f"dead channels stay, so that widths are multiples of {self.config.multiple}"
            reason = held[0] if held else stay if unread else "no dead channel"
            reasons[mixing.node.name or ""] = reason if self.config.channels else "channels=False"
        return reasons


def predict_costs(
    model: ir.Model, kept: Mask, removals: Mapping[str, Removal]
) -> Mapping[str, Cost]:
    """Costs of a shrunk copy; its ids are the same, because rules are applied in graph order."""
    copy = model.clone()
    remove_channels(copy, follow_channels(copy), kept, removals)
    return layer_costs(copy)


def _check_plan(graph: ChannelGraph, planned: Mapping[str, Removal], kept: Mask) -> None:
    """Refuses a plan that would change the output or leave layers that do not fit together."""
    if not all(kept[ids].any() for ids in graph.axes() if len(ids)):
        raise PlanError("plan of shrink: it would remove all channels of a tensor")
    needed = live_channels(graph).needed
    for mixing in graph.mixings:
        name = mixing.node.name or ""
        removal, lost = planned.get(name, Removal()), lost_channels(mixing, kept)
        if (removal.outputs, removal.inputs) != (lost.outputs, lost.inputs):
            raise PlanError(f"plan of shrink: layer '{name}' would not fit its neighbours")
        if (
            needed[mixing.writes[list(lost.outputs)]].any()
            or needed[mixing.reads[list(lost.inputs)]].any()
        ):
            raise PlanError(f"plan of shrink: layer '{name}' has channels that are not dead")
        if not set(removal.basis) <= set(dead_basis(mixing, kept)):
            raise PlanError(f"plan of shrink: layer '{name}' has basis kernels that are not dead")
