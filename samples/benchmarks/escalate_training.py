"""Quantisation-aware fine-tuning of what `optc transform --pass escalate` wrote.

    python -m samples.benchmarks.escalate_training --source DIR --work WORK

DIR holds `models/` and `cifar10/` (see samples/README.md). A trained ResNet is decomposed and
quantised with 512 images without labels, then trained on CIFAR-10 towards the logits of the
network it came from or of a larger one, and scored before and after on the full exact test set by
stock onnxruntime. Models and checkpoints stay in WORK; a run that was killed goes on where it was,
and its row is stored when it is done.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import onnx_ir as ir
import torch

from passes.cleanup import prepare
from samples.benchmarks.results import (
    RESULTS,
    machine,
    make_data,
    optc,
    publish,
    store,
    stored,
    table,
)
from samples.benchmarks.training_runs import printed, score_exported
from samples.datasets import cifar10
from toolchain.model_io import save_model
from toolchain.training.distillation import distillation_loss
from toolchain.training.hybrid_conv import Bounded
from toolchain.training.hybrid_network import HybridNetwork
from toolchain.training.memory import keep_freed_memory
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

NAME = "escalate_training"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained.

    Attributes:
        network: name of the model.
        penni: options that decompose it.
        bits: of a coefficient.
        epochs: over the 50,000 training images.
        lr: learning rate of Adam, of parameters that are all about 1.
        teacher: name of the model to learn from; empty: the network itself.
        temperature: of its outputs.
    """

    network: str
    penni: str
    bits: int
    epochs: int
    lr: float = 2e-3
    teacher: str = ""
    temperature: float = 2.0


RUNS = {
    "resnet20_ternary": Run(
        network="resnet20",
        penni="params=0.9",
        bits=2,
        epochs=15,
        teacher="resnet56",
        temperature=4,
    ),
    "resnet20_pairs": Run(
        network="resnet20", penni="rank=4,granularity=pair,density=0.5", bits=8, epochs=10
    ),
    "resnet56_ternary": Run(network="resnet56", penni="params=0.18", bits=2, epochs=15, lr=4e-3),
    "resnet56_sparse": Run(network="resnet56", penni="params=0.16", bits=2, epochs=7, lr=1.5e-3),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; top-1 in percent, of the network, decomposed, then quantised, then trained.

    Attributes:
        remark: what was different from the script as it is now.
    """

    name: str
    network: str
    penni: str
    bits: int
    epochs: int
    lr: float
    seconds: float
    dense: float
    decomposed: float
    quantised: float
    trained: float
    dense_nbytes: int
    nbytes: int
    teacher: str = ""
    temperature: float = 2.0
    remark: str = ""


def make_models(run: Run, source: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Paths of the network, decomposed, and quantised; made where they are not there yet."""
    dense = source / "models" / f"{run.network}_cifar10.onnx"
    decomposed, quantised = folder / "decomposed.onnx", folder / "quantised.onnx"
    steps = (
        (dense, f"penni:{run.penni}", decomposed),
        (decomposed, f"escalate:bits={run.bits}", quantised),
    )
    for model, option, output in steps:
        if not output.exists():
            calibration = folder.parent / "calib.npz"
            if not calibration.exists():
                make_data(source, folder.parent)
            optc("transform", model, "--pass", option, "--calib", calibration, "-o", output)
    return dense, decomposed, quantised


def train(name: str, source: Path, work: Path, images: int, batch: int) -> Row:
    """One run from the network to the trained file ``WORK/NAME.onnx``."""
    run, folder = RUNS[name], work / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = make_models(run, source, folder)
    dense, decomposed, quantised = (ir.load(path) for path in paths)
    data, network = cifar10(str(source), images), HybridNetwork(quantised, decomposed)
    taught = source / "models" / f"{run.teacher or run.network}_cifar10.onnx"
    teacher = HybridNetwork(prepare(ir.load(taught)))  # with folded batch norms: faster
    history = Trainer(
        network,
        data.train(batch),
        TrainConfig(epochs=run.epochs, optimizer="adam", lr=run.lr, precision="bfloat16"),
        loss=distillation_loss(teacher, 1.0, run.temperature),
        hooks=(Bounded(),),
        folder=folder,
        progress=printed(100),
    ).run()
    test, trained = data.test(500), network.exported()
    save_model(trained, work / f"{name}.onnx")
    return Row(
        name=name,
        **asdict(run),
        seconds=sum(record["seconds"] for record in history),
        dense=score_exported(dense, test),
        decomposed=score_exported(decomposed, test),
        quantised=score_exported(quantised, test),
        trained=score_exported(trained, test),
        dense_nbytes=paths[0].stat().st_size,
        nbytes=(work / f"{name}.onnx").stat().st_size,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    headers = ["model", "decomposed by", "bits", "top-1 dense", "decomposed", "quantised"]
    headers += ["trained", "epochs", "lr", "teacher", "T", "minutes", "file"]
    headers += ["smaller than fp32", "remark"]
    lines = [
        [
            row.network,
            f"`penni:{row.penni}`",
            "ternary" if row.bits == 2 else str(row.bits),
            *(f"{each:.2f}" for each in (row.dense, row.decomposed, row.quantised)),
            f"**{row.trained:.2f}**",
            str(row.epochs),
            f"{row.lr:g}",
            row.teacher or "itself",
            f"{row.temperature:g}",
            f"{row.seconds / 60:.0f}",
            f"{row.nbytes / 1000:.0f} kB",
            f"{row.dense_nbytes / row.nbytes:.1f}×",
            row.remark,
        ]
        for row in rows
    ]
    return table(headers, lines)


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes the table as Markdown."""
    note = (
        "Made by `python -m samples.benchmarks.escalate_training --source DIR --work WORK` on "
        f"{known['cpu']}, onnxruntime {known['onnxruntime']}, torch {torch.__version__}, one "
        "thread at low priority on a shared machine. Adam, cosine, batches of 128 in "
        "bfloat16, loss: distillation from the dense network or a larger one at temperature T; "
        "50,000 training images, which are lossy copies. Top-1 on the 10,000 exact test images in "
        "stock onnxruntime, after the last epoch."
    )
    publish(NAME, ["# ESCALATE with training", markdown(rows), note], out)


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--run", "names", multiple=True, type=click.Choice(list(RUNS)), default=list(RUNS))
@click.option("--images", default=50_000, help="Of an epoch: the first so many.")
@click.option("--batch", default=128)
def main(
    source: Path, work: Path, out: Path, names: tuple[str, ...], images: int, batch: int
) -> None:
    """Trains what is asked for, one after the other; rows of others stay as they are."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for name in names:
        row = train(name, source, work, images, batch)
        rows = [Row(**each) for each in stored(NAME, out)[0] if each["name"] != name]
        rows = sorted([*rows, row], key=lambda each: list(RUNS).index(each.name))
        store(NAME, rows, machine(), out)
    write([Row(**each) for each in stored(NAME, out)[0]], machine(), out)


if __name__ == "__main__":
    main()
