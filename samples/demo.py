"""Compares, scores and times models with `optc` and prints one table.

    python -m samples.demo ORIGINAL COMPRESSED... --data out/eval.npz --calib out/calib.npz

Each command is printed before it runs, to be repeated by hand. The rival in the second line of the
table is the original in onnxruntime's static int8, which is written beside the first COMPRESSED.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from samples.benchmarks.rivals import quantise

HEADER = ("model", "size", "smaller", "top-1", "latency, median", "faster")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of one model.

    Attributes:
        path: of its file.
        nbytes: file size.
        top1: share of samples classified correctly.
        milliseconds: median time of one run.
    """

    path: Path
    nbytes: int
    top1: float
    milliseconds: float


class CommandFailedError(Exception):
    """An `optc` command failed, or answered in another form than expected."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def optc(*arguments: str | Path) -> Any:
    """Runs a command of this environment's `optc` and returns its JSON.

    Raises:
        CommandFailedError: with the command's exit code; its own message is already on stderr.
    """
    words = [str(each) for each in arguments]
    click.echo(f"$ optc {shlex.join(words)}", err=True)
    program = Path(sys.executable).with_name("optc")
    done = subprocess.run([program, *words, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CommandFailedError(f"optc {words[0]} failed", done.returncode)
    return json.loads(done.stdout)


def measure(models: Sequence[Path], data: Path) -> list[Row]:
    """Accuracy of each model, and latencies measured in turns by one command."""
    scores = [optc("eval", model, "--data", data)["top1"] for model in models]
    timings = optc("bench", *models)["models"]
    return [
        Row(
            path=model,
            nbytes=model.stat().st_size,
            top1=score,
            milliseconds=timing["median_ms"],
        )
        for model, score, timing in zip(models, scores, timings, strict=True)
    ]


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text; ratios are those of the first row to each."""
    cells = [HEADER, *(_cells(row, rows[0]) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = [_line(row, widths) for row in cells]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def fidelity(comparison: Any) -> str:
    """One line on how close the outputs are."""
    lines = []
    for output in comparison["outputs"]:
        sqnr = "equal" if output["sqnr_db"] is None else f"SQNR {output['sqnr_db']:.1f} dB"
        lines.append(f"{output['name']}: {sqnr}, cosine {output['cosine']:.4f}")
    return "; ".join(lines)


def _cells(row: Row, first: Row) -> tuple[str, ...]:
    return (
        row.path.name,
        f"{row.nbytes / 1000:,.0f} kB",
        f"{first.nbytes / row.nbytes:.2f}×",
        f"{row.top1:.1%}",
        f"{row.milliseconds:.3f} ms",
        f"{first.milliseconds / row.milliseconds:.2f}×",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = row
    right = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
    return "  ".join([name.ljust(widths[0]), *right])


def rival(original: Path, calib: Path, folder: Path) -> Path:
    """The original in int8 by onnxruntime, quantised with the same samples."""
    click.echo(f"$ onnxruntime's static int8 of {original}", err=True)
    path = folder / f"{original.stem}_onnxruntime_int8.onnx"
    quantise(original, np.load(calib)["input"], path)
    return path


@click.command()
@click.argument("original", type=click.Path(exists=True, path_type=Path))
@click.argument("compressed", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--calib", type=click.Path(exists=True, path_type=Path), required=True)
def main(original: Path, compressed: tuple[Path, ...], data: Path, calib: Path) -> None:
    """Compare, score and time models, and onnxruntime's int8 of the first."""
    try:
        int8 = rival(original, calib, compressed[0].parent)
        outputs = [
            f"{path.name}: {fidelity(optc('compare', original, path, '--data', data))}"
            for path in (int8, *compressed)
        ]
        rows = measure([original, int8, *compressed], data)
        click.echo(f"\n{table(rows)}\n\nOutputs against those of {original.name}:")
        click.echo("\n".join(outputs))
    except CommandFailedError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyError, TypeError, ValueError) as error:
        click.echo(f"error: unexpected --json output: {error!r}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
