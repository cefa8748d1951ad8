"""Latency, size and accuracy of the trained ResNets: fp32, onnxruntime int8, and ours.

    python samples/benchmarks/trained_latency.py --source DIR --out samples/results

DIR holds `models/` and `cifar10/` (see samples/README.md). All models of a network are timed in
turns by one `optc bench`. int8 is onnxruntime's static quantisation (QDQ,
unsigned activations, signed weights per channel, the same 512 calibration images). Ours is
optimised for latency on this machine, and runs with the native kernels.
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
import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from toolchain.environment import environment

NAME = "trained_latency"
MODELS = ("resnet20", "resnet56")
SHARES = (0.3, 0.18, 0.12)


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


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images one by one."""

    def __init__(self, path: Path) -> None:
        """Opens ``calib.npz``."""
        self._images = iter(np.load(path)["input"])

    def get_next(self) -> dict[str, Any] | None:
        """The next image as feeds."""
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


def run(*arguments: str | Path) -> Any:
    """Runs an optc command and returns its JSON.

    Raises:
        SystemExit: the command failed.
    """
    program = Path(sys.executable).with_name("optc")
    done = subprocess.run([program, *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"optc {' '.join(map(str, arguments))}: exit code {done.returncode}")
    return json.loads(done.stdout)


def quantise(model: Path, calibration: Path, output: Path) -> None:
    """Static int8 quantisation by onnxruntime."""
    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(output),
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,  # with signed ones onnxruntime is slower than in fp32
        weight_type=QuantType.QInt8,
    )


def measure(network: str, model: Path, work: Path, numbers: Sequence[int]) -> list[Row]:
    """All forms of one network, for some numbers of threads."""
    forms = {"fp32": model, "onnxruntime int8": work / "int8.onnx"}
    quantise(model, work / "calib.npz", forms["onnxruntime int8"])
    for share in SHARES:
        form = f"penni, {share:.0%} of parameters"
        forms[form] = work / f"penni_{share}.onnx"
        options = ["--pass", f"penni:params={share}", "--optimize-for", "latency"]
        run("transform", model, *options, "--calib", work / "calib.npz", "-o", forms[form])
    scores = {
        form: run("eval", path, "--data", work / "eval_full.npz")["top1"]
        for form, path in forms.items()
    }
    timings = {
        threads: run("bench", *forms.values(), "--threads", str(threads))["models"]
        for threads in numbers
    }
    return [
        Row(
            network=network,
            form=form,
            top1=100 * scores[form],
            nbytes=path.stat().st_size,
            milliseconds={str(n): timings[n][index]["median_ms"] for n in numbers},
            speedup={str(n): timings[n][index]["speedup"] for n in numbers},
        )
        for index, (form, path) in enumerate(forms.items())
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    numbers = list(rows[0].milliseconds)
    times = "".join(f" {n} thread{'s' if n != '1' else ''} | over fp32 |" for n in numbers)
    lines = [
        f"| network | form | top-1 | file |{times}",
        "|---|---|---|---|" + "---|---|" * len(numbers),
    ]
    lines += [
        f"| {row.network} | {row.form} | {row.top1:.2f} | {row.nbytes / 1000:.0f} kB | "
        + " | ".join(f"{row.milliseconds[n]:.3f} ms | {row.speedup[n]:.2f}×" for n in numbers)
        + " |"
        for row in rows
    ]
    return "\n".join(lines)


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the table as Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    document = {"rows": [asdict(row) for row in rows], "environment": known}
    (out / f"{NAME}.json").write_text(json.dumps(document, indent=2) + "\n")
    note = (
        "Made by `python samples/benchmarks/trained_latency.py --source DIR` on "
        f"{known['cpu']} ({known['isa']}, {os.cpu_count()} cores), onnxruntime "
        f"{known['onnxruntime']}. Batch 1; medians of interleaved runs after warm-up; top-1 on the "
        "10,000 exact CIFAR-10 test images; no training."
    )
    (out / f"{NAME}.md").write_text(f"# Trained ResNets, timed\n\n{markdown(rows)}\n\n{note}\n")
    click.echo(markdown(rows))


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples/results"))
@click.option("--threads", multiple=True, type=int, default=(1,), show_default=True)
def main(source: Path, out: Path, threads: tuple[int, ...]) -> None:
    """Measure all forms of both networks and write the tables."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_data = Path(__file__).parents[1] / "make_data.py"
        subprocess.run([sys.executable, make_data, "--source", source, "--out", work], check=True)
        for name in MODELS:
            rows += measure(name, source / "models" / f"{name}_cifar10.onnx", work, threads)
    write(rows, environment(), out)


if __name__ == "__main__":
    main()
