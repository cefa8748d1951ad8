"""The layer-by-layer walk against whole runs of the original and the changed model."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import toolchain.layerwise
from tests.helpers import parse
from toolchain.errors import UnreadableError
from toolchain.layerwise import ArrayCalibration

LAYERS = ["stem", "one", "two", "down", "three"]


def network(batch="N"):
    """Two residual blocks, one with a convolution in its shortcut, as an onnx model."""
    rng = np.random.default_rng(0)
    tensors, nodes = [], []

    def conv(name, x, K, C, size=3, stride=1):
        for suffix, shape in (("w", (K, C, size, size)), ("b", (K,))):
            array = rng.standard_normal(shape).astype(np.float32) / 3
            tensors.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}.w", f"{name}.b"],
                [f"{name}.y"],
                name,
                pads=[size // 2] * 4,
                strides=[stride] * 2,
            )
        )
        return f"{name}.y"

    def plain(op, inputs, output):
        nodes.append(helper.make_node(op, inputs, [output], output))
        return output

    r0 = plain("Relu", [conv("stem", "x", 4, 3)], "r0")
    r1 = plain("Relu", [conv("one", r0, 4, 4)], "r1")
    r2 = plain("Relu", [plain("Add", [conv("two", r1, 4, 4), r0], "a1")], "r2")
    d = conv("down", r2, 6, 4, 1, 2)
    y = plain("Add", [conv("three", r2, 6, 4, 3, 2), d], "a2")
    plain("GlobalAveragePool", [y], "out")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("out", 1, [batch, 6, 1, 1])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def changed(model, names):
    """A copy with other weights for some layers, and those weights."""
    rng = np.random.default_rng(7)
    copy, new = onnx.ModelProto(), {}
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name in names:
        arrays = []
        for suffix in ("w", "b"):
            old = numpy_helper.to_array(tensors[f"{name}.{suffix}"])
            arrays.append((old * rng.uniform(0.5, 1.5, old.shape)).astype(np.float32))
            tensors[f"{name}.{suffix}"].CopyFrom(
                numpy_helper.from_array(arrays[-1], f"{name}.{suffix}")
            )
        new[name] = tuple(arrays)
    return copy, new


def values(model, names, batches):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
    return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in batches]


def feeds(sizes):
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((n, 3, 8, 8)).astype(np.float32)} for n in sizes]


def assert_batches(actual, expected, name):
    assert len(actual) == len(expected)
    for array, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(array, reference[name], atol=1e-5)


@pytest.mark.parametrize(("batch", "sizes"), [("N", (5, 3)), (4, (4, 4, 4))])
@pytest.mark.parametrize("limit", [2**29, 0])
def test_both_branches_agree_with_whole_runs(monkeypatch, batch, sizes, limit):
    monkeypatch.setattr(toolchain.layerwise, "MEMORY_LIMIT", limit)
    model, batches = network(batch), feeds(sizes)
    other, new = changed(model, LAYERS)
    names = [value for node in model.graph.node for value in node.output]
    before, after = values(model, names, batches), values(other, names, batches)
    inputs = {"stem": None, "one": "r0", "two": "r1", "down": "r2", "three": "r2"}
    meets = {
        "stem": ("stem.y", None, True),
        "one": ("one.y", None, True),
        "two": ("a1", "r0", True),
        "down": ("down.y", None, False),  # the other operand, "three", is still open
        "three": ("a2", "down.y", False),
    }
    walk = ArrayCalibration(batches).walk(ir.from_proto(model), LAYERS)
    for layer in LAYERS:
        maps, (target, shortcut, relu) = walk.maps(layer), meets[layer]
        if inputs[layer]:
            assert_batches(maps.inputs, after, inputs[layer])
        assert_batches(maps.targets, before, target)
        assert maps.relu == relu
        assert (maps.shortcut is None) == (shortcut is None)
        if maps.shortcut is not None:
            assert_batches(maps.shortcut, after, shortcut)
        walk.commit(layer, *new[layer])
    original, compressed = zip(*walk.outputs(), strict=True)
    assert_batches(original, before, "out")
    assert_batches(compressed, after, "out")


def test_probe_runs_on_and_commits_nothing():
    model, batches = network(), feeds((4, 4, 4))
    _, new = changed(model, LAYERS)
    walk = ArrayCalibration(batches).walk(ir.from_proto(model), LAYERS)
    for layer in ("stem", "two"):
        walk.maps(layer)
        probed, _ = changed(model, [layer])
        weights = changed(model, [layer])[1][layer]
        result = walk.probe(layer, *weights, 5)
        assert_batches(result, values(probed, ["out"], batches[:2]), "out")
    original, compressed = zip(*walk.outputs(), strict=True)
    for a, b in zip(original, compressed, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert set(new) == set(LAYERS)


def test_external_weights_are_read_and_stay_where_they_are(tmp_path):
    path, batches = tmp_path / "m.onnx", feeds((4,))
    onnx.save(network(), path, save_as_external_data=True, location="w", size_threshold=0)
    model = ir.load(path)
    walk = ArrayCalibration(batches).walk(model, LAYERS)
    assert_batches(walk.maps("stem").targets, values(network(), ["stem.y"], batches), "stem.y")
    tensors = [value.const_value for value in model.graph.initializers.values()]
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_activations_that_nothing_can_be_fitted_to_are_refused(value):
    weight = np.full((4, 3, 3, 3), value, np.float32)
    walk = ArrayCalibration(feeds((4,))).walk(ir.from_proto(network()), LAYERS)
    walk.maps("stem")
    walk.commit("stem", weight, np.zeros(4, np.float32))
    with pytest.raises(UnreadableError, match="layer 'one': its input on calibration data"):
        walk.maps("one")


def test_limit_takes_whole_batches():
    calibration = ArrayCalibration(feeds((4, 4, 4)))
    assert calibration.samples == 12
    walk = calibration.walk(ir.from_proto(network()), ["stem"], 6)
    assert [len(batch) for batch in walk.maps("stem").inputs] == [4, 4]


def test_probe_counts_samples_where_sizes_are_kept_too():
    rng = np.random.default_rng(0)
    one, two = (rng.standard_normal((2, 6, 6)) / 3).astype(np.float32)
    model = parse(
        """g (float[N, 4, 6] x) => (float[N, 24] y) {
            sizes = Shape (x)
            a_size = Gather <axis = 0> (sizes, zero)
            first = Unsqueeze (a_size, zeros)
            before = Concat <axis = 0> (first, tokens)
            r = Reshape (x, before)
            u = MatMul (r, one)
            v = MatMul (u, two)
            last = Unsqueeze (a_size, zeros)
            after = Concat <axis = 0> (last, rest)
            y = Reshape (v, after)
        }""",
        {
            "one": one,
            "two": two,
            "zero": np.array(0),
            "zeros": np.array([0]),
            "tokens": np.array([4, 6]),
            "rest": np.array([24]),
        },
    )
    for node in model.graph.node:
        node.name = node.output[0]
    batches = [{"x": rng.standard_normal((3, 4, 6)).astype(np.float32)} for _ in range(4)]
    walk = ArrayCalibration(batches).walk(ir.from_proto(model), ["u", "v"])
    walk.maps("u")
    result = walk.probe("u", 2 * one.T, np.zeros(6, np.float32), 5)
    expected = [{"y": (batch["x"] @ (2 * one) @ two).reshape(3, 24)} for batch in batches[:2]]
    assert_batches(result, expected, "y")
