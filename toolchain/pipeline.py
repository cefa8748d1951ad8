"""`optc transform` without its terminal: load, prepare, run the passes, verify, write."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from passes import PASSES
from passes.cleanup import OpsetError, finish, prepare
from passes.framework import CompressionPass, ConfigError, Context, Plan, PlanError, Progress
from passes.lower import LowerPass
from passes.select import SelectPass, forms_of
from passes.storage import int8_bytes, storage
from runtimes.ort import SessionError
from toolchain.data import Data, random_data
from toolchain.environment import environment
from toolchain.errors import UnreadableError, UsageError
from toolchain.gates import Gates, missed_gates
from toolchain.inputs import InputSpec
from toolchain.layer_timing import FormTimer
from toolchain.layerwise import ArrayCalibration
from toolchain.model_io import (
    model_summary,
    publish,
    save_model,
    staged_model,
)
from toolchain.recipe import PassSpec, Recipe, build_pass
from toolchain.results import Calibration, ModelSummary, TransformResult, Verification
from toolchain.selection import keep_if_faster, select_fastest
from toolchain.verify import verify

RANDOM_SAMPLES = 32
CALIBRATION_BATCH = 32


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
        samples: use at most this many calibration samples.
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
    samples: int | None = None
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


def transform(
    job: Job,
    watch: Stopwatch,
    progress: Progress = lambda done, total, label: None,
) -> TransformResult:
    """Runs a job and writes its result.

    A model that fails a check or misses a gate is written as ``*.rejected.onnx``. Where no layer
    is changed, or in a dry run, nothing is written and the result's output is None.

    Raises:
        UsageError: an option makes no sense for this model, or the output cannot be written.
        UnreadableError: the model cannot be prepared or run, or a plan does not fit it.
    """
    with watch.stage("prepare"):
        model = _prepared(job)
    context = _context(job, watch, progress)
    model, plans = _run_passes(job, model, context, watch)
    result = TransformResult(
        input=job.summary,
        output=None,
        recipe=job.recipe.to_json(),
        plans=tuple(plans),
        verification=None,
        calibration=_describe(job),
        seconds=watch.seconds,
        environment=environment(),
        dry_run=job.dry_run,
    )
    if job.dry_run or not any(plan.applied for plan in plans):
        return result
    if job.timer is not None and _forms_are_open(job.recipe, model):
        with watch.stage("time layers"):
            model, selection = select_fastest(model, context, job.timer)
        result = replace(result, plans=(*plans, selection))
    with watch.stage("finish"):
        finish(model)
    return _write(job, model, result, watch, progress)


def _forms_are_open(recipe: Recipe, model: ir.Model) -> bool:
    """Whether there are layers of several forms, and nobody asked for one of them."""
    asked = any(spec.name == SelectPass.name and "form" in spec.options for spec in recipe.passes)
    return not asked and any(forms_of(node) for node in model.graph)


def rejected_path(path: Path) -> Path:
    """Where a model goes that failed its checks: ``small.onnx`` → ``small.rejected.onnx``."""
    return path.with_name(f"{path.stem}.rejected.onnx")


def _prepared(job: Job) -> ir.Model:
    try:
        return prepare(job.model.clone())
    except OpsetError as error:
        raise UnreadableError(f"{job.path}: {error}") from error


def _context(job: Job, watch: Stopwatch, progress: Progress) -> Context:
    calibration = None
    if job.calibration is not None:
        with watch.stage("read data"):
            batches = job.calibration.batches(CALIBRATION_BATCH, limit=job.samples)
            calibration = ArrayCalibration([batch.feeds for batch in batches])
    return Context(
        calibration=calibration,
        include=job.recipe.include,
        exclude=job.recipe.exclude,
        seed=job.recipe.seed,
        progress=progress,
        timer=job.timer,
    )


def _run_passes(
    job: Job, model: ir.Model, context: Context, watch: Stopwatch
) -> tuple[ir.Model, list[Plan]]:
    """Analyses and applies every pass; in a dry run only what later passes need."""
    todo = _passes(job, context)
    plans: list[Plan] = []
    for index, (step, stored) in enumerate(todo):
        if stored is None:
            plans += _follow_up(step.leaders(model), model, job.path, watch)
        with watch.stage(f"plan {step.name}"):
            plan = _analyse(step, model, job.path) if stored is None else stored
        is_last = index == len(todo) - 1
        before = model.clone() if step.timed and job.timer is not None else None
        if plan.applied and not (job.dry_run and is_last):
            with watch.stage(f"apply {step.name}"):
                plan = _apply(step, model, plan, job.path)
            if before is not None and job.timer is not None:
                with watch.stage("time the whole"):
                    model, plan = keep_if_faster(before, model, plan, job.timer)
        plans.append(plan)
        if not job.dry_run and plan.applied:
            others = {stored.pass_name for stored in job.plans}
            if job.timer is not None:
                others.add(SelectPass.name)  # forms will be measured, not predicted
            followers = [each for each in step.followers() if each.name not in others]
            plans += _follow_up(followers, model, job.path, watch)
    return model, plans


def _passes(job: Job, context: Context) -> list[tuple[CompressionPass, Plan | None]]:
    """The passes in their order, with the plans that were given for them."""
    recipe = job.recipe
    if job.plans:
        specs = [PassSpec(name=plan.pass_name, options=plan.config) for plan in job.plans]
        todo: list[tuple[CompressionPass, Plan | None]] = [
            (build_pass(spec, context), plan) for spec, plan in zip(specs, job.plans, strict=True)
        ]
    else:
        todo = [(build_pass(spec, context), None) for spec in recipe.passes]
    if recipe.lower == "standard" and not any(isinstance(step, LowerPass) for step, _ in todo):
        todo.append((LowerPass(context=context), None))
    return todo


def _follow_up(
    followers: Sequence[CompressionPass], model: ir.Model, path: Path, watch: Stopwatch
) -> list[Plan]:
    """Runs the passes before or after one; those that find nothing are not reported."""
    done = []
    for follower in followers:
        with watch.stage(f"apply {follower.name}"):
            plan = _analyse(follower, model, path)
            if plan.applied:
                done.append(_apply(follower, model, plan, path))
    return done


def _analyse(step: CompressionPass, model: ir.Model, path: Path) -> Plan:
    try:
        return step.analyse(model)
    except ConfigError as error:
        raise UsageError(f"pass {step.name}: {error}") from error
    except SessionError as error:
        raise UnreadableError(f"{path}: {error}") from error


def _apply(step: CompressionPass, model: ir.Model, plan: Plan, path: Path) -> Plan:
    try:
        return step.apply(model, plan)
    except (PlanError, SessionError) as error:
        raise UnreadableError(f"{path}: {error}") from error


def _describe(job: Job) -> Calibration | None:
    data = job.calibration
    if data is None:
        return None
    samples = data.samples if job.samples is None else min(job.samples, data.samples)
    return Calibration(path=data.path, sha256=data.sha256, samples=samples)


def _write(
    job: Job, model: ir.Model, result: TransformResult, watch: Stopwatch, progress: Progress
) -> TransformResult:
    """Verifies the file itself, then gives it its name."""
    with staged_model(model, job.output) as staged:
        with watch.stage("verify"):
            check = _verify(job, staged, result.plans, progress)
        written = ir.load(staged)
        summary = model_summary(staged, written)
        parts = storage(written, summary.nbytes)
        missed: tuple[str, ...] = ()
        if check.passed and job.gates.count:
            with watch.stage("gates"):
                models, sizes = (job.path, staged), (job.summary.nbytes, summary.nbytes)
                missed = missed_gates(job.gates, models, sizes, job.inputs, job.native, progress)
        accepted = check.passed and not missed
        target = job.output if accepted else rejected_path(job.output)
        if accepted:
            publish(staged, target)
        else:
            save_model(model, target)
    output = replace(summary, path=str(target))
    return replace(
        result,
        output=output,
        verification=check,
        missed_gates=missed,
        storage=parts,
        int8_nbytes=int8_bytes(job.model, job.summary.nbytes),
    )


def _verify(job: Job, staged: Path, plans: Sequence[Plan], progress: Progress) -> Verification:
    data, kind = job.calibration, "calibration"
    if data is None:
        data = random_data(job.inputs, samples=RANDOM_SAMPLES, seed=job.recipe.seed)
        kind = "random"
    exact = all(_is_exact(plan) for plan in plans if plan.applied)
    return verify(
        job.path,
        staged,
        data,
        kind=kind,
        exact=exact,
        native=job.native,
        seed=job.recipe.seed,
        progress=progress,
    )


def _is_exact(plan: Plan) -> bool:
    """Whether an exact pass was applied, and foresaw no error in any layer."""
    foreseen = any(layer.predicted_error for layer in plan.applied)
    return PASSES[plan.pass_name].exact and not foreseen


def failure(result: TransformResult) -> str | None:
    """Why a result was rejected, in one line, or None."""
    failures = result.verification.failures if result.verification is not None else ()
    return "; ".join([*failures, *result.missed_gates]) or None
