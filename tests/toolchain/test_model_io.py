import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from runtimes import ort
from tests.helpers import classifier, images, parse, save
from toolchain.errors import UnreadableError, UsageError
from toolchain.model_io import (
    ensure_targets,
    ensure_writable,
    load_model,
    model_summary,
    save_model,
    sha256_of,
)


def external(path: Path, model: onnx.ModelProto | None = None, location: str = "w.bin") -> Path:
    """A saved model whose weights are in a file of their own."""
    onnx.save(
        model or classifier(),
        path,
        save_as_external_data=True,
        location=location,
        size_threshold=0,
    )
    return path


def logits(path: Path) -> Any:
    return ort.run(ort.session(path), {"input": images(2)})[0]


def refused(path: Path) -> str:
    """The message of the refusal: one line that starts with the file."""
    with pytest.raises(UnreadableError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_model_is_read_as_it_is(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    assert ir.to_proto(load_model(path)).graph == ir.to_proto(ir.from_proto(classifier())).graph


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = classifier().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(1, len(whole), 37):
        path.write_bytes(whole[:size])
        refused(path)


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is a text, not a model\n" * 9, "not an ONNX"),
    "zip": (b"PK\x03\x04" + bytes(range(256)), "not an ONNX"),
    "zeros": (bytes(100), "not an ONNX"),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
        "is a Git LFS pointer; run 'git lfs pull'",
    ),
    "other protobuf": (
        onnx.helper.make_tensor("t", 1, [1], [1.0]).SerializeToString(),
        "not an ONNX",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_model_are_refused(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert message in refused(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.onnx")
    assert "is a folder" in refused(tmp_path)
    assert "File name too long" in refused(tmp_path / ("m" * 300))
    assert "Not a directory" in refused(save(classifier(), tmp_path / "m.onnx") / "inner.onnx")


INVALID = {
    "unknown operator": "g (float[N, 2] x) => (float[N, 2] y) { y = NoSuchOperator (x) }",
    "unknown attribute": "g (float[N, 2] x) => (float[N, 2] y) { y = Relu <slope = 2> (x) }",
    "undefined value": "g (float[N, 2] x) => (float[N, 2] y) { y = Add (x, z) }",
    "value made twice": "g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) y = Neg (x) }",
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_graphs_are_refused(tmp_path: Path, case: str) -> None:
    path = save(parse(INVALID[case]), tmp_path / "m.onnx")
    assert "not a valid model" in refused(path) or "malformed ONNX graph" in refused(path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "double", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    kind = {"float32": "float"}.get(dtype, dtype)
    numpy_type = ir.DataType[{"float": "FLOAT"}.get(kind, kind.upper())].numpy()
    weight = np.ones((2, 2), numpy_type)
    weight[1, 0] = value
    tensor = ir.serde.serialize_tensor(ir.Tensor(weight, name="w"))
    model = parse(f"g ({kind}[N, 2] x) => ({kind}[N, 2] y) {{ y = MatMul (x, w) }}")
    model.graph.initializer.append(tensor)
    message = refused(save(model, tmp_path / "m.onnx"))
    assert f"weight 'w' has {'NaN' if np.isnan(value) else 'infinite'} values" in message


def test_data_of_another_size_than_told_is_found(tmp_path: Path) -> None:
    model = classifier()
    [weight] = [each for each in model.graph.initializer if each.name == "fc_weight"]
    weight.raw_data += b"1234"
    message = refused(save(model, tmp_path / "m.onnx"))
    assert "data of 'fc_weight' does not fit its shape" in message


def test_models_fixed_to_no_samples_are_refused(tmp_path: Path) -> None:
    model = classifier()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 0
    path = save(model, tmp_path / "m.onnx")
    assert "input 'input' has the shape (0, 3, 8, 8), no samples" in refused(path)


def test_an_infinite_mask_is_no_weight(tmp_path: Path) -> None:
    model = parse(
        "g (float[N, 2] x) => (float[N, 2] y) { y = Add (x, mask) }",
        {"mask": np.array([0, -np.inf], np.float32)},
    )
    load_model(save(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("read", ["a layer", "nothing", "a branch"])
def test_sparse_weights_are_refused(tmp_path: Path, read: str) -> None:
    body = {
        "a layer": "y = Add (x, w)",
        "nothing": "y = Relu (x)",
        "a branch": """y = If (c) <
            then_branch = t () => (float[2] a) { a = Add (x, w) },
            else_branch = e () => (float[2] b) { b = Relu (x) }
        >""",
    }[read]
    output = ", float[2] w" if read == "nothing" else ""
    model = parse(f"g (float[2] x, bool c) => (float[2] y{output}) {{ {body} }}")
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [3.0])
    places = onnx.helper.make_tensor("places", onnx.TensorProto.INT64, [1], [1])
    sparse = onnx.helper.make_sparse_tensor(weight, places, [2])
    model.graph.sparse_initializer.append(sparse)
    onnx.checker.check_model(model)
    message = refused(save(model, tmp_path / "m.onnx"))
    assert "weight 'w' is a sparse tensor, which optc does not read" in message


def test_external_weights_are_read(tmp_path: Path) -> None:
    model = load_model(external(tmp_path / "m.onnx"))
    save_model(model, tmp_path / "out.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "out.onnx"), logits(tmp_path / "m.onnx"))


def test_external_weights_are_not_kept_in_memory_by_the_checks(tmp_path: Path) -> None:
    model = load_model(external(tmp_path / "m.onnx"))
    tensors = [value.const_value for value in model.graph.initializers.values()]
    maps = [tensor.raw for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    assert maps
    assert maps == [None] * len(maps)


def test_external_weights_that_are_missing_or_cut_off_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    data = tmp_path / "w.bin"
    size = data.stat().st_size
    os.truncate(data, size - 1)
    message = refused(path)
    assert f"{data} has {size - 1} bytes" in message
    assert "ends at byte" in message
    data.unlink()
    assert f"external data {data} of 'conv_weight' is missing" in refused(path)


@pytest.mark.parametrize("location", ["../w.bin", "/somewhere/w.bin", "a/../../w.bin"])
def test_external_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = external(folder / "m.onnx")
    os.replace(folder / "w.bin", tmp_path / "w.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    assert "is not in the model's folder" in refused(path)


def test_infinite_external_weights_are_found(tmp_path: Path) -> None:
    model = classifier()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0, 0, 0] = np.inf
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "conv_weight"))
    assert "infinite" in refused(external(tmp_path / "m.onnx", model))


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    save_model(load_model(path), tmp_path / "out.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "out.onnx"), logits(path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]


def test_weights_too_large_for_one_file_go_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    monkeypatch.setattr(ort, "MAX_MESSAGE_BYTES", 100)
    save_model(load_model(path), tmp_path / "out.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "m.onnx",
        "out.onnx",
        "out.onnx.data",
    ]
    load_model(tmp_path / "out.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "out.onnx"), logits(path))


def test_a_model_can_be_saved_over_itself(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx", location="m.onnx.data")
    expected = logits(path)
    save_model(load_model(path), path)
    np.testing.assert_array_equal(logits(path), expected)


def test_a_model_can_be_saved_while_its_external_weights_are_in_use(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    model = load_model(path)
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    save_model(model, tmp_path / "out.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "out.onnx"), logits(path))
    for name, value in load_model(tmp_path / "out.onnx").graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), arrays[name])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("broken")])
def test_a_failed_save_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = ir.from_proto(classifier(seed=1))
    path = external(tmp_path / "m.onnx", location="m.onnx.data")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(_model: ir.Model, target: Path, **_options: object) -> None:
        Path(target).write_bytes(b"half of")
        raise error

    monkeypatch.setattr(ir, "save", fail)
    expected = UsageError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected, match=r"No space left|broken"):
        save_model(model, path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_targets_that_cannot_be_written_are_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        ensure_writable(tmp_path)
    with pytest.raises(UsageError, match=r"no folder .*none, create it first"):
        ensure_writable(tmp_path / "none" / "m.onnx")
    ensure_writable(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_too_long_and_devices_are_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        ensure_writable(tmp_path / ("m" * 300))
    with pytest.raises(UsageError, match="File name too long"):
        ensure_targets([tmp_path / ("m" * 253)], [])  # of the weights
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        ensure_writable(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("targets", "used"),
    [
        (["m.onnx"], ["m.onnx"]),
        (["folder/../m.onnx"], ["m.onnx"]),
        (["link.onnx"], ["m.onnx"]),
        (["m.onnx"], ["m.onnx.data"]),
        (["a.onnx", "m.onnx"], ["m.onnx"]),
        (["m.onnx", "m.onnx"], []),
        (["m.onnx", "m.onnx.data"], []),
    ],
)
def test_targets_that_are_needed_otherwise_are_refused(
    tmp_path: Path, targets: list[str], used: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"m\.onnx|link\.onnx"):
        ensure_targets([tmp_path / name for name in targets], [tmp_path / name for name in used])


def test_targets_of_their_own_are_accepted(tmp_path: Path) -> None:
    ensure_targets([tmp_path / "a.onnx", tmp_path / "b.onnx"], [tmp_path / "m.onnx"])


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_targets_are_refused(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    path.chmod(0o444)
    with pytest.raises(UsageError, match="permission denied"):
        ensure_writable(path)


def test_hash_is_that_of_all_files_in_order_of_names(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "plain.onnx")
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path = external(tmp_path / "m.onnx", location="a.bin")
    both = path.read_bytes() + (tmp_path / "a.bin").read_bytes()
    assert sha256_of(path) == hashlib.sha256(both).hexdigest()


def test_summary_counts_all_files(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    summary = model_summary(path, load_model(path))
    assert summary.path == str(path)
    assert summary.sha256 == sha256_of(path)
    assert summary.nbytes == path.stat().st_size + (tmp_path / "w.bin").stat().st_size
    assert summary.parameters == 4 * 27 + 10 * 4 + 10
    assert summary.macs == 64 * 4 * 27 + 10 * 4
