"""`lower`: replaces the operators of the optc domain by standard ONNX nodes.

For tools and runtimes that cannot read model-local functions. One `DecomposedConv` becomes

    two stages:  T = X ∗ B by a grouped Conv (C groups, M kernels each),  Y = 1×1 Conv with Ce
    or swapped:  U = 1×1 Conv with Ce (K·M outputs),  Y = U ∗ B by a grouped Conv (K groups): the
                 order of ESCALATE (MICRO 2021), exact as U has neither bias nor extent
    or one:      the dense Conv with W[k, c] = Σ_m Ce[k, c, m]·B[m]

whichever is faster by the cost model; a residual input and an activation become Add, Relu, Clip.
The channels of T are channel-major, basis-minor (c·M + m): PENNI's published code pairs them
wrongly (Li et al., ICML 2020, official repository). A `QuantizedMaxPool` becomes Cast, MaxPool and
Cast.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.cost import layer_costs, layer_name
from passes.framework import CompressionPass, Cost, LayerDecision, Plan, PlanError, keep
from passes.lower_conv import lower_node
from passes.lower_hybrid import lower_hybrid
from passes.pooling import lower_pool
from runtimes.operators.decomposed_conv import (
    DecomposedWeights,
    is_decomposed_conv,
    read_geometry,
    read_weights,
)
from runtimes.operators.hybrid_conv import is_hybrid_conv
from runtimes.operators.hybrid_conv import read_weights as read_hybrid
from runtimes.operators.max_pool import is_max_pool

GROUPED_CONV_PENALTY = 8.0
"""A MAC of onnxruntime's grouped Conv with several kernels a channel takes as long as this many
of a dense one: fitted to 16 to 512 channels, AVX2, onnxruntime 1.32."""

Form = Literal["auto", "two-stage", "coefficients-first", "dense"]
UNPACKED = "unpacked"
"""The only form of a `HybridDecomposedConv`."""
POOL = "float32"
"""The only form of a `QuantizedMaxPool`."""
NOTHING = Cost(parameters=0, macs=0, nbytes=0)
"""What a pool costs: it is no layer."""


@dataclass(frozen=True, kw_only=True)
class LowerConfig:
    """Options of the pass."""

    form: Form = field(
        default="auto",
        metadata={
            "help": "auto (the faster by cost model), two-stage, coefficients-first or dense"
        },
    )


class LowerPass(CompressionPass):
    """Writes every `optc` operator as standard nodes."""

    name: ClassVar[str] = "lower"
    summary: ClassVar[str] = "replace optc operators by standard ONNX nodes"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True
    config_type: ClassVar[type] = LowerConfig

    def analyse(self, model: ir.Model) -> Plan:
        """Chooses the form of every `DecomposedConv`."""
        costs = layer_costs(model)
        nodes = filter(_is_lowered, model.graph)
        layers = tuple(self._decide(node, costs.get(layer_name(node), NOTHING)) for node in nodes)
        return Plan(pass_name=self.name, config={"form": self.config.form}, layers=layers)

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Replaces the planned nodes; what only they used is left for `passes.cleanup.finish`."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        nodes = {layer_name(node): node for node in filter(_is_lowered, model.graph)}
        for layer in plan.applied:
            if layer.layer not in nodes:
                raise PlanError(f"plan of lower: the model has no operator '{layer.layer}' of optc")
            node = nodes[layer.layer]
            if is_max_pool(node):
                lower_pool(node)
            elif is_hybrid_conv(node):
                lower_hybrid(node)
            else:
                lower_node(node, str(layer.settings["form"]))
        return plan

    def _decide(self, node: ir.Node, before: Cost) -> LayerDecision:
        if is_max_pool(node):
            decision = self._decide_pool(node, before)
        elif is_hybrid_conv(node):
            decision = self._decide_hybrid(node, before)
        else:
            decision = self._decide_decomposed(node, before)
        exclusion = self.context.exclusion(decision.layer)
        return decision if exclusion is None else keep(decision, exclusion)

    def _decide_pool(self, node: ir.Node, before: Cost) -> LayerDecision:
        return LayerDecision(
            layer=layer_name(node),
            op_type=node.op_type,
            action="apply",
            reason=f"{POOL}: Cast, MaxPool and Cast",
            settings={"form": POOL},
            before=before,
            after=before,
            predicted_error=0.0,
        )

    def _decide_hybrid(self, node: ir.Node, before: Cost) -> LayerDecision:
        weights = read_hybrid(node)
        stored = weights.symbols.size + weights.symbols.shape[1] * weights.basis.size
        return LayerDecision(
            layer=layer_name(node),
            op_type=node.op_type,
            action="apply",
            reason=f"{UNPACKED}: two stages of whole numbers in float32",
            settings={"form": UNPACKED},
            before=before,
            after=replace(before, nbytes=4 * stored),
            predicted_error=0.0,
        )

    def _decide_decomposed(self, node: ir.Node, before: Cost) -> LayerDecision:
        weights, group = read_weights(node), read_geometry(node).group
        form, reason = _choose_form(weights, group, self.config.form)
        dense = weights.dense()
        n_basis, kernel = weights.basis.shape[0], int(np.prod(weights.basis.shape[1:]))
        channels = dense.shape[1] * group
        pixels = None
        if before.macs is not None:
            pixels = before.macs // (channels * weights.basis.size + _nnz(weights.coefficients))
        if form == "coefficients-first":
            parameters = _nnz(weights.coefficients) + len(dense) * weights.basis.size
            work = weights.coefficients.size + len(dense) * weights.basis.size
        elif form == "dense":
            parameters, work = _nnz(dense), dense.size
        else:
            parameters = _nnz(weights.coefficients) + channels * weights.basis.size
            work = channels * n_basis * kernel + weights.coefficients.size
        stored = dense.size if form == "dense" else weights.coefficients.size
        tiles = {"dense": 0, "coefficients-first": len(dense)}.get(form, channels)
        stored += tiles * weights.basis.size
        bias = 0 if weights.bias is None else weights.bias.size
        return LayerDecision(
            layer=node.name or "",
            op_type=node.op_type,
            action="apply",
            reason=reason,
            settings={"form": form},
            before=before,
            after=Cost(
                parameters=parameters,
                macs=None if pixels is None else pixels * work,
                nbytes=4 * (stored + bias),
            ),
            predicted_error=0.0,
        )


def _is_lowered(node: ir.Node) -> bool:
    return is_decomposed_conv(node) or is_hybrid_conv(node) or is_max_pool(node)


def _nnz(array: NDArray[Any]) -> int:
    return int(np.count_nonzero(array))


def _choose_form(weights: DecomposedWeights, group: int, form: Form) -> tuple[str, str]:
    """The form, and the reason with the numbers that decided."""
    if form != "auto":
        return form, f"form={form} was asked for"
    n_basis = weights.basis.shape[0]
    kernel = int(np.prod(weights.basis.shape[1:]))
    K, C_group, _ = weights.coefficients.shape
    dense = K * C_group * kernel  # MACs an output position
    two_stage = K * C_group * n_basis + GROUPED_CONV_PENALTY * C_group * group * n_basis * kernel
    ratio = two_stage / dense
    chosen = "two-stage" if ratio < 1 else "dense"
    return chosen, f"{chosen}: two stages would take {ratio:.2f} of the dense conv's time"
