"""A quantised decomposed convolution as a dense int8 one: the same layer but for rounding."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cleanup import finish, prepare
from passes.cost import layer_costs, layer_name
from passes.escalate import EscalatePass
from passes.escalate_config import EscalateConfig
from passes.framework import Context
from passes.lower_int8 import dense_int8
from passes.select import SelectConfig, SelectPass
from runtimes.operators.hybrid_conv import is_hybrid_conv, read_scale, read_weights
from tests.passes.contract_models import Builder
from tests.passes.test_escalate import (
    calibrated,
    decomposed,
    images,
    outputs,
    relative_error,
    with_stem,
)

INT8 = SelectConfig(form="int8")


def escalated(name="residual", bits=8):
    model = decomposed(name)
    EscalatePass(EscalateConfig(bits=bits), calibrated())(model)
    return finish(model)


@pytest.mark.parametrize("name", ["chain", "residual", "dilation"])
@pytest.mark.parametrize("bits", [8, 2])
def test_int8_computes_the_same_layers(name, bits) -> None:
    model = escalated(name, bits)
    hybrid = model.clone()
    assert SelectPass(INT8)(model).modified
    finish(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not any(is_hybrid_conv(node) for node in model.graph)
    assert not model.functions
    x = images(64, 1)
    # Rounding of 8 bits for each of the few layers, and of the responses that int8 does not have.
    assert relative_error(model, hybrid, x) < 0.05
    assert np.abs(outputs(hybrid, x)).max() > 0


def test_weights_are_rounded_to_half_a_unit() -> None:
    for node in filter(is_hybrid_conv, escalated().graph):
        dense = dense_int8(node)
        real = read_weights(node).dense(read_scale(node, "x")[0])
        unit = dense.scale.reshape(-1, 1, 1, 1)
        assert np.all(np.abs(dense.weight * unit - real) <= 0.501 * unit)
        assert 0 < dense.error < 0.02


def test_a_first_convolution_keeps_its_weights() -> None:
    model = with_stem()
    EscalatePass(context=calibrated())(model)
    hybrid = filter(is_hybrid_conv, model.graph)
    [stem] = [node for node in hybrid if read_weights(node).is_ordinary]
    dense, weights = dense_int8(stem), read_weights(stem)
    used = np.abs(weights.symbols).max(axis=(1, 2)) == 127  # else the largest becomes 127
    assert used.any()
    stored = dense.weight.reshape(weights.symbols.shape)
    np.testing.assert_array_equal(stored[used], weights.symbols[used])
    assert dense.error < 1e-2


def test_the_plan_foresees_cost_and_error() -> None:
    model = escalated()
    plan = SelectPass(INT8).analyse(model)
    assert plan.applied
    assert all(layer.predicted_error for layer in plan.applied)
    SelectPass(INT8).apply(model, plan)
    costs = layer_costs(finish(model))
    for layer in plan.applied:
        assert layer.after == costs[layer.layer]


def test_bounds_of_the_output_stay() -> None:
    model = escalated()
    [node, *_] = [node for node in model.graph if is_hybrid_conv(node)]
    node.attributes.add(ir.AttrInt64("lower", 40))
    node.attributes.add(ir.AttrInt64("upper", 90))
    name = layer_name(node)
    SelectPass(INT8)(model)
    producer = next(n for n in model.graph if n.name == f"{name}.clip")
    model.graph.outputs[:] = [producer.outputs[0]]
    finish(model)
    q = outputs(model, images(4))
    assert q.dtype == np.uint8
    assert (q.min(), q.max()) == (40, 90)


def test_layers_take_the_faster_of_native_and_int8() -> None:
    model = escalated()
    nodes = [node.name for node in model.graph if is_hybrid_conv(node)]
    timed = []

    def timer(forms):
        timed.append(tuple(forms))
        inputs = [value.dtype for value in forms["native"].graph.inputs]
        assert set(inputs) == {ir.DataType.UINT8}
        assert forms["int8"].graph.outputs[0].dtype == ir.DataType.UINT8
        return {"native": 2.0, "int8": 1.0 if len(timed) == 1 else 1.95}

    step = SelectPass(SelectConfig(form="fastest"), Context(timer=timer))
    plan = step.analyse(model)
    assert timed == [("native", "int8")] * len(nodes)
    assert [layer.layer for layer in plan.applied] == nodes[:1]  # the others win by too little
    assert plan.layers[0].settings == {"form": "int8", "ms native": 2.0, "ms int8": 1.0}
    assert "native 2 ms, int8 1 ms" in plan.layers[0].reason
    step.apply(model, plan)
    assert [node.name for node in finish(model).graph if is_hybrid_conv(node)] == nodes[1:]


def test_a_form_that_a_layer_does_not_have_leaves_it() -> None:
    hybrid, real = escalated(), decomposed()
    for model, form in ((hybrid, "two-stage"), (hybrid, "portable"), (real, "int8")):
        plan = SelectPass(SelectConfig(form=form)).analyse(model)
        assert plan.layers
        assert not plan.applied
        assert "does not have" in plan.layers[0].reason


@pytest.mark.parametrize(("K", "rank", "form"), [(8, 8, "int8"), (256, 4, "native")])
def test_work_decides_without_measurements(K, rank, form) -> None:
    """A basis stage that few outputs share is dearer than the dense convolution."""
    net = Builder()
    x = net.conv("x", 3, 16, pads=[1] * 4)
    model = prepare(ir.from_proto(net.model(net.conv(x, 16, K, pads=[1] * 4))))
    step = EscalatePass(EscalateConfig(rank=rank, density=0.25), calibrated())
    step(model)
    first, layer = SelectPass().analyse(model).layers
    assert first.settings["form"] == "native" and "a first convolution" in first.reason
    assert layer.settings["form"] == form, layer.reason
