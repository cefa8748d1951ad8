"""Networks for quantisation-aware training against onnxruntime, and what they export."""

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch

from passes.cleanup import finish, prepare
from passes.escalate import EscalatePass
from passes.escalate_config import EscalateConfig
from passes.framework import Context
from passes.fuse import FusePass
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from runtimes import ort
from runtimes.operators.hybrid_conv import is_hybrid_conv, read_weights
from runtimes.operators.max_pool import is_max_pool
from tests.helpers import parse_ir
from tests.passes.contract_models import Builder
from toolchain.errors import UsageError
from toolchain.layerwise import ArrayCalibration
from toolchain.training.batches import TensorBatches
from toolchain.training.hooks import Penalty
from toolchain.training.hybrid_conv import Bounded, HybridConv2d
from toolchain.training.hybrid_network import HybridNetwork
from toolchain.training.objectives import model_device
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer


def images(samples, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, 3, 9, 7)).astype(np.float32)


def network():
    net = Builder(1)
    stem = net.op("Relu", net.conv("x", 3, 10, pads=[1] * 4))
    x = net.op("Relu", net.conv(stem, 10, 10, pads=[1] * 4))
    x = net.op("Relu", net.op("Add", net.conv(x, 10, 10, pads=[1] * 4), stem))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.op("Gemm", x, net.array("fc.w", 10, 4), net.array("fc.b", 4)))


def models(bits, min_weights=0):
    """Decomposed in float, and quantised."""
    model = prepare(ir.from_proto(network()))
    PenniPass(PenniConfig(rank=4, min_weights=min_weights))(model)
    FusePass()(model)
    decomposed = finish(model.clone())
    calibration = ArrayCalibration([{"x": images(64)}], threads=1)
    EscalatePass(EscalateConfig(bits=bits), Context(calibration=calibration))(model)
    return decomposed, finish(model)


def pooled(**attributes):
    """A float network with a MaxPool."""
    net = Builder(1)
    x = net.op("Relu", net.conv("x", 3, 10, pads=[1] * 4))
    x = net.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], **attributes)
    x = net.op("Relu", net.conv(x, 10, 10, pads=[1] * 4))
    return prepare(ir.from_proto(net.model(net.op("Flatten", net.op("GlobalAveragePool", x)))))


@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 0, 2, 1]}, {"ceil_mode": 1}])
def test_pools_run_in_floats_and_between_quantised_layers(attributes) -> None:
    x = images(16, 1)
    real = pooled(**attributes)
    quantised = real.clone()
    PenniPass(PenniConfig(rank=4, min_weights=0))(quantised)
    FusePass()(quantised)
    EscalatePass(context=Context(calibration=ArrayCalibration([{"x": images(64)}], threads=1)))(
        quantised
    )
    finish(quantised)
    assert any(is_max_pool(node) for node in quantised.graph)
    for model, bound in ((real, 1e-5), (quantised, 0.03)):
        with torch.no_grad():
            y = HybridNetwork(model).eval()(torch.from_numpy(x)).numpy()
        expected = outputs(model, x)
        assert np.linalg.norm(y - expected) < bound * np.linalg.norm(expected)


def test_a_pool_that_is_not_known_is_refused_by_name() -> None:
    net = Builder(0)
    x = net.op("MaxPool", "x", kernel_shape=[2, 2], storage_order=1)
    with pytest.raises(UsageError, match="MaxPool with these attributes"):
        HybridNetwork(ir.from_proto(net.model(x)))


def outputs(model, x):
    return ort.run(ort.session_of(model), {"x": x})[0]


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("stem", ["decomposed", "ordinary"])
def test_forward_is_that_of_onnxruntime_but_for_rounded_responses(bits, stem) -> None:
    decomposed, quantised = models(bits, min_weights=0 if stem == "decomposed" else 300)
    x = images(16, 1)
    with torch.no_grad():
        y = HybridNetwork(quantised).eval()(torch.from_numpy(x)).numpy()
        real = HybridNetwork(decomposed).eval()(torch.from_numpy(x)).numpy()
    expected = outputs(quantised, x)
    assert np.linalg.norm(y - expected) < 0.03 * np.linalg.norm(expected)
    np.testing.assert_allclose(real, outputs(decomposed, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_export_before_training_gives_back_the_same_integers(bits) -> None:
    _, quantised = models(bits)
    exported = HybridNetwork(quantised).exported()
    pairs = zip(quantised.graph, exported.graph, strict=True)
    for old, new in ((old, new) for old, new in pairs if is_hybrid_conv(old)):
        for key in ("symbols", "levels", "basis", "shift"):
            np.testing.assert_array_equal(
                getattr(read_weights(old), key), getattr(read_weights(new), key)
            )
    np.testing.assert_array_equal(outputs(exported, images(4)), outputs(quantised, images(4)))


def tune(network, decomposed, lr=1e-3, hooks=()):
    """Trains towards the logits of the float network; returns inputs and these."""
    x = images(256, 2)
    target = outputs(decomposed, x)
    batches = TensorBatches(
        tensors=(torch.from_numpy(x), torch.from_numpy(target)), size=32, shuffle=True
    )
    config = TrainConfig(epochs=15, optimizer="adam", lr=lr, channels_last=False)

    def loss(model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    Trainer(network, batches, config, loss=loss, hooks=hooks).run()
    return x, target


def codes(model):
    return [read_weights(node).symbols for node in model.graph if is_hybrid_conv(node)]


def test_training_moves_ternary_towards_the_float_network_and_the_file_has_it(tmp_path) -> None:
    decomposed, quantised = models(2)
    tuned = HybridNetwork(quantised, decomposed)
    x, target = tune(tuned, decomposed)
    path = tmp_path / "tuned.onnx"
    ort.save(tuned.exported(), path)
    written = ir.load(path)
    before = np.linalg.norm(outputs(quantised, x) - target)
    assert np.linalg.norm(outputs(written, x) - target) < 0.99 * before
    assert all(np.abs(symbols).max() == 1 for symbols in codes(written))


def test_basis_kernels_are_trained_and_keep_the_range_of_responses() -> None:
    decomposed, quantised = models(2)
    tuned = HybridNetwork(quantised, decomposed)
    tune(tuned, decomposed, 2e-2, (Bounded(),))
    moved = False
    for old, new in zip(quantised.graph, tuned.exported().graph, strict=True):
        if is_hybrid_conv(old):
            before, after = (read_weights(node).basis.astype(int) for node in (old, new))
            moved |= bool((before != after).any())
            limit, norm = (np.abs(basis).sum(axis=(1, 2)) for basis in (before, after))
            assert np.all(norm <= limit + before[0].size / 2)  # rounded
    assert moved


def int8_constants(model):
    """Whole numbers of int8 layers by name."""
    sources = [node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]
    return {v.name: v.const_value.numpy() for v in sources if v.const_value is not None}


def test_int8_layers_are_trained_too_and_the_file_has_them() -> None:
    decomposed, quantised = models(2)
    tuned = HybridNetwork(quantised, decomposed)
    x, _ = tune(tuned, decomposed, 2e-2, (Bounded(),))
    exported = tuned.exported()
    before, after = int8_constants(quantised), int8_constants(exported)
    assert {array.dtype.name for array in before.values()} == {"int8", "int32"}
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        assert (after[name] != array).any(), name
        assert array.dtype != np.int8 or np.abs(after[name].astype(int)).max() <= 127
    with torch.no_grad():
        y = tuned.eval()(torch.from_numpy(x)).numpy()
    expected = outputs(exported, x)
    assert np.linalg.norm(y - expected) < 0.03 * np.linalg.norm(expected)


def test_a_basis_kernel_of_zeros_stays_one() -> None:
    tuned = HybridNetwork(models(2)[1])
    layer = next(each for each in tuned.layers.values() if isinstance(each, HybridConv2d))
    with torch.no_grad():
        layer.basis[0], layer.reach[0] = 0.0, 0.0
    Bounded().after_step(tuned)
    assert torch.isfinite(layer.basis).all()
    assert not layer.basis[0].any()


def test_hoyer_square_leaves_fewer_codes_and_fewer_in_doubt() -> None:
    decomposed, quantised = models(2)
    counts, doubts = [], []
    for strength in (0.0, 1.0):
        tuned = HybridNetwork(quantised, decomposed)
        sparse = Penalty(regularizer="hoyer-square", strength=strength, parameters=("*.latent",))
        tune(tuned, decomposed, 2e-2, (Bounded(), sparse))
        latents = [v for name, v in tuned.named_parameters() if name.endswith(".latent")]
        counts.append(sum(np.count_nonzero(symbols) for symbols in codes(tuned.exported())))
        doubts.append(sum(float(((v.abs() - 0.5).abs() < 0.1).sum()) for v in latents))
    assert counts[1] < counts[0]
    assert doubts[1] < doubts[0]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(("axes", "kept"), [([2, 3], 0), ([-1], 1), (None, 1)])
def test_means_are_those_of_onnxruntime(opset, axes, kept) -> None:
    given = "" if axes is None else f", axes = {axes}" if opset < 18 else ""
    listed = "" if axes is None or opset < 18 else ", axes"
    shapes = {0: "float[1, 1, 1, 1]", 1: "float[N, 3, 9, 1]", 2: "float[N, 3]"}
    output = shapes[len(axes or [])]
    model = parse_ir(
        f"g (float[N, 3, 9, 7] x) => ({output} y) "
        f"{{ y = ReduceMean <keepdims = {kept}{given}> (x{listed}) }}",
        {"axes": np.array(axes, np.int64)} if listed else {},
    )
    model.graph.opset_imports[""] = opset
    x = images(4)
    y = HybridNetwork(model)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, outputs(model, x), rtol=1e-5, atol=1e-6)


def test_what_training_exported_can_be_trained_again() -> None:
    """Its graph is that of torch's exporter, with a mean for the pooling."""
    model = prepare(ir.load("samples/models/resnet20_cifar10_pairs.onnx"))
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        y = HybridNetwork(model).eval()(torch.from_numpy(x)).numpy()
    [name] = [value.name for value in model.graph.inputs]
    np.testing.assert_allclose(
        y, ort.run(ort.session_of(model), {name: x})[0], rtol=1e-4, atol=1e-4
    )


def test_an_operator_without_a_rule_is_refused_by_name() -> None:
    net = Builder(0)
    model = ir.from_proto(net.model(net.op("Erf", net.conv("x", 3, 4))))
    with pytest.raises(UsageError, match="Erf cannot be trained through"):
        HybridNetwork(model)


def test_all_tensors_go_to_another_device_and_none_of_the_frozen_ones_into_checkpoints() -> None:
    meta = torch.device("meta")
    for model, trained in zip(models(2), (False, True), strict=True):
        network = HybridNetwork(model)
        kinds = {name.rsplit(".", 1)[1] for name in network.state_dict()}
        parameters = {"latent", "basis", "ratio", "bias", "step", "reach", "unit", "mask"}
        of_int8 = {"value"}
        assert kinds == (parameters | of_int8 if trained else set())
        network.to(meta)
        assert model_device(network) == meta
        assert network(torch.from_numpy(images(2)).to(meta)).shape == (2, 4)


def test_copies_are_independent_however_deep_the_network_is() -> None:
    x = torch.from_numpy(images(4))
    network = HybridNetwork(models(2)[1])
    copied = copy.deepcopy(network)
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(copied(x), expected)
        for parameter in network.parameters():
            parameter.mul_(1.5)
        assert torch.equal(copied(x), expected) and not torch.equal(network(x), expected)
    np.testing.assert_array_equal(codes(copied.exported())[0], codes(copied.model)[0])
    net, y = Builder(0), "x"
    for _ in range(200):
        y = net.op("Relu", y)
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    deep = HybridNetwork(ir.from_proto(net.model(y)))
    assert torch.equal(copy.deepcopy(deep)(x), deep(x))
