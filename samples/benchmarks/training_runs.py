"""What benchmarks that train share: progress on the terminal, and scores of what was exported."""

import click
import onnx_ir as ir

from passes.framework import Progress
from runtimes import ort
from toolchain.training.batches import Batches


def printed(steps: int, name: str = "") -> Progress:
    """Prints a line after every so many steps, with a name in front."""

    def progress(done: int, total: int, label: str) -> None:
        if done % steps == 0:
            click.echo(f"{name} {done}/{total} {label}".lstrip(), err=True)

    return progress


def score_exported(model: ir.Model, batches: Batches) -> float:
    """Top-1 of a model by onnxruntime, percent."""
    session = ort.session_of(model)
    right = total = 0
    for inputs, labels in batches:
        [scores] = ort.run(session, {session.get_inputs()[0].name: inputs.numpy()})
        right += int((scores.argmax(1) == labels.numpy()).sum())
        total += len(labels)
    return 100 * right / total
