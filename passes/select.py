"""`select`: runs every decomposed convolution in its fastest form, predicted or measured. Exact.

    native      the kernel of our library; the body where the library is not registered
    portable    always the body, which onnxruntime turns into a dense Conv at load
    two-stage   a grouped Conv and a 1×1 Conv, as plain nodes

The first two are equally small in the file: they differ in the operator's domain alone. Without
measurements a layer runs natively where the kernel has few enough multiply-accumulates left:

    C·M·RS + nnz(Ce) ≤ NATIVE_PAYS · K·C·RS
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from passes.cost import layer_costs, layer_name
from passes.framework import CompressionPass, ConfigError, Cost, LayerDecision, Plan, PlanError
from passes.isolate import isolated_layers
from passes.lower import lower_node
from runtimes.operators import DOMAIN, PORTABLE_DOMAIN
from runtimes.operators.decomposed_conv import is_decomposed_conv, read_geometry, read_weights
from runtimes.operators.decomposed_conv_function import add_functions

Form = Literal["native", "portable", "two-stage"]
FORMS: tuple[Form, ...] = ("native", "portable", "two-stage")

NATIVE_PAYS = 0.5
"""Share of the dense MACs up to which the native kernel is taken to be faster. Measured break-even
on AVX-512 with onnxruntime 1.32: about 0.7 for 16 to 64 channels, and lower for more."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Options of the pass."""

    form: Literal["predicted", "fastest", "native", "portable", "two-stage"] = field(
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
    summary: ClassVar[str] = "run each decomposed convolution in its fastest form"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False  # a measurement may come out differently
    config_type: ClassVar[type] = SelectConfig

    def analyse(self, model: ir.Model) -> Plan:
        """Times every form of every `DecomposedConv`."""
        costs = layer_costs(model)
        nodes = [node for node in model.graph if is_decomposed_conv(node)]
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
        nodes = {layer_name(node): node for node in model.graph if is_decomposed_conv(node)}
        for layer in plan.applied:
            form = str(layer.settings.get("form"))
            if layer.layer not in nodes or form not in FORMS:
                raise PlanError(f"plan of select: no form '{form}' of a layer '{layer.layer}'")
            give_form(model, nodes[layer.layer], form)
        return plan

    def _decide(self, node: ir.Node, cost: Cost, isolated: ir.Model | None) -> LayerDecision:
        name, present = layer_name(node), _form_of(node)
        form, reason, times = self._choose(node, present, isolated)
        exclusion = self.context.exclusion(name)
        if exclusion is not None:
            form, reason = present, exclusion
        applies = form != present
        return LayerDecision(
            layer=name,
            op_type=node.op_type,
            action="apply" if applies else "keep",
            reason=reason,
            settings={"form": form, **{f"ms {key}": value for key, value in times.items()}},
            before=cost,
            after=cost,
            predicted_error=0.0 if applies else None,
        )

    def _choose(
        self, node: ir.Node, present: Form, isolated: ir.Model | None
    ) -> tuple[Form, str, Mapping[str, float]]:
        """The form, why, and the times measured."""
        if self.config.form == "predicted":
            share = _native_share(node)
            form: Form = "native" if share <= NATIVE_PAYS else "portable"
            return form, f"{form}: the native kernel has {share:.2f} of the dense MACs", {}
        if self.config.form != "fastest":
            return self.config.form, f"form={self.config.form} was asked for", {}
        if self.context.timer is None:
            raise ConfigError("form=fastest needs measurements: use --optimize-for latency")
        if isolated is None:
            return present, "its input shape is unknown, so it cannot be timed", {}
        forms: dict[str, ir.Model] = {}
        for form in FORMS:
            forms[form] = isolated.clone()
            give_form(forms[form], forms[form].graph[0], form)
        times = self.context.timer(forms)
        best = min(FORMS, key=lambda form: times[form])
        if times[best] > (1 - self.config.margin) * times[present]:
            best = present
        listed = ", ".join(f"{form} {times[form]:.3g} ms" for form in FORMS)
        return best, f"{best}: {listed}", times


def give_form(model: ir.Model, node: ir.Node, form: str) -> None:
    """Rewrites one `DecomposedConv` in place."""
    if form == "two-stage":
        lower_node(node, form)
        return
    node.domain = DOMAIN if form == "native" else PORTABLE_DOMAIN
    add_functions(model, [node.op_type], node.domain)


def _native_share(node: ir.Node) -> float:
    """MACs of the native kernel over those of the dense convolution."""
    weights, group = read_weights(node), read_geometry(node).group
    K, C_group, _ = weights.coefficients.shape
    responses = C_group * group * weights.basis.size
    dense = K * C_group * weights.basis[0].size
    return float((responses + np.count_nonzero(weights.coefficients)) / dense)


def _form_of(node: ir.Node) -> Form:
    return "native" if node.domain == DOMAIN else "portable"
