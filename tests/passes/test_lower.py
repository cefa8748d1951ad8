"""Both lowered forms against the function body, each run by onnxruntime."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cleanup import finish
from passes.cost import layer_costs
from passes.framework import Context, Plan, PlanError
from passes.lower import LowerConfig, LowerPass
from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import (
    ACTIVATIONS,
    ConvGeometry,
    DecomposedWeights,
    FusedActivation,
    make_node,
    op_type,
)
from runtimes.operators.decomposed_conv_function import add_functions
from tests.passes.channel_models import Net, check, difference, random_factors

TOLERANCE = 1e-5
FORMS = ("two-stage", "dense")
PLAIN = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))

GEOMETRIES = {
    "padded": (PLAIN, (3, 3)),
    "uneven": (ConvGeometry(strides=(2, 1), pads=(0, 2, 1, 0), dilations=(1, 2)), (3, 2)),
    "groups": (ConvGeometry(strides=(1, 1), pads=(1, 0, 1, 0), dilations=(1, 1), group=2), (3, 1)),
    "depthwise": (ConvGeometry(strides=(2, 2), pads=(1,) * 4, dilations=(1, 1), group=4), (3, 3)),
    "one axis": (ConvGeometry(strides=(2,), pads=(3, 1), dilations=(2,)), (3,)),
    "three axes": (ConvGeometry(strides=(1, 2, 1), pads=(1,) * 6, dilations=(1,) * 3), (1, 3, 2)),
}


def factors(
    geometry: ConvGeometry, kernel: tuple[int, ...], *, bias: bool = True, M: int = 3
) -> DecomposedWeights:
    rng = np.random.default_rng(3)
    shape = (8, 4 // geometry.group, M)
    return DecomposedWeights(
        basis=rng.standard_normal((M, *kernel)).astype(np.float32),
        coefficients=np.where(rng.random(shape) < 0.6, rng.standard_normal(shape), 0).astype("f"),
        bias=rng.standard_normal(8).astype(np.float32) if bias else None,
    )


def decomposed(
    weights: DecomposedWeights,
    geometry: ConvGeometry,
    *,
    residual: bool = False,
    activation: FusedActivation = FusedActivation(),  # noqa: B008
    output: str = "y",
) -> ir.Model:
    """A model of one operator named "layer", and the residual's input where there is one."""
    spatial = len(geometry.strides)
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=("N", 4, *(9, 8, 7)[:spatial]))
    sizes = [
        geometry.output_size(size, kernel, axis)
        for axis, (size, kernel) in enumerate(zip((9, 8, 7), weights.basis.shape[1:], strict=False))
    ]
    r = ir.val("r", dtype=ir.DataType.FLOAT, shape=("N", 8, *sizes))
    node, initializers = make_node(
        x,
        weights,
        geometry,
        name="layer",
        residual=r if residual else None,
        activation=activation,
    )
    node.outputs[0].name, node.outputs[0].shape = output, ir.Shape(["N", 8, *sizes])
    graph = ir.Graph(
        [x, r] if residual else [x],
        node.outputs,
        nodes=[node],
        initializers=initializers,
        opset_imports={"": 17, DOMAIN: DOMAIN_VERSION},
        name="net",
    )
    model = ir.Model(graph, ir_version=8)
    add_functions(model, [node.op_type])
    check(model)
    return model


def lowered(model: ir.Model, form: str = "auto", **context: Any) -> ir.Model:
    copy = model.clone()
    LowerPass(LowerConfig(form=form), Context(**context))(copy)  # type: ignore[arg-type]
    check(copy)
    finish(copy)
    check(copy)
    return copy


def net_factors(net: Net) -> DecomposedWeights:
    basis, coefficients, bias = random_factors(net, 4, 4)
    return DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)


def assert_standard(model: ir.Model) -> None:
    assert {node.domain for node in model.graph} == {""}
    assert not model.functions
    assert DOMAIN not in model.graph.opset_imports


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_operator_name_computes_the_same(
    form: str, residual: bool, activation: Any, bias: bool
) -> None:
    bounds = {"lower": -0.5, "upper": 1.5} if activation == "Clip" else {}
    model = decomposed(
        factors(PLAIN, (3, 3), bias=bias),
        PLAIN,
        residual=residual,
        activation=FusedActivation(name=activation, **bounds),
    )
    assert model.graph[0].op_type == op_type(activation, residual=residual)
    result = lowered(model, form)
    assert_standard(result)
    assert difference(model, result) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", GEOMETRIES)
def test_every_geometry_computes_the_same(form: str, case: str) -> None:
    geometry, kernel = GEOMETRIES[case]
    model = decomposed(factors(geometry, kernel), geometry)
    result = lowered(model, form)
    assert_standard(result)
    assert difference(model, result) < TOLERANCE


def test_the_comparison_notices_coefficients_of_another_channel_order() -> None:
    weights = factors(PLAIN, (3, 3))
    mixed = weights.coefficients.reshape(8, 3, 4).swapaxes(1, 2)
    swapped = DecomposedWeights(basis=weights.basis, coefficients=mixed, bias=weights.bias)
    model, other = decomposed(weights, PLAIN), decomposed(swapped, PLAIN)
    assert difference(model, lowered(other, "two-stage")) > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_predicted_cost_is_that_of_the_lowered_layers(form: str) -> None:
    geometry, kernel = GEOMETRIES["uneven"]
    model = decomposed(factors(geometry, kernel), geometry)
    [layer] = LowerPass(LowerConfig(form=form)).analyse(model).layers  # type: ignore[arg-type]
    parts = layer_costs(lowered(model, form)).values()
    assert layer.before == layer_costs(model)["layer"]
    assert layer.after.parameters == sum(part.parameters for part in parts)
    assert layer.after.macs == sum(part.macs or 0 for part in parts)
    assert layer.after.nbytes == sum(part.nbytes for part in parts)


def test_automatic_form_takes_two_stages_where_they_are_little_work() -> None:
    few = decomposed(factors(PLAIN, (3, 3), M=6), PLAIN)
    assert [node.op_type for node in lowered(few).graph] == ["Conv"]
    net = Net()
    weights = DecomposedWeights(basis=net.normal(1, 5, 5), coefficients=net.normal(64, 16, 1))
    wide = net.model(net.decomposed(net.input("N", 16, 9, 9), weights, "layer"))
    assert [node.op_type for node in lowered(wide).graph] == ["Conv", "Conv"]
    assert difference(wide, lowered(wide)) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_excluded_layers_stay_with_their_reason(form: Any) -> None:
    net = Net()
    x = net.input("N", 4, 8, 8)
    first = net.decomposed(x, net_factors(net), "first")
    last = net.decomposed(first, net_factors(net), "last")
    model = net.model(last)
    result = lowered(model, form, exclude=("last",))
    assert [node.name for node in result.graph if node.domain == DOMAIN] == ["last"]
    assert difference(model, result) < TOLERANCE
    plan = LowerPass(LowerConfig(form=form), Context(exclude=("last",))).analyse(model)
    assert plan.layers[1].reason == "matched by --exclude last"


@pytest.mark.parametrize("form", FORMS)
def test_layers_that_share_their_factors_stay_whole(form: str) -> None:
    net = Net()
    x = net.input("N", 4, 8, 8)
    first = net.decomposed(x, net_factors(net), "first")
    last = net.decomposed(first, net_factors(net), "last")
    for index in range(1, 5):
        net.nodes[1].replace_input_with(index, net.nodes[0].inputs[index])
    for key in ("coefficient_shape", "position_bits"):
        net.nodes[1].attributes[key] = net.nodes[0].attributes[key]
    model = net.model(last)
    for excluded in ((), ("first",), ("last",)):
        assert difference(model, lowered(model, form, exclude=excluded)) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_a_node_may_be_named_like_its_output(form: str) -> None:
    relu = FusedActivation(name="Relu")
    model = decomposed(factors(PLAIN, (3, 3)), PLAIN, activation=relu, output="layer")
    result = lowered(model, form)
    assert [output.name for output in result.graph.outputs] == ["layer"]
    assert difference(model, result) < TOLERANCE


def test_a_model_without_operators_of_the_domain_stays_as_it_is() -> None:
    net = Net()
    model = net.model(net.head(net.conv(net.input("N", 4, 8, 8), 4, 4, "conv"), 4))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not LowerPass()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_plan_of_another_model_is_refused() -> None:
    model = decomposed(factors(PLAIN, (3, 3)), PLAIN)
    plan = Plan.from_json(LowerPass().analyse(model).to_json())
    assert plan == LowerPass().analyse(model)
    model.graph[0].name = "other"
    with pytest.raises(PlanError, match="no operator 'layer' of optc"):
        LowerPass().apply(model, plan)
    with pytest.raises(PlanError, match="plan of shrink, not of lower"):
        LowerPass().apply(model, replace(plan, pass_name="shrink"))


def test_lowered_model_runs_in_the_reference_implementation() -> None:
    weights = factors(PLAIN, (3, 3))
    clip = FusedActivation(name="Clip", lower=-0.5, upper=1.5)
    proto = ir.to_proto(lowered(decomposed(weights, PLAIN, activation=clip), "two-stage"))
    [y] = onnx.reference.ReferenceEvaluator(proto).run(
        None, {"x": np.ones((1, 4, 9, 8), np.float32)}
    )
    assert (y.min(), y.max()) == (-0.5, 1.5)
