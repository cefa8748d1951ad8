"""Two models as one and back: the same results, also over many runs with a cache."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from toolchain.cli import run as optc
from toolchain.errors import UnreadableError, UsageError
from toolchain.joined import carried_names, join, split
from toolchain.model_io import load_model, save_model
from toolchain.runner import Runner

ENCODER = """
<ir_version: 9, opset_import: ["" : 18]>
encoder (float[N, S, 6] source) => (float[N, 2, S, 4] memory)
<int64[4] sizes = {0, 0, 2, 4}>
{
    a = MatMul(source, W)
    b = Reshape(a, sizes)
    memory = Transpose <perm = [0, 2, 1, 3]> (b)
}
"""
DECODER = """
<ir_version: 9, opset_import: ["" : 18]>
decoder (float[N, 1, 5] token, float[N, 2, S, 4] memory, float[N, 2, P, 4] past)
    => (float[N, 1, 3] scores, float[N, 2, Q, 4] present)
<int64[4] sizes = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}>
{
    a = MatMul(token, W)
    b = Reshape(a, sizes)
    query = Transpose <perm = [0, 2, 1, 3]> (b)
    present = Concat <axis = 2> (past, query)
    keys = Concat <axis = 2> (present, memory)
    turned = Transpose <perm = [0, 1, 3, 2]> (keys)
    products = MatMul(query, turned)
    weights = Softmax <axis = -1> (products)
    mixed = MatMul(weights, keys)
    back = Transpose <perm = [0, 2, 1, 3]> (mixed)
    joined = Reshape(back, flat)
    scores = MatMul(joined, V)
}
"""
CARRIED = {"present": "past"}


def build(text: str, seed: int, **shapes: tuple[int, int]) -> ir.Model:
    model = parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    onnx.checker.check_model(model)
    return ir.from_proto(model)


@pytest.fixture
def parts() -> tuple[ir.Model, ir.Model]:
    return build(ENCODER, 0, W=(6, 8)), build(DECODER, 1, W=(5, 8), V=(8, 3))


def decode(first: ir.Model, second: ir.Model, steps: int = 4) -> list[np.ndarray]:
    """Scores of some steps, with whatever widths the cache has."""
    rng = np.random.default_rng(2)
    encoder, decoder = Runner("first", first), Runner("second", second)
    memory = encoder({"source": rng.standard_normal((2, 7, 6)).astype(np.float32)})["memory"]
    [past] = [value for value in second.graph.inputs if value.name == "past"]
    cache = np.zeros((2, past.shape[1], 0, past.shape[3]), np.float32)
    scores = []
    for _ in range(steps):
        token = rng.standard_normal((2, 1, 5)).astype(np.float32)
        outputs = decoder({"token": token, "memory": memory, "past": cache})
        scores.append(outputs["scores"])
        cache = outputs["present"]
    return scores


def dead_feature(first: ir.Model, second: ir.Model) -> None:
    """Zeroes feature 2 of head 0 and 1 of head 1, in all that has it."""
    lines = [2, 5]
    for model, name, axis in ((first, "W", 1), (second, "W", 1), (second, "V", 0)):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        np.moveaxis(array, axis, 0)[lines] = 0
        value.const_value = ir.tensor(array, name=name)


def test_parts_come_back_as_they_were(parts) -> None:
    first, second = split(join(*parts, CARRIED))
    for given, found in zip(parts, (first, second), strict=True):
        assert [node.name for node in found.graph] == [node.name for node in given.graph]
        assert set(found.graph.initializers) == set(given.graph.initializers)
        for one, other in zip(given.graph.inputs, found.graph.inputs, strict=True):
            assert (one.name, one.shape, one.dtype) == (other.name, other.shape, other.dtype)
        assert [v.name for v in found.graph.outputs] == [v.name for v in given.graph.outputs]
    for one, other in zip(decode(*parts), decode(first, second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_joined_model_runs_twice_with_the_cache_of_the_first_run(parts) -> None:
    joined = Runner("joined", join(*parts, CARRIED))
    rng = np.random.default_rng(3)
    source, *tokens = (
        rng.standard_normal(shape).astype(np.float32) for shape in [(2, 7, 6), *[(2, 1, 5)] * 2]
    )
    feeds = {"source": source, "token": tokens[0], "again/token": tokens[1]}
    outputs = joined({**feeds, "lengths": np.zeros((2, 3), np.int64)})
    memory = Runner("first", parts[0])({"source": source})["memory"]
    cache = np.zeros((2, 2, 3, 4), np.float32)
    for token, name in zip(tokens, ("scores", "again/scores"), strict=True):
        expected = Runner("second", parts[1])({"token": token, "memory": memory, "past": cache})
        np.testing.assert_allclose(outputs[name], expected["scores"], rtol=1e-6, atol=1e-6)
        cache = expected["present"]


def test_a_pass_removes_features_from_both_sides_of_the_interface(parts, tmp_path) -> None:
    dead_feature(*parts)
    paths = [tmp_path / name for name in ("encoder.onnx", "decoder.onnx")]
    for part, path in zip(parts, paths, strict=True):
        save_model(part, path)
    joined, pruned = tmp_path / "joined.onnx", tmp_path / "pruned.onnx"
    small = [tmp_path / name for name in ("small_encoder.onnx", "small_decoder.onnx")]
    names = [str(path) for path in paths]
    assert optc(["join", *names, "--carry", "present=past", "-o", str(joined)]) == 0
    step = "tprune:threshold=0,multiple=1"
    assert optc(["transform", str(joined), "--pass", step, "-o", str(pruned)]) == 0
    assert optc(["split", str(pruned), *map(str, small)]) == 0
    first, second = map(load_model, small)
    assert [value.shape[3] for value in (*first.graph.outputs, *second.graph.inputs[1:])] == [3] * 3
    for one, other in zip(decode(*parts), decode(first, second), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_names_of_caches_are_matched_by_words(parts) -> None:
    assert carried_names(parts[1], "present", "past") == {"present": "past"}
    with pytest.raises(UsageError, match="no output with 'new' in its name"):
        carried_names(parts[1], "new", "old")


@pytest.mark.parametrize(
    ("swap", "carried", "message"),
    [
        (True, {}, "no input of the second model is named like an output"),
        (False, {"scores": "past"}, "cannot be 'past'"),
        (False, {"present": "gone"}, "no output 'present' with an input 'gone'"),
    ],
)
def test_what_does_not_fit_is_refused(parts, swap, carried, message) -> None:
    first, second = reversed(parts) if swap else parts
    with pytest.raises(UsageError, match=message):
        join(first, second, carried)


@pytest.mark.parametrize(
    "arguments",
    [
        ["split", "joined.onnx", "joined.onnx", "q.onnx"],
        ["split", "joined.onnx", "p.onnx", "p.onnx"],
        ["join", "a.onnx", "b.onnx", "-o", "b.onnx"],
    ],
)
def test_inputs_and_other_outputs_are_not_replaced(
    parts, tmp_path, monkeypatch, capsys, arguments
) -> None:
    monkeypatch.chdir(tmp_path)
    for model, name in zip((*parts, join(*parts, CARRIED)), ("a", "b", "joined"), strict=True):
        save_model(model, tmp_path / f"{name}.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert optc(arguments) == 2
    assert "it is an input or another output of this command" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_that_was_not_joined_cannot_be_split(parts, tmp_path, capsys) -> None:
    with pytest.raises(UnreadableError, match="not a joined model"):
        split(parts[0])
    save_model(parts[0], tmp_path / "plain.onnx")
    given = [str(tmp_path / name) for name in ("plain.onnx", "a.onnx", "b.onnx")]
    assert optc(["split", *given]) == 3
    assert "plain.onnx: not a joined model" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_carry_of_another_form_is_refused(parts, tmp_path) -> None:
    paths = [str(tmp_path / name) for name in ("a.onnx", "b.onnx", "c.onnx")]
    for part, path in zip(parts, paths, strict=False):
        save_model(part, tmp_path / path)
    assert optc(["join", *paths[:2], "--carry", "present", "-o", paths[2]]) == 2
