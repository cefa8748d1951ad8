"""`fuse`: takes a residual Add and an activation into the `DecomposedConv` before them. Exact.

    Y = act(X ∗ W + bias + residual)

One operator instead of up to three: the native kernel then adds and clips while the sums are
still in registers. Stock onnxruntime unfolds the operator and fuses as it did before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from passes.cost import layer_costs, layer_name, with_sample_shapes
from passes.framework import CompressionPass, Cost, LayerDecision, Plan, PlanError, keep
from runtimes.operators import DOMAINS
from runtimes.operators.decomposed_conv import (
    BASE_NAME,
    INPUTS,
    Activation,
    is_decomposed_conv,
    op_type,
)
from runtimes.operators.decomposed_conv_function import add_functions
from runtimes.operators.hybrid_conv import is_hybrid_conv

SAMPLES = 2
"""Batch that shapes are inferred for: with one sample, what broadcasts over it would look equal."""


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """The pass has no options."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tail:
    """What follows a convolution and can be taken in.

    Attributes:
        add: the residual Add, or None.
        residual: its other operand.
        activation: Relu or Clip behind, or None.
        stop: why nothing more can be taken in.
    """

    add: ir.Node | None = None
    residual: ir.Value | None = None
    activation: ir.Node | None = None
    stop: str = ""

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes taken in, in order."""
        return [node for node in (self.add, self.activation) if node is not None]


class FusePass(CompressionPass):
    """Fuses what follows decomposed convolutions."""

    name: ClassVar[str] = "fuse"
    summary: ClassVar[str] = "take residual Add and activation into decomposed convolutions"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True
    config_type: ClassVar[type] = FuseConfig

    def analyse(self, model: ir.Model) -> Plan:
        """Finds what every decomposed convolution can take in."""
        shaped, _ = with_sample_shapes(model, SAMPLES)
        costs = layer_costs(model)
        layers = []
        taken: set[str | None] = set()
        for node in shaped.graph:
            if not (is_decomposed_conv(node) or is_hybrid_conv(node)):
                continue
            tail = find_tail(node)
            if any(other.name in taken for other in tail.nodes):
                tail = Tail(stop="the Add behind it goes to the other operand")
            layers.append(self._decide(node, tail, costs))
            if layers[-1].applies:
                taken.update(other.name for other in tail.nodes)
        return Plan(pass_name=self.name, config={}, layers=tuple(layers))

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Fuses the planned nodes."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        nodes = {layer_name(node): node for node in model.graph if is_decomposed_conv(node)}
        shaped, _ = with_sample_shapes(model, SAMPLES)
        tails = {layer_name(n): find_tail(n) for n in shaped.graph if is_decomposed_conv(n)}
        by_name = {node.name: node for node in model.graph}
        for layer in plan.applied:
            expected = layer.settings.get("operator")
            if layer.layer not in tails or _fused_type(tails[layer.layer]) != expected:
                raise PlanError(f"plan of fuse: no '{expected}' can be made of '{layer.layer}'")
            _fuse(nodes[layer.layer], [by_name[n.name] for n in tails[layer.layer].nodes])
        for domain in DOMAINS:
            names = [n.op_type for n in model.graph if n.domain == domain and is_decomposed_conv(n)]
            add_functions(model, names, domain)
        return plan

    def _decide(self, node: ir.Node, tail: Tail, costs: Mapping[str, Cost]) -> LayerDecision:
        name = layer_name(node)
        decision = LayerDecision(
            layer=name,
            op_type=node.op_type,
            action="apply",
            reason="takes in " + " and ".join(f"{n.op_type} '{n.name}'" for n in tail.nodes),
            settings={"operator": _fused_type(tail)},
            before=costs[name],
            after=costs[name],
            predicted_error=0.0,
        )
        refusal = self.context.exclusion(name) or ("" if tail.nodes else tail.stop)
        return keep(decision, refusal) if refusal else decision


def find_tail(node: ir.Node) -> Tail:
    """What a decomposed convolution can take in; shapes must be known for a residual."""
    if is_hybrid_conv(node):
        return Tail(stop="quantised; fuse before that")
    if node.op_type != BASE_NAME:
        return Tail(stop="fused already")
    after, stop = _only_consumer(node.outputs[0])
    if after is None:
        return Tail(stop=stop)
    tail = Tail(stop=f"followed by {after.op_type}")
    if after.op_type == "Add":
        residual = _residual(after, node.outputs[0])
        if residual is None:
            return Tail(stop="the Add behind it broadcasts, or a shape is unknown")
        tail = Tail(add=after, residual=residual)
        after, _ = _only_consumer(after.outputs[0])
    if after is not None and (after.op_type == "Relu" or _clip_bounds(after) is not None):
        tail = replace(tail, activation=after)
    return tail


def _only_consumer(value: ir.Value) -> tuple[ir.Node | None, str]:
    uses = list(value.uses())
    if value.is_graph_output():
        return None, "its output is a graph output"
    if len(uses) != 1:
        return None, f"its output has {len(uses)} uses"
    return uses[0].node, ""


def _residual(add: ir.Node, own: ir.Value) -> ir.Value | None:
    """The other operand of an Add, where it has the same known shape."""
    others = [value for value in add.inputs if value is not None and value is not own]
    if len(others) != 1:
        return None
    [other] = others
    if own.shape is None or other.shape is None or own.shape.is_dynamic():
        return None
    return other if list(own.shape) == list(other.shape) else None


def _clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Constant bounds of a Clip, None for anything else."""
    if node.op_type != "Clip":
        return None
    bounds = [float("-inf"), float("inf")]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        if value.const_value is None or value.is_graph_input():
            return None
        bounds[index] = float(value.const_value.numpy())
    return bounds[0], bounds[1]


def _fused_type(tail: Tail) -> str:
    name: Activation = ""
    if tail.activation is not None:
        name = "Relu" if tail.activation.op_type == "Relu" else "Clip"
    return op_type(name, residual=tail.add is not None)


def _fuse(node: ir.Node, tail: list[ir.Node]) -> None:
    """Puts one node in the place of the last of the tail."""
    last = tail[-1]
    residual = [v for n in tail if n.op_type == "Add" for v in n.inputs if v is not node.outputs[0]]
    bounds = _clip_bounds(last)
    attributes = list(node.attributes.values())
    if bounds is not None:
        keys = ("lower", "upper")
        attributes += [ir.AttrFloat32(k, v) for k, v in zip(keys, bounds, strict=True)]
    activation: Activation = "Clip" if bounds else "Relu" if last.op_type == "Relu" else ""
    no_bias = [None] if len(node.inputs) < len(INPUTS) else []
    fused = ir.Node(
        node.domain,
        op_type(activation, residual=bool(residual)),
        [*node.inputs, *no_bias, *residual] if residual else node.inputs,
        attributes,
        name=node.name,
    )
    graph = last.graph
    assert isinstance(graph, ir.Graph)
    before, after = last.outputs[0], fused.outputs[0]
    after.name, after.type, after.shape = before.name, before.type, before.shape
    graph.insert_before(last, fused)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    before.name = None
    graph.remove([node, *tail], safe=True)
