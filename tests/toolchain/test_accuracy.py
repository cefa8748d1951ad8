from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.accuracy import Accuracy, evaluate, label_ranks
from toolchain.data import Data, open_data
from toolchain.errors import UnreadableError
from toolchain.inputs import InputSpec

SPEC = [InputSpec(name="x", shape=("N", 12), dtype=np.dtype("float32"))]


def labelled(path: Path, scores: Any, labels: Any) -> Data:
    """Data whose inputs are the scores themselves."""
    spec = [InputSpec(name="x", shape=("N", *scores.shape[1:]), dtype=np.dtype("float32"))]
    np.savez(path, x=scores.astype(np.float32), labels=labels)
    return open_data(str(path), spec)


def identity(feeds: Any) -> Any:
    return {"scores": feeds["x"]}


@given(st.integers(0, 2**32), st.integers(10, 15))
def test_ranks_are_those_of_a_stable_sort(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (7, classes)).astype(np.float32)  # many ties
    labels = rng.integers(0, classes, 7)
    order = np.argsort(-scores, axis=-1, kind="stable")
    expected = [
        int(np.flatnonzero(row == label)[0]) for row, label in zip(order, labels, strict=True)
    ]
    np.testing.assert_array_equal(label_ranks(scores, labels, "here"), expected)


def test_first_and_first_five_are_counted_over_all_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((70, 12)), rng.integers(0, 12, 70)
    calls: list[tuple[int, int]] = []
    result = evaluate(
        identity,
        labelled(tmp_path / "d.npz", scores, labels),
        progress=lambda done, total, _what: calls.append((done, total)),
    )
    top5 = np.argsort(-scores, axis=-1)[:, :5]
    assert result.samples == 70
    assert result.correct == np.sum(scores.argmax(-1) == labels)
    assert result.correct_top5 == np.sum((top5 == labels[:, None]).any(-1))
    assert result.top1 == result.correct / 70
    assert result.top5 == (result.correct_top5 or 0) / 70
    assert (result.output, calls) == ("scores", [(1, 3), (2, 3), (3, 3)])


def test_top5_is_left_out_for_few_classes(tmp_path: Path) -> None:
    result = evaluate(identity, labelled(tmp_path / "d.npz", np.eye(4), np.arange(4)))
    assert (result.correct, result.correct_top5, result.top5) == (4, None, None)


def test_scores_that_are_no_numbers_are_wrong(tmp_path: Path) -> None:
    scores = np.eye(12)
    labels = np.arange(12)

    def run(feeds: Any) -> Any:
        broken = feeds["x"].copy()
        broken[3, 0], broken[4, 4] = np.nan, np.nan
        broken[5, 5] = np.inf
        return {"scores": broken}

    result = evaluate(run, labelled(tmp_path / "d.npz", scores, labels))
    assert (result.correct, result.correct_top5) == (10, 10)


def test_every_position_of_a_sequence_or_map_is_scored(tmp_path: Path) -> None:
    scores = np.zeros((2, 3, 4))
    labels = np.array([[0, 1, 2], [3, 0, 0]])
    scores[0, 1, 1] = scores[0, 2, 2] = scores[1, 0, 2] = 1
    result = evaluate(identity, labelled(tmp_path / "d.npz", scores, labels))
    assert (result.samples, result.correct) == (6, 5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_labels_of_any_integer_type(tmp_path: Path, dtype: str) -> None:
    data = labelled(tmp_path / "d.npz", np.eye(12), np.arange(12).astype(dtype))
    assert evaluate(identity, data).top1 == 1


def test_limit_and_named_output(tmp_path: Path) -> None:
    data = labelled(tmp_path / "d.npz", np.eye(12), np.arange(12))
    result = evaluate(
        lambda feeds: {"other": -feeds["x"], "scores": feeds["x"]},
        data.limited(5),
        output="scores",
    )
    assert (result.samples, result.correct) == (5, 5)
    assert evaluate(lambda feeds: {"other": -feeds["x"], "scores": feeds["x"]}, data).correct == 0
    with pytest.raises(UnreadableError, match=r"no output named 'logits' .has: scores."):
        evaluate(identity, data, output="logits")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(12, 12), "'labels' go from 12 to 12, the model has classes 0 to 11"),
        (np.arange(12) - 1, "'labels' go from -1 to 10"),
        (
            np.zeros((12, 1), int),
            r"'labels' of shape \(12, 1\) do not fit scores of shape \(12, 12\)",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        evaluate(identity, labelled(tmp_path / "d.npz", np.eye(12), labels))


def test_data_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.eye(12, dtype=np.float32))
    with pytest.raises(UnreadableError, match="no array named 'labels'"):
        evaluate(identity, open_data(str(tmp_path / "d.npz"), SPEC))


def test_shares_follow_from_counts() -> None:
    score = Accuracy(output="y", samples=8, correct=2, correct_top5=6)
    assert (score.top1, score.top5) == (0.25, 0.75)
