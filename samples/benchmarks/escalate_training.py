"""Quantisation-aware fine-tuning of a model that `optc transform --pass escalate` wrote.

    python samples/benchmarks/escalate_training.py --start float.onnx --model ternary.onnx \
        --source DIR --out tuned.onnx --folder run --epochs 4

The model is trained on CIFAR-10 towards the logits of the float decomposed model it was quantised
from, and scored before and after on the full exact test set by onnxruntime. An interrupted run
continues from its checkpoint in the folder.
"""

from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from runtimes import ort
from samples.datasets import cifar10
from toolchain.training.batches import Batch, Batches
from toolchain.training.hybrid_network import HybridNetwork
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

TEMPERATURE = 2.0


def distillation(teacher: nn.Module, model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy towards the softened output of the teacher (Hinton et al. 2015)."""
    inputs, _ = batch
    with torch.no_grad():
        target = (teacher(inputs) / TEMPERATURE).softmax(1)
    scores = (model(inputs) / TEMPERATURE).log_softmax(1)
    loss: Tensor = -(target * scores).sum(1).mean() * TEMPERATURE**2
    return loss


def score(model: ir.Model, batches: Batches) -> float:
    """Percent in onnxruntime."""
    session = ort.session_of(model)
    right = total = 0
    for inputs, labels in batches:
        [scores] = ort.run(session, {session.get_inputs()[0].name: inputs.numpy()})
        right += int((np.argmax(scores, 1) == labels.numpy()).sum())
        total += len(labels)
    return 100 * right / total


@click.command()
@click.option("--start", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", "path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--source", required=True, help="Folder of the data, see samples/README.md.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--epochs", type=int, default=4)
@click.option("--images", type=int, default=50_000)
@click.option("--batch", type=int, default=128)
@click.option("--lr", type=float, default=1e-3)
def main(
    start: Path,
    path: Path,
    source: str,
    out: Path,
    folder: Path,
    epochs: int,
    images: int,
    batch: int,
    lr: float,
) -> None:
    """Trains, exports and scores."""
    torch.set_num_threads(1)
    decomposed = ir.load(start)
    data, network = cifar10(source, images), HybridNetwork(ir.load(path), decomposed)
    teacher = HybridNetwork(decomposed).eval()
    click.echo(
        f"float {score(decomposed, data.test(500)):.2f}, as quantised "
        f"{score(network.model, data.test(500)):.2f}"
    )
    config = TrainConfig(
        epochs=epochs, optimizer="adam", lr=lr, channels_last=False, evaluate_every=epochs
    )
    trainer = Trainer(
        network,
        data.train(batch),
        config,
        loss=lambda model, given: distillation(teacher, model, given),
        evaluate=lambda model: {"top1": score(network.exported(), data.test(500))},
        folder=folder,
    )
    for record in trainer.run():
        click.echo(record)
    tuned = network.exported()
    ir.save(tuned, out)
    click.echo(f"tuned {score(tuned, data.test(500)):.2f}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
