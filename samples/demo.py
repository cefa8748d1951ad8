"""Compares, scores and times two models with `optc` and prints one table.

    python samples/demo.py ORIGINAL COMPRESSED --data out/eval.npz

Each command is printed before it runs, to be repeated by hand.
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

HEADER = ("model", "size", "top-1", "latency, median")


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
    """Rows as aligned text, with the ratios of the last to the first."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    first, last = rows[0], rows[-1]
    cells.append(
        (
            "ratio",
            _times(first.nbytes / last.nbytes, "smaller", "larger"),
            f"{100 * (last.top1 - first.top1):+.1f} points",
            _times(first.milliseconds / last.milliseconds, "faster", "slower"),
        )
    )
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = [_line(row, widths) for row in cells]
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def fidelity(comparison: Any) -> str:
    """One line on how close the outputs are."""
    lines = []
    for output in comparison["outputs"]:
        sqnr = "equal" if output["sqnr_db"] is None else f"SQNR {output['sqnr_db']:.1f} dB"
        lines.append(f"{output['name']}: {sqnr}, cosine {output['cosine']:.4f}")
    return "; ".join(lines)


def _times(ratio: float, better: str, worse: str) -> str:
    return f"{ratio:.2f}× {better}" if ratio >= 1 else f"{1 / ratio:.2f}× {worse}"


def _cells(row: Row) -> tuple[str, str, str, str]:
    size = f"{row.nbytes / 1000:,.0f} kB"
    return row.path.name, size, f"{row.top1:.1%}", f"{row.milliseconds:.3f} ms"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = row
    right = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
    return "  ".join([name.ljust(widths[0]), *right])


@click.command()
@click.argument("original", type=click.Path(exists=True, path_type=Path))
@click.argument("compressed", type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
def main(original: Path, compressed: Path, data: Path) -> None:
    """Compare, score and time two models."""
    try:
        comparison = optc("compare", original, compressed, "--data", data)
        rows = measure([original, compressed], data)
        click.echo(f"\n{table(rows)}\n\nOutputs: {fidelity(comparison)}")
    except CommandFailedError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyError, TypeError, ValueError) as error:
        click.echo(f"error: unexpected --json output: {error!r}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
