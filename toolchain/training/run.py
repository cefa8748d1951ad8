"""What the stages of a compression run work on, and what a stage is."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from passes.framework import Progress
from toolchain.training.batches import Dataset
from toolchain.training.lines import LineGroup, coupled_lines
from toolchain.training.objectives import plain_metrics
from toolchain.training.pruning import Masks, report_sparsity

TEST_BATCH = 1000


@dataclass(kw_only=True, eq=False)
class Run:
    """What stages work on.

    Attributes:
        model: changed by the stages.
        data: to train and to measure on.
        folder: of checkpoints, logs and results; None keeps nothing.
        progress: called while a stage trains.
        masks: zeros that are held from here on; None before the first pruning.
        teacher: to distill from; one that is not given is the model before it was decomposed.
        chosen: lines that an analysis has chosen; None before there was one.
    """

    model: nn.Module
    data: Dataset
    folder: Path | None = None
    progress: Progress = lambda done, total, label: None
    masks: Masks | None = None
    teacher: nn.Module | None = None
    chosen: tuple[LineGroup, ...] | None = None

    @property
    def lines(self) -> tuple[LineGroup, ...]:
        """Lines to be penalised and pruned: those chosen, or all."""
        return self.all_lines if self.chosen is None else self.chosen

    @cached_property
    def all_lines(self) -> tuple[LineGroup, ...]:
        """Lines of the model that go together; found when they are first asked for."""
        return coupled_lines(self.model, self.data.inputs(next(iter(self.data.test(2)))))

    def keep_teacher(self) -> None:
        """Remembers the model as it is now to distill from, unless another was given."""
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.model)

    def measure(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics on the test data."""
        model.eval()
        with torch.no_grad():
            return plain_metrics(self.data.measure(model, self.data.test(TEST_BATCH)))


class Stage(ABC):
    """One step of a run; a frozen dataclass of options."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Does its work on `run`, keeps files in `folder`, returns metrics for people."""


def hold_pruned(run: Run, dropped: Masks) -> Mapping[str, Any]:
    """Holds what was dropped now and before, and all other zeros of weights."""
    before = [] if run.masks is None else [run.masks]
    run.masks = Masks.combined(run.model, [Masks.of_nonzeros(run.model), dropped, *before])
    run.masks.after_step(run.model)
    report = report_sparsity(run.model)
    counts = {"nonzero": report.nonzero, "compression": report.compression}
    return {**run.measure(run.model), **counts}
