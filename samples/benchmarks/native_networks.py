"""Speed of the native kernel on whole networks with random weights.

    python -m samples.benchmarks.native_networks

Pure speed: the models compute nothing useful. Every 3×3 convolution but the first is decomposed
into 5 basis kernels and sparse coefficients, at densities that PENNI reaches by training. 1×1
convolutions stay dense. Rivals are onnxruntime's fp32 and int8 and, where it is installed,
OpenVINO's fp32. All models of a network are timed in turns (see `toolchain.bench`).

With ``OPTC_ISA=avx2`` our kernels are held to AVX2, and the tables get a name of their own;
onnxruntime and OpenVINO have no such setting and use all that the processor has.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from passes.cost import model_cost
from runtimes import native_build, ort
from samples.benchmarks.random_networks import NETWORKS, Structure
from samples.benchmarks.results import (
    RESULTS,
    machine,
    native_library,
    publish,
    store,
    stored,
    table,
)
from samples.benchmarks.rivals import OpenVino, quantise
from toolchain.bench import BenchConfig, Candidate, feeds_of, measure, probe
from toolchain.bench_statistics import latency, speedup
from toolchain.console import say
from toolchain.inputs import input_specs
from toolchain.runner import Feeds, Runner

NAME = "native_networks" + "".join(f"_{isa}" for isa in [os.environ.get("OPTC_ISA")] if isa)
STRUCTURES = tuple(
    Structure(density=density, rank=rank, pair=pair)
    for rank, pair in ((5, False), (4, True))
    for density in (0.25, 0.1, 0.07)
)
CALIBRATION = 8
"""Random inputs that fix the int8 ranges: accuracy does not matter here."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model at one setting.

    Attributes:
        network: its name.
        form: what runs it, and how sparse it is.
        threads: of onnxruntime or OpenVINO.
        batch: samples a run.
        milliseconds: median of a run.
        p10: a tenth of the runs were faster.
        p90: a tenth of the runs were slower.
        speedup: over onnxruntime's fp32.
        low: lower end of its 95 % interval.
        high: its upper end.
        macs: multiply-accumulates of one sample, zeros left out; None where not counted.
        nbytes: file size.
        peak_bytes: memory at its highest; None for OpenVINO.
        create_seconds: time to create the session; None for OpenVINO.
    """

    network: str
    form: str
    threads: int
    batch: int
    milliseconds: float
    p10: float
    p90: float
    speedup: float
    low: float
    high: float
    macs: int | None
    nbytes: int
    peak_bytes: int | None = None
    create_seconds: float | None = None

    @property
    def gflops(self) -> float | None:
        """10⁹ operations a second, two a multiply-accumulate."""
        return None if self.macs is None else 2 * self.macs * self.batch / self.milliseconds / 1e6


@dataclass(frozen=True, kw_only=True)
class Form:
    """A model file and what runs it."""

    name: str
    candidate: Candidate
    macs: int | None = None
    openvino: bool = False

    def runner(self, feeds: Feeds, threads: int) -> Callable[[Feeds], object]:
        """Opens the model."""
        candidate = self.candidate
        if self.openvino:
            return OpenVino(candidate.path, feeds, threads=threads)
        return Runner(candidate.path, threads=threads, native=candidate.native)


def forms_of(
    network: str, work: Path, library: Path, structures: Sequence[Structure]
) -> list[Form]:
    """Writes all forms of a network to a folder."""
    dense = save("onnxruntime fp32", NETWORKS[network](None), work / "dense.onnx", None)
    [spec] = dense.candidate.inputs
    shape = (CALIBRATION, *(size for size in spec.shape[1:] if isinstance(size, int)))
    samples = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    int8 = work / "int8.onnx"
    quantise(dense.candidate.path, samples, int8)
    forms = [dense, Form(name="onnxruntime int8", candidate=candidate_of(int8, dense, None))]
    if has_openvino():
        forms.append(Form(name="OpenVINO fp32", candidate=dense.candidate, openvino=True))
    for index, each in enumerate(structures):
        kind = "pairs" if each.pair else "coefficients"
        name = f"{each.density:.0%} of {kind}, {each.rank} basis kernels"
        forms.append(save(name, NETWORKS[network](each), work / f"{index}.onnx", library))
    return forms


def save(name: str, model: ir.Model, path: Path, library: Path | None) -> Form:
    """Writes a model."""
    ort.save(model, path)
    candidate = Candidate(
        path=path, inputs=input_specs(model), nbytes=path.stat().st_size, native=library
    )
    return Form(name=name, candidate=candidate, macs=model_cost(model).macs)


def candidate_of(path: Path, like: Form, library: Path | None) -> Candidate:
    """Another file with the same inputs."""
    inputs = like.candidate.inputs
    return Candidate(path=path, inputs=inputs, nbytes=path.stat().st_size, native=library)


def has_openvino() -> bool:
    """Whether OpenVINO is installed; says so if not."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        say("openvino is not installed (pip install '.[bench]'): its rows are left out")
        return False
    return True


def rows_of(network: str, forms: Sequence[Form], config: BenchConfig) -> list[Row]:
    """Times all forms in turns; memory and session creation only with one thread and sample."""
    feeds = [feeds_of(form.candidate, config) for form in forms]
    runners = [f.runner(fed, config.threads) for f, fed in zip(forms, feeds, strict=True)]
    times = measure(runners, feeds, config, lambda done, total, label: None)
    probed = config.threads == config.batch == 1
    rows = []
    for form, fed, own in zip(forms, feeds, times, strict=True):
        ratio, spread = speedup(times[0], own, config.seed), latency(own)
        peak, create = (None, None)
        if probed and not form.openvino:
            peak, create = probe(form.candidate, fed, config.threads)
        rows.append(
            Row(
                network=network,
                form=form.name,
                threads=config.threads,
                batch=config.batch,
                milliseconds=spread.median,
                p10=spread.p10,
                p90=spread.p90,
                speedup=ratio.ratio,
                low=ratio.low,
                high=ratio.high,
                macs=form.macs,
                nbytes=form.candidate.nbytes,
                peak_bytes=peak,
                create_seconds=create,
            )
        )
    return rows


def peak_gflops() -> float:
    """What one core reaches at best: onnxruntime's product of two 1024×1024 matrices."""
    size = 1024
    square = ir.Shape([size, size])
    a, b = (ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT), shape=square) for n in "ab")
    node = ir.node("MatMul", [a, b])
    product = node.outputs[0]
    product.name, product.type, product.shape = "y", a.type, square
    graph = ir.Graph([a, b], [product], nodes=[node], opset_imports={"": 17}, name="peak")
    runner = Runner(Path("peak"), ir.Model(graph, ir_version=8), threads=1)
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((size, size), dtype=np.float32) for n in "ab"}
    [times] = measure([runner], [feeds], BenchConfig(rounds=10), lambda done, total, label: None)
    return 2 * size**3 / float(np.median(times)) / 1e6


def markdown(rows: Sequence[Row], peak: float) -> list[str]:
    """A heading and a table for each network, thread count and batch size."""
    parts = []
    for key in dict.fromkeys((row.network, row.threads, row.batch) for row in rows):
        network, threads, batch = key
        own = [row for row in rows if (row.network, row.threads, row.batch) == key]
        parts += [f"## {network}, {threads} thread(s), batch {batch}", _table(own, peak)]
    return parts


def _table(rows: Sequence[Row], peak: float) -> str:
    headers = ["form", "median", "p10 to p90", "over fp32", "95 %", "GFLOP/s", "of peak", "file"]
    probed = any(row.peak_bytes for row in rows)
    lines = []
    for row in rows:
        rate, share = "–", "–"
        if row.gflops is not None:
            rate, share = f"{row.gflops:.0f}", f"{row.gflops / row.threads / peak:.0%}"
        line = [
            row.form,
            f"{row.milliseconds:.3g} ms",
            f"{row.p10:.3g} to {row.p90:.3g}",
            f"{row.speedup:.2f}×",
            f"{row.low:.2f} to {row.high:.2f}",
            rate,
            share,
            f"{row.nbytes / 1e6:.2f} MB",
        ]
        if probed:
            line.append("–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f} MB")
            line.append("–" if row.create_seconds is None else f"{1e3 * row.create_seconds:.0f} ms")
        lines.append(line)
    return table(headers + (["memory", "create"] if probed else []), lines)


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    store(NAME, rows, known, out)
    peak = float(known["peak GFLOP/s"])
    intro = (
        "Random weights with the sparsity named: pure speed, the models compute nothing useful. "
        "Every 3×3 convolution but the first is decomposed; other layers are dense in all forms. "
        "Times are medians of interleaved runs. *GFLOP/s* counts multiply-accumulates of nonzero "
        "weights only; *of peak* is their share of what onnxruntime's best matrix product "
        f"(1024 × 1024) reaches on a core, {peak:.0f} GFLOP/s. *memory* is the highest while "
        "loading and running, *create* the time to create the session."
    )
    note = (
        f"Made by `python -m samples.benchmarks.native_networks` on {known['cpu']} "
        f"({known['isa']}, {known['cores']} cores), native kernels for {known['kernels']}, "
        f"onnxruntime {known['onnxruntime']}, OpenVINO {known['openvino']}. int8: static QDQ, "
        "weights per channel, unsigned activations."
    )
    publish(
        NAME, ["# The native kernel on whole networks", intro, *markdown(rows, peak), note], out
    )


@click.command()
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 8), show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Longest time of a table.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(
    networks: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    seconds: float,
    out: Path,
) -> None:
    """Time all forms of some networks; rows of others stay as they were measured before."""
    library = native_library()
    rows: list[Row] = []
    for network in networks or NETWORKS:
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            forms = forms_of(network, Path(folder), library, STRUCTURES)
            for batch in batches:
                for number in threads:
                    config = BenchConfig(threads=number, batch=batch, rounds=40, seconds=seconds)
                    rows += rows_of(network, forms, config)
                    say(f"{network}, {number} thread(s), batch {batch}: done")
    measured = {(row.network, row.threads, row.batch) for row in rows}
    before = [Row(**row) for row in stored(NAME, out)[0]]
    kept = [row for row in before if (row.network, row.threads, row.batch) not in measured]
    order = list(NETWORKS)
    rows = sorted([*kept, *rows], key=lambda r: (order.index(r.network), r.batch, r.threads))
    known = {
        **machine(),
        "kernels": native_build.instruction_set(library),
        "peak GFLOP/s": f"{peak_gflops():.1f}",
    }
    write(rows, known, out)


if __name__ == "__main__":
    main()
