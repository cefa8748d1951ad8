"""Accuracy against MACs of `optc transform --pass svd` on CIFAR-10 ResNets, without training.

    python -m samples.benchmarks.svd_posttraining --source DIR --out samples/results

DIR holds `models/` and `cifar10/` (see samples/README.md). Every row runs the command as a user
would, in a process of its own, and scores its output on the full exact test set. With data: 512
training images without labels; factors whitened, ranks allocated by measured sensitivity, layers
refitted. Plain: truncated SVD of the weights, ranks allocated by the weights' energy. Prints and
writes tables (Markdown) and all numbers (JSON).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from toolchain.environment import environment

NAME = "svd_posttraining"
MODELS = ("resnet20", "resnet56")
SHARES = (0.667, 0.5, 0.4)
KINDS = (
    ("plain, channel", "form=channel,multiple=1", False),
    ("plain, spatial", "form=spatial,multiple=1", False),
    ("channel", "form=channel,multiple=1", True),
    ("spatial", "form=spatial,multiple=1", True),
    ("auto", "multiple=1", True),
    ("auto, ranks in multiples of 16", "", True),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        model: name of the network.
        kind: of the factors.
        share: of the MACs that was asked for.
        command: what was run.
        baseline: top-1 of the input, percent.
        top1: of the output, percent.
        macs: share left.
        parameters: share left.
        seconds: wall time of the command.
    """

    model: str
    kind: str
    share: float
    command: str
    baseline: float
    top1: float
    macs: float
    parameters: float
    seconds: float


def run(arguments: Sequence[str | Path]) -> Any:
    """Runs a command; returns its JSON.

    Raises:
        SystemExit: the command failed.
    """
    command = [sys.executable, "-m", "toolchain.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"optc {' '.join(map(str, arguments))}: exit code {done.returncode}")
    return json.loads(done.stdout)


def score(model: Path, work: Path) -> float:
    """Top-1 on the full test set, percent."""
    return 100 * float(run(["eval", model, "--data", work / "eval_full.npz"])["top1"])


def measure(
    model: Path, baseline: float, kind: tuple[str, str, bool], share: float, work: Path
) -> Row:
    """Transforms and scores."""
    label, options, calibrated = kind
    name = model.stem.removesuffix("_cifar10")
    option = ",".join(filter(None, [f"svd:macs={share:g}", options]))
    output = work / "out.onnx"
    data: list[str | Path] = ["--calib", work / "calib.npz"] if calibrated else []
    result = run(["transform", model, "--pass", option, "-o", output, *data])
    before, after = result["input"], result["output"]
    return Row(
        model=name,
        kind=label,
        share=share,
        command=f"optc transform {model.name} --pass {option}"
        + (" --calib calib.npz" if calibrated else ""),
        baseline=baseline,
        top1=score(output, work),
        macs=after["macs"] / before["macs"],
        parameters=after["parameters"] / before["parameters"],
        seconds=sum(result["seconds"].values()),
    )


def markdown(rows: Sequence[Row], model: str) -> str:
    """Top-1 of one network by kind and share of the MACs."""
    own = {(row.kind, row.share): row for row in rows if row.model == model}
    if not own:
        return ""
    baseline = next(iter(own.values())).baseline
    lines = [
        f"## {model}, {baseline:.2f} % as it comes",
        "",
        "| factors | " + " | ".join(f"{share:.1%} of the MACs" for share in SHARES) + " |",
        "|---" * (1 + len(SHARES)) + "|",
    ]
    for kind, _, _ in KINDS:
        cells = []
        for share in SHARES:
            row = own.get((kind, share))
            cells.append("" if row is None else f"{row.top1:.2f} ({row.parameters:.0%})")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    document = {"rows": [asdict(row) for row in rows], "environment": known}
    (out / f"{NAME}.json").write_text(json.dumps(document, indent=1) + "\n")
    note = (
        "Made by `python -m samples.benchmarks.svd_posttraining --source DIR` on "
        f"{known['cpu']} ({known['cores']} cores), onnxruntime {known['onnxruntime']}, numpy "
        f"{known['numpy']}. Top-1 in percent on the 10,000 exact CIFAR-10 test images, in brackets "
        "the share of parameters left; calibration on 512 training images without labels; no "
        "gradient steps. *plain*: truncated SVD of the weights without data, ranks shared out by "
        "the energy of the weights at the same number of MACs."
    )
    tables = [table for model in MODELS if (table := markdown(rows, model))]
    (out / f"{NAME}.md").write_text("\n\n".join(["# SVD after training", *tables, note]) + "\n")
    click.echo("\n\n".join(tables))


def measure_all(
    source: Path,
    models: Sequence[str],
    shares: Sequence[float],
    stored: list[Row],
    out: Path,
) -> list[Row]:
    """All settings of the named models; rows that are stored are not measured again."""
    rows = [row for row in stored]
    have = {(row.model, row.kind, row.share) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_data = Path(__file__).parents[1] / "make_data.py"
        subprocess.run([sys.executable, make_data, "--source", source, "--out", work], check=True)
        for name in models:
            path = source / "models" / f"{name}_cifar10.onnx"
            todo = [(k, s) for s in shares for k in KINDS if (name, k[0], s) not in have]
            baseline = score(path, work) if todo else 0.0
            for kind, share in todo:
                rows.append(measure(path, baseline, kind, share, work))
                click.echo(f"{name}, {kind[0]}, {share:g}: {rows[-1].top1:.2f}", err=True)
                write(rows, {**environment(), "cores": str(os.cpu_count())}, out)
    return rows


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="Data and models.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples/results"))
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
@click.option("--share", "shares", multiple=True, type=float, default=SHARES, help="Of the MACs.")
@click.option("--resume", is_flag=True, help="Keep the rows that are stored, measure the others.")
def main(
    source: Path | None,
    out: Path,
    models: tuple[str, ...],
    shares: tuple[float, ...],
    resume: bool,
) -> None:
    """Measure all settings and write the tables; without --source, only write the tables anew."""
    stored: list[Row] = []
    if source is None or (resume and (out / f"{NAME}.json").exists()):
        document = json.loads((out / f"{NAME}.json").read_text())
        stored = [Row(**row) for row in document["rows"]]
        if source is None:
            write(stored, document["environment"], out)
            return
    rows = measure_all(source, models, shares, stored, out)
    write(rows, {**environment(), "cores": str(os.cpu_count())}, out)


if __name__ == "__main__":
    main()
