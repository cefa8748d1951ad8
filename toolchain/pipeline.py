"""`optc transform` without its terminal: load, prepare, run the passes, verify, write."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from passes import PASSES
from passes.cleanup import OpsetError, finish, prepare
from passes.framework import Context, Plan, Progress
from passes.select import SelectPass, forms_of
from passes.storage import int8_bytes, storage
from toolchain.data import random_data
from toolchain.environment import environment
from toolchain.errors import UnreadableError
from toolchain.gates import missed_gates
from toolchain.job import Job, Stopwatch
from toolchain.layerwise import ArrayCalibration
from toolchain.model_io import model_summary, publish, save_model, staged_model
from toolchain.pass_runs import run_passes
from toolchain.recipe import Recipe
from toolchain.results import Calibration, TransformResult, Verification
from toolchain.selection import select_fastest
from toolchain.verify import verify

RANDOM_SAMPLES = 32
CALIBRATION_BATCH = 32


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
    model, plans = run_passes(job, model, context, watch)
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
            batches = job.calibration.batches(CALIBRATION_BATCH)
            calibration = ArrayCalibration([batch.feeds for batch in batches])
    return Context(
        calibration=calibration,
        include=job.recipe.include,
        exclude=job.recipe.exclude,
        seed=job.recipe.seed,
        progress=progress,
        timer=job.timer,
    )


def _describe(job: Job) -> Calibration | None:
    data = job.calibration
    if data is None:
        return None
    return Calibration(path=data.path, sha256=data.sha256, samples=data.samples)


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
