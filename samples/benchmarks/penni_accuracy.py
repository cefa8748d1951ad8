"""Accuracy, size, time and memory of `optc transform --pass penni` on CIFAR-10 ResNets.

    python -m samples.benchmarks.penni_accuracy --source DIR

DIR holds `models/` and `cifar10/` (see samples/README.md). Every row runs the command as a user
would, in a process of its own, and scores its output on the full exact test set. Calibration: 512
training images without labels. Prints and writes a table (Markdown) and all numbers (JSON).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import onnx_ir as ir

from runtimes.operators.decomposed_conv import is_decomposed_conv, read_weights
from runtimes.operators.positions import entropy_bits
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

NAME = "penni_accuracy"
MODELS = ("resnet20", "resnet56")
GROWTH = "penni:params=0.3 --calib calib.npz"
SETTINGS = (
    ("plain SVD, rank 5, no data", "penni:rank=5,min_weights=0", False),
    ("default, no data", "penni", False),
    ("rank 5 in every layer, dense coefficients", "penni:rank=5", True),
    ("56 % of parameters, dense coefficients", "penni:params=0.56,density=1", True),
    ("30 % of parameters", "penni:params=0.3", True),
    ("18 % of parameters", "penni:params=0.18", True),
    ("30 % of parameters, channel pairs", "penni:params=0.3,granularity=pair", True),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        model: name of the network.
        setting: for people.
        command: what was run.
        baseline: top-1 of the input, percent.
        top1: of the output, percent.
        kept: share of the convolutions' parameters left.
        nbytes: of the output file.
        size_share: of the input file.
        over_bound: file size over what nonzero values and positions need.
        seconds: wall time of the command.
        stages: the same by stage.
        peak_mb: largest resident set of the process, 10⁶ bytes.
    """

    model: str
    setting: str
    command: str
    baseline: float
    top1: float
    kept: float
    nbytes: int
    size_share: float
    over_bound: float
    seconds: float
    stages: dict[str, float]
    peak_mb: float


def needed_bytes(path: Path) -> float:
    """What nonzero values and positions of a model need: 4 bytes a value, n·H(ρ) bits."""
    model = ir.load(path)
    decomposed = [node for node in model.graph if is_decomposed_conv(node)]
    compact = {value.name for node in decomposed for value in node.inputs[1:4] if value}
    total = 0.0
    for node in decomposed:
        weights = read_weights(node)
        values = node.inputs[2]
        assert values is not None and values.const_value is not None
        stored, block = values.const_value.numpy().shape
        blocks = weights.coefficients.size // block
        total += 4 * (stored * block + weights.basis.size) + entropy_bits(stored, blocks) / 8
    for name, value in model.graph.initializers.items():
        if name not in compact and value.const_value is not None:
            total += value.const_value.nbytes
    return total


def conv_parameters(model: Path) -> int:
    """Nonzero parameters of all convolutions, decomposed or not."""
    document, _ = optc("inspect", model)
    return sum(
        layer["cost"]["parameters"]
        for layer in document["layers"]
        if layer["op_type"].startswith(("Conv", "DecomposedConv"))
    )


def measure(name: str, model: Path, setting: tuple[str, str, bool], data: Path, work: Path) -> Row:
    """Transforms and scores."""
    label, option, calibrated = setting
    output = work / "out.onnx"
    arguments: list[str | Path] = ["transform", model, "--pass", option, "-o", output]
    arguments += ["--calib", data / "calib.npz"] if calibrated else []
    result, peak = optc(*arguments)
    score, _ = optc("eval", output, "--data", data / "eval_full.npz", "--baseline", model)
    nbytes = output.stat().st_size
    return Row(
        model=name,
        setting=label,
        command=f"optc transform {model.name} --pass {option}"
        + (" --calib calib.npz" if calibrated else ""),
        baseline=100 * score["baseline"]["top1"],
        top1=100 * score["top1"],
        kept=conv_parameters(output) / conv_parameters(model),
        nbytes=nbytes,
        size_share=nbytes / model.stat().st_size,
        over_bound=nbytes / needed_bytes(output),
        seconds=sum(result["seconds"].values()),
        stages=result["seconds"],
        peak_mb=peak / 1e6,
    )


HEADERS = (
    "model",
    "setting",
    "top-1",
    "drop",
    "conv parameters kept",
    "file",
    "file / bound",
    "time",
    "of it plan, fit",
    "peak memory",
)


def cells(row: Row) -> list[str]:
    """A line of the table."""
    plan, fit = (row.stages.get(f"{key} penni", 0.0) for key in ("plan", "apply"))
    return [
        row.model,
        row.setting,
        f"{row.top1:.2f}",
        f"{row.baseline - row.top1:.2f}",
        f"{row.kept:.1%}",
        f"{row.nbytes / 1000:.0f} kB ({row.size_share:.1%})",
        f"{row.over_bound:.3f}",
        f"{row.seconds:.1f} s",
        f"{plan:.1f}, {fit:.1f} s",
        f"{row.peak_mb:.0f} MB",
    ]


def growth(rows: Sequence[Row]) -> str:
    """How time grows from the small to the large network, at 30 % of the parameters."""
    own = {row.model: row for row in rows if row.command.endswith(GROWTH)}
    if len(own) < len(MODELS):
        return ""
    small, large = (own[name] for name in MODELS)
    stages = ", ".join(
        f"{key} {large.stages[key] / small.stages[key]:.1f}×"
        for key in ("plan penni", "apply penni", "verify")
    )
    return (
        f"From {MODELS[0]} to {MODELS[1]} (3.2× the parameters, 3.1× the MACs) the calibrated run "
        f"at 30 % takes {large.seconds / small.seconds:.1f}× the time: {stages}."
    )


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the table as Markdown."""
    store(NAME, rows, known, out)
    note = (
        "Made by `python -m samples.benchmarks.penni_accuracy --source DIR` on "
        f"{known['cpu']} ({known['cores']} cores), onnxruntime {known['onnxruntime']}, numpy "
        f"{known['numpy']}. Top-1 on the 10,000 exact CIFAR-10 test images; calibration on 512 "
        "training images without labels; no gradient steps. *file / bound*: file size over what "
        "nonzero values (4 bytes) and positions (their entropy) need."
    )
    lines = table(HEADERS, [cells(row) for row in rows])
    publish(NAME, ["# PENNI after training", lines, growth(rows), note], out)


def measure_all(source: Path, models: Sequence[str]) -> list[Row]:
    """All settings of the named models."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_data(source, work)
        for name in models:
            path = source / "models" / f"{name}_cifar10.onnx"
            for setting in SETTINGS:
                rows.append(measure(name, path, setting, work, work))
                click.echo(f"{name}, {setting[0]}: {rows[-1].top1:.2f}", err=True)
    return rows


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="Data and models.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
def main(source: Path | None, out: Path, models: tuple[str, ...]) -> None:
    """Measure all settings and write the tables; without --source, only write the tables anew."""
    if source is None:
        rows, known = stored(NAME, out)
        write([Row(**row) for row in rows], {**machine(), **known}, out)
    else:
        write(measure_all(source, models), machine(), out)


if __name__ == "__main__":
    main()
