from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from tests.helpers import classifier, images, parse, save
from toolchain.errors import UnreadableError
from toolchain.runner import Runner


def test_outputs_come_by_name(tmp_path: Path) -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] twice, float[N, 2] minus) {
            minus = Neg (x)
            twice = Add (x, x)
        }"""
    )
    x = np.ones((3, 2), np.float32)
    outputs = Runner(save(model, tmp_path / "m.onnx"))({"x": x})
    assert list(outputs) == ["twice", "minus"]
    np.testing.assert_array_equal(outputs["twice"], 2 * x)
    np.testing.assert_array_equal(outputs["minus"], -x)


def test_a_model_in_memory_runs_in_the_place_of_its_file(tmp_path: Path) -> None:
    path = save(classifier(seed=0), tmp_path / "m.onnx")
    other = classifier(seed=1)
    session = onnxruntime.InferenceSession(other.SerializeToString())
    [expected] = session.run(None, {"input": images(2)})
    result = Runner(path, ir.from_proto(other), threads=2)({"input": images(2)})
    np.testing.assert_allclose(result["logits"], expected, rtol=1e-5)


def test_what_onnxruntime_refuses_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UnreadableError, match=rf"^{path}: onnxruntime cannot open it"):
        Runner(path)
    runner = Runner(save(classifier(), path))
    with pytest.raises(UnreadableError, match=rf"^{path}: onnxruntime cannot run it"):
        runner({"input": images(2)[:, :2]})
