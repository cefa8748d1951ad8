"""What `optc transform` is asked to do, and how long each stage takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from passes.framework import Plan
from toolchain.data import Data
from toolchain.gates import Gates
from toolchain.inputs import InputSpec
from toolchain.layer_timing import FormTimer
from toolchain.recipe import Recipe
from toolchain.results import ModelSummary


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done.

    Attributes:
        path: of the input model.
        model: read from there; left as it is.
        summary: of the input model.
        inputs: of the model.
        output: where the result goes.
        recipe: passes and their options.
        plans: made earlier, to be executed instead of analysing; () to analyse.
        calibration: data to fit and compare on; None: random inputs are compared.
        gates: limits the result must keep.
        timer: to choose the fastest form of every layer; None to optimise for size.
        native: library of operators to check the result with; None where there is none.
        dry_run: stop after planning.
    """

    path: Path
    model: ir.Model
    summary: ModelSummary
    inputs: tuple[InputSpec, ...]
    output: Path
    recipe: Recipe
    plans: tuple[Plan, ...] = ()
    calibration: Data | None = None
    gates: Gates = field(default_factory=Gates)
    timer: FormTimer | None = None
    native: Path | None = None
    dry_run: bool = False


class Stopwatch:
    """Wall time of each stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
