"""The pass `escalate` on small networks: what it writes, what it refuses, what it says."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from passes.cleanup import finish, prepare
from passes.cost import layer_costs
from passes.escalate import EscalatePass
from passes.escalate_config import EscalateConfig
from passes.framework import ConfigError, Context, PlanError
from passes.fuse import FusePass
from passes.lower import LowerConfig, LowerPass
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from passes.storage import storage
from runtimes import ort
from runtimes.operators.decomposed_conv import read_geometry
from runtimes.operators.hybrid_conv import is_hybrid_conv, read_packed, read_scale, read_weights
from runtimes.operators.hybrid_reference import responses
from tests.helpers import parse_ir
from tests.passes.contract_models import MODELS, Builder
from toolchain.errors import UnreadableError
from toolchain.layerwise import ArrayCalibration


def images(samples, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, 3, 9, 7)).astype(np.float32)


def calibrated(data=None):
    data = images(64) if data is None else data
    return Context(calibration=ArrayCalibration([{"x": data}], threads=1))


def decomposed(name="residual"):
    model = prepare(ir.from_proto(MODELS[name]()))
    PenniPass(PenniConfig(rank=4, min_weights=0))(model)
    FusePass()(model)
    return model


def outputs(model, x):
    return ort.run(ort.session_of(model), {"x": x})[0]


def relative_error(model, reference, x):
    y, expected = outputs(model, x), outputs(reference, x)
    return np.linalg.norm(y - expected) / np.linalg.norm(expected)


def kinds(model):
    return [node.op_type for node in model.graph]


def bottleneck(first="conv3"):
    """A block of 1×1, 3×3 and 1×1 convolutions beside one that projects its input."""
    net = Builder()
    shortcut = net.conv("x", 3, 16, (1, 1)) if first == "shortcut" else ""
    y = net.op("Relu", net.conv("x", 3, 8, (1, 1)))
    y = net.op("Relu", net.conv(y, 8, 8, pads=[1] * 4))
    y = net.conv(y, 8, 16, (1, 1))
    shortcut = shortcut or net.conv("x", 3, 16, (1, 1))
    return prepare(ir.from_proto(net.model(net.op("Relu", net.op("Add", y, shortcut)))))


@pytest.mark.parametrize("first", ["conv3", "shortcut"])
def test_blocks_with_a_projection_are_quantised(first) -> None:
    model = bottleneck(first)
    before = model.clone()
    EscalatePass(EscalateConfig(), calibrated())(model)
    assert kinds(finish(model)).count("QuantizeLinear") >= 4
    assert relative_error(model, before, images(64, 1)) < 0.05


@pytest.mark.parametrize("part", ["Slice", "MaxPool"])
def test_a_part_of_a_value_has_a_range_of_its_own(part) -> None:
    """What the first convolution reads is small; what the second reads is not."""
    net = Builder()
    if part == "Slice":
        net.weights += [
            numpy_helper.from_array(np.array([n], np.int64), f"at{n}") for n in (0, 1, 3)
        ]
        parts = (net.op("Slice", "x", *at) for at in (("at0", "at1", "at1"), ("at1", "at3", "at1")))
        small, large = (net.conv(x, C, 8, (1, 1)) for x, C in zip(parts, (1, 2), strict=True))
    else:
        small = net.conv(net.op("MaxPool", "x", kernel_shape=[9, 7]), 3, 8, (1, 1))
        large = net.conv("x", 3, 8, (1, 1))
    model = prepare(ir.from_proto(net.model(net.op("Add", small, large))))
    before = model.clone()
    scale = np.array([0.01, 1, 1] if part == "Slice" else [-1, -1, -1], np.float32)
    data = np.abs(images(64)) * scale[:, None, None]
    EscalatePass(EscalateConfig(), calibrated(data))(model)
    assert relative_error(finish(model), before, data) < 0.02


@pytest.mark.parametrize("is_decomposed", [False, True])
def test_names_of_the_parts_of_a_layer_may_be_taken(is_decomposed) -> None:
    """By values and nodes of the model."""
    weights = {"one": (8, 3, 3, 3), "two": (8, 8, 3, 3), "three": (8, 8, 3, 3)}
    rng = np.random.default_rng(0)
    model = parse_ir(
        """g (float[N, 3, 9, 7] x) => (float[N, 8, 9, 7] y) {
            ["c.x"] "c.x" = Neg (x)
            [c] "c.sum" = Conv <pads = [1, 1, 1, 1]> ("c.x", one)
            ["c.real"] "c.y" = Relu ("c.sum")
            [d] "c.x.real" = Conv <pads = [1, 1, 1, 1]> ("c.y", two)
            ["d.x.real"] "d.x" = Abs ("c.x.real")
            ["d.weight_int8.real"] "d.weight_int8.real" = Neg ("d.x")
            ["d.y"] "d.y" = Relu ("d.weight_int8.real")
            ["e.y"] "d.sum" = Add ("d.x", "d.y")
            [e] "d.real" = Conv <pads = [1, 1, 1, 1]> ("d.sum", three)
            [f] y = Neg ("d.real")
        }""",
        {
            name: (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)
            for name, shape in weights.items()
        },
    )
    if is_decomposed:
        PenniPass(PenniConfig(rank=4, min_weights=0))(model)
    before = model.clone()
    EscalatePass(EscalateConfig(), calibrated())(model)
    onnx.checker.check_model(ir.to_proto(finish(model)), full_check=True)
    assert [is_hybrid_conv(node) for node in model.graph].count(True) == 3 * is_decomposed
    assert relative_error(model, before, images(64, 1)) < 0.05


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.03), (4, 0.12), (2, 0.6)])
def test_fewer_bits_cost_more_and_take_less(bits, bound) -> None:
    model = decomposed()
    before = model.clone()
    EscalatePass(EscalateConfig(bits=bits), calibrated())(model)
    assert relative_error(finish(model), before, images(64, 1)) < bound
    packed = [read_packed(node) for node in model.graph if is_hybrid_conv(node)]
    assert packed
    assert all(each.value_bits <= {8: 8, 4: 4, 2: 1}[bits] for each in packed)


def test_consecutive_layers_hand_on_uint8() -> None:
    model = decomposed()
    EscalatePass(context=calibrated())(model)
    finish(model)
    assert kinds(model).count("HybridDecomposedConvAdd") == 1
    # One in, one out; the residual and all that lies between stay uint8.
    assert (kinds(model).count("QuantizeLinear"), kinds(model).count("Relu")) == (1, 0)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_float_model_is_decomposed_first() -> None:
    model = prepare(ir.from_proto(MODELS["chain"]()))
    step = EscalatePass(EscalateConfig(rank=4, density=0.5), calibrated())
    assert [leader.name for leader in step.leaders(model)] == ["penni", "shrink", "fuse"]
    assert step(model).modified
    assert "Gemm" in kinds(model)


def test_a_quantised_model_is_left_alone_and_said_so() -> None:
    model = decomposed()
    EscalatePass(context=calibrated())(model)
    plan = EscalatePass(context=calibrated()).analyse(model)
    assert not plan.applied
    assert "quantised already" in plan.notes[0]
    assert all("quantised already" in layer.reason for layer in plan.layers)


def test_without_data_nothing_is_done_and_the_reason_given() -> None:
    plan = EscalatePass().analyse(decomposed())
    assert not plan.applied
    assert "give --calib" in plan.layers[0].reason


def test_data_with_nan_is_refused_naming_the_layer() -> None:
    data = images(8)
    data[3, 1, 2, 2] = np.nan
    with pytest.raises(UnreadableError, match=r"conv0.*is not finite"):
        EscalatePass(context=calibrated(data)).analyse(decomposed())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_inputs_and_zero_ranges_stay_finite(value) -> None:
    model = decomposed()
    data = np.full((8, 3, 9, 7), value, np.float32)
    EscalatePass(context=calibrated(data))(model)
    assert np.isfinite(outputs(finish(model), images(4))).all()


def test_a_budget_shares_bits_out() -> None:
    model = decomposed()
    sizes = {}
    for size in (0.12, 0.2, 0.3):
        plan = EscalatePass(EscalateConfig(size=size), calibrated()).analyse(model)
        sizes[size] = sum(layer.after.nbytes for layer in plan.applied)
    assert sizes[0.12] < sizes[0.3]
    with pytest.raises(ConfigError, match="cannot be reached"):
        EscalatePass(EscalateConfig(size=0.01), calibrated()).analyse(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "bits is 3"),
        ({"size": 1.5}, "size is 1.5"),
        ({"bits": 8, "size": 0.1}, "cannot be given together"),
        ({"rank": 0}, "rank is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        EscalateConfig(**options)


def test_a_plan_without_data_is_refused() -> None:
    model = decomposed()
    plan = EscalatePass(context=calibrated()).analyse(model)
    with pytest.raises(PlanError, match="needs calibration data"):
        EscalatePass().apply(model, plan)


def with_stem(channels=3, pads=(1,) * 4):
    """A convolution that `penni` leaves alone, and one that it decomposes."""
    net = Builder(0)
    x = "x" if channels == 3 else net.op("Concat", "x", "x", axis=1)
    stem = net.op("Relu", net.conv(x, channels, 8, pads=pads))
    model = prepare(ir.from_proto(net.model(net.op("Relu", net.conv(stem, 8, 16, pads=[1] * 4)))))
    PenniPass(PenniConfig(rank=4, min_weights=8 * channels * 9 + 1))(model)
    FusePass()(model)
    return model


@pytest.mark.parametrize("sign", ["any", "positive", "negative"])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 2, 1, 0)])
def test_the_first_convolution_runs_in_the_hybrid_kernel_without_any_loss(pads, sign) -> None:
    data = {"any": images(64), "positive": abs(images(64)), "negative": -abs(images(64))}[sign]
    model = with_stem(pads=pads)
    float_stem = next(node for node in model.graph if node.op_type == "Conv")
    W, b = (float_stem.inputs[i].const_value.numpy().astype(np.float64) for i in (1, 2))
    escalate = EscalatePass(context=calibrated(data))
    plan = escalate.analyse(model)
    assert plan.layers[0].reason.endswith("few channels, in the hybrid kernel")
    escalate.apply(model, plan)
    assert "Conv" not in kinds(finish(model))
    [stem] = [node for node in model.graph if node.name == float_stem.name]
    weights, (scale, zero_point) = read_weights(stem), read_scale(stem, "x")
    codes = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    T = responses(codes, zero_point, weights, read_geometry(stem))
    padded = np.pad(codes.astype(int) - zero_point, [(0, 0), (0, 0), pads[::2], pads[1::2]])
    height, width = T.shape[3:]
    for tap in range(9):
        row, column = divmod(tap, 3)
        read = padded[:, :, row : row + height, column : column + width]
        np.testing.assert_array_equal(T[:, :, tap], read)
    assert np.abs(weights.dense(scale) - W).max() <= np.abs(W).max() / 127
    assert np.abs(weights.bias - b).max() < 0.1
    cost = layer_costs(model)[float_stem.name]
    assert cost.parameters == np.count_nonzero(weights.symbols)
    assert cost.macs == plan.layers[0].before.macs


@pytest.mark.parametrize("why", ["channels", "alone"])
def test_the_first_convolution_is_an_ordinary_one_where_that_is_better(why) -> None:
    """It has many channels, or nothing else needs the kernel."""
    model = with_stem(6 if why == "channels" else 3)
    data = images(64)
    context = calibrated(data)
    if why == "alone":
        context = replace(context, exclude=("conv2",))
    before = model.clone()
    EscalatePass(context=context)(model)
    assert kinds(finish(model)).count("Conv") == 1
    assert relative_error(model, before, data) < 0.05


def with_points():
    """A decomposed convolution between two of 1×1, the second with stride 2."""
    net = Builder(0)
    y = net.op("Relu", net.conv("x", 3, 10, (1, 1)))
    y = net.op("Relu", net.conv(y, 10, 16, pads=[1] * 4))
    y = net.op("Relu", net.conv(y, 16, 12, (1, 1), strides=[2, 2]))
    model = prepare(ir.from_proto(net.model(net.op("Relu", net.conv(y, 12, 16, pads=[1] * 4)))))
    PenniPass(PenniConfig(rank=4, min_weights=1000))(model)
    FusePass()(model)
    return model


def test_1x1_convolutions_run_in_the_hybrid_kernel_without_any_loss() -> None:
    model = with_points()
    before, dense = model.clone(), [node.name for node in model.graph if node.op_type == "Conv"]
    escalate = EscalatePass(context=calibrated())
    plan = escalate.analyse(model)
    reasons = [each.reason for each in plan.layers if each.layer in dense]
    assert all(reason.endswith("1×1, in the hybrid kernel") for reason in reasons)
    escalate.apply(model, plan)
    assert kinds(finish(model)).count("HybridDecomposedConv") == 4
    assert len(dense) == 2
    for node in (each for each in model.graph if each.name in dense):
        weights, (_, zero_point) = read_weights(node), read_scale(node, "x")
        assert weights.is_ordinary
        codes = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
        stride = read_geometry(node).strides[0]
        T = responses(codes, zero_point, weights, read_geometry(node))[:, :, 0]
        np.testing.assert_array_equal(T, codes[..., ::stride, ::stride].astype(int) - zero_point)
    assert relative_error(model, before, images(64)) < 0.03


@pytest.mark.parametrize("last", ["Relu", "Clip"])
def test_bottlenecks_are_uint8_throughout(last) -> None:
    """Their 1×1 convolutions take in the residual and the activation, whichever way it comes."""
    net = Builder(0)

    bounds = [numpy_helper.from_array(np.float32(bound), f"bound{bound}") for bound in (0, 6)]
    net.weights += bounds if last == "Clip" else []

    def activation(y):
        return net.op(last, y, *(bound.name for bound in bounds if last == "Clip"))

    y, C = activation(net.conv("x", 3, 16, pads=[1] * 4)), 16
    for _ in range(2):
        shortcut = y if C == 32 else net.conv(y, C, 32, (1, 1))
        inner = activation(net.conv(y, C, 16, (1, 1)))
        inner = net.conv(activation(net.conv(inner, 16, 16, pads=[1] * 4)), 16, 32, (1, 1))
        y, C = activation(net.op("Add", inner, shortcut)), 32
    model = prepare(ir.from_proto(net.model(net.op("GlobalAveragePool", y))))
    PenniPass(PenniConfig(rank=4, min_weights=1000))(model)
    FusePass()(model)
    before = model.clone()
    EscalatePass(context=calibrated())(model)
    found = kinds(finish(model))
    assert found.count("HybridDecomposedConvAdd") == 2
    assert [kind for kind in found if not kind.startswith("HybridDecomposedConv")] == [
        *("QuantizeLinear", "DequantizeLinear", "GlobalAveragePool")
    ]
    assert relative_error(model, before, images(64)) < 0.02


def test_excluded_layers_keep_what_follows_them() -> None:
    net = Builder(0)
    y = net.op("Relu", net.conv("x", 3, 8, pads=[1] * 4))
    y = net.op("Relu", net.conv(y, 8, 16, pads=[1] * 4))
    model = prepare(ir.from_proto(net.model(net.op("Relu", net.conv(y, 16, 16, pads=[1] * 4)))))
    PenniPass(PenniConfig(rank=4, min_weights=8 * 3 * 9 + 1))(model)
    EscalatePass(context=replace(calibrated(), exclude=("conv2",)))(model)
    [kept] = [node for node in finish(model).graph if node.name == "conv2"]
    assert kept.op_type == "DecomposedConv"


def test_lowered_to_standard_nodes_it_computes_the_same() -> None:
    model = decomposed()
    EscalatePass(context=calibrated())(model)
    lowered = model.clone()
    assert LowerPass()(lowered).modified
    finish(lowered)
    assert not lowered.functions
    np.testing.assert_array_equal(outputs(lowered, images(3)), outputs(finish(model), images(3)))


@pytest.mark.parametrize("name", ["chain", "dilation", "one_dimensional"])
def test_coefficients_first_is_exact(name) -> None:
    model = prepare(ir.from_proto(MODELS[name]()))
    PenniPass(PenniConfig(rank=3, min_weights=0))(model)
    swapped = model.clone()
    LowerPass(LowerConfig(form="coefficients-first"))(swapped)
    shape = (2, 3, 21) if name == "one_dimensional" else (2, 3, 9, 7)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y, expected = outputs(finish(swapped), x), outputs(finish(model), x)
    assert np.linalg.norm(y - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_real_weights_are_those_of_the_integers() -> None:
    model = decomposed("chain")
    dense = {node.name: node for node in model.graph if "Conv" in node.op_type}
    EscalatePass(context=calibrated())(model)
    for node in model.graph:
        if is_hybrid_conv(node):
            weight = read_weights(node).dense(read_scale(node, "x")[0])
            assert np.isfinite(weight).all()
    assert dense


def test_every_byte_is_accounted_for(tmp_path) -> None:
    model = decomposed()
    EscalatePass(EscalateConfig(bits=2), calibrated())(model)
    path = tmp_path / "model.onnx"
    ort.save(finish(model), path)
    parts = {part.part: part for part in storage(ir.load(path), path.stat().st_size)}
    assert sum(part.nbytes for part in parts.values()) == path.stat().st_size
    assert all(part.nbytes >= 0 for part in parts.values())
    symbols = [read_weights(node).symbols for node in model.graph if is_hybrid_conv(node)]
    stored = sum(np.count_nonzero(each) for each in symbols)
    assert stored / 8 <= parts["coefficients"].nbytes <= stored / 8 + len(symbols)
    assert parts["coefficients"].bound <= parts["coefficients"].nbytes
