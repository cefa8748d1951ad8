"""`svd`: convolutions and matrix products as two smaller ones, W ≈ U·V of low rank.

Truncated in the metric of the layer's inputs where there is calibration data, by plain SVD
otherwise. The two forms of a convolution and the rule of energy are those of SVD training (Yang et
al., CVPRW 2020, arXiv 2004.09031); whitening, allocation and refit are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import ClassVar

import onnx_ir as ir

from passes.cost import layer_costs, layer_name
from passes.framework import CompressionPass, LayerDecision, Plan, PlanError
from passes.linear import OP_TYPES, LinearLayer, read_layers
from passes.svd_budget import choose
from passes.svd_config import SvdConfig
from passes.svd_decision import decide, read_splits
from passes.svd_fit import fit_network
from passes.svd_plan import Analysis, Option, analyse_layers
from passes.svd_rewrite import rewrite


class SvdPass(CompressionPass):
    """Splits layers of low rank."""

    name: ClassVar[str] = "svd"
    summary: ClassVar[str] = "convolutions and matrix products as two of lower rank"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False  # a budget is a share of the model at hand
    timed: ClassVar[bool] = True
    config_type: ClassVar[type] = SvdConfig

    def analyse(self, model: ir.Model) -> Plan:
        """Chooses form and rank of every layer."""
        layers, refused = self._candidates(model)
        found = analyse_layers(model, layers, self.config, self.context)
        options = choose(model, layers, found, self.config, self.context.timer)
        decided = self._decisions(model, layers, found, options)
        costs = layer_costs(model)
        for name, reason in refused.items():
            decided[name] = LayerDecision(
                layer=name,
                op_type="",
                action="keep",
                reason=reason,
                before=costs[name],
                after=costs[name],
            )
        ordered = tuple(
            replace(decided[layer_name(node)], op_type=node.op_type)
            for node in model.graph
            if node.domain == "" and node.op_type in OP_TYPES
        )
        config = asdict(self.config)
        return Plan(pass_name=self.name, config=config, layers=ordered, notes=(self._note(),))

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Fits the planned layers and replaces their nodes."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        layers, _ = read_layers(model)
        chosen = read_splits(plan.applied, layers)
        refit = bool(plan.config.get("refit", True))
        fitted = fit_network(model, layers, chosen, self.context, refit=refit)
        rewrite(model, layers, fitted)
        errors = {name: error for each in fitted.values() for name, error in each.errors.items()}
        decisions = [
            replace(each, measured_error=errors[each.layer]) if each.applies else each
            for each in plan.layers
        ]
        return replace(plan, layers=tuple(decisions))

    def _candidates(self, model: ir.Model) -> tuple[list[LinearLayer], dict[str, str]]:
        """Layers that may be split, and why other nodes may not, by name."""
        layers, refused = read_layers(model)
        candidates = []
        for layer in layers:
            excluded = [self.context.exclusion(use.name) for use in layer.uses]
            if not any(excluded):
                candidates.append(layer)
                continue
            for use, reason in zip(layer.uses, excluded, strict=True):
                refused[use.name] = reason or "shares its weight with a layer that is left out"
        return candidates, refused

    def _decisions(
        self,
        model: ir.Model,
        layers: Sequence[LinearLayer],
        found: Mapping[str, Analysis],
        options: Mapping[str, Option],
    ) -> dict[str, LayerDecision]:
        costs = layer_costs(model)
        dense = "the budget leaves it dense: splitting others costs less accuracy"
        return {
            use.name: decide(
                layer,
                use,
                costs[use.name],
                options.get(layer.name),
                dense if found[layer.name].options else found[layer.name].refusal,
            )
            for layer in layers
            for use in layer.uses
        }

    def _note(self) -> str:
        if self.context.calibration is None:
            return "no calibration data: plain SVD; errors are those of the weights"
        if self.config.refit:
            return (
                "predicted error: of this layer alone; measured: behind its Relu, with the errors "
                "of the layers before it"
            )
        return "predicted and measured error: of this layer alone, at its output"
