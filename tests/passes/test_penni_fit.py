"""Planning and fitting a small residual network."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from passes.conv import read_conv
from passes.mathematics.allocation import BudgetError
from passes.mathematics.fit import LayerSetting
from passes.penni_fit import fit_network
from passes.penni_plan import Request, plan_network
from toolchain.layerwise import ArrayCalibration


def tensor_info(name, *shape):
    return helper.make_tensor_value_info(name, 1, shape)


@pytest.fixture(scope="module")
def model():
    """Stem, one residual block, pooling: kernels lie near a space of six patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((6, 9))
    tensors, nodes, x = [], [], "x"
    for name, K, C in (("stem", 8, 3), ("one", 8, 8), ("two", 8, 8)):
        W = rng.standard_normal((K, C, 6)) @ patterns + 0.3 * rng.standard_normal((K, C, 9))
        W = (W / np.sqrt(np.square(W).sum(axis=(1, 2), keepdims=True))).reshape(K, C, 3, 3)
        tensors.append(numpy_helper.from_array(W.astype(np.float32), f"{name}.w"))
        tensors.append(
            numpy_helper.from_array(rng.standard_normal(K).astype(np.float32), f"{name}.b")
        )
        inputs, y = [x, f"{name}.w", f"{name}.b"], f"{name}.y"
        nodes.append(helper.make_node("Conv", inputs, [y], name, pads=[1] * 4))
        if name == "two":
            nodes.append(helper.make_node("Add", [y, "stem.r"], ["sum"], "add"))
            y = "sum"
        x = f"{name}.r"
        nodes.append(helper.make_node("Relu", [y], [x], x))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["out"], "pool"))
    values = [tensor_info("x", "N", 3, 8, 8)], [tensor_info("out", "N", 8, 1, 1)]
    shapes = [tensor_info(f"{name}.y", "N", 8, 8, 8) for name in ("stem", "one", "two")]
    graph = helper.make_graph(nodes, "net", *values, tensors, value_info=shapes)
    opsets = [helper.make_opsetid("", 17)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.fixture(scope="module")
def layers(model):
    return [read_conv(node) for node in model.graph if node.op_type == "Conv"]


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(1)
    return ArrayCalibration(
        [{"x": rng.standard_normal((16, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    )


def output_error(model, fitted):
    proto = ir.to_proto(model)
    x = np.random.default_rng(2).standard_normal((64, 3, 8, 8)).astype(np.float32)
    before = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    for tensor in proto.graph.initializer:
        layer, kind = tensor.name.split(".")
        if layer in fitted:
            factors = fitted[layer].factors
            array = factors.reconstruct() if kind == "w" else factors.bias
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    after = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


def kept(layers, fitted):
    after = sum(
        fitted[layer.name].factors.parameters if layer.name in fitted else layer.weight.size
        for layer in layers
    )
    return after / sum(layer.weight.size for layer in layers)


def settings_of(plan):
    return {name: layer.setting for name, layer in plan.items()}


def test_full_rank_changes_nothing(model, layers, calibration):
    settings = settings_of(plan_network(model, layers, Request(rank=9), calibration))
    assert output_error(model, fit_network(model, layers, settings, calibration)) < 1e-3


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("share", [0.8, 0.55])
def test_parameter_budget_is_met_and_used(model, layers, calibration, calibrated, pair, share):
    data = calibration if calibrated else None
    plan = plan_network(model, layers, Request(params=share, pair=pair), data)
    fitted = fit_network(model, layers, settings_of(plan), data)
    assert share - 0.1 < kept(layers, fitted) <= share
    for layer in fitted.values():
        alive = (layer.factors.coefficients != 0).sum(axis=2)
        assert not pair or set(alive.ravel().tolist()) <= {0, len(layer.factors.basis)}


def test_mac_budget_is_met(model, layers, calibration):
    request = Request(macs=0.7, density=1.0)
    settings = settings_of(plan_network(model, layers, request, calibration))
    costs, total = 0, 0
    for layer in layers:
        K, C = layer.weight.shape[:2]
        setting = settings.get(layer.name)
        total += K * C * 9
        costs += K * C * 9 if setting is None else setting.rank * (C * 9 + K * C)
        assert setting is None or setting.keep is None
    assert costs <= 0.7 * total


def test_calibration_beats_the_weights_alone(model, layers, calibration):
    settings = {layer.name: LayerSetting(rank=4, keep=layer.weight.size // 5) for layer in layers}
    blind = output_error(model, fit_network(model, layers, settings))
    seen = output_error(model, fit_network(model, layers, settings, calibration))
    assert seen < 0.6 * blind


def test_layers_without_a_setting_stay(model, layers, calibration):
    fitted = fit_network(model, layers, {"one": LayerSetting(rank=3)}, calibration)
    assert list(fitted) == ["one"]
    assert fitted["one"].factors.basis.shape == (3, 3, 3)


def test_prediction_without_data_is_what_comes_out(model, layers):
    plan = plan_network(model, layers, Request(rank=5, density=0.5))
    fitted = fit_network(model, layers, settings_of(plan))
    for name, layer in fitted.items():
        assert layer.error == pytest.approx(plan[name].predicted_error, abs=1e-4)


def test_progress_and_determinism(model, layers, calibration):
    calls = []
    settings = {layer.name: LayerSetting(rank=5, keep=90) for layer in layers}
    one = fit_network(
        model, layers, settings, calibration, progress=lambda *call: calls.append(call)
    )
    two = fit_network(model, layers, settings, calibration)
    assert calls == [(1, 3, "stem"), (2, 3, "one"), (3, 3, "two")]
    for name in one:
        np.testing.assert_array_equal(
            one[name].factors.coefficients, two[name].factors.coefficients
        )


def test_impossible_requests_name_the_reason(model, layers, calibration):
    with pytest.raises(BudgetError, match="the budget is"):
        plan_network(model, layers, Request(params=0.01), calibration)
    unknown = [replace(layer, output_positions=None) for layer in layers]
    with pytest.raises(ValueError, match="stem: output size unknown"):
        plan_network(model, unknown, Request(macs=0.5), calibration)
