"""Models before and after clean-up, both run by onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cleanup import OpsetError, finish, prepare
from runtimes.external_data import load_external
from runtimes.operators import DOMAIN, MIN_IR_VERSION, MIN_OPSET
from tests.helpers import classifier, parse, parse_ir
from tests.passes.channel_models import check, difference, run

TOLERANCE = 1e-5


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def batchnorm(channels: int) -> dict[str, Any]:
    rng = np.random.default_rng(9)
    parts = {key: rng.standard_normal(channels) for key in ("scale", "shift", "mean")}
    parts["var"] = rng.uniform(0.5, 2, channels)
    return {key: array.astype(np.float32) for key, array in parts.items()}


def with_opset(model: onnx.ModelProto, opset: int, ir_version: int = 6) -> onnx.ModelProto:
    model.opset_import[0].version, model.ir_version = opset, ir_version
    return model


def prepared(model: onnx.ModelProto) -> tuple[ir.Model, ir.Model]:
    """The model as it was, and as prepared; both valid, equal in what they compute."""
    before, after = ir.from_proto(model), prepare(ir.from_proto(model))
    check(after)
    assert difference(before, after) < TOLERANCE
    return before, after


FOLDED = {
    "conv": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            [layer] a = Conv (x, w)
            [norm] y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "conv with bias and groups": (
        """g (float[N, 4, 8, 8] x) => (float[N, 4, 6, 6] y) {
            [layer] a = Conv <group = 2> (x, w, b)
            [norm] y = BatchNormalization <epsilon = 0.1> (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 2, 3, 3), "b": normal(4)},
    ),
    "transposed conv with groups": (
        """g (float[N, 6, 5, 5] x) => (float[N, 4, 7, 7] y) {
            [layer] a = ConvTranspose <group = 2> (x, w)
            [norm] y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(6, 2, 3, 3)},
    ),
    "conv with an empty bias": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            [layer] a = Conv (x, w, "")
            [norm] y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "gemm": (
        """g (float[N, 3] x) => (float[N, 4] y) {
            [layer] a = Gemm <transB = 1, alpha = 0.5> (x, w, b)
            [norm] y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3), "b": normal(4)},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_batch_normalisation_goes_into_the_layer_before(case: str) -> None:
    graph, weights = FOLDED[case]
    _, after = prepared(parse(graph, {**weights, **batchnorm(4)}))
    assert [node.name for node in after.graph] == ["layer"]
    assert [value.name for value in after.graph.outputs] == ["y"]


KEPT = {
    "weight may be fed": (
        """g (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y) {
            a = Conv (x, w)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "weight is an output": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[4, 3, 3, 3] w) {
            a = Conv (x, w)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "bias is an output": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[4] b) {
            a = Conv (x, w, b)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3), "b": normal(4)},
    ),
    "name of the new bias is taken": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] z) {
            a = Conv (x, w)
            y = BatchNormalization (a, scale, shift, mean, var)
            z = Add (y, w_bias)
        }""",
        {"w": normal(4, 3, 3, 3), "w_bias": normal(4, 1, 1)},
    ),
    "weight is of half precision": (
        """g (float[N, 3, 8, 8] x) => (float16[N, 4, 6, 6] y) {
            h = Cast <to = 10> (x)
            a = Conv (h, w)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3).astype(np.float16)},
    ),
    "output is used elsewhere": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {
            a = Conv (x, w)
            y = BatchNormalization (a, scale, shift, mean, var)
            z = Relu (a)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "output is one of the graph": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] a) {
            a = Conv (x, w)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "training mode": (
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            a = Conv (x, w)
            y, running_mean, running_var =
                BatchNormalization <training_mode = 1> (a, scale, shift, mean, var)
        }""",
        {"w": normal(4, 3, 3, 3)},
    ),
    "nothing before it to fold into": (
        """g (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) {
            a = Relu (x)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
        {},
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_batch_normalisation_stays_where_folding_would_change_something(case: str) -> None:
    graph, weights = KEPT[case]
    model = with_opset(parse(graph, {**weights, **batchnorm(4)}), 15, ir_version=8)
    before, after = prepared(model)
    assert "BatchNormalization" in [node.op_type for node in after.graph]
    assert [value.name for value in after.graph.inputs] == [v.name for v in before.graph.inputs]


def test_layers_that_share_a_weight_fold_each_their_own_normalisation() -> None:
    other = {f"{key}2": array[::-1].copy() for key, array in batchnorm(4).items()}
    _, after = prepared(
        parse(
            """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
                [first] a = Conv (x, w)
                [second] b = Conv (x, w)
                [norm] c = BatchNormalization (a, scale, shift, mean, var)
                [norm2] d = BatchNormalization (b, scale2, shift2, mean2, var2)
                [add] y = Add (c, d)
            }""",
            {"w": normal(4, 3, 3, 3), **batchnorm(4), **other},
        )
    )
    names = [node.name for node in after.graph]
    assert len(set(names)) == len(names)


def test_weights_that_may_be_fed_stay_inputs() -> None:
    model = parse(
        "g (float[N, 2] x, float[2, 3] w) => (float[N, 3] y) { v = Neg (w) y = MatMul (x, v) }",
        {"w": normal(2, 3)},
    )
    _, after = prepared(model)
    assert [value.name for value in after.graph.inputs] == ["x", "w"]
    assert [node.op_type for node in after.graph] == ["Neg", "MatMul"]


def test_weights_listed_as_inputs_by_old_files_become_constants() -> None:
    model = parse(
        """g (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y) {
            [layer] y = Conv (x, w)
        }""",
        {"w": normal(4, 3, 3, 3)},
    )
    _, after = prepared(with_opset(model, 9, ir_version=3))
    assert [value.name for value in after.graph.inputs] == ["x"]


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_old_opsets_are_raised_and_keep_names_and_the_dynamic_batch(opset: int) -> None:
    before, after = prepared(with_opset(classifier(), opset))
    assert after.graph.opset_imports[""] == MIN_OPSET
    assert after.ir_version >= MIN_IR_VERSION
    assert [n.name for n in after.graph] == [n.name for n in before.graph]
    assert [n.outputs[0].name for n in after.graph] == [n.outputs[0].name for n in before.graph]
    assert [str(v.shape) for v in after.graph.inputs] == [str(v.shape) for v in before.graph.inputs]


OLD = {
    "bounds that were attributes": (
        10,
        "g (float[N, 4, 3] x) => (float[N, 4, 3] y) { y = Clip <min = -0.5, max = 0.5> (x) }",
        {},
    ),
    "softmax over all axes from one on": (
        11,
        "g (float[N, 4, 3] x) => (float[N, 4, 3] y) { y = Softmax (x) }",
        {},
    ),
    "operator that has gone": (
        9,
        "g (float[N, 4, 3, 3] x) => (float[N, 4, 6, 6] y) { y = Upsample (x, s) }",
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
}


@pytest.mark.parametrize("case", OLD)
def test_operators_that_changed_their_meaning_compute_the_same(case: str) -> None:
    opset, graph, weights = OLD[case]
    _, after = prepared(with_opset(parse(graph, weights), opset))
    assert after.graph.opset_imports[""] == MIN_OPSET


@pytest.mark.parametrize("opset", [11, 13])
def test_external_weights_are_found_whatever_the_opset(tmp_path: Path, opset: int) -> None:
    model, path = with_opset(classifier(), opset), tmp_path / "model.onnx"
    expected = ir.from_proto(classifier())
    onnx.save(model, path, save_as_external_data=True, location="w", size_threshold=0)
    read = ir.load(path)
    in_use = [value.const_value.numpy() for value in read.graph.initializers.values()]
    assert difference(expected, load_external(prepare(read))) < TOLERANCE
    assert all(np.isfinite(array).all() for array in in_use)


def test_newer_opsets_are_left_as_they_are() -> None:
    model = parse(
        "g (float[N, 3, 8] x) => (float[N, 3, 8] y) { [act] y = Gelu (x) }",
    )
    model.opset_import[0].version, model.ir_version = 20, 10
    _, after = prepared(model)
    assert (after.graph.opset_imports[""], after.ir_version) == (20, 10)


def test_an_opset_that_cannot_be_raised_is_named() -> None:
    model = parse("g (float[N, 4] x) => (float[N, 4] y) { y = NoSuchOperator (x) }")
    with pytest.raises(OpsetError, match="opset 8 is older than 13") as caught:
        prepare(ir.from_proto(with_opset(model, 8)))
    assert "\n" not in str(caught.value)


def test_constants_become_initializers_and_constant_subgraphs_are_folded() -> None:
    _, after = prepared(
        parse(
            """g (float[N, 2] x) => (float[N, 2] y) {
                one = Constant <value = float[2, 2] {1, 2, 3, 4}> ()
                two = Add (one, one)
                unused = Relu (x)
                [layer] y = MatMul (x, two)
            }"""
        )
    )
    [node] = after.graph
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    np.testing.assert_array_equal(weight.const_value.numpy(), [[2, 4], [6, 8]])


def test_constants_of_every_kind_become_initializers() -> None:
    _, after = prepared(
        parse(
            """g (float[N, 4] x) => (float[N, 2] y) {
                starts = Constant <value_ints = [0]> ()
                ends = Constant <value = int64[1] {2}> ()
                axes = Constant <value_ints = [1]> ()
                scale = Constant <value_float = 0.5> ()
                part = Slice (x, starts, ends, axes)
                y = Mul (part, scale)
            }"""
        )
    )
    assert [node.op_type for node in after.graph] == ["Slice", "Mul"]
    constants = [value for node in after.graph for value in node.inputs[1:]]
    assert all(value.is_initializer() for value in constants if value is not None)


BOUNDED = {
    "cut off behind": "a = Slice (x, zero, five, one)",
    "cut off before": "a = Slice (x, many, end, one)",
    "filled up": """size = Shape (x)
        length = Gather (size, one)
        short = Sub (many, length)
        missing = Max (short, zero)
        pads = Concat <axis = 0> (zero, zero, zero, zero, missing, zero)
        a = Pad (x, pads)""",
}


@pytest.mark.parametrize("case", BOUNDED)
@pytest.mark.parametrize("length", [1, 3, 5, 9, 400])
def test_a_size_that_only_some_inputs_have_is_read_at_run_time(case: str, length: int) -> None:
    numbers = {"zero": 0, "one": 1, "five": 5, "many": 300, "end": 2**40}
    model = parse(
        f"""g (float[N, T, 8] x) => (float[N, 8] y) {{
            {BOUNDED[case]}
            sizes = Shape (a)
            number = Gather (sizes, one)
            count = Cast <to = 1> (number)
            sum = ReduceSum <keepdims = 0> (a, one)
            y = Mul (sum, count)
        }}""",
        {name: np.array([number]) for name, number in numbers.items()},
    )
    before, after = ir.from_proto(model), prepare(ir.from_proto(model))
    np.testing.assert_allclose(run(before, length)[0], run(after, length)[0], rtol=1e-5)


def test_a_fixed_size_behind_a_reshape_is_written_out() -> None:
    model = parse(
        """g (float[N, 4, 6] x) => (float[N, 3, 8] y) {
            a = Reshape (x, three)
            sizes = Shape (a)
            last = Gather (sizes, two)
            count = Cast <to = 1> (last)
            y = Mul (a, count)
        }""",
        {"three": np.array([0, 3, -1]), "two": np.array(2)},
    )
    _, after = prepared(model)
    assert [node.op_type for node in after.graph] == ["Reshape", "Mul"]


def with_shapes(graph: str, weights: dict[str, Any], **shapes: list[int | str]) -> ir.Model:
    """A model that states shapes of values."""
    model = parse_ir(graph, weights)
    model.graph.opset_imports["other"] = 1
    for node in model.graph:
        for value in node.outputs:
            if value.name in shapes:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                value.shape = ir.Shape(shapes[value.name])
    return model


FLATTENED = """g (float[N, 3, 9, 9] x) => (float[N, 324] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    sizes = Shape (a)
    batch = Gather (sizes, zero)
    shape = Concat <axis = 0> (batch, rest)
    y = Reshape (a, shape)
}"""
FLATTENING = {"w": normal(4, 3, 3, 3), "zero": np.array([0]), "rest": np.array([-1])}


@pytest.mark.parametrize("stale", [[1, 4, 9, 9], ["N", 4, 8, 8], ["N", 36, 9]])
def test_shapes_left_over_from_other_inputs_are_inferred_anew(stale: list[int | str]) -> None:
    model = with_shapes(FLATTENED, FLATTENING, a=stale)
    before, after = model.clone(), prepare(model)
    assert str(after.graph[0].outputs[0].shape) == "[N,4,9,9]"
    check(after)
    assert difference(before, after) == 0


def test_shapes_of_unknown_operators_stay() -> None:
    """Also those that inference does not find, if it contradicts none; outputs in any case."""
    graph = """g (float[N, 3, 9, 9] x) => (float[N, 4, 9, 9] y) {
        a = Relu (x)
        b = other.Widen (a)
        c = Relu (b)
        y = Relu (c)
    }"""
    own = {"b": ["N", 4, 9, 9], "c": ["N", 4, "H", 9]}
    model = prepare(with_shapes(graph, {}, a=["N", 3, 9, 9], **own))
    shapes = [str(node.outputs[0].shape) for node in model.graph]
    assert shapes == ["[N,3,9,9]", "[N,4,9,9]", "[N,4,H,9]", "[N,4,9,9]"]
    model = prepare(with_shapes(graph, {}, a=["N", 3, 8, 8], **own))
    shapes = [str(node.outputs[0].shape) for node in model.graph]
    assert shapes == ["[N,3,9,9]", "[N,4,9,9]", "[N,4,9,9]", "[N,4,9,9]"]


def test_unnamed_layers_are_named_after_their_weights() -> None:
    _, after = prepared(
        parse(
            """g (float[N, 3, 8] x) => (float[N, 3, 8] y) {
                a = Conv (x, "block.conv.weight")
                y = Conv (a, "other.weight")
            }""",
            {"block.conv.weight": normal(3, 3, 1), "other.weight": normal(3, 3, 1)},
        )
    )
    assert [node.name for node in after.graph] == ["block.conv", "other"]


@pytest.mark.parametrize("has_shapes", [True, False])
def test_finish_drops_what_is_unused_and_completes_shapes(has_shapes) -> None:
    """A model without shapes stays without: they would be a good part of a small file."""
    model = parse_ir(
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            a = Conv (x, w)
            unused = Neg (a)
            y = Relu (a)
        }""",
        {"w": normal(4, 3, 3, 3), "left": normal(2)},
    )
    model.graph.opset_imports[DOMAIN] = 1
    if has_shapes:
        model.graph[1].outputs[0].shape = ir.Shape(["N", 4, 6, 6])
    finish(model)
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert set(model.graph.initializers) == {"w"}
    assert set(model.graph.opset_imports) == {""}
    sizes = [str(size) for size in model.graph[0].outputs[0].shape or []]
    assert sizes == (["N", "4", "6", "6"] if has_shapes else [])


def test_notes_of_the_exporter_about_its_own_program_go_and_those_of_users_stay() -> None:
    model = parse_ir("g (float[N, 3] x) => (float[N, 3] y) { r = Relu (x) y = Exp (r) }")
    [relu, exp] = model.graph
    notes = {
        "pkg.torch.export.ExportedProgram.graph_signature": "stale",
        "pkg.onnxscript.optimizer.folded_from": "['val_1']",
        "author": "me",
    }
    noted = (model.graph, relu, exp, relu.outputs[0])
    for each in noted:
        each.metadata_props.update(notes)
    finish(model)
    assert all(each.metadata_props == {"author": "me"} for each in noted)
