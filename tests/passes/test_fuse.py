"""What is fused, what is not, and that it makes no difference."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from passes.cleanup import finish, prepare
from passes.framework import Context, PlanError
from passes.fuse import FusePass
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from runtimes import ort
from tests.passes.contract_models import Builder


def decomposed(build):
    """A model whose 3×3 convolutions are decomposed; `build` returns the output's name."""
    net = Builder()
    output = build(net)
    model = prepare(ir.from_proto(net.model(*([output] if isinstance(output, str) else output))))
    step = PenniPass(PenniConfig(rank=3, min_weights=0))
    step.apply(model, step.analyse(model))
    return model


def clip(net, x, low, high):
    for name, bound in (("low", low), ("high", high)):
        net.weights.append(numpy_helper.from_array(np.array(bound, np.float32), name))
    return net.op("Clip", x, "low", "high")


def conv(net, x, C=3):
    return net.conv(x, C, 8, pads=[1] * 4)


def residual(net, activation="Relu"):
    stem = net.op("Relu", conv(net, "x"))
    y = net.op("Add", conv(net, stem, 8), stem)
    return net.op(activation, y) if activation else y


def run(model, samples=3):
    x = np.random.default_rng(0).standard_normal((samples, 3, 9, 7)).astype(np.float32)
    return ort.run(ort.session_of(model), {"x": x})


def operators(model):
    return [node.op_type for node in model.graph]


CASES = {
    "relu": (lambda net: net.op("Relu", conv(net, "x")), ["DecomposedConvRelu"]),
    "clip": (lambda net: clip(net, conv(net, "x"), 0.0, 0.3), ["DecomposedConvClip"]),
    "residual": (residual, ["DecomposedConvRelu", "DecomposedConvAddRelu"]),
    "residual alone": (
        lambda net: residual(net, ""),
        ["DecomposedConvRelu", "DecomposedConvAdd"],
    ),
    "other activation": (
        lambda net: residual(net, "Tanh"),
        ["DecomposedConvRelu", "DecomposedConvAdd", "Tanh"],
    ),
    "clip behind residual": (
        lambda net: clip(net, residual(net, ""), -0.1, 0.3),
        ["DecomposedConvRelu", "DecomposedConvAddClip"],
    ),
    "two convolutions meet": (
        lambda net: net.op("Relu", net.op("Add", conv(net, "x"), conv(net, "x"))),
        ["DecomposedConv", "DecomposedConvAddRelu"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fused_models_compute_the_same(case) -> None:
    build, expected = CASES[case]
    model = decomposed(build)
    before = run(model)
    assert FusePass()(model).modified
    assert sorted(operators(finish(model))) == sorted(expected)
    for old, new in zip(before, run(model), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def two_uses(net):
    x = conv(net, "x")
    return net.op("Mul", net.op("Relu", x), x)


def graph_output(net):
    x = conv(net, "x")
    return [net.op("Relu", x), x]


def broadcast(net):
    return net.op("Add", conv(net, "x"), net.array("bias", 8, 1, 1))


def broadcast_over_the_batch(net):
    return net.op("Add", conv(net, "x"), net.array("map", 1, 8, 9, 7))


def computed_bounds(net):
    low = net.op("ReduceMin", "x", keepdims=0)
    return net.op("Clip", conv(net, "x"), low)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (two_uses, "2 uses"),
        (graph_output, "graph output"),
        (broadcast, "broadcasts"),
        (broadcast_over_the_batch, "broadcasts"),
        (computed_bounds, "followed by Clip"),
    ],
)
def test_what_cannot_be_fused_says_why(build, word) -> None:
    model = decomposed(build)
    [layer] = FusePass().analyse(model).layers
    assert layer.action == "keep" and word in layer.reason


def test_names_of_results_stay() -> None:
    model = decomposed(residual)
    outputs = {value.name for node in model.graph for value in node.outputs}
    names = {node.name for node in model.graph if "Decomposed" in node.op_type}
    FusePass()(model)
    assert {node.name for node in model.graph} == names
    assert {value.name for node in model.graph for value in node.outputs} < outputs


def test_a_plan_for_another_model_is_refused() -> None:
    plan = FusePass().analyse(decomposed(residual))
    with pytest.raises(PlanError, match="DecomposedConvAddRelu"):
        FusePass().apply(decomposed(lambda net: residual(net, "")), plan)


def test_an_excluded_layer_leaves_the_add_to_the_other_operand() -> None:
    model = decomposed(lambda net: net.op("Add", conv(net, "x"), conv(net, "x")))
    plan = FusePass(context=Context(exclude=("conv0",))).analyse(model)
    assert [layer.action for layer in plan.layers] == ["keep", "apply"]
