"""`escalate`: basis kernels of 8 bits, coefficients of 8, 4 or 2, activations of 8.

    W[k, c] ≈ Σ_m s[k, m]·v[k, c, m]·B_q[m],     x ≈ s_x·(x_q − z_x)

A basis kernel is used by all outputs and channels of a layer, a coefficient by one pair of them:
different precision for the two parts of a decomposed weight is the idea of ESCALATE (Li et al.,
MICRO 2021; built here from its abstract). Ternary v with a scale for each (output, basis kernel)
need about a bit. All is fitted to the outputs of the float network on calibration data, layer by
layer, without training. Layers that are not decomposed become ordinary int8 (QDQ); first and 1×1
convolutions among them run in the hybrid kernel. A float model is decomposed by `penni` first.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.conv import replace_node
from passes.cost import layer_costs, layer_name, with_sample_shapes
from passes.escalate_config import EscalateConfig
from passes.escalate_fit import quantise_layer
from passes.escalate_graph import Codes, register, simplify
from passes.escalate_layers import (
    DecomposedLayer,
    Layer,
    RefusalError,
    candidates,
    is_quantised,
    on_node,
    read_layer,
)
from passes.escalate_nodes import Quantised
from passes.escalate_plan import LayerChoice, plan_layers
from passes.escalate_units import decompose_units
from passes.framework import CompressionPass, ConfigError, Cost, LayerDecision, Plan, PlanError
from passes.fuse import FusePass
from passes.mathematics.allocation import BudgetError
from passes.mathematics.hybrid_fit import LARGEST
from passes.mathematics.quantization import CalibrationError
from passes.penni import PenniPass
from passes.pooling import standard_if_int8
from passes.shrink import ShrinkPass
from runtimes.operators import max_pool
from runtimes.operators.decomposed_conv import is_decomposed_conv
from runtimes.operators.hybrid_conv import op_types
from runtimes.operators.hybrid_conv_function import add_functions

NO_DATA = "no calibration data: the ranges of activations are unknown; give --calib"
ALREADY = "the model is quantised already: it is left alone"


class EscalatePass(CompressionPass):
    """Quantises decomposed convolutions, and what is around them."""

    name: ClassVar[str] = "escalate"
    summary: ClassVar[str] = "8-bit activations and basis, 8- to 2-bit coefficients"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = True
    config_type: ClassVar[type] = EscalateConfig

    def leaders(self, model: ir.Model) -> tuple[CompressionPass, ...]:
        """The decomposition, where nothing is decomposed yet and there is data to go on."""
        decomposed = any(is_decomposed_conv(node) for node in model.graph)
        if decomposed or is_quantised(model) or self.context.calibration is None:
            return ()
        penni = PenniPass(self.config.penni, self.context)
        return penni, ShrinkPass(context=self.context), FusePass(context=self.context)

    def analyse(self, model: ir.Model) -> Plan:
        """Chooses form and bits of every layer."""
        calibration, copy = self.context.calibration, model.clone()
        layers, reasons = self._readable(copy)
        whole = ALREADY if is_quantised(model) else NO_DATA if calibration is None else None
        choices: Mapping[str, LayerChoice] = {}
        if whole is None and calibration is not None and layers:
            layers = self._prepare(copy, layers)
            try:
                choices = plan_layers(copy, layers, calibration, self.config, self.context)
            except CalibrationError as error:
                raise ConfigError(f"cannot calibrate {error}") from error
            except BudgetError as error:
                raise ConfigError(
                    f"size={self.config.size:g} cannot be reached: {error}"
                ) from error
        costs = layer_costs(model)
        decisions = tuple(
            _decide(node, costs[name], whole or reasons.get(name, ""), choices.get(name))
            for node in candidates(model)
            if (name := layer_name(node))
        )
        notes = (
            (whole,)
            if whole
            else (
                "predicted error: of this layer alone; measured: with the errors of the layers "
                "before it",
            )
        )
        config = asdict(self.config)
        return Plan(pass_name=self.name, config=config, layers=decisions, notes=notes)

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Quantises the planned layers in graph order and rewrites the graph."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        layers, _ = self._readable(model)
        bits = {each.layer: _read_bits(each, layers) for each in plan.applied}
        if bits and self.context.calibration is None:
            raise PlanError("plan of escalate: it needs calibration data, give --calib")
        layers = self._prepare(model, {name: layers[name] for name in layers if name in bits})
        done = self._quantise(model, layers, bits)
        for name, quantised in done.items():
            substitute = quantised.substitute
            shared = [v for v in substitute.constants if v not in quantised.own]
            register(model.graph, shared)
            replace_node(layers[name].node, substitute.nodes, quantised.own)
        simplify(model.graph)
        standard_if_int8(model.graph)
        max_pool.add_functions(model, [node.op_type for node in model.graph])
        costs = layer_costs(model)
        measured = (
            replace(each, after=costs[each.layer], measured_error=done[each.layer].error)
            if each.applies
            else each
            for each in plan.layers
        )
        return replace(plan, layers=tuple(measured))

    def _quantise(
        self, model: ir.Model, layers: Mapping[str, Layer], bits: Mapping[str, int]
    ) -> dict[str, Quantised]:
        """Walks through the network, every layer behind its quantised predecessors."""
        calibration, done = self.context.calibration, dict[str, Quantised]()
        if calibration is None or not layers:
            return done
        walk, codes = calibration.walk(model, list(layers)), Codes(model.graph)
        rng = np.random.default_rng(self.context.seed)
        for index, (name, layer) in enumerate(layers.items(), start=1):
            try:
                done[name] = quantise_layer(
                    layer, walk.maps(name), codes, self.config, bits[name], rng=rng
                )
            except CalibrationError as error:
                raise PlanError(f"cannot calibrate '{name}': {error}") from error
            walk.substitute(name, done[name].substitute)
            self.context.progress(index, len(layers), f"quantise {name}")
        return done

    def _readable(self, model: ir.Model) -> tuple[dict[str, Layer], dict[str, str]]:
        """Layers that can be quantised, in graph order, and why others cannot, by name."""
        shaped, _ = with_sample_shapes(model)
        nodes = {layer_name(node): node for node in candidates(model)}
        layers: dict[str, Layer] = {}
        reasons: dict[str, str] = {}
        for node in candidates(shaped):
            name = layer_name(node)
            refusal = self.context.exclusion(name)
            try:
                layer = read_layer(node)
            except RefusalError as error:
                refusal = str(error)
            else:
                if self.config.dense == "keep" and not isinstance(layer, DecomposedLayer):
                    refusal = refusal or "not decomposed, and dense=keep"
            if refusal is None:
                layers[name] = on_node(layer, nodes[name])
            else:
                reasons[name] = refusal
        return layers, reasons

    def _prepare(self, model: ir.Model, layers: dict[str, Layer]) -> dict[str, Layer]:
        """Brings layers of a model into the form that they are quantised in."""
        if decompose_units(model, layers):
            readable, _ = self._readable(model)
            layers = {name: layer for name, layer in readable.items() if name in layers}
        if any(isinstance(layer, DecomposedLayer) for layer in layers.values()):
            add_functions(model, op_types())
        return layers


def _decide(node: ir.Node, before: Cost, refusal: str, choice: LayerChoice | None) -> LayerDecision:
    decision = LayerDecision(
        layer=layer_name(node),
        op_type=node.op_type,
        action="keep",
        reason=f"float: {refusal}",
        before=before,
        after=before,
    )
    if choice is None:
        return decision
    return replace(
        decision,
        action="apply",
        reason=choice.reason,
        settings={"form": choice.form, "bits": choice.bits, "scales": choice.scales},
        after=replace(before, parameters=choice.parameters, nbytes=choice.nbytes),
        predicted_error=choice.error,
    )


def _read_bits(decision: LayerDecision, layers: Mapping[str, Layer]) -> int:
    """Bits of a planned layer.

    Raises:
        PlanError: the model has no such layer, or the setting is missing or unknown.
    """
    where = f"plan of escalate, layer '{decision.layer}'"
    if decision.layer not in layers:
        raise PlanError(f"{where}: the model has no such layer that can be quantised")
    bits = decision.settings.get("bits")
    if not isinstance(bits, int) or bits not in LARGEST:
        raise PlanError(f"{where}: bits is {bits}, expected 8, 4 or 2")
    return bits
