"""`optc eval`: classification accuracy over labelled data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from toolchain.accuracy import Accuracy, drop_points, evaluate
from toolchain.commands.options import (
    LIMIT,
    MODEL,
    OpenedModel,
    data_json,
    json_option,
    native_library,
    native_option,
    open_model,
    samples_option,
    threads_option,
)
from toolchain.console import (
    format_bytes,
    format_share,
    note,
    print_json,
    print_table,
    progress,
    say,
)
from toolchain.data import Data, open_data
from toolchain.environment import environment
from toolchain.errors import GateError, UsageError
from toolchain.runner import Runner

SCHEMA = "optc-eval/1"


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--data",
    required=True,
    help="Inputs and 'labels': .npz, folder of them, or module:function.",
)
@click.option("--baseline", type=MODEL, help="Score this model as well and show the difference.")
@click.option(
    "--max-drop",
    type=LIMIT,
    metavar="POINTS",
    help="Fail (exit code 6) if top-1 is more percentage points below the baseline's.",
)
@click.option("--output", metavar="NAME", help="Output that holds the scores; else the first.")
@samples_option
@threads_option
@native_option
@json_option
def command(
    model: Path,
    data: str,
    baseline: Path | None,
    max_drop: float | None,
    output: str | None,
    samples: int | None,
    threads: int,
    native: bool,
    as_json: bool,
) -> None:
    """Score MODEL on labelled data: the share of samples whose class it finds."""
    if max_drop is not None and baseline is None:
        raise UsageError("--max-drop compares with another model: give it with --baseline")
    models = [open_model(path) for path in (model, baseline) if path is not None]
    opened = [open_data(data, each.inputs).limited(samples) for each in models]
    for line in opened[0].notes:
        note(line)
    library = native_library(models, native)
    scores = [
        _score(each, source, output, threads, library)
        for each, source in zip(models, opened, strict=True)
    ]
    drop = drop_points(scores[1], scores[0]) if baseline is not None else None
    if as_json:
        document = _document(models, scores, drop)
        document["data"] = data_json(opened[0], scores[0].samples)
        document["environment"] = environment(threads)
        print_json(document)
    else:
        _print(models, scores, drop)
    if drop is not None and max_drop is not None and drop > max_drop:
        raise GateError(
            f"top-1 is {drop:.2f} points below the baseline's, --max-drop allows {max_drop:g}"
        )


def _score(
    model: OpenedModel,
    data: Data,
    output: str | None,
    threads: int,
    library: Path | None,
) -> Accuracy:
    with progress(data.batch_count(), f"eval {model.path.name}") as report:
        runner = Runner(model.path, threads=threads, native=library)
        return evaluate(runner, data, output=output, progress=report)


def _document(
    models: Sequence[OpenedModel], scores: Sequence[Accuracy], drop: float | None
) -> dict[str, Any]:
    entries = [
        {
            "model": model.to_json(),
            "output": score.output,
            "samples": score.samples,
            "correct": score.correct,
            "top1": score.top1,
            "top5": score.top5,
        }
        for model, score in zip(models, scores, strict=True)
    ]
    baseline = entries[1] if len(entries) > 1 else None
    return {"schema": SCHEMA, **entries[0], "baseline": baseline, "drop_points": drop}


def _print(models: Sequence[OpenedModel], scores: Sequence[Accuracy], drop: float | None) -> None:
    rows = [
        [
            f"{model.path}{role}",
            format_bytes(model.summary.nbytes),
            format_share(score.top1),
            format_share(score.top5),
            f"{score.correct} of {score.samples}",
        ]
        for model, score, role in zip(models, scores, ("", " (baseline)"), strict=False)
    ]
    print_table(("model", "size", "top-1", "top-5", "right"), rows)
    if drop is not None:
        say()
        say(
            f"top-1 is {abs(drop):.2f} points {'below' if drop > 0 else 'above'} the baseline's"
            if drop
            else "top-1 equals the baseline's"
        )
