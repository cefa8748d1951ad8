"""The stages that decompose convolutions: from their weights alone, or fitted to data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from passes.framework import ConfigError
from passes.penni_config import PenniConfig
from toolchain.training.decomposed_conv import DecomposeConfig, decompose
from toolchain.training.penni_start import decompose_by_pass
from toolchain.training.pruning import Masks
from toolchain.training.run import Run, Stage, hold_pruned
from toolchain.training.seeds import seed_generators
from toolchain.training.statistics import estimate_batchnorm

STATISTICS_BATCH, STATISTICS_BATCHES = 128, 40
SEED = 0
"""Of the images that are drawn: a run that goes on after a kill draws them again."""


@dataclass(frozen=True, kw_only=True)
class DecomposeStage(Stage):
    """Replaces convolutions by basis kernels and coefficients, both trainable."""

    name: ClassVar[str] = "decompose"

    config: DecomposeConfig

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns metrics and, for every convolution, what was done."""
        run.keep_teacher()
        decisions = decompose(run.model, self.config)
        layers = {each.layer: each.reason for each in decisions}
        if run.masks is None:
            return {**run.measure(run.model), "layers": layers}
        return {**hold_pruned(run, Masks(kept={})), "layers": layers}


@dataclass(frozen=True, kw_only=True)
class PenniStage(Stage):
    """Runs the pass `penni` on the model; later stages hold the zeros that it leaves.

    Attributes:
        config: of the pass.
        samples: training images that it fits the factors with, without their labels.
    """

    name: ClassVar[str] = "penni"

    config: PenniConfig
    samples: int = 512

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ConfigError: there are too few samples.
        """
        if self.samples < 2:
            raise ConfigError(f"samples is {self.samples}, expected 2 or more")

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns metrics, what is left of the weights and what was done with each layer.

        Raises:
            ConfigError: the model has several inputs, or nothing can be decomposed as asked.
        """
        run.keep_teacher()
        seed_generators(SEED)
        inputs = run.data.inputs(next(iter(run.data.train(self.samples))))
        if len(inputs) != 1:
            raise ConfigError(f"the model has {len(inputs)} inputs; penni takes one of images")
        plan = decompose_by_pass(run.model, self.config, inputs[0], run.progress)
        batches = run.data.train(STATISTICS_BATCH)
        estimate_batchnorm(run.model, batches, STATISTICS_BATCHES, SEED)
        layers = {each.layer: each.reason for each in plan.layers}
        return {**hold_pruned(run, Masks(kept={})), "layers": layers}
