"""`select`: runs every decomposed convolution in its fastest form, predicted or measured.

    native      the kernel of our library; the body where the library is not registered
    portable    always the body, which onnxruntime turns into a dense Conv at load
    two-stage   a grouped Conv and a 1×1 Conv, as plain nodes
    int8        a quantised convolution as an ordinary dense one of 8-bit weights (QDQ)

A `DecomposedConv` has the first three, which are exact; the first two are equally small in the
file, as they differ in the operator's domain alone. A `HybridDecomposedConv` is native or int8,
which rounds the weights anew and stores all of them; with the last one of these, pools become
MaxPool of uint8, for which onnxruntime has a place among its int8 layers. Without measurements the
amount of work decides (`passes.select_prediction`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.cost import layer_costs, layer_name
from passes.framework import CompressionPass, ConfigError, Cost, LayerDecision, Plan, PlanError
from passes.isolate import isolated_layers
from passes.lower_conv import lower_node
from passes.lower_int8 import dense_int8, lower_int8
from passes.pooling import standard_if_int8
from passes.select_prediction import Form, predict_form
from runtimes.operators import DOMAIN, PORTABLE_DOMAIN, hybrid_conv, hybrid_conv_function
from runtimes.operators.decomposed_conv import is_decomposed_conv, read_geometry
from runtimes.operators.decomposed_conv_function import add_functions
from runtimes.operators.hybrid_conv import is_hybrid_conv

FORMS: tuple[Form, ...] = ("native", "portable", "two-stage")
HYBRID_FORMS: tuple[Form, ...] = ("native", "int8")


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Options of the pass."""

    form: Literal["predicted", "fastest", "native", "portable", "two-stage", "int8"] = field(
        default="predicted",
        metadata={"help": "by number of MACs, the fastest measured, or the same for all layers"},
    )
    margin: float = field(
        default=0.05, metadata={"help": "a form must win by this share to replace the present one"}
    )

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ConfigError: the margin is not a share.
        """
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin is {self.margin:g}, expected a share from 0 and below 1")


class SelectPass(CompressionPass):
    """Chooses how decomposed convolutions run."""

    name: ClassVar[str] = "select"
    summary: ClassVar[str] = "run each decomposed convolution in its fastest form (int8 rounds)"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False  # a measurement may come out differently
    config_type: ClassVar[type] = SelectConfig

    def analyse(self, model: ir.Model) -> Plan:
        """Predicts or times the forms of every decomposed convolution."""
        costs = layer_costs(model)
        nodes = [node for node in model.graph if forms_of(node)]
        isolated = isolated_layers(model) if self.config.form == "fastest" else {}
        layers = []
        for done, node in enumerate(nodes, start=1):
            name = layer_name(node)
            layers.append(self._decide(node, costs[name], isolated.get(name)))
            if isolated:
                self.context.progress(done, len(nodes), f"time {name}")
        return Plan(pass_name=self.name, config=asdict(self.config), layers=tuple(layers))

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Gives every planned layer its form."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        nodes = {layer_name(node): node for node in model.graph if forms_of(node)}
        for layer in plan.applied:
            form = str(layer.settings.get("form"))
            if layer.layer not in nodes or form not in forms_of(nodes[layer.layer]):
                raise PlanError(f"plan of select: no form '{form}' of a layer '{layer.layer}'")
            give_form(model, nodes[layer.layer], form)
        if any(layer.settings["form"] == "int8" for layer in plan.applied):
            standard_if_int8(model.graph)
        return plan

    def _decide(self, node: ir.Node, cost: Cost, isolated: ir.Model | None) -> LayerDecision:
        name, present = layer_name(node), _form_of(node)
        form, reason, times = self._choose(node, present, isolated)
        exclusion = self.context.exclusion(name)
        if exclusion is not None:
            form, reason = present, exclusion
        applies = form != present
        after, error = _int8_effect(node, cost) if form == "int8" else (cost, 0.0)
        return LayerDecision(
            layer=name,
            op_type=node.op_type,
            action="apply" if applies else "keep",
            reason=reason,
            settings={"form": form, **{f"ms {key}": value for key, value in times.items()}},
            before=cost,
            after=after,
            predicted_error=error if applies else None,
        )

    def _choose(
        self, node: ir.Node, present: Form, isolated: ir.Model | None
    ) -> tuple[Form, str, Mapping[str, float]]:
        """The form, why, and the times measured."""
        if self.config.form == "predicted":
            return *predict_form(node), {}
        if self.config.form != "fastest":
            asked = f"form={self.config.form} was asked for"
            if self.config.form in forms_of(node):
                return self.config.form, asked, {}
            return present, f"{asked}, which a {node.op_type} does not have", {}
        if self.context.timer is None:
            raise ConfigError("form=fastest needs measurements: use --optimize-for latency")
        if isolated is None:
            return present, "its input shape is unknown, so it cannot be timed", {}
        forms: dict[str, ir.Model] = {}
        for form in forms_of(node):
            forms[form] = isolated.clone()
            give_form(forms[form], forms[form].graph[0], form)
        times = self.context.timer(forms)
        best = min(forms_of(node), key=lambda form: times[form])
        if times[best] > (1 - self.config.margin) * times[present]:
            best = present
        listed = ", ".join(f"{form} {times[form]:.3g} ms" for form in forms)
        return best, f"{best}: {listed}", times


def forms_of(node: ir.Node) -> tuple[Form, ...]:
    """The forms that a node can have; none where it is no decomposed convolution."""
    if is_hybrid_conv(node):
        return HYBRID_FORMS
    return FORMS if is_decomposed_conv(node) else ()


def give_form(model: ir.Model, node: ir.Node, form: str) -> None:
    """Rewrites one decomposed convolution in place."""
    if form == "two-stage":
        lower_node(node, form)
    elif form == "int8":
        lower_int8(node)
    else:
        node.domain = DOMAIN if form == "native" else PORTABLE_DOMAIN
        add = hybrid_conv_function.add_functions if is_hybrid_conv(node) else add_functions
        add(model, [node.op_type], node.domain)


def _int8_effect(node: ir.Node, before: Cost) -> tuple[Cost, float]:
    """Cost and error of a `HybridDecomposedConv` as a dense convolution."""
    dense, weights = dense_int8(node), hybrid_conv.read_weights(node)
    channels = weights.symbols.shape[1] * read_geometry(node).group
    macs = before.macs
    if macs is not None:  # before: pixels·(C·M·RS + nnz)
        pixels = macs // (channels * weights.basis.size + np.count_nonzero(weights.symbols))
        macs = int(pixels * dense.weight.size)
    nonzero = int(np.count_nonzero(dense.weight))
    return replace(before, parameters=nonzero, macs=macs, nbytes=dense.nbytes), dense.error


def _form_of(node: ir.Node) -> Form:
    """The form that a decomposed convolution has; hybrid ones are written as native."""
    return "portable" if node.domain == PORTABLE_DOMAIN and is_decomposed_conv(node) else "native"
