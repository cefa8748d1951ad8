"""SVD training of a CIFAR-10 ResNet against plain SVD with fine-tuning, at equal MACs and epochs.

    python -m samples.benchmarks.svd_training --source DIR --work WORK --model resnet20

DIR holds `models/` and `cifar10/` (see samples/README.md). Every method starts from the trained
weights and trains for the same number of epochs in all: plain SVD cuts the ranks first and
fine-tunes all the while; the others train factors of full rank with their penalties, cut, and
fine-tune. Ranks are cut by energy, with the one e for all layers that leaves the share of MACs.
`--recipe paper` has the epochs and optimiser of the paper's code, for a GPU. A run that was killed
goes on where it was.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import torch
from torch import nn

from samples.datasets import cifar10
from samples.networks import resnet
from toolchain.training.batches import Dataset
from toolchain.training.hooks import Hook, Penalty
from toolchain.training.log import write_json
from toolchain.training.low_rank import SIGMA, Form, LowRankConfig, Orthogonality, factorize
from toolchain.training.low_rank_pruning import drop_energy, energy_for_macs, report_ranks
from toolchain.training.objectives import top1
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

MODELS = {"resnet20": resnet.resnet20, "resnet56": resnet.resnet56}


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is added to the loss before ranks are cut.

    Attributes:
        regularizer: of the singular values; None cuts at once.
        strength: λ_s.
        orthogonality: λ_o.
    """

    regularizer: str | None
    strength: float = 0.0
    orthogonality: float = 1.0

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Penalties while ranks are full."""
        if self.regularizer is None:
            return ()
        sigma = Penalty(regularizer=self.regularizer, strength=self.strength, parameters=(SIGMA,))
        return (Orthogonality(strength=self.orthogonality), sigma)


METHODS = {
    "plain SVD": Method(regularizer=None),
    "orthogonality only": Method(regularizer="l1"),
    "no orthogonality": Method(regularizer="hoyer-square", strength=0.01, orthogonality=0.0),
    "L1": Method(regularizer="l1", strength=3e-3),
    "Hoyer": Method(regularizer="hoyer", strength=0.07),
    "Hoyer-Square": Method(regularizer="hoyer-square", strength=0.01),
}


def schedule(recipe: str, epochs: int) -> tuple[TrainConfig, TrainConfig]:
    """Of the phase at full rank, and of fine-tuning."""
    if recipe == "paper":
        adam = TrainConfig(epochs=164, optimizer="adam", lr=1e-3, schedule="step")
        return adam, adam
    return (
        TrainConfig(epochs=epochs // 2, lr=0.01, schedule="constant", weight_decay=1e-4),
        TrainConfig(epochs=epochs - epochs // 2, lr=0.01, weight_decay=1e-4),
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        model: name of the network.
        method: name of the method.
        form: of the factors.
        epochs: in all.
        images: of an epoch.
        cut: top-1 right after the ranks were cut, percent.
        top1: at the end.
        macs: share left.
        parameters: left.
        residual: largest orthogonality residual of a layer before the cut.
        seconds: of training.
    """

    model: str
    method: str
    form: str
    epochs: int
    images: int
    cut: float
    top1: float
    macs: float
    parameters: int
    residual: float
    seconds: float


def train(
    model: nn.Module, data: Dataset, config: TrainConfig, hooks: tuple[Hook, ...], folder: Path
) -> float:
    """Trains, and returns the seconds it took, those of an interrupted run included."""
    batches = data.train(128)

    def progress(done: int, total: int, label: str) -> None:
        if done % len(batches) == 0:
            click.echo(f"{folder} {done}/{total} {label}", err=True)

    history = Trainer(model, batches, config, hooks=hooks, folder=folder, progress=progress).run()
    return sum(record["seconds"] for record in history)


def score(model: nn.Module, data: Dataset) -> float:
    """Top-1 on the full test set, percent."""
    model.eval()
    with torch.no_grad():
        return top1(model, data.test(500))["top1"]


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoints.")
@click.option("--model", "name", type=click.Choice(list(MODELS)), default="resnet20")
@click.option("--form", type=click.Choice(["channel", "spatial"]), default="spatial")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)))
@click.option("--macs", default=0.4, help="Share of the MACs that is left.")
@click.option("--recipe", type=click.Choice(["short", "paper"]), default="short")
@click.option("--epochs", default=6, help="Of the short recipe, both phases together.")
@click.option("--images", default=50000, help="Of an epoch: the first so many.")
def main(
    source: Path,
    work: Path,
    name: str,
    form: Form,
    methods: tuple[str, ...],
    macs: float,
    recipe: str,
    epochs: int,
    images: int,
) -> None:
    """Trains the methods one after the other; adds a row to WORK/rows.json after each."""
    data, (sparse, finetune) = cifar10(str(source), images), schedule(recipe, epochs)
    sample, total = torch.zeros(1, 3, 32, 32), sparse.epochs + finetune.epochs
    rows = work / "rows.json"
    for key in methods or METHODS:
        method = METHODS[key]
        folder = work / f"{name}-{form}-{macs:g}-{key.replace(' ', '-')}"
        model = MODELS[name](str(source / "models" / f"{name}_cifar10.onnx"))
        factorize(model, LowRankConfig(form=form))
        seconds = 0.0
        if method.hooks:
            seconds = train(model, data, sparse, method.hooks, folder / "sparse")
        residual = max(layer.residual for layer in report_ranks(model, sample).layers)
        report = drop_energy(model, energy_for_macs(model, macs, sample), sample)
        cut = score(model, data)
        config = finetune if method.hooks else replace(finetune, epochs=total)
        kept = (Orthogonality(strength=method.orthogonality),)
        seconds += train(model, data, config, kept, folder / "finetune")
        row = Row(
            model=name,
            method=key,
            form=form,
            epochs=total,
            images=images,
            cut=cut,
            top1=score(model, data),
            macs=report.macs / report.dense_macs,
            parameters=report.parameters,
            residual=residual,
            seconds=seconds,
        )
        known = json.loads(rows.read_text())["rows"] if rows.exists() else []
        write_json(rows, {"rows": [*known, asdict(row)]})
        click.echo(f"{key}: {cut:.2f} after the cut, {row.top1:.2f} in the end")


if __name__ == "__main__":
    main()
