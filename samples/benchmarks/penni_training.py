"""PENNI with training: ResNets for CIFAR-10 from their trained weights, scored and timed as files.

    python -m samples.benchmarks.penni_training train --source DIR --work WORK
    python -m samples.benchmarks.penni_training table --source DIR --work WORK

DIR holds `models/` and `cifar10/` (see samples/README.md). `table` scores what was exported in
stock onnxruntime and times it with the native kernels, in turns with the dense network in fp32 and
in onnxruntime's int8. A run that was killed goes on where it was; rows of runs that WORK does not
hold stay as they are.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from passes.cleanup import prepare
from passes.cost import model_cost
from passes.framework import Cost
from samples.benchmarks.results import (
    RESULTS,
    machine,
    make_data,
    optc,
    publish,
    score,
    store,
    stored,
    table,
    train_recipe,
)
from samples.benchmarks.rivals import quantise

NAME = "penni_training"
LABELS = {
    "penni_resnet20": "ResNet-20, elements",
    "penni_resnet20_joint": "the same, shorter and without the larger teacher",
    "penni_resnet20_alternate": "so, alternating",
    "penni_resnet20_pair": "ResNet-20, channel pairs, 4 basis kernels",
    "penni_resnet56": "ResNet-56, elements",
    "penni_resnet56_pair": "ResNet-56, channel pairs, 4 basis kernels",
    "penni_resnet18_short": "ResNet-18 from scratch, 2,000 images, a trial of the recipe for a GPU",
}
FOR_A_GPU = {
    "penni_resnet18_gpu": "ResNet-18 from scratch, elements",
    "penni_resnet18_pair_gpu": "ResNet-18 from scratch, channel pairs, 4 basis kernels",
    "penni_vgg16_gpu": "VGG-16 from scratch, elements",
    "penni_vgg16_pair_gpu": "VGG-16 from scratch, channel pairs, 4 basis kernels",
}
ALL = LABELS | FOR_A_GPU
DECOMPOSING = ("penni", "decompose")
"""Stages that do."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; top-1 in percent on the full test set.

    Attributes:
        recipe: its name.
        dense: of the network.
        fitted: of what was decomposed.
        trained: after fine-tuning, by torch.
        exported: by onnxruntime.
        parameters: share left of the whole network.
        macs: share left, HoWo·C·M·RS + HoWo·nonzeros for a decomposed convolution.
        nbytes: of the file.
        dense_nbytes: of the dense one.
        epochs: of fine-tuning.
        seconds: of fine-tuning.
        milliseconds: median of one image on one thread.
        over_fp32: how many times as fast as the dense network.
        over_int8: how many times as fast as onnxruntime's int8.
        int8: top-1 of that.
    """

    recipe: str
    dense: float
    fitted: float
    trained: float
    exported: float
    parameters: float
    macs: float
    nbytes: int
    dense_nbytes: int
    epochs: int
    seconds: float
    milliseconds: float
    over_fp32: float
    over_int8: float
    int8: float


@click.group()
def main() -> None:
    """Train, then score, time and tabulate."""


@main.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--recipe", "names", multiple=True, type=click.Choice([*ALL]), default=[*LABELS])
def train(source: Path, work: Path, names: Sequence[str]) -> None:
    """Run recipes, one after the other, on one thread."""
    os.environ["OPTC_DATA"] = str(source)
    for name in names:
        train_recipe(name, work)


@main.command("table")
@click.option("--source", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(exists=True, path_type=Path), help="Folder of the runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def tabulate(source: Path | None, work: Path | None, out: Path) -> None:
    """Score and time what WORK holds, and write the table."""
    documents, known = stored(NAME, out)
    rows = {row.recipe: row for row in (Row(**each) for each in documents)}
    if work is not None and source is not None:
        make_data(source, work)
        known = machine()
        for name in ALL:
            if (work / f"{name}.json").exists():
                rows[name] = measure(name, source, work)
    found = sorted(rows.values(), key=lambda row: [*ALL].index(row.recipe))
    store(NAME, found, known, out)
    publish(NAME, ["# PENNI with training", markdown(found), note(known)], out)


def measure(name: str, source: Path, work: Path) -> Row:
    """The row of one run."""
    [run] = json.loads((work / f"{name}.json").read_text())["runs"]
    stages = run["stages"]
    first = next(i for i, stage in enumerate(stages) if stage["stage"] in DECOMPOSING)
    fitted, *later = stages[first:]
    trainings = [stage for stage in later if stage["stage"] == "train"]
    dense, file = work / name / "dense.onnx", work / name / "model.onnx"
    if not dense.exists():  # trained weights were there
        dense = source / "models" / f"{name.split('_')[1]}_cifar10.onnx"
    int8, data = work / f"{dense.parent.name}_{dense.stem}_int8.onnx", work / "eval_full.npz"
    if not int8.exists():
        quantise(dense, np.load(work / "calib.npz")["input"], int8)
    whole, left = cost_of(dense), cost_of(file)
    timed = optc("bench", dense, int8, file, "--threads", "1")[0]["models"]
    return Row(
        recipe=name,
        dense=score(dense, data),
        fitted=fitted["top1"],
        trained=trainings[-1]["top1"],
        exported=score(file, data),
        parameters=left.parameters / whole.parameters,
        macs=(left.macs or 0) / (whole.macs or 1),
        nbytes=file.stat().st_size,
        dense_nbytes=dense.stat().st_size,
        epochs=sum(each["epoch"] for each in trainings),
        seconds=sum(each["seconds"] for each in trainings),
        milliseconds=timed[2]["median_ms"],
        over_fp32=timed[2]["speedup"],
        over_int8=timed[1]["median_ms"] / timed[2]["median_ms"],
        int8=score(int8, data),
    )


def cost_of(path: Path) -> Cost:
    """Of a file, with batch norms folded."""
    return model_cost(prepare(ir.load(path)))


def markdown(rows: Sequence[Row]) -> str:
    """A line a run."""
    headers = ["run", "top-1 dense", "after the pass", "trained", "file", "loss"]
    headers += ["parameters removed", "MACs removed", "size", "epochs", "minutes"]
    headers += ["one thread", "over fp32", "over int8", "top-1 of int8"]
    lines = [
        [
            ALL[row.recipe],
            f"{row.dense:.2f}",
            f"{row.fitted:.2f}",
            f"{row.trained:.2f}",
            f"**{row.exported:.2f}**",
            f"{row.dense - row.exported:.2f}",
            f"**{1 - row.parameters:.1%}**",
            f"**{1 - row.macs:.1%}**",
            f"{row.nbytes / 1000:.0f} kB of {row.dense_nbytes / 1000:.0f}",
            str(row.epochs),
            f"{row.seconds / 60:.0f}",
            f"{row.milliseconds:.3f} ms",
            f"{row.over_fp32:.2f}×",
            f"{row.over_int8:.2f}×",
            f"{row.int8:.2f}",
        ]
        for row in rows
    ]
    return table(headers, lines)


def note(known: dict[str, str]) -> str:
    """How the numbers came about."""
    return (
        "Made by `python -m samples.benchmarks.penni_training train` and `table` on "
        f"{known['cpu']} ({known['isa']}), onnxruntime {known['onnxruntime']}, one thread of a "
        "machine that others worked on. The pass `penni` decomposes the trained network with 512 "
        "images and no labels; then both factors are trained with its zeros held, in one or more "
        "stages: SGD, cosine, batches of 128 in bfloat16, nine tenths of the loss from a teacher, "
        "50,000 training images, which are lossy copies. The teacher of ResNet-56 is the dense "
        "network, on mixed images; that of ResNet-20 is ResNet-56, and the dense network in the "
        "two shorter runs, which compare both ways of training. Seeds are in the recipes. The "
        "paper trains 100 + 30 epochs. Top-1 on the "
        "10,000 exact CIFAR-10 test images after the last epoch, never the best one. MACs as in "
        "the paper: HoWo·C·M·RS + HoWo·nonzeros. int8: onnxruntime's static QDQ of the dense "
        "network. Outstanding: ResNet-18 and VGG-16, whose recipes for a GPU are in "
        "`samples/recipes`."
    )


if __name__ == "__main__":
    main()
