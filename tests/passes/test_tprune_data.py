"""What calibration data do for the removal of lines: the choice, and the fit of what remains."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from passes.channels.groups import prunable
from passes.channels.plans import planned_channels, read_settings
from passes.framework import Context
from passes.tprune import TprunePass, mask_lines
from passes.tprune_config import TpruneConfig
from passes.tprune_fit import repair, write_repaired
from passes.tprune_scores import channel_scores
from tests.passes.channel_models import Net, difference, session, widths
from tests.passes.test_tprune import BLOCKS, WIDTH, attention, feed, linear, shape, single
from toolchain.layerwise import ArrayCalibration

Feeds = Mapping[str, np.ndarray]


def tokens() -> list[Feeds]:
    """Inputs (N, 5, 6) on a plane, so that features can stand in for one another."""
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(2, 6))
    return [{"x": (rng.normal(size=(40, 5, 2)) @ mix).astype(np.float32)} for _ in range(4)]


def images() -> list[Feeds]:
    """Smooth images (N, 3, 12, 12) with a mean, of three colours that are mixtures of two."""
    rng = np.random.default_rng(2)
    batches = []
    for _ in range(3):
        small = rng.normal(size=(40, 2, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
        x = np.einsum("cm,nmhw->nchw", rng.normal(size=(3, 2)), small) + 0.5
        batches.append({"x": x.astype(np.float32)})
    return batches


def chain(net: Net, x: ir.Value) -> ir.Value:
    x = net.op("Relu", net.conv(x, 3, 16, "a"))
    return net.conv(net.op("Relu", net.conv(x, 16, 16, "b", stride=2)), 16, 4, "c")


def residual(net: Net, x: ir.Value) -> ir.Value:
    x = net.op("Relu", net.conv(x, 3, 8, "a"))
    for i in range(2):
        y = net.op("Relu", net.conv(x, 8, 16, f"{i}up"))
        x = net.op("Relu", net.op("Add", net.conv(y, 16, 8, f"{i}down"), x))
    return net.conv(x, 8, 4, "c")


def depthwise(net: Net, x: ir.Value) -> ir.Value:
    x = net.op("Relu", net.conv(x, 3, 16, "a", kernel=(1, 1)))
    x = net.op("Relu", net.conv(x, 16, 16, "depth", group=16))
    return net.conv(x, 16, 4, "c", kernel=(1, 1))


def flattened(net: Net, x: ir.Value) -> ir.Value:
    x = net.op("Relu", net.conv(x, 3, 16, "a"))
    x = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[6, 6], strides=[6, 6]))
    weight, bias = net.constant(net.normal(4, 64), "w"), net.constant(net.normal(1, 4)[0], "v")
    return net.op("Gemm", x, weight, bias, transB=1, name="fc")


NETWORKS: dict[str, Callable[[Net, ir.Value], ir.Value]] = {
    each.__name__: each for each in (chain, residual, depthwise, flattened)
}


def convolutional(name: str) -> ir.Model:
    net = Net(11)
    return net.model(NETWORKS[name](net, net.input("N", 3, 12, 12)))


def error(model: ir.Model, config: TpruneConfig, data: list[Feeds]) -> float:
    """Relative error of the output of the pruned model."""
    pruned = model.clone()
    TprunePass(config, Context(calibration=ArrayCalibration(data, threads=1)))(pruned)
    before, after = (session(m).run(None, data[0])[0] for m in (model, pruned))
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@pytest.mark.parametrize("score", ["activation", "second-order"])
def test_repair_lowers_the_error_of_matrices(score):
    plain, fitted = (
        error(
            single(feed),
            TpruneConfig(density=0.5, multiple=1, score=score, repair=fit),
            tokens(),
        )
        for fit in (False, True)
    )
    assert fitted < 0.7 * plain


@pytest.mark.parametrize("name", NETWORKS)
def test_repair_lowers_the_error_of_convolutions(name):
    plain, fitted = (
        error(convolutional(name), TpruneConfig(density=0.5, multiple=1, repair=fit), images())
        for fit in (False, True)
    )
    assert fitted < 0.8 * plain


def masked_repaired_pruned(
    model: ir.Model, data: list[Feeds]
) -> tuple[ir.Model, ir.Model, dict[str, str]]:
    """The model with zero lines and fitted weights, the pruned one, and what was done."""
    config = TpruneConfig(density=0.5, multiple=1)
    context = Context(calibration=ArrayCalibration(data, threads=1))
    plan = TprunePass(config, context).analyse(model)
    settings = {layer.layer: read_settings(layer, "tprune") for layer in plan.applied}
    graph = prunable(model)
    kept = planned_channels(graph, settings, "tprune")
    repaired = repair(model, graph, kept, context)
    pruned = model.clone()
    TprunePass(config, context).apply(pruned, plan)
    mask_lines(graph, kept)
    write_repaired(model, graph, kept, repaired)
    return model, pruned, {name: result.reason for name, result in repaired.items()}


@pytest.mark.parametrize("name", [*NETWORKS, *BLOCKS])
def test_fitted_lines_are_compacted_exactly(name):
    is_block = name in BLOCKS
    model = single(BLOCKS[name]) if is_block else convolutional(name)
    masked, pruned, reasons = masked_repaired_pruned(model, tokens() if is_block else images())
    assert difference(masked, pruned) < 1e-5
    assert name == "norm" or any(reason.startswith("fitted") for reason in reasons.values())


def test_biases_make_up_for_what_is_always_on():
    """Channels that are nearly constant cost nothing: the next bias takes them over."""
    net = Net(12)
    x = net.conv(
        net.input("N", 3, 12, 12), 3, 8, "a", kernel=(1, 1), bias=dict.fromkeys(range(4), 9)
    )
    weight = net.initializers[0].const_value.numpy()
    weight[:4] *= 1e-3
    net.initializers[0].const_value = ir.tensor(weight, name="a.weight")
    model = net.model(net.conv(net.op("Relu", x), 8, 4, "b", kernel=(1, 1)))
    config = TpruneConfig(density=0.5, multiple=1)
    assert error(model, config, images()) < 0.02
    assert error(model, replace(config, repair=False), images()) > 0.1
    pruned = model.clone()
    TprunePass(config, Context(calibration=ArrayCalibration(images(), threads=1)))(pruned)
    bias = pruned.graph.initializers["a.bias"].const_value.numpy()
    assert widths(pruned)["a"] == 4 and (bias < 9).all()


def test_shared_weights_and_biases_are_not_fitted_alone():
    net = Net(13)
    x = net.op("Relu", net.conv(net.input("N", 3, 12, 12), 3, 8, "a"))
    weight, bias = net.constant(net.normal(4, 8, 1, 1), "w"), net.constant(net.normal(1, 4)[0], "v")
    y = net.op("Conv", x, weight, bias, name="one")
    y = net.op("Add", y, net.op("Conv", net.op("Tanh", x), weight, bias, name="two"))
    y = net.op(
        "Add", y, net.op("Conv", x, net.constant(net.normal(4, 8, 1, 1), "u"), bias, name="three")
    )
    masked, pruned, reasons = masked_repaired_pruned(net.model(y), images())
    assert difference(masked, pruned) < 1e-5
    assert reasons["one"] == reasons["two"] == "not fitted: 2 nodes share the weight"
    assert reasons["three"].startswith("fitted")
    before, after = (m.graph.initializers["v"].const_value.numpy() for m in (masked, pruned))
    np.testing.assert_array_equal(before, after)


def scores_of(model: ir.Model, weight: str, axis: int) -> np.ndarray:
    """Scores of the heads' features that a weight has, on data."""
    graph = prunable(model)
    context = Context(calibration=ArrayCalibration(tokens(), threads=1))
    scores = channel_scores(model, graph, "second-order", context, repaired=True)
    ids = next(ids for (v, a), ids in graph.slices.items() if (v.name, a) == (weight, axis))
    roots = graph.roots()
    features = {}
    for product in graph.products:
        for whole, feature in zip(product.whole, product.parts[-1], strict=True):
            features[int(roots[whole])] = scores[roots[feature]]
    return np.array([features[int(root)] for root in roots[ids]])


def test_features_of_queries_count_by_their_product_with_keys():
    model = single(attention)
    for name, columns in (("0q.weight", [1, 10]), ("0k.weight", [3])):
        value = model.graph.initializers[name]
        weight = value.const_value.numpy().copy()
        weight[:, columns] *= 1e-2
        value.const_value = ir.tensor(weight, name=name)
    features = scores_of(model, "0q.weight", 1)
    assert set(np.argsort(features)[:3]) == {1, 3, 10}
    others = np.delete(features, [1, 3, 10])
    assert features[[1, 3, 10]].max() < 1e-2 * others.min()


def test_queries_are_not_cheaper_than_everything_else():
    """They are read by no layer, so nothing but their product says what they are worth."""
    model = single(attention)
    queries, values = (scores_of(model, f"0{n}.weight", 1).mean() for n in "qv")
    assert 0.01 < queries / values < 100
    net = Net(14)
    x = linear(net, net.input("N", 5, 6), 6, WIDTH, "embed")
    model = net.model(attention(net, feed(net, x, 1), 0))
    pruned = model.clone()
    config = TpruneConfig(params=0.8, multiple=1, heads="lines")
    TprunePass(config, Context(calibration=ArrayCalibration(tokens(), threads=1)))(pruned)
    assert shape(pruned, "0q.weight")[1] > 4


def test_layers_that_cannot_be_measured_count_by_their_weights():
    net = Net(15)
    x = net.op("Relu", net.conv(net.input("N", 3, 12, 12), 3, 8, "a"))
    x = net.op("Relu", net.conv(x, 8, 8, "grouped", group=2))
    model = net.model(net.conv(x, 8, 4, "b"))
    graph = prunable(model)
    context = Context(calibration=ArrayCalibration(images(), threads=1))
    scores = channel_scores(model, graph, "activation", context, repaired=False)
    by_name = {mixing.node.name: mixing for mixing in graph.mixings}
    roots = graph.roots()
    first, second = (scores[np.unique(roots[by_name[n].reads])] for n in ("grouped", "b"))
    assert 0.1 < first.mean() / second.mean() < 10
