"""Pools between quantised layers: written by `escalate`, and what other passes make of them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cleanup import finish, prepare
from passes.escalate import EscalatePass
from passes.fuse import FusePass
from passes.lower import LowerPass
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from passes.pooling import read_pool
from passes.select import SelectConfig, SelectPass
from runtimes import ort
from runtimes.accelerator.network import run_network
from runtimes.operators.hybrid_conv import is_hybrid_conv
from runtimes.operators.max_pool import OP_TYPE, PoolGeometry, is_max_pool
from tests.passes.contract_models import Builder
from tests.passes.test_escalate import calibrated, images, kinds, outputs, relative_error
from tests.runtimes.native.layers import library

HALVING = {"kernel_shape": [2, 2], "strides": [2, 2]}


def pooled(**attributes: object) -> ir.Model:
    net = Builder()
    x = net.op("Relu", net.conv("x", 3, 8, pads=[1] * 4))
    x = net.op("Relu", net.conv(x, 8, 8, pads=[1] * 4))
    x = net.op("MaxPool", x, **attributes)
    x = net.op("Relu", net.conv(x, 8, 8, pads=[1] * 4))
    return prepare(ir.from_proto(net.model(x)))


def escalated(*, decomposed: bool = True, **attributes: object) -> ir.Model:
    model = pooled(**attributes)
    if decomposed:
        PenniPass(PenniConfig(rank=4, min_weights=0))(model)
        FusePass()(model)
    EscalatePass(context=calibrated())(model)
    return finish(model)


def in_integers(model: ir.Model) -> ir.Model:
    """The same with MaxPool of uint8, whatever it has."""
    copy = model.clone()
    for node in copy.graph:
        if is_max_pool(node):
            node.domain, node.op_type = "", "MaxPool"
    return finish(copy)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    "attributes",
    [
        HALVING,
        {**HALVING, "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
        {"kernel_shape": [2, 3], "dilations": [2, 1]},
        {**HALVING, "auto_pad": "SAME_UPPER"},
        {**HALVING, "auto_pad": "VALID"},
    ],
    ids=["halving", "ceil", "padded", "dilated", "same", "valid"],
)
def test_escalate_writes_pools_of_uint8(decomposed: bool, attributes: dict[str, object]) -> None:
    before = pooled(**attributes)
    model = escalated(decomposed=decomposed, **attributes)
    written, other = (OP_TYPE, "MaxPool") if decomposed else ("MaxPool", OP_TYPE)
    assert kinds(model).count(written) == 1
    assert not {"Cast", other} & set(kinds(model))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    stored = {function.name for function in model.functions.values()}
    assert (OP_TYPE in stored) == bool(stored) == decomposed
    x = images(16, 1)
    assert relative_error(model, before, x) < (0.4 if decomposed else 0.05)
    np.testing.assert_array_equal(outputs(model, x), outputs(in_integers(model), x))
    native = ort.session(ir.to_proto(model).SerializeToString(), native=library())
    np.testing.assert_array_equal(ort.run(native, {"x": x})[0], outputs(model, x))


def test_pools_that_the_operator_cannot_be_run_in_floats_of_whole_numbers() -> None:
    attributes = {**HALVING, "auto_pad": "SAME_UPPER", "ceil_mode": 1}
    model = escalated(**attributes)
    [pool] = [node for node in model.graph if node.op_type == "MaxPool"]
    assert pool.inputs[0].producer().op_type == "Cast"
    [use] = pool.outputs[0].uses()
    assert use.node.op_type == "Cast"
    assert use.node.outputs[0].dtype == ir.DataType.UINT8
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert relative_error(model, pooled(**attributes), images(16, 1)) < 0.4


@pytest.mark.parametrize(
    ("attributes", "geometry"),
    [
        (
            {"kernel_shape": [2]},
            PoolGeometry(kernel_shape=(2,), strides=(1,), pads=(0, 0), dilations=(1,)),
        ),
        ({"kernel_shape": [2] * 3}, None),
        ({"kernel_shape": [2, 2], "storage_order": 1}, None),
        ({"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, None),
        ({"kernel_shape": [2, 2], "pads": [0, 2, 0, 0]}, None),
    ],
)
def test_attributes_are_read_or_refused(
    attributes: dict[str, object], geometry: PoolGeometry | None
) -> None:
    node = ir.node("MaxPool", [ir.Value(name="x")], attributes)
    assert read_pool(node) == geometry


def test_indices_of_the_maxima_are_refused() -> None:
    assert read_pool(ir.node("MaxPool", [ir.Value(name="x")], HALVING, num_outputs=2)) is None


def test_lowered_to_standard_nodes_it_computes_the_same() -> None:
    model = escalated(**HALVING)
    lowered = model.clone()
    plan = LowerPass().analyse(lowered)
    assert [layer.op_type for layer in plan.applied].count(OP_TYPE) == 1
    LowerPass().apply(lowered, plan)
    finish(lowered)
    assert not lowered.functions
    assert all(node.domain == "" for node in lowered.graph)
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    np.testing.assert_array_equal(outputs(lowered, images(4)), outputs(model, images(4)))


def test_with_the_last_hybrid_layer_pools_become_standard() -> None:
    model = escalated(**HALVING)
    SelectPass(SelectConfig(form="int8"))(model)
    finish(model)
    assert not model.functions
    assert not any(is_hybrid_conv(node) or is_max_pool(node) for node in model.graph)
    [pool] = [node for node in model.graph if node.op_type == "MaxPool"]
    assert pool.inputs[0].dtype == ir.DataType.UINT8
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert relative_error(model, escalated(**HALVING), images(16, 1)) < 0.05


def test_a_model_that_keeps_hybrid_layers_keeps_the_pool() -> None:
    model = escalated(**HALVING)
    step = SelectPass(SelectConfig(form="int8"))
    plan = step.analyse(model)
    first = plan.applied[0].layer
    layers = tuple(each for each in plan.layers if each.layer == first)
    step.apply(model, type(plan)(pass_name="select", config=plan.config, layers=layers))
    assert any(is_max_pool(node) for node in model.graph)


def test_an_accelerator_leaves_it_to_the_host() -> None:
    model, x = escalated(**HALVING), images(1)
    work = run_network(model, {"x": x})
    assert f"optc::{OP_TYPE}" in [operation.op_type for operation in work.host]
    [y] = work.outputs.values()
    np.testing.assert_allclose(y, outputs(model, x), rtol=1e-5, atol=1e-6)
