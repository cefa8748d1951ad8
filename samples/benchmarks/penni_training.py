"""PENNI with training: ResNets for CIFAR-10 from their trained weights, scored and timed as files.

    python -m samples.benchmarks.penni_training train --source DIR --work WORK
    python -m samples.benchmarks.penni_training table --source DIR --work WORK

DIR holds `models/` and `cifar10/` (see samples/README.md). `table` quantises what was exported to 8
bits with the pass `escalate`, scores both in stock onnxruntime and times them with the native
kernels, in turns with the dense network in fp32 and in onnxruntime's int8. A run that was killed
goes on where it was; rows of runs that WORK does not hold stay as they are.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class File:
    """One model of a run.

    Attributes:
        top1: by onnxruntime, percent on the full test set.
        nbytes: of the file.
        milliseconds: median of one image on one thread.
        agreement: share of the calibration images in the same class as by the dense network.
    """

    top1: float
    nbytes: int
    milliseconds: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; top-1 in percent on the full test set.

    Attributes:
        recipe: its name.
        fitted: top-1 of what was decomposed.
        trained: after fine-tuning, by torch.
        parameters: share left of the whole network.
        macs: share left, HoWo·C·M·RS + HoWo·nonzeros for a decomposed convolution.
        epochs: of fine-tuning.
        seconds: of fine-tuning.
        dense: the network in fp32.
        int8: the same quantised by onnxruntime.
        exported: what the run wrote.
        eight_bits: the same quantised by `escalate`.
    """

    recipe: str
    fitted: float
    trained: float
    parameters: float
    macs: float
    epochs: int
    seconds: float
    dense: File
    int8: File
    exported: File
    eight_bits: File


FILES = ("dense", "int8", "exported", "eight_bits")
"""Fields of a `Row`, in the order in which they are timed."""


def as_row(document: dict[str, Any]) -> Row:
    """A row as it was stored."""
    files = {name: File(**document[name]) for name in FILES}
    return Row(**{**document, **files})


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
    rows = {row.recipe: row for row in map(as_row, documents)}
    if work is not None and source is not None:
        make_data(source, work)
        known = machine()
        for name in ALL:
            if (work / f"{name}.json").exists():
                rows[name] = measure(name, source, work)
    found = sorted(rows.values(), key=lambda row: [*ALL].index(row.recipe))
    store(NAME, found, known, out)
    parts = [trainings_table(found), files_table(found), note(known)]
    publish(NAME, ["# PENNI with training", *parts], out)


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
    whole, left = cost_of(dense), cost_of(file)
    return Row(
        recipe=name,
        fitted=fitted["top1"],
        trained=trainings[-1]["top1"],
        parameters=left.parameters / whole.parameters,
        macs=(left.macs or 0) / (whole.macs or 1),
        epochs=sum(each["epoch"] for each in trainings),
        seconds=sum(each["seconds"] for each in trainings),
        **measure_files(dense, file, work),
    )


def measure_files(dense: Path, file: Path, work: Path) -> dict[str, File]:
    """Both quantised forms made, and all four scored and timed; by name of the field of `Row`."""
    calibration = work / "calib.npz"
    int8 = work / f"{dense.parent.name}_{dense.stem}_int8.onnx"
    if not int8.exists():
        quantise(dense, np.load(calibration)["input"], int8)
    eight_bits = file.with_name("eight_bits.onnx")
    options = ("--calib", calibration, "--optimize-for", "latency", "-o", eight_bits)
    optc("transform", file, "--pass", "escalate", *options)
    paths = (dense, int8, file, eight_bits)
    timed = optc("bench", *paths, "--threads", "1")[0]["models"]
    return {
        name: File(
            top1=score(path, work / "eval_full.npz"),
            nbytes=path.stat().st_size,
            milliseconds=times["median_ms"],
            agreement=agreement(dense, path, calibration),
        )
        for name, path, times in zip(FILES, paths, timed, strict=True)
    }


def agreement(dense: Path, path: Path, data: Path) -> float:
    """Share of samples in the same class, by `optc compare`."""
    [logits] = optc("compare", dense, path, "--data", data)[0]["outputs"]
    return float(logits["top1_agreement"])


def cost_of(path: Path) -> Cost:
    """Of a file, with batch norms folded."""
    return model_cost(prepare(ir.load(path)))


def trainings_table(rows: Sequence[Row]) -> str:
    """What was removed and what it cost, a line a run."""
    headers = ["run", "top-1 dense", "after the pass", "trained", "file", "loss"]
    headers += ["parameters removed", "MACs removed", "epochs", "minutes"]
    lines = [
        [
            ALL[row.recipe],
            f"{row.dense.top1:.2f}",
            f"{row.fitted:.2f}",
            f"{row.trained:.2f}",
            f"**{row.exported.top1:.2f}**",
            f"{row.dense.top1 - row.exported.top1:.2f}",
            f"**{1 - row.parameters:.1%}**",
            f"**{1 - row.macs:.1%}**",
            str(row.epochs),
            f"{row.seconds / 60:.0f}",
        ]
        for row in rows
    ]
    return table(headers, lines)


def files_table(rows: Sequence[Row]) -> str:
    """Sizes and times of the files, a line a file."""
    forms = {
        "exported": "as exported, fp32",
        "eight_bits": "then `escalate`, 8 bits",
        "int8": "dense, onnxruntime int8",
    }
    headers = ["run", "form", "top-1", "as dense", "size", "smaller than fp32"]
    headers += ["one thread", "over fp32", "over int8"]
    lines = []
    for row in rows:
        for name, form in forms.items():
            file: File = getattr(row, name)
            line = [
                ALL[row.recipe],
                form,
                f"{file.top1:.2f}",
                f"{file.agreement:.1%}",
                f"{file.nbytes / 1000:.0f} kB",
                f"{row.dense.nbytes / file.nbytes:.1f}×",
                f"{file.milliseconds:.3f} ms",
                f"{row.dense.milliseconds / file.milliseconds:.2f}×",
                f"{row.int8.milliseconds / file.milliseconds:.2f}×",
            ]
            lines.append(line)
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
        "two shorter runs, which compare both ways of training. The trial of ResNet-18 goes as the "
        "paper does: no teacher, L1 on coefficients, alternating phases, pruning, fine-tuning, all "
        "on 2,000 images. Seeds are in the recipes. The paper trains 100 + 30 epochs. Top-1 on the "
        "10,000 exact CIFAR-10 test images after the last epoch, never the best one. MACs as in "
        "the paper: HoWo·C·M·RS + HoWo·nonzeros. int8: onnxruntime's static QDQ of the dense "
        "network. As dense: share of the 512 calibration images that get the class of the dense "
        "network. Outstanding: ResNet-18 and VGG-16 in full, whose recipes for a GPU are in "
        "`samples/recipes`."
    )


if __name__ == "__main__":
    main()
