"""Accuracy against MACs of `optc transform --pass svd` on a small Transformer, without training.

    python -m samples.benchmarks.svd_transformer --source DIR --work WORK

DIR holds `mnist/` (see samples/README.md). A vision Transformer is trained on MNIST (minutes on a
core; goes on where it was killed), exported, and compressed with 512 training images without labels
and without data, each time by the command that a user would run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from samples.benchmarks.results import (
    RESULTS,
    machine,
    optc,
    publish,
    score,
    store,
    stored,
    table,
)
from samples.benchmarks.training_runs import printed
from samples.datasets import mnist
from samples.networks.vit import VisionTransformer
from toolchain.model_io import save_model
from toolchain.svg import Cloud, Point, scatter
from toolchain.training.batches import Dataset
from toolchain.training.export import exported
from toolchain.training.stages import seeded
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

NAME = "svd_transformer"
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3)
KINDS = {"plain": ("multiple=1", False), "svd --calib": ("multiple=1", True)}
CONFIG = TrainConfig(epochs=6, optimizer="adam", lr=1e-3)
SAMPLES = 512


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        kind: plain truncated SVD, or the pass with calibration data.
        share: of the MACs that was asked for.
        command: what was run.
        baseline: top-1 of the input, percent.
        top1: of the output, percent.
        macs: share left.
        parameters: share left.
    """

    kind: str
    share: float
    command: str
    baseline: float
    top1: float
    macs: float
    parameters: float


def prepare(data: Dataset, work: Path) -> Path:
    """Trains and exports the model, and writes calibration and test data."""
    model = seeded(VisionTransformer, 0)
    Trainer(model, data.train(128), CONFIG, folder=work, progress=printed(100)).run()
    path = work / "vit.onnx"
    save_model(exported(model, torch.zeros(2, 1, 28, 28)), path)
    torch.manual_seed(0)
    inputs, _ = next(iter(data.train(SAMPLES)))
    np.savez(work / "calib.npz", input=inputs.numpy())
    inputs, labels = next(iter(data.test(10_000)))
    np.savez(work / "eval.npz", input=inputs.numpy(), labels=labels.numpy())
    return path


def measure(model: Path, baseline: float, kind: str, share: float, work: Path) -> Row:
    """Transforms and scores."""
    options, calibrated = KINDS[kind]
    steps = ["--pass", f"svd:macs={share:g},{options}"]
    data: list[str | Path] = ["--calib", work / "calib.npz"] if calibrated else []
    output = work / "out.onnx"
    result, _ = optc("transform", model, *steps, *data, "-o", output)
    before, after = result["input"], result["output"]
    return Row(
        kind=kind,
        share=share,
        command=f"optc transform {model.name} {' '.join(steps)}"
        + (" --calib calib.npz" if calibrated else ""),
        baseline=baseline,
        top1=score(output, work / "eval.npz"),
        macs=after["macs"] / before["macs"],
        parameters=after["parameters"] / before["parameters"],
    )


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON, the table as Markdown and the curves as SVG."""
    store(NAME, rows, known, out)
    own = {(row.kind, row.share): row for row in rows}
    lines = [
        [kind, *(f"{own[kind, share].top1:.2f}" for share in SHARES if (kind, share) in own)]
        for kind in KINDS
    ]
    dense = Point(x=100, y=rows[0].baseline, label="as it comes")
    clouds = [
        Cloud(
            name=kind,
            points=[
                dense,
                *(Point(x=100 * r.macs, y=r.top1, label=kind) for r in rows if r.kind == kind),
            ],
            line=True,
        )
        for kind in KINDS
    ]
    picture = scatter(title="MNIST", clouds=clouds, x_label="MACs left, %", y_label="top-1, %")
    (out / f"{NAME}.svg").write_text(picture, encoding="utf-8")
    note = (
        f"Made by `python -m samples.benchmarks.{NAME} --source DIR --work WORK` on "
        f"{known['cpu']}, torch {known['torch']}, onnxruntime {known['onnxruntime']}. Vision "
        f"Transformer of 4 blocks, d = 64, 16 tokens, trained on MNIST for {CONFIG.epochs} epochs "
        f"by Adam, seed {CONFIG.seed}. Top-1 in percent on the 10,000 test images; calibration on "
        f"{SAMPLES} training images without labels; no gradient steps after the split. *plain*: "
        "truncated SVD of the weights, ranks shared out by their energy."
    )
    parts = [
        f"# SVD of a Transformer after training, {rows[0].baseline:.2f} % as it comes",
        table(["factors", *(f"{share:.0%} of the MACs" for share in SHARES)], lines),
        f"![top-1 over MACs]({NAME}.svg)",
        note,
    ]
    publish(NAME, parts, out)


@click.command()
@click.option("--source", type=click.Path(exists=True), help="Folder of the data.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(source: str | None, work: Path | None, out: Path) -> None:
    """Train, compress and write the table; without --work, only write the table anew."""
    if work is None:
        documents, known = stored(NAME, out)
        write([Row(**row) for row in documents], known, out)
        return
    torch.set_num_threads(1)
    model = prepare(mnist(source), work)
    baseline = score(model, work / "eval.npz")
    rows = [measure(model, baseline, kind, share, work) for kind in KINDS for share in SHARES]
    write(rows, {**machine(), "torch": torch.__version__}, out)


if __name__ == "__main__":
    main()
