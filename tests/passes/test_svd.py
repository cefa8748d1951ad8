"""The pass `svd`: predicted against measured, shared weights, budgets, and what is left alone."""

import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from passes.cleanup import finish, prepare
from passes.cost import layer_costs, model_cost
from passes.framework import ConfigError, Context, PlanError
from passes.linear import read_layers
from passes.svd import SvdPass
from passes.svd_config import SvdConfig
from runtimes import ort
from tests.helpers import parse_ir
from tests.passes.contract_models import Builder, groups, half_precision
from toolchain.layerwise import ArrayCalibration


def convolutions(**second) -> ir.Model:
    """Three convolutions, the last with a residual Add before its Relu."""
    net = Builder(3)
    x = net.op("Relu", net.conv("x", 3, 12, pads=[1] * 4))
    y = net.op("Relu", net.conv(x, 12, 12, **{"pads": [1] * 4, **second}))
    y = net.op("Relu", net.op("Add", net.conv(y, 12, 12, pads=[1] * 4), y))
    return prepare(ir.from_proto(net.model(net.op("GlobalAveragePool", y))))


def matrices(shared: bool = False) -> ir.Model:
    """Tokens (N, 5, 24): MatMul with bias, MatMul without, transposed weight, Gemm."""
    net = Builder(4)
    w = net.array("w1", 24, 24)
    y = net.op("Relu", net.op("Add", net.op("MatMul", "x", w), net.array("b1", 24)))
    second = w if shared else net.array("w2", 24, 24)
    y = net.op("Add", net.op("MatMul", y, second), "x")
    y = net.op("MatMul", y, net.op("Transpose", net.array("w3", 20, 24), perm=[1, 0]))
    y = net.op("Squeeze", net.op("ReduceMean", y, axes=[1]), shape_of(net, "axes", [1]))
    y = net.op(
        "Gemm", y, net.array("w4", 18, 20), net.array("b4", 18), transB=1, alpha=2.0, beta=0.5
    )
    return ir.from_proto(net.model(y, shape=("N", 5, 24)))


def shape_of(net: Builder, name: str, values: list[int]) -> str:
    net.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def inputs(model, samples=8, seed=1):
    sizes = [int(size) for size in model.graph.inputs[0].shape[1:]]
    mix = np.random.default_rng(0).standard_normal((sizes[-1], sizes[-1]))  # far from white
    rng = np.random.default_rng(seed)
    return {"x": (rng.standard_normal((samples, *sizes)) @ mix).astype(np.float32)}


def calibrated(model, samples=40):
    return Context(calibration=ArrayCalibration([inputs(model, samples, seed=5)], threads=1))


def output(model, feeds):
    return ort.run(ort.session_of(model), feeds)[0]


def values(model, names, feeds):
    """Outputs of nodes, from onnxruntime."""
    proto = ir.to_proto(model)
    wanted = [node.output[0] for name in names for node in proto.graph.node if node.name == name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = ort.session(proto.SerializeToString(), disable_optimisation=True)
    return ort.run(session, feeds)


def split(model, config, context=None):
    step = SvdPass(config, context)
    return step.apply(model, step.analyse(model))


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("second", [{}, {"strides": [2, 2]}, {"pads": [2, 0, 1, 1]}])
def test_predicted_error_is_that_of_onnxruntime(form, second) -> None:
    original = convolutions(**second)
    context = calibrated(original)
    feeds = inputs(original, 40, seed=5)
    plan = SvdPass(SvdConfig(rank=5, form=form, refit=False), context).analyse(original)
    assert len(plan.applied) == 3 if form == "spatial" else 2
    for decision in plan.applied:
        model = original.clone()
        alone = replace(plan, layers=(decision,))
        done = SvdPass(SvdConfig(refit=False), context).apply(model, alone).layers[0]
        [before] = values(original, [decision.layer], feeds)
        [after] = values(model, [decision.layer], feeds)
        centred = before - before.mean(axis=(0, 2, 3), keepdims=True)
        measured = np.linalg.norm(after - before) / np.linalg.norm(centred)
        assert decision.predicted_error == pytest.approx(measured, rel=0.02)
        assert done.measured_error == pytest.approx(measured, rel=0.02)


def test_prediction_is_exact_for_matrices_too() -> None:
    original = prepare(matrices())
    context, feeds = calibrated(original), inputs(original, 40, seed=5)
    plan = SvdPass(SvdConfig(rank=6, refit=False), context).analyse(original)
    assert [layer.op_type for layer in plan.applied] == ["MatMul"] * 3 + ["Gemm"]
    for decision, has_bias in zip(plan.applied, (True, False, False, True), strict=True):
        model = original.clone()
        SvdPass(SvdConfig(refit=False), context).apply(model, replace(plan, layers=(decision,)))
        place = "n1" if decision.layer == "n0" else decision.layer  # behind the fused bias
        [before] = values(original, [place], feeds)
        [after] = values(model, [place], feeds)
        axes = tuple(range(before.ndim - 1))
        reference = before - before.mean(axis=axes, keepdims=True) if has_bias else before
        measured = np.linalg.norm(after - before) / np.linalg.norm(reference)
        assert decision.predicted_error == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("make", [convolutions, lambda: prepare(matrices())])
def test_refit_beats_plain_truncation(make) -> None:
    original = make()
    feeds, context = inputs(original, 64, seed=9), calibrated(original, 64)
    reference = output(original, feeds)
    errors = []
    for config, own in (
        (SvdConfig(rank=4), None),
        (SvdConfig(rank=4, refit=False), context),
        (SvdConfig(rank=4), context),
    ):
        model = original.clone()
        split(model, config, own)
        errors.append(float(np.linalg.norm(output(finish(model), feeds) - reference)))
    plain, whitened, refitted = errors
    assert whitened < plain and refitted < whitened


@pytest.mark.parametrize("calibration", [False, True])
def test_weights_of_low_rank_are_split_exactly(calibration) -> None:
    rng = np.random.default_rng(0)
    model = prepare(matrices())
    for name in ("w1", "w2"):
        low = rng.standard_normal((24, 4)) @ rng.standard_normal((4, 24)) / 24
        model.graph.initializers[name].const_value = ir.tensor(low.astype(np.float32), name=name)
    feeds = inputs(model)
    before = output(model, feeds)
    context = calibrated(model) if calibration else Context()
    step = SvdPass(SvdConfig(rank=4), replace(context, include=("n0", "n3")))
    done = step.apply(model, step.analyse(model))
    assert len(done.applied) == 2 and max(each.measured_error for each in done.applied) < 1e-3
    after = output(finish(model), feeds)
    assert np.linalg.norm(after - before) < 1e-3 * np.linalg.norm(before)


@pytest.mark.parametrize("calibration", [False, True])
def test_shared_weight_is_split_once_for_all_its_users(calibration) -> None:
    model = prepare(matrices(shared=True))
    feeds = inputs(model)
    step = SvdPass(SvdConfig(rank=6), calibrated(model) if calibration else None)
    plan = step.analyse(model)
    assert [each.settings.get("rank") for each in plan.layers[:2]] == [6, 6]
    assert [each.after.parameters for each in plan.layers[:2]] == [6 * 48, 0]
    measured = step.apply(model, plan)
    by_name = {node.name: node for node in model.graph}
    one, two = by_name["n0"], by_name["n3"]
    assert one.inputs[1] is two.inputs[1]
    assert by_name["n0.svd"].inputs[1] is by_name["n3.svd"].inputs[1]
    assert all(each.measured_error > 0 for each in measured.layers[:2])
    assert np.isfinite(output(finish(model), feeds)).all()
    halves = replace(plan, layers=(plan.layers[0], *plan.layers[2:]))
    with pytest.raises(PlanError, match="share a weight"):
        SvdPass().apply(prepare(matrices(shared=True)), halves)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 24), st.integers(1, 3), st.data())
def test_all_users_of_a_weight_get_its_best_approximation(width, users, data) -> None:
    rank = data.draw(st.integers(1, (width - 1) // 2))  # what pays
    net, x = Builder(data.draw(st.integers(0, 99))), "x"
    weight = net.array("w", width, width)
    for _ in range(users):
        x = net.op("Relu", net.op("MatMul", x, weight))
    original = prepare(ir.from_proto(net.model(x, shape=("N", width))))
    W = original.graph.initializers["w"].const_value.numpy().astype(np.float64)
    U, sigma, V = np.linalg.svd(W)
    model = original.clone()
    plan = split(model, SvdConfig(rank=rank))
    assert len(plan.applied) == users
    bound = np.linalg.norm(sigma[rank:]) / np.linalg.norm(sigma)  # Eckart–Young
    for each in plan.applied:
        assert each.predicted_error == pytest.approx(bound, rel=1e-6)
        assert each.measured_error == pytest.approx(bound, rel=1e-6)
    best = ((U[:, :rank] * sigma[:rank]) @ V[:rank]).astype(np.float32)
    original.graph.initializers["w"].const_value = ir.tensor(best, name="w")
    feeds = inputs(original)
    expected = output(original, feeds)
    scale = np.abs(expected).max() + 1e-6
    np.testing.assert_allclose(output(finish(model), feeds), expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("share", [0.8, 0.6])
@pytest.mark.parametrize("key", ["params", "macs"])
@pytest.mark.parametrize("make", [convolutions, lambda: prepare(matrices())])
def test_budgets_are_shares_of_the_whole_model(make, key, share) -> None:
    model = make()
    name = {"params": "parameters", "macs": "macs"}[key]
    before = getattr(model_cost(model), name)
    split(model, SvdConfig(**{key: share}, multiple=1), calibrated(model))
    after = getattr(model_cost(finish(model)), name)
    assert (share - 0.12) * before < after <= share * before


def test_predicted_costs_are_those_of_the_result() -> None:
    for original in (convolutions(strides=[2, 2]), prepare(matrices(shared=True))):
        for form in ("channel", "spatial"):
            model = original.clone()
            plan = split(model, SvdConfig(rank=4, form=form))
            costs = layer_costs(finish(model))
            for each in plan.applied:
                parts = [costs[each.layer], costs[f"{each.layer}.svd"]]
                assert each.after.macs == sum(part.macs for part in parts)
                assert each.after.parameters == sum(part.parameters for part in parts)


def test_ranks_are_multiples_and_what_does_not_pay_is_left() -> None:
    model = convolutions()
    plan = SvdPass(SvdConfig(macs=0.9, multiple=4)).analyse(model)
    assert plan.applied and all(each.settings["rank"] % 4 == 0 for each in plan.applied)
    plan = SvdPass(SvdConfig(rank=11)).analyse(model)
    assert not plan.applied
    assert all("does not pay: break-even rank is" in each.reason for each in plan.layers)


def test_layer_of_other_samples_pays_by_its_parameters() -> None:
    """Its rows are not those of the first input: how many a sample has is unknown."""
    model = parse_ir(
        "g (float[70, 8] t, float[1, 32] x) => (float[1, 64] y) { [fc] y = Gemm (x, w) }",
        {"w": np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)},
    )
    [layer], _ = read_layers(model)
    assert layer.positions(layer.uses[0]) is None
    [decision] = split(model, SvdConfig(rank=2)).layers
    assert decision.applies and decision.after.macs is None


def test_energy_is_kept() -> None:
    model = convolutions()
    plan = SvdPass(SvdConfig(energy=0.9, multiple=1)).analyse(model)
    assert plan.applied
    for each in plan.applied:
        assert each.predicted_error <= np.sqrt(0.1)


def test_layers_left_alone_say_why() -> None:
    reasons = [layer.reason for layer in SvdPass().analyse(prepare(ir.from_proto(groups()))).layers]
    for reason, word in zip(reasons, ("pay", "2 groups", "depthwise", "pay"), strict=True):
        assert word in reason
    assert "FLOAT16" in SvdPass().analyse(prepare(ir.from_proto(half_precision()))).layers[0].reason
    net = Builder()
    table = net.array("table", 20, 20)
    picked = net.op("Gather", table, shape_of(net, "ids", [1, 2, 3]))
    scores = net.op(
        "MatMul", net.op("MatMul", "x", table), net.op("Transpose", picked, perm=[1, 0])
    )
    model = ir.from_proto(net.model(scores, shape=("N", 20)))
    tied, second = SvdPass(SvdConfig(rank=4)).analyse(model).layers
    assert "also used by Gather" in tied.reason
    assert "run time" in second.reason


def test_measured_times_decide_where_there_is_a_timer() -> None:
    class Fixed:
        def __call__(self, forms):
            """Only ranks up to 4 are faster than the dense layer."""
            slow = {
                name: int(name.split()[1]) > 4 for name in forms if name not in ("dense", "model")
            }
            times = {name: 2.0 if late else 0.5 for name, late in slow.items()}
            return {"dense": 1.0, "model": 4.0, **times} if "dense" in forms else {"model": 4.0}

    model = prepare(matrices())
    context = Context(timer=Fixed())
    slow = SvdPass(SvdConfig(rank=6), context).analyse(model)
    assert not slow.applied
    assert all(
        "measured slower: at best 2 ms (matrix, rank 6) against 1 ms" in each.reason
        for each in slow.layers
    )
    plan = SvdPass(SvdConfig(latency=0.7, multiple=2), context).analyse(model)
    assert 1 <= len(plan.applied) < 4 and all(each.settings["rank"] <= 4 for each in plan.applied)
    with pytest.raises(ConfigError, match="optimize-for latency"):
        SvdPass(SvdConfig(latency=0.5)).analyse(model)


def test_two_runs_give_the_same_bytes() -> None:
    results = []
    for _ in range(2):
        model = convolutions()
        split(model, SvdConfig(macs=0.7, multiple=1), calibrated(model))
        results.append(ir.to_proto(finish(model)).SerializeToString(deterministic=True))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"multiple": 0}, "multiple is 0"),
        ({"macs": 1.5}, "expected a share"),
        ({"rank": 4, "energy": 0.9}, "rank and energy"),
        ({"macs": 0.5, "params": 0.5}, "params and macs"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SvdConfig(**options)


def test_budget_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be reached"):
        SvdPass(SvdConfig(macs=0.05)).analyse(convolutions())


def test_layers_of_a_split_can_be_split_again() -> None:
    """Nodes and values of each run have names of their own."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = parse_ir(
        "g (float[N, 64] x) => (float[N, 64] y) { [fc] y = Gemm (x, w) }", {"w": weight}
    )
    for rank in (24, 12, 8):
        split(model, SvdConfig(rank=rank))
    names = [node.name for node in model.graph]
    made = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(set(made)) == len(names) == 6
    assert names[-1] == "fc"
    assert output(model, inputs(model)).shape == (8, 64)


def test_plan_with_a_wrong_setting_is_refused() -> None:
    model = convolutions()
    step = SvdPass(SvdConfig(rank=4))
    plan = step.analyse(model)
    for wrong in ({}, {"form": "matrix", "rank": 4}, {"form": "channel", "rank": 99}):
        broken = replace(plan, layers=(replace(plan.applied[0], settings=wrong),))
        with pytest.raises(PlanError, match="plan of svd"):
            step.apply(model, broken)


def external_model(folder, layers, width):
    """A chain of square MatMuls whose weights are in a file of their own."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(layers):
        matrix = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        x = "x" if index == 0 else f"v{index - 1}"
        nodes.append(helper.make_node("MatMul", [x, f"w{index}"], [f"v{index}"], f"m{index}"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", 1, ["N", width])],
        [helper.make_tensor_value_info(f"v{layers - 1}", 1, ["N", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "chain.onnx"
    onnx.save(model, path, save_as_external_data=True, location="chain.data")
    return path


@pytest.mark.parametrize("calibration", [False, True])
def test_no_more_than_one_layer_is_held_in_memory(tmp_path, calibration) -> None:
    peaks = []
    for layers in (4, 16):
        model = ir.load(external_model(tmp_path, layers, 256))
        context = calibrated(model, 32) if calibration else None
        tracemalloc.start()
        split(model, SvdConfig(rank=64), context)
        ort.save(finish(model), tmp_path / "out.onnx")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(read_layers(ir.load(tmp_path / "out.onnx"))[0]) == 2 * layers
    assert peaks[1] < peaks[0] + 3 * 256 * 256 * 4  # 12 layers more, 48 times as much as is allowed
