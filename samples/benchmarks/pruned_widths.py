"""What onnxruntime makes of pruned widths: which multiples pay, and heads of unequal size.

    python -m samples.benchmarks.pruned_widths --out samples/results

Networks with random weights, from full width down, timed in turns (see `toolchain.bench`). Unequal
heads are run in two forms that compute the same: every head padded to the largest, as `tprune`
keeps them, or attention split into one for every size of head.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx

from samples.benchmarks.results import RESULTS, machine, publish, store, stored, table
from samples.benchmarks.svd_latency import Graph
from toolchain.bench import BenchConfig, measure
from toolchain.bench_statistics import speedup
from toolchain.inputs import input_specs, random_feeds
from toolchain.model_io import load_model
from toolchain.runner import Runner

NAME = "pruned_widths"
ROUNDS = 60
WIDTH, HEADS, SIZE = 512, 8, 64
UNEQUAL = {
    "64, 32 (4 heads each)": ((64, 4), (32, 4)),
    "64, 16 (2 and 6 heads)": ((64, 2), (16, 6)),
    "64, 56, 48, 40, 32, 24, 16, 8": tuple((size, 1) for size in range(64, 0, -8)),
}
"""Sizes of heads, with how many heads have them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form of one network.

    Attributes:
        network: for people.
        form: its width, or how its heads are run.
        threads: of onnxruntime.
        milliseconds: median.
        ratio: time of the first form of the network over this one's.
        low: of a 95 % interval of the ratio.
        high: see above.
    """

    network: str
    form: str
    threads: int
    milliseconds: float
    ratio: float
    low: float
    high: float


def feed_forward(width: int, tokens: int) -> onnx.ModelProto:
    """512 → width → 512."""
    net = Graph()
    hidden = net.op("Relu", net.linear("x", WIDTH, width))
    return net.model(net.linear(hidden, width, WIDTH), (tokens, WIDTH))


def convolutions(width: int) -> onnx.ModelProto:
    """3×3 from 64 to `width` channels and back, on 16×16."""
    net = Graph()
    return net.model(net.conv(net.conv("x", 64, width), width, 64), (64, 16, 16))


def attention(sizes: Sequence[tuple[int, int]], tokens: int) -> onnx.ModelProto:
    """Attention over 512 features; (size, number) of heads that are run together."""
    net, parts = Graph(), []
    for size, count in sizes:
        q, k, v = (_heads(net, size, count, keys=name == "k") for name in "qkv")
        scale = net.constant(np.array(SIZE**-0.5, np.float32))
        scores = net.op("Mul", net.op("MatMul", q, k), scale)
        y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        y = net.op("Transpose", y, perm=[0, 2, 1, 3])
        parts.append(net.op("Reshape", y, net.constant(np.array([0, 0, size * count]))))
    y = parts[0] if len(parts) == 1 else net.op("Concat", *parts, axis=2)
    total = sum(size * count for size, count in sizes)
    return net.model(net.linear(y, total, WIDTH), (tokens, WIDTH))


def _heads(net: Graph, size: int, count: int, *, keys: bool) -> str:
    y = net.linear("x", WIDTH, size * count)
    y = net.op("Reshape", y, net.constant(np.array([0, 0, count, size])))
    return net.op("Transpose", y, perm=[0, 2, 3, 1] if keys else [0, 2, 1, 3])


Forms = dict[str, onnx.ModelProto]


def widths(make: Callable[[int], onnx.ModelProto], numbers: Sequence[int]) -> Callable[[], Forms]:
    """A network at several widths, the full one first."""
    return lambda: {str(number): make(number) for number in numbers}


def unequal(name: str, tokens: int) -> Callable[[], Forms]:
    """The forms of attention with unequal heads."""
    sizes = UNEQUAL[name]
    mean = sum(size * count for size, count in sizes) // HEADS
    return lambda: {
        "padded to 64": attention([(SIZE, HEADS)], tokens),
        "split by size": attention(sizes, tokens),
        f"all heads at the mean, {mean}": attention([(mean, HEADS)], tokens),
    }


HIDDEN = (1024, 1023, 1022, 1020, 1016, 1008, 992, 960, 896)
FEATURES = (64, 63, 62, 60, 56, 48, 40, 32)
NETWORKS: dict[str, Callable[[], Forms]] = {
    "feed-forward layer, 128 tokens": widths(lambda n: feed_forward(n, 128), HIDDEN),
    "feed-forward layer, 1 token": widths(lambda n: feed_forward(n, 1), HIDDEN),
    "features of 8 heads, 128 tokens": widths(lambda n: attention([(n, HEADS)], 128), FEATURES),
    "channels of 3×3 convolutions": widths(convolutions, FEATURES),
    **{
        f"heads of {name}; {tokens} tokens": unequal(name, tokens)
        for name in UNEQUAL
        for tokens in (32, 128, 512)
    },
}


def measure_network(name: str, threads: int) -> list[Row]:
    """Times all forms of a network in turns."""
    with tempfile.TemporaryDirectory() as folder:
        runners: list[Runner] = []
        labels: list[str] = []
        for label, model in NETWORKS[name]().items():
            path = Path(folder, f"{len(labels)}.onnx")
            onnx.save(model, path)
            feeds = random_feeds(input_specs(load_model(path)), seed=0)
            runners.append(Runner(path, threads=threads))
            labels.append(label)
        config = BenchConfig(threads=threads, rounds=ROUNDS)
        times = measure(runners, [feeds] * len(runners), config, lambda done, total, label: None)
    rows = []
    for label, own in zip(labels, times, strict=True):
        ratio = speedup(times[0], own, 0)
        rows.append(
            Row(
                network=name,
                form=label,
                threads=threads,
                milliseconds=float(np.median(own)),
                ratio=ratio.ratio,
                low=ratio.low,
                high=ratio.high,
            )
        )
    return rows


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    store(NAME, rows, known, out)
    parts = ["# Widths of pruned networks"]
    for name in NETWORKS:
        own = [row for row in rows if row.network == name]
        lines = [
            [
                row.form,
                str(row.threads),
                f"{row.milliseconds:.3g} ms",
                f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})",
            ]
            for row in own
        ]
        headers = ("width" if own and own[0].form.isdigit() else "form", "threads", "time")
        parts += [f"## {name}", table((*headers, "times as fast"), lines)] if own else []
    note = (
        "Made by `python -m samples.benchmarks.pruned_widths` on "
        f"{known['cpu']} ({known['isa']}, {known['cores']} cores), onnxruntime "
        f"{known['onnxruntime']}, batch 1, fp32; medians of {ROUNDS} alternating rounds, in "
        "brackets the 95 % interval of the ratio to the first row. Random weights."
    )
    publish(NAME, [*parts, note], out)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--threads", default=1)
def main(out: Path, networks: tuple[str, ...], threads: int) -> None:
    """Measures networks; rows of others that are stored stay."""
    networks = networks or tuple(NETWORKS)
    old, _ = stored(NAME, out)
    rows = [Row(**row) for row in old]
    rows = [row for row in rows if row.network not in networks or row.threads != threads]
    for name in networks:
        rows += measure_network(name, threads)
    write(rows, machine(), out)


if __name__ == "__main__":
    main()
