"""Accuracy and size of `optc transform --pass escalate` on CIFAR-10 ResNets, against int8.

    python -m samples.benchmarks.escalate_accuracy --source DIR --out samples/results

DIR holds `models/` and `cifar10/` (see samples/README.md). Networks are decomposed by `penni` at
some budgets and then quantised with 8, 4 and 2 bits a coefficient, calibrated on the same 512
training images without labels; int8 is onnxruntime's static quantisation as in
`trained_latency.py`. Every model is scored on the full exact test set by stock onnxruntime. Rows
that the JSON file in --out holds already are not measured again. Also draws accuracy over size.
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

from samples.benchmarks.trained_latency import quantise
from toolchain.environment import environment
from toolchain.svg import Cloud, Point, scatter

NAME = "escalate_accuracy"
MODELS = ("resnet20", "resnet56")
SHARES = (0.3, 0.18)
BITS = (8, 4, 2)
FLOAT, INT8 = "fp32", "onnxruntime int8"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model file.

    Attributes:
        model: name of the network.
        form: for people.
        group: "fp32", "onnxruntime int8", "penni" or bits of the coefficients.
        top1: on the full test set, percent.
        nbytes: of the file.
        bound: bytes that ideal codes of coefficients and positions would leave; None where the
            file is not packed.
        parts: bytes by part of the file.
    """

    model: str
    form: str
    group: str
    top1: float
    nbytes: int
    bound: int | None = None
    parts: dict[str, int] | None = None


def run(*arguments: str | Path) -> Any:
    """Runs an optc command and returns its JSON.

    Raises:
        SystemExit: the command failed.
    """
    command = [sys.executable, "-m", "toolchain.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"optc {' '.join(map(str, arguments))}: exit code {done.returncode}")
    return json.loads(done.stdout)


def score(path: Path, work: Path) -> float:
    """Top-1 in percent, in stock onnxruntime."""
    result = run("eval", path, "--data", work / "eval_full.npz", "--no-native")
    return 100 * float(result["top1"])


class Table:
    """Rows, stored as soon as they are measured."""

    def __init__(self, out: Path) -> None:
        """Reads what is stored."""
        self._path = out / f"{NAME}.json"
        stored = json.loads(self._path.read_text()) if self._path.exists() else {"rows": []}
        self.rows = [Row(**row) for row in stored["rows"]]
        self.known = {**environment(), "cores": str(os.cpu_count())}

    def has(self, model: str, form: str) -> bool:
        """Whether a row is stored."""
        return any((row.model, row.form) == (model, form) for row in self.rows)

    def add(self, row: Row) -> None:
        """Stores a row."""
        self.rows.append(row)
        document = {"rows": [asdict(each) for each in self.rows], "environment": self.known}
        self._path.write_text(json.dumps(document, indent=2) + "\n")
        click.echo(f"{row.model}, {row.form}: {row.top1:.2f}, {row.nbytes} bytes", err=True)


def measure(table: Table, name: str, model: Path, work: Path) -> None:
    """All forms of one network that are not in the table."""

    def plain(form: str, group: str, path: Path) -> None:
        table.add(
            Row(
                model=name,
                form=form,
                group=group,
                top1=score(path, work),
                nbytes=path.stat().st_size,
            )
        )

    if not table.has(name, FLOAT):
        plain(FLOAT, FLOAT, model)
    if not table.has(name, INT8):
        quantise(model, work / "calib.npz", work / "int8.onnx")
        plain(INT8, INT8, work / "int8.onnx")
    for share in SHARES:
        forms = {bits: f"{share:.0%} of parameters, {bits} bits" for bits in BITS}
        decomposed, path = f"{share:.0%} of parameters, float", work / f"{name}_{share}.onnx"
        if all(table.has(name, form) for form in (decomposed, *forms.values())):
            continue
        calibration = ("--calib", work / "calib.npz")
        run("transform", model, "--pass", f"penni:params={share}", *calibration, "-o", path)
        if not table.has(name, decomposed):
            plain(decomposed, "penni", path)
        for bits, form in forms.items():
            if not table.has(name, form):
                table.add(_quantised(name, form, bits, path, work))


def _quantised(name: str, form: str, bits: int, decomposed: Path, work: Path) -> Row:
    output = work / "out.onnx"
    option = f"escalate:bits={bits}"
    calibration = ("--calib", work / "calib.npz")
    result = run("transform", decomposed, "--pass", option, *calibration, "-o", output)
    return Row(
        model=name,
        form=form,
        group=f"{bits} bits",
        top1=score(output, work),
        nbytes=output.stat().st_size,
        bound=sum(part["bound"] for part in result["storage"]),
        parts={part["part"]: part["nbytes"] for part in result["storage"]},
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table: ratios are those of file sizes."""
    lines = [
        "| model | form | top-1 | file | smaller than fp32 | than int8 | file / bound |",
        "|---|---|---|---|---|---|---|",
    ]
    sizes = {(row.model, row.form): row.nbytes for row in rows}
    for row in rows:
        whole, int8 = sizes[row.model, FLOAT], sizes[row.model, INT8]
        over = "–" if row.bound is None else f"{row.nbytes / row.bound:.2f}"
        lines.append(
            f"| {row.model} | {row.form} | {row.top1:.2f} | {row.nbytes / 1000:.0f} kB | "
            f"{whole / row.nbytes:.1f}× | {int8 / row.nbytes:.1f}× | {over} |"
        )
    return "\n".join(lines)


def chart(rows: Sequence[Row], model: str) -> str:
    """Accuracy over size of one network, a cloud for each kind of model."""
    own = [row for row in rows if row.model == model]
    clouds = [
        Cloud(
            name=group,
            points=[
                Point(x=row.nbytes / 1000, y=row.top1, label=row.form)
                for row in own
                if row.group == group
            ],
            line=True,
        )
        for group in dict.fromkeys(row.group for row in own)
    ]
    return scatter(
        title=f"{model}: accuracy over size",
        clouds=clouds,
        x_label="kB",
        y_label="top-1, percent",
        x_log=True,
    )


def write(table: Table, out: Path) -> None:
    """Writes the table as Markdown, and a chart for each network."""
    known, rows = table.known, sorted(table.rows, key=lambda row: MODELS.index(row.model))
    note = (
        "Made by `python -m samples.benchmarks.escalate_accuracy --source DIR` on "
        f"{known['cpu']}, onnxruntime {known['onnxruntime']}, numpy {known['numpy']}. Top-1 on the "
        "10,000 exact CIFAR-10 test images in stock onnxruntime; calibration on 512 training "
        "images without labels; no training. 2 bits are ternary. *file / bound*: file size over "
        "what remains if coefficients and positions take their entropy."
    )
    text = "\n\n".join(["# ESCALATE after training", markdown(rows), note])
    (out / f"{NAME}.md").write_text(f"{text}\n")
    for model in dict.fromkeys(row.model for row in rows):
        (out / f"{NAME}_{model}.svg").write_text(chart(rows, model) + "\n")
    click.echo(markdown(rows))


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="Data and models.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples/results"))
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
def main(source: Path | None, out: Path, models: tuple[str, ...]) -> None:
    """Measure what is missing and write the tables; without --source, only write them anew."""
    out.mkdir(parents=True, exist_ok=True)
    table = Table(out)
    if source is not None:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            make_data = Path(__file__).parents[1] / "make_data.py"
            subprocess.run(
                [sys.executable, make_data, "--source", source, "--out", work], check=True
            )
            for name in models:
                measure(table, name, source / "models" / f"{name}_cifar10.onnx", work)
    write(table, out)


if __name__ == "__main__":
    main()
