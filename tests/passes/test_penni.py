"""The pass `penni` on models whose best result is known."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from passes.cleanup import finish, prepare
from passes.cost import model_cost
from passes.framework import ConfigError, Context, PlanError, Setting
from passes.mathematics.fit import LayerSetting
from passes.penni import PenniPass, readable_convs
from passes.penni_config import PenniConfig
from passes.penni_decision import read_settings
from runtimes import ort
from runtimes.operators.decomposed_conv import is_decomposed_conv, read_weights
from tests.passes.contract_models import Builder, chain, groups
from toolchain.layerwise import ArrayCalibration


def network(weights: dict[str, np.ndarray] | None = None) -> ir.Model:
    """Three 3×3 convolutions of 16 channels with Relus; some weights may be given."""
    net = Builder()
    x = "x"
    for index in range(3):
        x = net.op("Relu", net.conv(x, 3 if index == 0 else 16, 16, pads=[1] * 4))
    model = net.model(net.op("GlobalAveragePool", x), shape=("N", 3, 9, 7))
    for tensor in model.graph.initializer:
        if tensor.name in (weights or {}):
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return prepare(ir.from_proto(model))


@pytest.fixture
def calibration():
    rng = np.random.default_rng(0)
    return ArrayCalibration([{"x": rng.standard_normal((16, 3, 9, 7)).astype(np.float32)}])


def output(model):
    x = np.random.default_rng(1).standard_normal((8, 3, 9, 7)).astype(np.float32)
    return ort.run(ort.session_of(model), {"x": x})[0]


def decide(model, calibration=None, **options):
    config = PenniConfig(**{"min_weights": 0, **options})
    return PenniPass(config, Context(calibration=calibration)).analyse(model)


def low_rank_weight(rank, K, C, seed=0):
    rng = np.random.default_rng(seed)
    kernels = rng.standard_normal((K * C, rank)) @ rng.standard_normal((rank, 9))
    return (kernels.reshape(K, C, 3, 3) / np.sqrt(9 * C)).astype(np.float32)


@pytest.mark.parametrize("calibrated", [False, True])
def test_kernels_of_a_small_space_are_found_exactly(calibration, calibrated) -> None:
    names = ("conv0.w", "conv2.w", "conv4.w")
    weights = {
        name: low_rank_weight(3, 16, 3 if name == "conv0.w" else 16, seed)
        for seed, name in enumerate(names)
    }
    model = network(weights)
    before = output(model)
    context = Context(calibration=calibration if calibrated else None)
    step = PenniPass(PenniConfig(rank=3, min_weights=0), context)
    measured = step.apply(model, step.analyse(model))
    assert [layer.action for layer in measured.layers] == ["apply"] * 3
    assert max(layer.measured_error for layer in measured.layers) < 1e-4
    after = output(finish(model))
    assert np.linalg.norm(after - before) < 1e-4 * np.linalg.norm(before)


@pytest.mark.parametrize("share", [0.7, 0.4])
@pytest.mark.parametrize("key", ["params", "macs"])
def test_budgets_are_shares_of_the_whole_model(key, share) -> None:
    model = network()
    name = {"params": "parameters", "macs": "macs"}[key]
    before = getattr(model_cost(model), name)
    step = PenniPass(PenniConfig(**{key: share}, min_weights=0))
    step.apply(model, step.analyse(model))
    after = getattr(model_cost(finish(model)), name)
    assert (share - 0.12) * before < after <= share * before


@pytest.mark.parametrize(("params", "macs"), [(0.5, 0.5), (0.4, 0.7), (0.7, 0.4)])
def test_two_budgets_hold_together(params, macs) -> None:
    model = network()
    before = model_cost(model)
    step = PenniPass(PenniConfig(params=params, macs=macs, min_weights=0))
    step.apply(model, step.analyse(model))
    after = model_cost(finish(model))
    shares = after.parameters / before.parameters, after.macs / before.macs
    assert shares[0] <= params and shares[1] <= macs
    assert shares[0] > params - 0.12 or shares[1] > macs - 0.12


def test_predicted_costs_are_those_of_the_result() -> None:
    model = network()
    step = PenniPass(PenniConfig(rank=5, density=0.4, min_weights=0))
    plan = step.analyse(model)
    measured = step.apply(model, plan)
    for planned, done in zip(plan.layers, measured.layers, strict=True):
        assert done.after.parameters == planned.after.parameters
        assert done.after.macs == planned.after.macs
        assert done.after.nbytes == pytest.approx(planned.after.nbytes, rel=0.03)


def test_pairs_are_dropped_whole() -> None:
    model = network()
    config = PenniConfig(rank=4, density=0.5, granularity="pair", min_weights=0)
    step = PenniPass(config)
    step.apply(model, step.analyse(model))
    for node in filter(is_decomposed_conv, model.graph):
        alive = np.count_nonzero(read_weights(node).coefficients, axis=2)
        assert set(alive.ravel().tolist()) == {0, 4}
        assert node.inputs[2].const_value.shape[1] == 4  # stored as pairs


def test_energy_rule_keeps_what_was_asked_for() -> None:
    model = network()
    plan = decide(model, energy=0.7)
    for layer in plan.applied:
        weight = model.graph.initializers[f"{layer.layer}.w"].const_value.numpy()
        energies = np.linalg.svd(weight.reshape(-1, 9), compute_uv=False) ** 2
        kept = np.cumsum(energies) / energies.sum()
        rank = layer.settings["rank"]
        assert kept[rank - 1] >= 0.7 and (rank == 1 or kept[rank - 2] < 0.7)
        assert layer.predicted_error == pytest.approx(np.sqrt(1 - kept[rank - 1]), rel=1e-3)


def test_threshold_rule_keeps_what_is_above_deviations() -> None:
    model = network()
    step = PenniPass(PenniConfig(rank=5, threshold=1.0, min_weights=0))
    plan = step.analyse(model)
    measured = step.apply(model, plan)
    for planned, done in zip(plan.layers, measured.layers, strict=True):
        assert done.after.parameters == planned.after.parameters < 0.5 * done.before.parameters


def test_pointwise_layers_are_sparsified_on_request() -> None:
    model = prepare(ir.from_proto(groups()))
    assert "1×1" in decide(model, density=0.5).layers[-1].reason
    plan = decide(model, density=0.5, pointwise="sparsify")
    assert plan.layers[-1].settings["rank"] == 1
    assert plan.layers[-1].after.parameters == 33  # half of 16·4 weights, and the 1×1 basis


def test_layers_left_alone_say_why() -> None:
    model = prepare(ir.from_proto(groups()))
    reasons = [layer.reason for layer in decide(model, density=0.5, min_weights=300).layers]
    for reason, word in zip(reasons, ("tiny: 216", "2 groups", "depthwise", "1×1"), strict=True):
        assert word in reason
    full = decide(network(), rank=9).layers
    assert all("does not pay" in layer.reason for layer in full)
    left_out = PenniPass(
        PenniConfig(density=0.5, min_weights=0), Context(include=("conv0",))
    ).analyse(network())
    assert [layer.action for layer in left_out.layers] == ["apply", "keep", "keep"]


def test_a_second_run_leaves_decomposed_layers_alone() -> None:
    model = network()
    step = PenniPass(PenniConfig(rank=4, min_weights=0))
    step.apply(model, step.analyse(model))
    assert [layer.reason for layer in step.analyse(model).layers] == ["already decomposed"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"density": 0.0}, "density is 0"),
        ({"params": 1.5}, "params is 1.5"),
        ({"threshold": -1.0}, "threshold is -1"),
        ({"rank": 3, "energy": 0.9}, "rank and energy"),
        ({"params": 0.5, "rank": 3, "density": 0.5}, "leave nothing to choose"),
        ({"threshold": 1.0, "granularity": "pair"}, "give density for pairs"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        PenniConfig(**options)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(("granularity", "kept"), [("element", 1), ("pair", 5)])
def test_a_tiny_density_keeps_something_of_every_layer(
    calibration, calibrated, granularity, kept
) -> None:
    context, model = Context(calibration=calibration if calibrated else None), network()
    config = PenniConfig(rank=5, density=1e-5, granularity=granularity, min_weights=0, shrink=False)
    step = PenniPass(config, context)
    step.apply(model, step.analyse(model))
    layers = [read_weights(node) for node in model.graph if is_decomposed_conv(node)]
    assert [np.count_nonzero(weights.coefficients) for weights in layers] == [kept] * 3


def test_impossible_budgets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"params=0\.02 cannot be reached"):
        decide(network(), params=0.02)
    with pytest.raises(ConfigError, match=r"params=0\.02 with macs=0\.5 cannot be reached"):
        decide(network(), params=0.02, macs=0.5)
    with pytest.raises(ConfigError, match="not decomposed have"):
        PenniPass(PenniConfig(params=0.5), Context(include=("conv2",))).analyse(network())
    dynamic = prepare(ir.from_proto(chain(shape=("N", 3, "H", "W"))))
    with pytest.raises(ConfigError, match="needs known shapes"):
        decide(dynamic, macs=0.5)


def test_a_plan_for_another_model_is_refused() -> None:
    plan = decide(network(), rank=4)
    with pytest.raises(PlanError, match="conv4"):
        PenniPass().apply(prepare(ir.from_proto(chain())), plan)
    with pytest.raises(PlanError, match="plan of shrink"):
        PenniPass().apply(network(), replace(plan, pass_name="shrink"))
    broken = replace(plan.layers[0], settings={**plan.layers[0].settings, "rank": 40})
    with pytest.raises(PlanError, match="rank 40"):
        PenniPass().apply(network(), replace(plan, layers=(broken,)))


def edited(settings: dict[str, Setting]) -> LayerSetting:
    """What the second layer of a plan means after an edit; "gone" takes a setting away."""
    plan, model = decide(network(), rank=5, density=0.5), network()
    decision = plan.layers[1]
    settings = {**decision.settings, **settings}
    settings = {key: value for key, value in settings.items() if value != "gone"}
    layers = {layer.name: layer for layer in readable_convs(model)}
    return read_settings(replace(decision, settings=settings), layers)


@pytest.mark.parametrize(
    ("settings", "keep"),
    [
        ({}, 640),
        ({"coefficients": None, "density": 0.25}, 320),
        ({"coefficients": "gone", "density": 0.25}, 320),
        ({"coefficients": 320, "density": 0.25}, 320),
        ({"coefficients": 320, "density": "gone"}, 320),
        ({"coefficients": None, "density": 1}, None),
        ({"coefficients": None, "density": 0.25, "granularity": "pair"}, 320),
        ({"coefficients": 0, "density": 0}, 0),
        ({"rank": 4, "coefficients": "gone"}, 512),
    ],
)
def test_settings_of_a_plan_may_be_edited(settings: dict[str, Setting], keep: int | None) -> None:
    assert edited(settings).keep == keep


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"density": 0.25},
            "density 0.25: it is 320 of 1280 coefficients, but coefficients is 640",
        ),
        ({"coefficients": -1}, "coefficients -1: the layer has 1280"),
        ({"coefficients": 1281, "density": None}, "coefficients 1281: the layer has 1280"),
        ({"coefficients": None, "density": -0.5}, "coefficients -640"),
        ({"coefficients": None, "density": float("nan")}, "NaN"),
        ({"coefficients": None, "density": float("inf")}, "infinity"),
        ({"coefficients": None, "density": None}, "coefficients"),
        ({"granularity": "pairs"}, "granularity 'pairs': expected element or pair"),
        ({"threshold": -1}, "threshold -1: expected more than 0"),
        ({"threshold": float("nan")}, "threshold nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, Setting], message: str
) -> None:
    with pytest.raises(PlanError, match=f"layer 'conv.': bad setting .*{message}"):
        edited(settings)


def test_names_of_initializers_never_collide() -> None:
    """A layer whose node has the name of another layer's weight."""
    net = Builder()
    x = net.op("Conv", "x", net.array("a.basis", 8, 3, 3, 3), name="b", pads=[1] * 4)
    x = net.op("Conv", net.op("Relu", x), net.array("w", 8, 8, 3, 3), name="a", pads=[1] * 4)
    model = prepare(ir.from_proto(net.model(x)))
    config = PenniConfig(rank=3, min_weights=0)
    step = PenniPass(config, Context(include=("a",)))
    step.apply(model, step.analyse(model))
    onnx.checker.check_model(ir.to_proto(finish(model)), full_check=True)
    assert np.isfinite(output(model)).all()
