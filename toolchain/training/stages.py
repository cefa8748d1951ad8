"""A compression run as a list of stages: train with penalties, prune, train on with zeros held.

Every stage works on the model in place and reports metrics. A stage that trains keeps its state
in a folder of its own, so that a run that was killed continues in the middle of it, and passes
over those that are done.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from passes.cost import model_cost
from passes.framework import ConfigError
from toolchain.model_io import save_model
from toolchain.training.decomposed_conv import decomposed_convs
from toolchain.training.distillation import distillation_loss
from toolchain.training.export import exported
from toolchain.training.hooks import Hook, Penalty
from toolchain.training.line_pruning import LinePenalty, PenalisedLines
from toolchain.training.line_stages import PruneLinesStage, ReportLinesStage
from toolchain.training.log import write_json
from toolchain.training.objectives import Loss, classification_loss
from toolchain.training.penni import Alternation, BalancedFactors
from toolchain.training.penni_stages import DecomposeStage, PenniStage
from toolchain.training.pruning import PruneConfig, prune, report_sparsity
from toolchain.training.run import Run, Stage, hold_pruned
from toolchain.training.seeds import seed_generators
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """Trains, with all masks held that earlier stages made.

    Attributes:
        config: of the trainer.
        batch: samples of a step.
        penalties: added to the loss.
        lines: penalties on lines that go together, added as well.
        alternate: epochs for which coefficients and bases of decomposed convolutions are trained
            in turn; 0 trains both at once.
        distill: share of the loss that compares with the outputs of the teacher.
        temperature: of that comparison.
        mixup: α of inputs that are mixed for it; 0 mixes none.
    """

    name: ClassVar[str] = "train"

    config: TrainConfig
    batch: int = 128
    penalties: tuple[Penalty, ...] = ()
    lines: tuple[LinePenalty, ...] = ()
    alternate: int = 0
    distill: float = 0.0
    temperature: float = 4.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ConfigError: an option makes no sense.
        """
        for name, least in (("batch", 1), ("alternate", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not 0 <= self.distill <= 1:
            raise ConfigError(f"distill is {self.distill:g}, expected a share from 0 to 1")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature:g}, expected more than 0")
        if not 0 <= self.mixup < math.inf:
            raise ConfigError(f"mixup is {self.mixup:g}, expected 0 or more")
        if self.mixup and not self.distill:
            raise ConfigError("mixup: inputs are mixed for distillation only; set distill")

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns loss and metrics after the last epoch, and the time of all.

        Raises:
            ConfigError: nothing was decomposed that could alternate or be distilled from, or the
                data's loss is not the one of distillation.
        """
        trainer = Trainer(
            run.model,
            run.data.train(self.batch),
            self.config,
            loss=self._loss(run),
            evaluate=run.measure,
            hooks=self._hooks(run),
            folder=folder,
            progress=run.progress,
        )
        history = trainer.run()
        return {**history[-1], "seconds": sum(record["seconds"] for record in history)}

    def _hooks(self, run: Run) -> list[Hook]:
        hooks: list[Hook] = [*self.penalties]
        hooks += [PenalisedLines(options=each, groups=run.lines) for each in self.lines]
        if run.masks is not None:
            hooks.append(run.masks)
        if decomposed_convs(run.model):
            hooks.append(BalancedFactors())
        if self.alternate:
            if not decomposed_convs(run.model):
                raise ConfigError("alternate: no decomposed convolutions; decompose first")
            hooks.append(Alternation(interval=self.alternate))
        return hooks

    def _loss(self, run: Run) -> Loss:
        if not self.distill:
            return run.data.loss
        if run.teacher is None:
            raise ConfigError(
                "distill: there is no model to learn from; name a teacher, or decompose first"
            )
        if run.data.loss is not classification_loss:
            raise ConfigError("distill: needs labels of classes; the data has a loss of its own")
        return distillation_loss(run.teacher, self.distill, self.temperature, self.mixup)


@dataclass(frozen=True, kw_only=True)
class PruneStage(Stage):
    """Drops small weights; later stages hold them at zero."""

    name: ClassVar[str] = "prune"

    config: PruneConfig

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns metrics and what is left of the weights."""
        return hold_pruned(run, prune(run.model, self.config))


@dataclass(frozen=True, kw_only=True)
class ExportStage(Stage):
    """Writes the model as ONNX, shrunk, with decomposed convolutions in their compact form.

    Attributes:
        file: name in the run's folder.
    """

    name: ClassVar[str] = "export"

    file: str = "model.onnx"

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns what the model costs."""
        examples = run.data.inputs(next(iter(run.data.test(2))))
        model = exported(run.model, *examples)
        cost = model_cost(model)
        if run.folder is not None:
            run.folder.mkdir(parents=True, exist_ok=True)
            save_model(model, run.folder / self.file)
        return asdict(cost)


STAGES: Mapping[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        TrainStage,
        PruneStage,
        PruneLinesStage,
        ReportLinesStage,
        DecomposeStage,
        PenniStage,
        ExportStage,
    )
}
"""By the name that recipes use."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a run.

    Attributes:
        stages: name and metrics of each, in order.
        sparsity: name, shape, nonzero elements, outputs and inputs left of every weight.
    """

    stages: tuple[Mapping[str, Any], ...]
    sparsity: tuple[Mapping[str, Any], ...]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Of the last stage."""
        return self.stages[-1]

    @property
    def seconds(self) -> float:
        """Time spent in training."""
        return float(sum(stage.get("seconds", 0.0) for stage in self.stages))

    @property
    def nonzero(self) -> int:
        """Weight elements that are left."""
        return sum(tensor["nonzero"] for tensor in self.sparsity)


def run_stages(run: Run, stages: Sequence[Stage]) -> Outcome:
    """Runs all stages in order and writes ``result.json`` into the run's folder.

    Raises:
        ConfigError: a stage cannot do what it is asked to with this model; the message names it.
    """
    records = []
    for number, stage in enumerate(stages, start=1):
        folder = None if run.folder is None else run.folder / f"{number}-{stage.name}"
        try:
            records.append({"stage": stage.name, **stage.run(run, folder)})
        except ConfigError as error:
            raise ConfigError(f"stage {number}, {stage.name}: {error}") from error
    tensors = report_sparsity(run.model).tensors
    outcome = Outcome(stages=tuple(records), sparsity=tuple(asdict(each) for each in tensors))
    if run.folder is not None:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / RESULT, asdict(outcome))
    return outcome


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model with random weights that follow from a seed."""
    seed_generators(seed)
    return build()
