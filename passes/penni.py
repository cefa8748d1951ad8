"""`penni`: convolutions as a shared basis and sparse coefficients (`optc::DecomposedConv`).

    W[k, c] ≈ Σ_m Ce[k, c, m] · B[m]

Source: PENNI (Li et al., ICML 2020, arXiv 2005.07133): decomposition (step A), pruning of
coefficients (C) and removal of what is dead (D, the pass `shrink`). Without the training of step
B; instead the factors are fitted to the outputs of the original network on calibration data.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import ClassVar

import onnx_ir as ir

from passes.budget import UNKNOWN, model_amount, share_of_layers
from passes.conv import ConvLayer, UnsupportedConvError, read_conv, replace_node
from passes.cost import layer_costs, layer_name, with_sample_shapes
from passes.framework import CompressionPass, ConfigError, Plan, PlanError
from passes.fuse import FusePass
from passes.mathematics.allocation import BudgetError
from passes.mathematics.decomposition import Factors
from passes.penni_config import PenniConfig
from passes.penni_decision import decide, read_settings
from passes.penni_fit import fit_network
from passes.penni_plan import LayerPlan, Request, plan_network
from passes.select import SelectPass
from passes.shrink import ShrinkPass
from runtimes.operators.decomposed_conv import DecomposedWeights, is_decomposed_conv, make_node
from runtimes.operators.decomposed_conv_function import add_functions


class PenniPass(CompressionPass):
    """Decomposes convolutions."""

    name: ClassVar[str] = "penni"
    summary: ClassVar[str] = "convolutions as shared basis kernels and sparse coefficients"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False  # a budget is a share of the model at hand
    config_type: ClassVar[type] = PenniConfig

    def followers(self) -> tuple[CompressionPass, ...]:
        """Dead channels are removed, what follows is fused, then every layer gets its form."""
        shrink = (ShrinkPass(context=self.context),) if self.config.shrink else ()
        return (*shrink, FusePass(context=self.context), SelectPass(context=self.context))

    def analyse(self, model: ir.Model) -> Plan:
        """Chooses rank and density of every convolution."""
        layers, reasons = self._candidates(model)
        plans = self._plan_layers(model, layers) if layers else {}
        costs = layer_costs(model)
        by_name = {layer.name: layer for layer in layers}
        decisions = [
            decide(node, costs[name], by_name.get(name), plans.get(name), reasons.get(name))
            for node in model.graph
            if _is_conv(node) and (name := layer_name(node))
        ]
        without_data = "no calibration data: the weights alone decide, and errors are theirs"
        with_data = (
            "predicted error: of this layer alone; measured: behind its Relu, with the errors of "
            "the layers before it"
        )
        notes = (with_data if self.context.calibration else without_data,)
        config = asdict(self.config)
        return Plan(pass_name=self.name, config=config, layers=tuple(decisions), notes=notes)

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Fits the planned layers and replaces their nodes."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        layers = {layer.name: layer for layer in readable_convs(model)}
        settings = {each.layer: read_settings(each, layers) for each in plan.applied}
        context = self.context
        fitted = fit_network(
            model,
            list(layers.values()),
            settings,
            context.calibration,
            seed=context.seed,
            progress=lambda done, total, label: context.progress(done, total, f"fit {label}"),
        )
        rewrite(model, layers, {name: result.factors for name, result in fitted.items()})
        costs = layer_costs(model)
        return replace(
            plan,
            layers=tuple(
                replace(each, after=costs[each.layer], measured_error=fitted[each.layer].error)
                if each.applies
                else each
                for each in plan.layers
            ),
        )

    def _candidates(self, model: ir.Model) -> tuple[list[ConvLayer], dict[str, str]]:
        """Layers that may be decomposed, and why others may not, by name."""
        shaped, _ = with_sample_shapes(model)
        layers: list[ConvLayer] = []
        reasons: dict[str, str] = {}
        for node in shaped.graph:
            if not _is_conv(node):
                continue
            name = layer_name(node)
            layer, refusal = _read(node)
            if layer is not None:
                refusal = self.context.exclusion(name) or self._refusal(layer)
            if layer is not None and refusal is None:
                layers.append(layer)
            else:
                reasons[name] = refusal or ""
        return layers, reasons

    def _refusal(self, layer: ConvLayer) -> str | None:
        """Why a layer is not worth to be decomposed."""
        group, channels = layer.geometry.group, layer.weight.shape[1]
        if group > 1:
            kind = "depthwise" if channels == 1 else f"{group} groups"
            return f"{kind}: too few weights a kernel share a basis"
        if layer.kernel_size == 1 and self.config.pointwise == "keep":
            return "1×1: no spatial kernel to decompose; pointwise=sparsify drops its weights"
        if layer.weight.size < self.config.min_weights:
            return f"tiny: {layer.weight.size} weights, min_weights={self.config.min_weights}"
        return None

    def _plan_layers(self, model: ir.Model, layers: list[ConvLayer]) -> dict[str, LayerPlan]:
        context = self.context
        try:
            return plan_network(
                model,
                layers,
                _of_layers(self.config.request, model, layers),
                context.calibration,
                seed=context.seed,
                progress=lambda done, total, label: context.progress(done, total, f"plan {label}"),
            )
        except BudgetError as error:
            budgets = self.config.request.budgets
            given = " with ".join(f"{key}={share:g}" for key, share in budgets.items())
            raise ConfigError(
                f"{given} cannot be reached: {error} (of the budget, by the layers that can be "
                "decomposed); raise it, or lower rank or density"
            ) from error


def _is_conv(node: ir.Node) -> bool:
    return (node.domain == "" and node.op_type == "Conv") or is_decomposed_conv(node)


def _read(node: ir.Node) -> tuple[ConvLayer | None, str | None]:
    """The layer, or why it cannot be rewritten."""
    if is_decomposed_conv(node):
        return None, "already decomposed"
    try:
        return read_conv(node), None
    except UnsupportedConvError as error:
        return None, str(error)


def readable_convs(model: ir.Model) -> list[ConvLayer]:
    """All convolutions that can be rewritten, in graph order."""
    shaped, _ = with_sample_shapes(model)
    read = (_read(node)[0] for node in shaped.graph if _is_conv(node))
    return [layer for layer in read if layer is not None]


def _of_layers(request: Request, model: ir.Model, layers: list[ConvLayer]) -> Request:
    """The request with its budgets as shares of the layers instead of the whole model.

    Raises:
        ConfigError: what the other layers cost is unknown, or above the budget.
    """
    shares = {}
    for key, share in request.budgets.items():
        sizes = [
            layer.weight.size * (1 if key == "params" else layer.output_positions or 0)
            for layer in layers
        ]
        if 0 in sizes:
            raise ConfigError(UNKNOWN)
        shares[key] = share_of_layers(key, share, model_amount(model, key), sum(sizes))
    return replace(request, params=shares.get("params"), macs=shares.get("macs"))


def rewrite(
    model: ir.Model, layers: Mapping[str, ConvLayer], factors: Mapping[str, Factors]
) -> None:
    """Replaces convolutions by their factors, in place; the names of nodes and values stay.

    Args:
        model: prepared model.
        layers: convolutions by name, at least those that have factors.
        factors: by layer name, with the bias that the layer is to have.
    """
    nodes = {layer_name(node): node for node in model.graph if _is_conv(node)}
    op_types = []
    for name, result in factors.items():
        weights = DecomposedWeights(
            basis=result.basis, coefficients=result.coefficients, bias=result.bias
        )
        x = nodes[name].inputs[0]
        assert x is not None
        new, initializers = make_node(x, weights, layers[name].geometry, name=name)
        replace_node(nodes[name], [new], initializers)
        op_types.append(new.op_type)
    add_functions(model, op_types)
