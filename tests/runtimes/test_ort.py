from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from runtimes import ort
from tests.helpers import classifier, images, parse, save


def test_runs_a_file_bytes_and_a_model_in_memory_alike(tmp_path: Path) -> None:
    model = classifier()
    feeds = {"input": images(3)}
    sessions = [
        ort.session(save(model, tmp_path / "model.onnx")),
        ort.session(model.SerializeToString()),
        ort.session_of(ir.from_proto(model)),
    ]
    [first], *others = (ort.run(session, feeds) for session in sessions)
    assert first.shape == (3, 10)
    for [other] in others:
        np.testing.assert_array_equal(first, other)


def test_model_in_memory_with_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w", size_threshold=0)
    model = ir.load(path)
    assert ort.external_data_name(model, Path("out.onnx")) == "out.onnx.data"
    [logits] = ort.run(ort.session_of(model), {"input": images(2)})
    [expected] = ort.run(ort.session(classifier().SerializeToString()), {"input": images(2)})
    np.testing.assert_array_equal(logits, expected)


def test_small_model_needs_no_external_data() -> None:
    assert ort.external_data_name(ir.from_proto(classifier()), Path("out.onnx")) is None


def test_options() -> None:
    options = ort.session_options(threads=3, disable_optimisation=True)
    assert options.intra_op_num_threads == 3
    assert "DISABLE_ALL" in str(options.graph_optimization_level)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_unreadable_file_is_one_line(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ort.SessionError, match="onnxruntime cannot open it") as caught:
        ort.session(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_failing_run_names_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    model = parse(
        "g (float[N, 4] x) => (float[A, B] y) { y = Reshape (x, s) }", {"s": np.array([3, 4])}
    )
    session = ort.session(model.SerializeToString())
    with pytest.raises(ort.SessionError, match="cannot be reshaped") as caught:
        ort.run(session, {"x": np.ones((2, 4), np.float32)})
    assert "ONNXRuntimeError" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_wrong_input_name() -> None:
    session = ort.session(classifier().SerializeToString())
    with pytest.raises(ort.SessionError, match="cannot run it"):
        ort.run(session, {"image": images(1)})


def test_place_in_the_source_is_left_out() -> None:
    error = RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : Load failed:/src/core/x.h:46 void f(int, T<a>&) Too new.\n"
    )
    assert ort.reason(error) == "Load failed:Too new."


def test_long_reasons_are_cut() -> None:
    assert len(ort.reason(RuntimeError("x" * 9999))) < 300
