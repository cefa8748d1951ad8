"""Running the passes of a job in their order, each between those that prepare or follow it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from passes.framework import CompressionPass, ConfigError, Context, Plan, PlanError
from passes.lower import LowerPass
from passes.select import SelectPass
from runtimes.ort import SessionError
from toolchain.errors import UnreadableError, UsageError
from toolchain.job import Job, Stopwatch
from toolchain.recipe import PassSpec, build_pass
from toolchain.selection import keep_if_faster


def run_passes(
    job: Job, model: ir.Model, context: Context, watch: Stopwatch
) -> tuple[ir.Model, list[Plan]]:
    """Analyses and applies every pass; in a dry run only what later passes need.

    Returns:
        The model, which may be another object, and the plans as they were executed.

    Raises:
        UsageError: an option makes no sense for this model.
        UnreadableError: the model cannot be run, or a plan does not fit it.
    """
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
    except np.linalg.LinAlgError as error:
        raise _too_large(step, path, error) from error


def _apply(step: CompressionPass, model: ir.Model, plan: Plan, path: Path) -> Plan:
    try:
        return step.apply(model, plan)
    except (PlanError, SessionError) as error:
        raise UnreadableError(f"{path}: {error}") from error
    except np.linalg.LinAlgError as error:
        raise _too_large(step, path, error) from error


def _too_large(step: CompressionPass, path: Path, error: Exception) -> UnreadableError:
    return UnreadableError(
        f"{path}: pass {step.name}: weights or activations are too large to compute with "
        f"({error}); scale the weights or the calibration data down"
    )
