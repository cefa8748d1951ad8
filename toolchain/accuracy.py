"""Classification accuracy over labelled data: the class with the largest score wins.

Ties go to the lower class number, as with argmax; a sample whose scores are not all numbers is
counted as wrong.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.framework import Progress
from toolchain.data import Data
from toolchain.errors import UnreadableError
from toolchain.fidelity import Run

Array = NDArray[Any]

TOP = 5
CLASSES_FOR_TOP5 = 10


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often a classifier is right.

    Attributes:
        output: name of the tensor of scores.
        samples: labels looked at.
        correct: of them, how many have the largest score.
        correct_top5: how many are among the five largest; None with fewer than 10 classes.
    """

    output: str
    samples: int
    correct: int
    correct_top5: int | None

    @property
    def top1(self) -> float:
        """Share of samples, 0 to 1."""
        return self.correct / self.samples

    @property
    def top5(self) -> float | None:
        """Share of samples, 0 to 1, or None."""
        return None if self.correct_top5 is None else self.correct_top5 / self.samples


def evaluate(
    run: Run,
    data: Data,
    *,
    output: str | None = None,
    progress: Progress = lambda done, total, label: None,
) -> Accuracy:
    """Runs labelled data through a classifier.

    Args:
        run: returns arrays by output name for feeds.
        data: with labels of shape (samples,), or that of the scores without their last axis.
        output: name of the scores (..., classes); the first output if None.
        progress: called after every batch.

    Raises:
        UnreadableError: there are no labels, or they do not fit the scores.
    """
    if not data.labelled:
        raise UnreadableError(
            f"{data.path}: no array named 'labels'; add the class number of every sample"
        )
    ranks: list[Array] = []
    name, classes, total = output or "", 0, data.batch_count()
    for index, batch in enumerate(data.batches()):
        outputs = run(batch.feeds)
        name = output or next(iter(outputs))
        if name not in outputs:
            raise UnreadableError(f"no output named '{name}' (has: {', '.join(outputs)})")
        assert batch.labels is not None
        ranks.append(label_ranks(outputs[name], batch.labels, data.path).ravel())
        classes = outputs[name].shape[-1]
        progress(index + 1, total, "batches")
    rank = np.concatenate(ranks)
    return Accuracy(
        output=name,
        samples=rank.size,
        correct=int(np.sum(rank == 0)),
        correct_top5=int(np.sum(rank < TOP)) if classes >= CLASSES_FOR_TOP5 else None,
    )


def label_ranks(scores: Array, labels: Array, where: str) -> Array:
    """How many classes are placed before the right one.

    Args:
        scores: (..., classes).
        labels: (...) class numbers.
        where: the labels come from, for messages.

    Returns:
        (...) 0 where the label has the largest score; `classes` where a score is not a number.

    Raises:
        UnreadableError: labels and scores do not fit together.
    """
    if scores.ndim == 0 or labels.shape != scores.shape[:-1]:
        raise UnreadableError(
            f"{where}: 'labels' of shape {labels.shape} do not fit scores of shape {scores.shape}; "
            "the last axis of the scores holds the classes"
        )
    classes = scores.shape[-1]
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UnreadableError(
            f"{where}: 'labels' go from {labels.min()} to {labels.max()}, the model has classes "
            f"0 to {classes - 1}"
        )
    own = np.take_along_axis(scores, labels[..., None].astype(np.int64), axis=-1)
    tied_before = (scores == own) & (np.arange(classes) < labels[..., None])
    rank: Array = np.sum((scores > own) | tied_before, axis=-1)
    rank[np.isnan(scores).any(axis=-1)] = classes
    return rank


def drop_points(baseline: Accuracy, score: Accuracy) -> float:
    """Percentage points of top-1 that are lost; negative where some are gained."""
    return round(100 * (baseline.top1 - score.top1), 9)  # 0.3 is not to miss a gate of 0.3
