"""A model that is not what it should be does not pass."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.helpers import classifier, parse, save
from toolchain.data import random_data
from toolchain.inputs import input_specs
from toolchain.model_io import load_model
from toolchain.verify import verify


def change(model, name, function):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = function(numpy_helper.to_array(tensor).copy()).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def check(tmp_path, edit, *, exact=True):
    original, rewritten = classifier(), classifier()
    edit(rewritten)
    paths = save(original, tmp_path / "a.onnx"), save(rewritten, tmp_path / "b.onnx")
    data = random_data(input_specs(load_model(paths[0])), samples=8, seed=0)
    return verify(*paths, data, kind="random", exact=exact)


def test_an_equal_model_passes(tmp_path) -> None:
    result = check(tmp_path, lambda model: None)
    assert result.passed and result.outputs[0].relative_l2 == 0


def test_an_exact_pass_may_not_change_the_output(tmp_path) -> None:
    def edit(model):
        change(model, "fc_weight", lambda array: array * 1.001)

    assert "relative error" in check(tmp_path, edit).failures[0]
    assert check(tmp_path, edit, exact=False).passed


def test_a_lossy_pass_may_not_lose_everything(tmp_path) -> None:
    def edit(model):
        change(model, "fc_weight", lambda array: -array)

    assert "above 1" in check(tmp_path, edit, exact=False).failures[0]


def test_values_that_are_not_finite_fail(tmp_path) -> None:
    def edit(model):
        change(model, "fc_weight", lambda array: np.full_like(array, 3e38))

    assert "not finite" in check(tmp_path, edit, exact=False).failures[0]


def test_weights_that_are_not_finite_fail(tmp_path) -> None:
    def edit(model):
        change(model, "fc_weight", lambda array: np.full_like(array, np.nan))

    [failure] = check(tmp_path, edit, exact=False).failures
    assert failure == "the rewritten model is broken: weight 'fc_weight' has NaN values"


def test_a_model_that_gives_no_numbers_cannot_be_checked(tmp_path) -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { z = Abs (x) n = Neg (z) y = Log (n) }"
    path = save(parse(text), tmp_path / "m.onnx")
    data = random_data(input_specs(load_model(path)), samples=8, seed=0)
    [failure] = verify(path, path, data, kind="random", exact=True).failures
    assert failure == "output 'y' has values that are not finite"


def test_a_model_fixed_to_one_batch_size_fails(tmp_path) -> None:
    def edit(model):
        reshape = onnx.helper.make_node("Reshape", ["c", "flat_shape"], ["d"], "flat")
        model.graph.initializer.append(numpy_helper.from_array(np.array([8, 4]), "flat_shape"))
        model.graph.node[3].CopyFrom(reshape)

    [failure] = check(tmp_path, edit).failures
    assert "cannot run" in failure


@pytest.mark.parametrize("field", ["op_type", "input"])
def test_an_invalid_model_fails(tmp_path, field) -> None:
    def edit(model):
        if field == "op_type":
            model.graph.node[1].op_type = "NoSuchOperator"
        else:
            model.graph.node[1].input[0] = "nowhere"

    assert "onnx refuses" in check(tmp_path, edit).failures[0]
