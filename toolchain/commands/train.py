"""`optc train`: runs a training recipe, or goes on with one that was interrupted."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolchain.commands.options import MODEL, json_option, threads_option
from toolchain.console import (
    UNKNOWN,
    format_count,
    format_seconds,
    print_json,
    print_table,
    progress,
)
from toolchain.environment import environment
from toolchain.errors import MissingComponentError, UsageError

if TYPE_CHECKING:  # torch is an extra
    import torch

    from toolchain.training.stages import Outcome

SCHEMA = "optc-train/1"


@click.command()
@click.argument("recipe", type=MODEL)
@click.option("-o", "--out", type=MODEL, help="Folder of results. Default: RECIPE without suffix.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the recipe's.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: a GPU where there is one.",
)
@threads_option
@json_option
def command(
    recipe: Path, out: Path | None, seed: int | None, device: str, threads: int, as_json: bool
) -> None:
    """Train as RECIPE says; a run that was interrupted goes on where it was."""
    if importlib.util.find_spec("torch") is None:
        raise MissingComponentError('training needs torch: pip install "optc[torch]"')
    import torch

    from toolchain.training.memory import keep_freed_memory
    from toolchain.training.recipe import load_training_recipe
    from toolchain.training.sweep import run_recipe

    loaded = load_training_recipe(recipe, seed)
    place = _device(device)
    if place.type == "cpu":
        keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    folder = recipe.with_suffix("") if out is None else out
    if folder.is_file():
        raise UsageError(f"--out {folder}: is a file; give a folder")
    with progress(1, "train") as report:
        outcomes = run_recipe(loaded, folder, place, report)
    known = environment(threads) | {"torch": torch.__version__, "device": str(place)}
    document = {
        "schema": SCHEMA,
        "recipe": str(recipe),
        "seed": loaded.seed,
        "folder": str(folder),
        "runs": [{"strength": factor, **asdict(outcome)} for factor, outcome in outcomes],
        "environment": known,
    }
    if as_json:
        print_json(document)
    else:
        _print(outcomes)


def _device(wanted: str) -> "torch.device":
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("--device cuda: torch finds no GPU here")
    return torch.device(wanted)


def _print(outcomes: Sequence[tuple[float, "Outcome"]]) -> None:
    from toolchain.training.sweep import METRICS

    measured = {key for _, outcome in outcomes for stage in outcome.stages for key in stage}
    metrics = {key: label for key, label in METRICS.items() if key in measured}
    rows = []
    for factor, outcome in outcomes:
        for stage in outcome.stages:
            seconds = stage.get("seconds")
            rows.append(
                [
                    f"{factor:g}",
                    stage["stage"],
                    *(f"{stage[key]:.2f}" if key in stage else UNKNOWN for key in metrics),
                    format_count(stage.get("nonzero", stage.get("parameters"))),
                    UNKNOWN if seconds is None else format_seconds(seconds),
                ]
            )
    headers = ("strength", "stage", *metrics.values(), "nonzero params", "time")
    print_table(headers, rows, text=(1,))
