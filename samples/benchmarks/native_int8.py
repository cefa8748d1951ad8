"""Speed of the hybrid kernel on ResNet-18 and VGG-16 (CIFAR shape) against onnxruntime's int8.

    python -m samples.benchmarks.native_int8

Random weights, pure speed: the models compute nothing useful. Every 3×3 convolution but the first
becomes a HybridDecomposedConv of 4 basis kernels, with a share of channel pairs (8-bit) or of
single ternary coefficients kept. The rivals are the same network in fp32 and in int8: static QDQ,
uint8 activations (the faster choice on x86), int8 weights with a scale per channel. The first
convolution and the 1×1 shortcuts are int8 in all quantised models, in the hybrid kernel where there
is one; the classifier is that of the rival. Models are timed in turns (see `toolchain.bench`).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from runtimes import native_build, ort
from samples.benchmarks.quantised_networks import FORMS, NETWORKS, Network
from samples.benchmarks.results import (
    RESULTS,
    machine,
    native_library,
    publish,
    store,
    stored,
    table,
)
from toolchain.bench import BenchConfig, Candidate, feeds_of, measure
from toolchain.bench_statistics import latency, speedup
from toolchain.inputs import input_specs
from toolchain.runner import Runner

NAME = "native_int8"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form of a network.

    Attributes:
        network: its name.
        form: what the 3×3 convolutions are.
        threads: of onnxruntime.
        milliseconds: median of a run.
        p10: a tenth of the runs were faster.
        p90: a tenth of the runs were slower.
        over_int8: how many times faster than onnxruntime's int8.
        low: lower end of its 95 % interval.
        high: its upper end.
        over_fp32: how many times faster than onnxruntime's fp32.
        nbytes: file size.
    """

    network: str
    form: str
    threads: int
    milliseconds: float
    p10: float
    p90: float
    over_int8: float
    low: float
    high: float
    over_fp32: float
    nbytes: int


def time_network(network: str, library: Path, config: BenchConfig) -> list[Row]:
    """Times all forms of a network in turns."""
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        candidates = []
        for index, form in enumerate(FORMS):
            model = Network(form).build(NETWORKS[network])
            path = Path(folder, f"{index}.onnx")
            ort.save(model, path)
            inputs, nbytes = input_specs(model), path.stat().st_size
            candidates.append(Candidate(path=path, inputs=inputs, nbytes=nbytes, native=library))
        runners = [Runner(c.path, threads=config.threads, native=library) for c in candidates]
        feeds = [feeds_of(candidate, config) for candidate in candidates]
        times = measure(runners, feeds, config, lambda done, total, label: None)
    int8, fp32 = times[:2]
    rows = []
    for form, candidate, own in zip(FORMS, candidates, times, strict=True):
        spread, ratio = latency(own), speedup(int8, own, config.seed)
        rows.append(
            Row(
                network=network,
                form=str(form),
                threads=config.threads,
                milliseconds=spread.median,
                p10=spread.p10,
                p90=spread.p90,
                over_int8=ratio.ratio,
                low=ratio.low,
                high=ratio.high,
                over_fp32=speedup(fp32, own, config.seed).ratio,
                nbytes=candidate.nbytes,
            )
        )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table of one network and number of threads."""
    headers = ["3×3 convolutions", "median", "p10 to p90", "over int8", "95 %", "over fp32", "file"]
    lines = [
        [
            row.form,
            f"{row.milliseconds:.3g} ms",
            f"{row.p10:.3g} to {row.p90:.3g}",
            f"{row.over_int8:.2f}×",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.over_fp32:.1f}×",
            f"{row.nbytes / 1e6:.2f} MB",
        ]
        for row in rows
    ]
    return table(headers, lines)


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    store(NAME, rows, known, out)
    intro = (
        "Random weights, pure speed: the models compute nothing useful. Every 3×3 convolution but "
        "the first is decomposed into 4 basis kernels; *pair* keeps a share of the channel pairs "
        "in 8 bits, *ternary* a share of single coefficients. The first convolution and the 1×1 "
        "shortcuts, int8 as well, run in the hybrid kernel; the classifier is onnxruntime's int8. "
        "Batch 1; medians of interleaved runs."
    )
    parts = ["# The hybrid kernel against onnxruntime's int8", intro]
    for network, threads in dict.fromkeys((row.network, row.threads) for row in rows):
        own = [row for row in rows if (row.network, row.threads) == (network, threads)]
        parts += [f"## {network} (CIFAR shape), {threads} thread(s)", markdown(own)]
    note = (
        f"Made by `python -m samples.benchmarks.native_int8` on {known['cpu']} ({known['isa']}, "
        f"{known['cores']} cores), native kernels for {known['kernels']}, onnxruntime "
        f"{known['onnxruntime']}. int8: static QDQ, weights per channel, unsigned activations. "
        "Two threads: a virtual machine's second core may be near or far (a cache line takes 0.05 "
        "or 0.2 µs from core to core), which changes within seconds; shown is a run on near cores. "
        "On far ones, where small layers run alone, ResNet-18 had 3.4, 2.2 and 1.8 over int8 at "
        "10, 25 and 100 % of pairs, and 2.8 and 1.8 for ternary ones at 7 and 30 %."
    )
    publish(NAME, [*parts, note], out)


@click.command()
@click.option("--network", "networks", multiple=True, type=click.Choice([*NETWORKS]))
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--rounds", default=40, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(networks: tuple[str, ...], threads: tuple[int, ...], rounds: int, out: Path) -> None:
    """Time all forms of some networks; rows of others stay as they were measured before."""
    library = native_library()
    rows = []
    for network in networks or NETWORKS:
        for number in threads:
            config = BenchConfig(threads=number, rounds=rounds)
            rows += time_network(network, library, config)
    measured = {(row.network, row.threads) for row in rows}
    before = [Row(**row) for row in stored(NAME, out)[0]]
    rows += [row for row in before if (row.network, row.threads) not in measured]
    rows.sort(key=lambda row: ([*NETWORKS].index(row.network), row.threads))
    known = {**machine(), "kernels": native_build.hybrid_instruction_set(library)}
    write(rows, known, out)


if __name__ == "__main__":
    main()
