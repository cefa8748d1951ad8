"""Accuracy and size of `optc transform --pass escalate` on CIFAR-10 ResNets, against int8.

    python -m samples.benchmarks.escalate_accuracy --source DIR

DIR holds `models/` and `cifar10/` (see samples/README.md). Networks are decomposed by `penni` at
some budgets and then quantised with 8, 4 and 2 bits a coefficient, calibrated on the same 512
training images without labels; int8 is onnxruntime's static quantisation as in
`trained_latency.py`. Every model is scored on the full exact test set by stock onnxruntime. Rows
that the JSON file in --out holds already are not measured again. Also draws accuracy over size,
with the models of `escalate_training.json` beside them.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from samples.benchmarks.results import (
    RESULTS,
    machine,
    make_data,
    optc,
    publish,
    score,
    store,
    stored,
    table,
)
from samples.benchmarks.rivals import quantise
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


def stock_score(path: Path, work: Path) -> float:
    """Top-1 in percent, in stock onnxruntime."""
    return score(path, work / "eval_full.npz", "--no-native")


class Measured:
    """Rows, stored as soon as they are measured."""

    def __init__(self, out: Path) -> None:
        """Reads what is stored."""
        self._out = out
        self.rows = [Row(**row) for row in stored(NAME, out)[0]]

    def has(self, model: str, form: str) -> bool:
        """Whether a row is stored."""
        return any((row.model, row.form) == (model, form) for row in self.rows)

    def add(self, row: Row) -> None:
        """Stores a row."""
        self.rows.append(row)
        store(NAME, self.rows, machine(), self._out)
        click.echo(f"{row.model}, {row.form}: {row.top1:.2f}, {row.nbytes} bytes", err=True)


def measure(known: Measured, name: str, model: Path, work: Path) -> None:
    """All forms of one network that are not measured yet."""

    def plain(form: str, group: str, path: Path) -> None:
        known.add(
            Row(
                model=name,
                form=form,
                group=group,
                top1=stock_score(path, work),
                nbytes=path.stat().st_size,
            )
        )

    if not known.has(name, FLOAT):
        plain(FLOAT, FLOAT, model)
    if not known.has(name, INT8):
        quantise(model, np.load(work / "calib.npz")["input"], work / "int8.onnx")
        plain(INT8, INT8, work / "int8.onnx")
    for share in SHARES:
        forms = {bits: f"{share:.0%} of parameters, {bits} bits" for bits in BITS}
        decomposed, path = f"{share:.0%} of parameters, float", work / f"{name}_{share}.onnx"
        if all(known.has(name, form) for form in (decomposed, *forms.values())):
            continue
        calibration = ("--calib", work / "calib.npz")
        optc("transform", model, "--pass", f"penni:params={share}", *calibration, "-o", path)
        if not known.has(name, decomposed):
            plain(decomposed, "penni", path)
        for bits, form in forms.items():
            if not known.has(name, form):
                known.add(_quantised(name, form, bits, path, work))


def _quantised(name: str, form: str, bits: int, decomposed: Path, work: Path) -> Row:
    output = work / "out.onnx"
    option = f"escalate:bits={bits}"
    calibration = ("--calib", work / "calib.npz")
    result, _ = optc("transform", decomposed, "--pass", option, *calibration, "-o", output)
    return Row(
        model=name,
        form=form,
        group=f"{bits} bits",
        top1=stock_score(output, work),
        nbytes=output.stat().st_size,
        bound=sum(part["bound"] for part in result["storage"]),
        parts={part["part"]: part["nbytes"] for part in result["storage"]},
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table: ratios are those of file sizes."""
    sizes = {(row.model, row.form): row.nbytes for row in rows}
    lines = []
    for row in rows:
        whole, int8 = sizes[row.model, FLOAT], sizes[row.model, INT8]
        lines.append(
            [
                row.model,
                row.form,
                f"{row.top1:.2f}",
                f"{row.nbytes / 1000:.0f} kB",
                f"{whole / row.nbytes:.1f}×",
                f"{int8 / row.nbytes:.1f}×",
                "–" if row.bound is None else f"{row.nbytes / row.bound:.2f}",
            ]
        )
    headers = ["model", "form", "top-1", "file", "smaller than fp32", "than int8", "file / bound"]
    return table(headers, lines)


def chart(rows: Sequence[Row], model: str, out: Path) -> str:
    """Accuracy over size of one network, a cloud for each kind of model."""
    points: dict[str, list[Point]] = {}
    for row in rows:
        if row.model == model:
            kind = "escalate" if row.group.endswith("bits") else row.group
            label = row.form.replace(" of parameters", "").replace("onnxruntime ", "")
            point = Point(x=row.nbytes / 1000, y=row.top1, label=label, tip=row.form)
            points.setdefault(kind, []).append(point)
    for run in stored("escalate_training", out)[0]:
        if run["network"] == model:
            label = run["name"].removeprefix(f"{model}_")
            tip = f"{label}, {run['epochs']} epochs"
            point = Point(x=run["nbytes"] / 1000, y=run["trained"], label=label, tip=tip)
            points.setdefault("escalate with training", []).append(point)
    return scatter(
        title=f"{model}: accuracy over size",
        clouds=[Cloud(name=kind, points=own) for kind, own in points.items()],
        x_label="kB",
        y_label="top-1, percent",
        x_log=True,
    )


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes the table as Markdown, and a chart for each network."""
    rows = sorted(rows, key=lambda row: MODELS.index(row.model))
    note = (
        "Made by `python -m samples.benchmarks.escalate_accuracy --source DIR` on "
        f"{known['cpu']}, onnxruntime {known['onnxruntime']}, numpy {known['numpy']}. Top-1 on the "
        "10,000 exact CIFAR-10 test images in stock onnxruntime; calibration on 512 training "
        "images without labels; no training. 2 bits are ternary. *file / bound*: file size over "
        "what remains if coefficients and positions take their entropy."
    )
    publish(NAME, ["# ESCALATE after training", markdown(rows), note], out)
    for model in dict.fromkeys(row.model for row in rows):
        (out / f"{NAME}_{model}.svg").write_text(chart(rows, model, out) + "\n")


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="Data and models.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
def main(source: Path | None, out: Path, models: tuple[str, ...]) -> None:
    """Measure what is missing and write the tables; without --source, only write them anew."""
    known = Measured(out)
    if source is not None:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            make_data(source, work)
            for name in models:
                measure(known, name, source / "models" / f"{name}_cifar10.onnx", work)
    write(known.rows, {**machine(), **stored(NAME, out)[1]}, out)


if __name__ == "__main__":
    main()
