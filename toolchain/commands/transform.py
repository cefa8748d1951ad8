"""`optc transform`: compresses a model, checks the result and says what was done."""

from collections.abc import Sequence
from pathlib import Path

import click

from toolchain.commands.options import (
    LIMIT,
    MODEL,
    OpenedModel,
    build_native,
    json_option,
    native_option,
    open_model,
    samples_option,
    threads_option,
)
from toolchain.commands.outputs import ensure_folder_writable
from toolchain.commands.transform_table import print_result
from toolchain.console import note, print_json, progress, say
from toolchain.data import Data, open_data
from toolchain.errors import GateError, NothingAppliedError, UsageError, VerificationError
from toolchain.gates import Gates
from toolchain.job import Job, Stopwatch
from toolchain.layer_timing import FormTimer, load_times, save_times
from toolchain.model_io import ensure_targets, ensure_writable, external_files
from toolchain.pipeline import failure, rejected_path, transform
from toolchain.recipe import LOWERINGS, Recipe, load_plans, load_recipe, parse_pass, plan_recipe
from toolchain.report import REPORT_HTML, REPORT_JSON, write_report
from toolchain.results import TransformResult

REPORT_FILES = (REPORT_HTML, REPORT_JSON)


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--pass",
    "passes",
    multiple=True,
    metavar="NAME[:key=value,...]",
    help="What to do; repeats, in this order. 'optc passes' lists them.",
)
@click.option("--recipe", "recipe_file", type=MODEL, help="The same as YAML or TOML.")
@click.option("--plan", "plan_file", type=MODEL, help="Execute the plan in this report.json.")
@click.option("-o", "--output", type=MODEL, help="Default: MODEL.PASS.onnx beside the model.")
@click.option("--calib", help="Inputs to fit on: .npz, folder of them, or module:function.")
@samples_option
@click.option("--include", multiple=True, metavar="GLOB", help="Only layers with such a name.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No layers with such a name.")
@click.option(
    "--lower",
    type=click.Choice(LOWERINGS),
    help="standard: write ordinary ONNX nodes only. Default: optc.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random. Default: 0.")
@click.option(
    "--optimize-for",
    type=click.Choice(["size", "latency"]),
    default="size",
    show_default=True,
    help="latency: measure every layer's forms here and take the fastest.",
)
@click.option("--timings", type=MODEL, metavar="FILE", help="Times known; new ones are added.")
@threads_option
@native_option
@click.option("--max-size", type=LIMIT, metavar="SHARE", help="Gate: share of the file size.")
@click.option("--min-speedup", type=LIMIT, metavar="RATIO", help="Gate: times as fast.")
@click.option("--max-drop", type=LIMIT, metavar="POINTS", help="Gate: top-1 lost on --eval.")
@click.option("--eval", "labelled", metavar="DATA", help="Labelled data for --max-drop.")
@click.option("--report", type=MODEL, metavar="DIR", help="Write report.html and report.json.")
@click.option("--dry-run", is_flag=True, help="Plan, and write no model.")
@json_option
def command(
    model: Path,
    passes: tuple[str, ...],
    recipe_file: Path | None,
    plan_file: Path | None,
    output: Path | None,
    calib: str | None,
    samples: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    lower: str | None,
    seed: int | None,
    optimize_for: str,
    timings: Path | None,
    threads: int,
    native: bool,
    max_size: float | None,
    min_speedup: float | None,
    max_drop: float | None,
    labelled: str | None,
    report: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compress MODEL, compare the result with it, and write it if all checks hold."""
    plans = load_plans(plan_file) if plan_file is not None else ()
    recipe = _recipe(passes, recipe_file, plan_recipe(plans) if plans else None)
    given = {"include": include, "exclude": exclude, "lower": lower, "seed": seed}
    recipe = recipe.with_options(**{k: v for k, v in given.items() if v not in (None, ())})
    target = output or _default_output(model, recipe)
    if (max_drop is None) != (labelled is None):
        raise UsageError("--max-drop and --eval go together")
    if timings is not None and optimize_for != "latency":
        raise UsageError("--timings goes with --optimize-for latency")
    watch = Stopwatch()
    with watch.stage("load"):
        opened = open_model(model)
        named = (model, recipe_file, plan_file, calib, labelled)
        read = [Path(each) for each in named if each is not None]
        read += external_files(model, opened.model)
        targets = () if dry_run else (target, rejected_path(target))
        _check_paths(targets, read, report, timings)
        known = load_times(timings) if timings is not None else {}
        calibration = _open(calib, opened, samples)
        gates = Gates(
            max_size=max_size,
            min_speedup=min_speedup,
            max_drop=max_drop,
            labelled=_open(labelled, opened),
        )
    library = _native(native, recipe, optimize_for == "latency" or min_speedup is not None)
    timer = FormTimer(native=library, threads=threads, known=known)
    job = Job(
        path=model,
        model=opened.model,
        summary=opened.summary,
        inputs=opened.inputs,
        output=target,
        recipe=recipe,
        plans=plans,
        calibration=calibration,
        gates=gates,
        timer=timer if optimize_for == "latency" else None,
        native=library,
        dry_run=dry_run,
    )
    with progress(1, "transform") as shown:
        result = transform(job, watch, shown)
    if timings is not None:
        save_times(timings, timer.known)
    written = write_report(result, report) if report is not None else []
    if as_json:
        print_json(result.to_json())
    else:
        print_result(result)
    for path in written:
        say(f"wrote {path}")
    check_result(result)


def check_result(result: TransformResult) -> None:
    """Turns what went wrong into an exit code.

    Raises:
        NothingAppliedError: no layer was changed.
        VerificationError: the rewritten model does not do what the input does.
        GateError: a gate was missed.
    """
    if not any(plan.applied for plan in result.plans):
        layers = [layer for plan in result.plans for layer in plan.layers]
        example = f"; '{layers[0].layer}': {layers[0].reason}" if layers else ""
        raise NothingAppliedError(
            f"no layer of {result.input.path} was changed, nothing was written: "
            f"{len(layers)} candidates{example}"
        )
    problem = failure(result)
    if problem is None or result.output is None or result.verification is None:
        return
    kind = GateError if result.verification.passed else VerificationError
    raise kind(f"{problem}; the model is kept as {result.output.path}")


def _recipe(passes: tuple[str, ...], file: Path | None, planned: Recipe | None) -> Recipe:
    given = [bool(passes), file is not None, planned is not None]
    if sum(given) != 1:
        raise UsageError("give --pass, --recipe or --plan, one of them; see 'optc passes'")
    if planned is not None:
        return planned
    if file is not None:
        return load_recipe(file)
    return Recipe(passes=tuple(parse_pass(text) for text in passes))


def _default_output(model: Path, recipe: Recipe) -> Path:
    names = ".".join(spec.name for spec in recipe.passes)
    return model.with_name(f"{model.stem}.{names}.onnx")


def _check_paths(
    targets: Sequence[Path], read: Sequence[Path], report: Path | None, timings: Path | None
) -> None:
    """Finds out before any work is done what cannot be written, or would replace what is read."""
    others = [] if report is None else [report / name for name in REPORT_FILES]
    others += [] if timings is None else [timings]
    ensure_targets(targets, [*read, *others])
    if report is not None:
        ensure_folder_writable(report, REPORT_FILES)
    if timings is not None:
        ensure_writable(timings)


def _native(wanted: bool, recipe: Recipe, timed: bool) -> Path | None:
    """The native library where something is to be timed with it."""
    return build_native() if wanted and timed and recipe.lower == "optc" else None


def _open(source: str | None, model: OpenedModel, samples: int | None = None) -> Data | None:
    if source is None:
        return None
    data = open_data(source, model.inputs)
    for line in data.notes:
        note(line)
    return data.limited(samples)
