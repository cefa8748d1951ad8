"""Accuracy against MACs of `optc transform --pass svd` on CIFAR-10 ResNets, without training.

    python -m samples.benchmarks.svd_posttraining --source DIR --out samples/results

DIR holds `models/` and `cifar10/` (see samples/README.md). Every row runs the command as a user
would, in a process of its own, and scores its output on the full exact test set. With data: 512
training images without labels; factors whitened, ranks allocated by measured sensitivity, layers
refitted. Plain: truncated SVD of the weights, ranks allocated by the weights' energy. Prints and
writes tables (Markdown) and all numbers (JSON).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

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


def score(model: Path, work: Path) -> float:
    """Top-1 on the full test set, percent."""
    result, _ = optc("eval", model, "--data", work / "eval_full.npz")
    return 100 * float(result["top1"])


def measure(
    model: Path, baseline: float, kind: tuple[str, str, bool], share: float, work: Path
) -> Row:
    """Transforms and scores."""
    label, options, calibrated = kind
    name = model.stem.removesuffix("_cifar10")
    option = ",".join(filter(None, [f"svd:macs={share:g}", options]))
    output = work / "out.onnx"
    data: list[str | Path] = ["--calib", work / "calib.npz"] if calibrated else []
    result, _ = optc("transform", model, "--pass", option, "-o", output, *data)
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
    lines = []
    for kind, _, _ in KINDS:
        found = [own.get((kind, share)) for share in SHARES]
        cells = ["" if row is None else f"{row.top1:.2f} ({row.parameters:.0%})" for row in found]
        lines.append([kind, *cells])
    headers = ["factors", *(f"{share:.1%} of the MACs" for share in SHARES)]
    return f"## {model}, {baseline:.2f} % as it comes\n\n{table(headers, lines)}"


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    store(NAME, rows, known, out)
    note = (
        "Made by `python -m samples.benchmarks.svd_posttraining --source DIR` on "
        f"{known['cpu']} ({known['cores']} cores), onnxruntime {known['onnxruntime']}, numpy "
        f"{known['numpy']}. Top-1 in percent on the 10,000 exact CIFAR-10 test images, in brackets "
        "the share of parameters left; calibration on 512 training images without labels; no "
        "gradient steps. *plain*: truncated SVD of the weights without data, ranks shared out by "
        "the energy of the weights at the same number of MACs."
    )
    tables = [markdown(rows, model) for model in MODELS]
    publish(NAME, ["# SVD after training", *tables, note], out)


def measure_all(
    source: Path,
    models: Sequence[str],
    shares: Sequence[float],
    old: list[Row],
    out: Path,
) -> list[Row]:
    """All settings of the named models; old rows are not measured again."""
    rows = list(old)
    have = {(row.model, row.kind, row.share) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_data(source, work)
        for name in models:
            path = source / "models" / f"{name}_cifar10.onnx"
            todo = [(k, s) for s in shares for k in KINDS if (name, k[0], s) not in have]
            baseline = score(path, work) if todo else 0.0
            for kind, share in todo:
                rows.append(measure(path, baseline, kind, share, work))
                click.echo(f"{name}, {kind[0]}, {share:g}: {rows[-1].top1:.2f}", err=True)
                write(rows, machine(), out)
    return rows


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="Data and models.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
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
    documents, known = stored(NAME, out)
    old = [Row(**row) for row in documents]
    if source is None:
        write(old, known, out)
        return
    rows = measure_all(source, models, shares, old if resume else [], out)
    write(rows, machine(), out)


if __name__ == "__main__":
    main()
