"""Latency, size and accuracy of the trained ResNets: fp32, onnxruntime int8, and ours.

    python -m samples.benchmarks.trained_latency --source DIR

DIR holds `models/` and `cifar10/` (see samples/README.md). All models of a network are timed in
turns by one `optc bench`. int8 is onnxruntime's static quantisation (QDQ,
unsigned activations, signed weights per channel, the same 512 calibration images). Ours is
optimised for latency on this machine, in fp32 and in 8 bits, and runs with the native kernels.
`--trained FOLDER` adds models that were trained, as they are: NETWORK_ternary.onnx is what
`escalate_training` writes, NETWORK_pairs.onnx and NETWORK_elements.onnx what `penni_training` does
in 8 bits. Also draws accuracy over time.
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

NAME = "trained_latency"
MODELS = ("resnet20", "resnet56")
SHARES = (0.3, 0.18, 0.12)
QUANTISED_SHARES = (0.3, 0.18)
TRAINED = {
    "pairs": "penni by channel pairs with training; escalate, 8 bits",
    "elements": "penni by elements with training; escalate, 8 bits",
    "ternary": "penni; escalate with training, ternary",
}
"""What `--trained` may hold."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model file.

    Attributes:
        network: name of the network.
        form: for people.
        top1: percent on the full test set.
        nbytes: file size.
        milliseconds: median of a run, by number of threads.
        speedup: over fp32, by number of threads.
    """

    network: str
    form: str
    top1: float
    nbytes: int
    milliseconds: dict[str, float]
    speedup: dict[str, float]


def measure(
    network: str, model: Path, work: Path, trained: Path | None, numbers: Sequence[int]
) -> list[Row]:
    """All forms of one network, for some numbers of threads."""
    forms = {"fp32": model, "onnxruntime int8": work / "int8.onnx"}
    quantise(model, np.load(work / "calib.npz")["input"], forms["onnxruntime int8"])
    for share in SHARES:
        form = f"penni, {share:.0%} of parameters"
        forms[form] = work / f"penni_{share}.onnx"
        options = ["--pass", f"penni:params={share}", "--optimize-for", "latency"]
        optc("transform", model, *options, "--calib", work / "calib.npz", "-o", forms[form])
    for share in QUANTISED_SHARES:
        form = f"penni, {share:.0%} of parameters, 4 basis kernels; escalate, 8 bits"
        forms[form] = quantised(model, share, work)
    forms |= trained_forms(network, trained)
    scores = {form: score(path, work / "eval_full.npz") for form, path in forms.items()}
    timings = {
        threads: optc("bench", *forms.values(), "--threads", str(threads))[0]["models"]
        for threads in numbers
    }
    return [
        Row(
            network=network,
            form=form,
            top1=scores[form],
            nbytes=path.stat().st_size,
            milliseconds={str(n): timings[n][index]["median_ms"] for n in numbers},
            speedup={str(n): timings[n][index]["speedup"] for n in numbers},
        )
        for index, (form, path) in enumerate(forms.items())
    ]


def trained_forms(network: str, folder: Path | None) -> dict[str, Path]:
    """What a folder holds of `TRAINED`."""
    if folder is None:
        return {}
    paths = {form: folder / f"{network}_{name}.onnx" for name, form in TRAINED.items()}
    return {form: path for form, path in paths.items() if path.exists()}


def quantised(model: Path, share: float, work: Path) -> Path:
    """Decomposes, then quantises for speed; four basis kernels share an instruction."""
    small, fast = work / f"rank4_{share}.onnx", work / f"escalate_{share}.onnx"
    calibration = ("--calib", work / "calib.npz")
    optc("transform", model, "--pass", f"penni:params={share},rank=4", *calibration, "-o", small)
    options = ["--pass", "escalate:bits=8", "--optimize-for", "latency"]
    optc("transform", small, *options, *calibration, "-o", fast)
    return fast


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    numbers = list(rows[0].milliseconds)
    times = [head for n in numbers for head in (f"{n} thread(s)", "over fp32")]
    lines = [
        [
            row.network,
            row.form,
            f"{row.top1:.2f}",
            f"{row.nbytes / 1000:.0f} kB",
            *(
                cell
                for n in numbers
                for cell in (f"{row.milliseconds[n]:.3f} ms", f"{row.speedup[n]:.2f}×")
            ),
        ]
        for row in rows
    ]
    return table(["network", "form", "top-1", "file", *times], lines)


def group(form: str) -> str:
    """Kind of a form, as the chart tells them apart."""
    if "with training" in form:
        return "trained"
    if "escalate" in form:
        return "escalate"
    return "penni" if form.startswith("penni") else form


def chart(rows: Sequence[Row], network: str) -> str:
    """Accuracy over time of one network with one thread."""
    own = [row for row in rows if row.network == network]
    clouds = [
        Cloud(
            name=name,
            points=[
                Point(x=row.milliseconds["1"], y=row.top1, label=row.form, tip=row.form)
                for row in own
                if group(row.form) == name
            ],
        )
        for name in dict.fromkeys(group(row.form) for row in own)
    ]
    return scatter(
        title=f"{network}: accuracy over time, one thread",
        clouds=clouds,
        x_label="milliseconds",
        y_label="top-1, percent",
        x_log=False,
    )


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--trained", type=click.Path(exists=True, path_type=Path), default=None)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--threads", multiple=True, type=int, default=(1,), show_default=True)
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
def main(
    source: Path,
    trained: Path | None,
    out: Path,
    threads: tuple[int, ...],
    models: tuple[str, ...],
) -> None:
    """Measure all forms of some networks; rows of others stay as they were measured before."""
    rows = [Row(**row) for row in stored(NAME, out)[0] if row["network"] not in models]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_data(source, work)
        for name in models:
            model = source / "models" / f"{name}_cifar10.onnx"
            rows += measure(name, model, work, trained, threads)
    rows.sort(key=lambda row: MODELS.index(row.network))
    known = machine()
    store(NAME, rows, known, out)
    note = (
        "Made by `python -m samples.benchmarks.trained_latency --source DIR --trained FOLDER` "
        f"on {known['cpu']} ({known['isa']}, {known['cores']} cores), onnxruntime "
        f"{known['onnxruntime']}. Batch 1; medians of interleaved runs after warm-up; top-1 on the "
        "10,000 exact CIFAR-10 test images; no training but in the rows that say so, see "
        "[penni_training](penni_training.md) and [escalate_training](escalate_training.md)."
    )
    for name in dict.fromkeys(row.network for row in rows):
        (out / f"{NAME}_{name}.svg").write_text(chart(rows, name) + "\n")
    publish(NAME, ["# Trained ResNets, timed", markdown(rows), note], out)


if __name__ == "__main__":
    main()
