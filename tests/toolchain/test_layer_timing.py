"""Times are measured once, and remembered for the same model on the same machine."""

import json

import onnx_ir as ir
import pytest

import toolchain.layer_timing
from tests.helpers import classifier
from toolchain.errors import UnreadableError
from toolchain.layer_timing import FormTimer, load_times, save_times


@pytest.fixture
def forms():
    return {name: ir.from_proto(classifier(seed)) for seed, name in enumerate(("a", "b"))}


def test_known_times_are_not_measured_again(forms, monkeypatch, tmp_path) -> None:
    timer = FormTimer()
    first = timer(forms)
    assert set(first) == {"a", "b"} and min(first.values()) > 0
    save_times(tmp_path / "t.json", timer.known)
    monkeypatch.setattr(toolchain.layer_timing, "measure", None)
    assert timer(forms) == first
    assert FormTimer(known=load_times(tmp_path / "t.json"))(forms) == first
    with pytest.raises(TypeError):  # another number of threads is another time
        FormTimer(threads=2, known=timer.known)(forms)


def test_turns_know_how_many_threads_there_are(forms, monkeypatch) -> None:
    seen = []

    def measure(runners, feeds, config, progress):
        seen.append(config.threads)
        return [[1.0]] * len(runners)

    monkeypatch.setattr(toolchain.layer_timing, "measure", measure)
    FormTimer(threads=2)(forms)
    assert seen == [2]


def test_a_missing_file_knows_nothing_and_a_wrong_one_is_refused(tmp_path) -> None:
    path = tmp_path / "t.json"
    assert load_times(path) == {}
    for content in ("{", "[]", json.dumps({"times": [1]}), json.dumps({"times": {"a": "x"}})):
        path.write_text(content)
        with pytest.raises(UnreadableError, match="not a file of times"):
            load_times(path)
