"""Accuracy over compression of LeNet-300-100: Hoyer-Square and Hoyer against other regularisers.

    python -m samples.benchmarks.deephoyer_curves train --work WORK
    python -m samples.benchmarks.deephoyer_curves table --work WORK

`train` needs OPTC_DATA, the folder that holds `mnist/` (see samples/README.md). Every recipe
`curve_*.yaml` trains, prunes once and fine-tunes at five strengths of its penalty; a run that was
killed goes on where it was.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from samples.benchmarks.results import RESULTS, publish, store, stored, table, train_recipe
from toolchain.training.stages import Outcome
from toolchain.training.sweep import CurvePoint, curve_point, draw_curves

NAME = "deephoyer_curves"
CURVES = {
    "element": {
        "curve_hoyer_square": "Hoyer-Square",
        "curve_hoyer": "Hoyer",
        "curve_transformed_l1": "transformed L1",
        "curve_l1": "L1",
    },
    "group": {
        "curve_group_hoyer_square": "Hoyer-Square",
        "curve_group_lasso": "group lasso",
    },
}
TITLES = {"element": "Single elements", "group": "Inputs and outputs"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        recipe: its name.
        strength: factor of the penalty in the recipe.
        dense: top-1 before the penalty, percent.
        pruned: top-1 right after pruning.
        top1: in the end.
        compression: weight elements in all for each that is left.
        widths: inputs left of each layer.
        seconds: of training.
    """

    recipe: str
    strength: float
    dense: float
    pruned: float
    top1: float
    compression: float
    widths: tuple[int, ...]
    seconds: float


@click.group()
def main() -> None:
    """Train and tabulate."""


@main.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
def train(work: Path) -> None:
    """Run all recipes, one after the other, on one thread."""
    for name in (name for curves in CURVES.values() for name in curves):
        train_recipe(name, work)


@main.command("table")
@click.option(
    "--work",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of the runs; else the stored rows are taken.",
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def tabulate(work: Path | None, out: Path) -> None:
    """Write the tables and the curves."""
    if work is not None:
        documents = [json.loads(path.read_text()) for path in sorted(work.glob("curve_*.json"))]
        rows = [row for document in documents for row in rows_of(document)]
        store(NAME, rows, documents[0]["environment"], out)
    found, known = stored(NAME, out)
    parts = ["# DeepHoyer against other regularisers, LeNet-300-100 on MNIST"]
    for kind, curves in CURVES.items():
        rows = [Row(**each) for each in found if each["recipe"] in curves]
        picture = f"{NAME}_{kind}.svg"
        (out / picture).write_text(draw(rows, kind), encoding="utf-8")
        parts += [f"## {TITLES[kind]}", f"![top-1 over compression]({picture})"]
        parts.append(markdown(rows, kind))
    publish(NAME, [*parts, note(known)], out)


def rows_of(document: dict[str, object]) -> list[Row]:
    """Of what `optc train --json` printed for one recipe."""
    rows = []
    for run in document["runs"]:  # type: ignore[attr-defined]
        outcome = Outcome(stages=tuple(run["stages"]), sparsity=tuple(run["sparsity"]))
        measured = [stage["top1"] for stage in outcome.stages]
        rows.append(
            Row(
                recipe=Path(str(document["recipe"])).stem,
                strength=run["strength"],
                dense=measured[0],
                pruned=measured[-2],
                top1=measured[-1],
                compression=curve_point("", outcome).compression,
                widths=tuple(tensor["inputs"] for tensor in outcome.sparsity),
                seconds=outcome.seconds,
            )
        )
    return rows


def draw(rows: Sequence[Row], kind: str) -> str:
    """All methods of one kind in one picture, SVG."""
    curves = {
        method: [
            CurvePoint(label=f"×{row.strength:g}", compression=row.compression, quality=row.top1)
            for row in rows
            if row.recipe == recipe
        ]
        for recipe, method in CURVES[kind].items()
    }
    return draw_curves(curves)


def markdown(rows: Sequence[Row], kind: str) -> str:
    """A line for each run, methods in the order of the picture."""
    headers = ["regulariser", "strength", "after pruning", "top-1", "compression", "inputs left"]
    lines = [
        [
            method,
            f"× {row.strength:g}",
            f"{row.pruned:.2f}",
            f"**{row.top1:.2f}**",
            f"{row.compression:.1f}×",
            "-".join(map(str, row.widths)),
        ]
        for recipe, method in CURVES[kind].items()
        for row in rows
        if row.recipe == recipe
    ]
    return table(headers, lines)


def note(known: dict[str, str]) -> str:
    """How the numbers came about."""
    return (
        "Made by `python -m samples.benchmarks.deephoyer_curves train` and `table` on "
        f"{known['cpu']}, torch {known['torch']}: 3 epochs dense, 15 with the penalty, pruned once "
        "at a share of the deviation of each weight, 8 epochs with zeros held; Adam, batches of "
        "500, bfloat16, seed 0, images as they are. The recipes `curve_*` in `samples/recipes` "
        "hold strengths and thresholds; × 1 of one regulariser says nothing about × 1 of another. "
        "Top-1 on the full exact test set after the last epoch, never the best one."
    )


if __name__ == "__main__":
    main()
