"""Time of models before and after `optc transform --pass svd --optimize-for latency`.

    python -m samples.benchmarks.svd_latency --source DIR --out samples/results

DIR holds `models/` (see samples/README.md); the other models are made here with random weights of
rank 128 at most plus noise: a Transformer block (d = 1024) whose weights are split at that rank,
and networks that the pass decides about by itself. Each is transformed and timed at one and two
threads; runs alternate (see `toolchain.bench`). A model that would get slower is left as it is.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samples.benchmarks.results import RESULTS, machine, publish, store, stored, table
from toolchain.bench import BenchConfig, measure
from toolchain.bench_statistics import speedup
from toolchain.inputs import input_specs, random_feeds
from toolchain.model_io import load_model
from toolchain.runner import Runner

NAME = "svd_latency"
TOKENS = 128
WIDTH = 1024
RANK = 128
ROUNDS = 40

Array = NDArray[np.float32]


class Graph:
    """Adds nodes and weights of low rank plus noise."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns its output."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}.y"], name, **attributes))
        return f"{name}.y"

    def constant(self, array: NDArray[np.generic]) -> str:
        """Adds an initializer; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """MatMul and Add."""
        r = min(RANK, inputs, outputs)
        low = self.rng.standard_normal((inputs, r)) @ self.rng.standard_normal((r, outputs))
        noise = 0.1 * self.rng.standard_normal((inputs, outputs)) * np.sqrt(r)
        weight = ((low + noise) / np.sqrt(r * inputs)).astype(np.float32)
        product = self.op("MatMul", x, self.constant(weight))
        return self.op("Add", product, self.constant(np.zeros(outputs, np.float32)))

    def conv(self, x: str, inputs: int, outputs: int) -> str:
        """3×3 and Relu."""
        weight = self.rng.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)
        name = self.constant(weight.astype(np.float32))
        return self.op("Relu", self.op("Conv", x, name, pads=[1, 1, 1, 1]))

    def model(self, y: str, shape: Sequence[int], batch: int | str = "N") -> onnx.ModelProto:
        """The finished model; its batch is open unless given."""
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
            [onnx.ValueInfoProto(name=y)],
            self.weights,
        )
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def transformer_block() -> onnx.ModelProto:
    """One head of attention and an MLP of 4·d, for 128 tokens of 1024 features."""
    net, x = Graph(), "x"
    q, k, v = (net.linear(x, WIDTH, WIDTH) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    scaled = net.op("Mul", scores, net.constant(np.array(WIDTH**-0.5, np.float32)))
    mixed = net.op("MatMul", net.op("Softmax", scaled, axis=-1), v)
    x = net.op("Add", x, net.linear(mixed, WIDTH, WIDTH))
    hidden = net.op("Relu", net.linear(x, WIDTH, 4 * WIDTH))
    return net.model(net.op("Add", x, net.linear(hidden, 4 * WIDTH, WIDTH)), (TOKENS, WIDTH))


def wide_mlp(batch: int) -> onnx.ModelProto:
    """Four layers of 1024."""
    net, x = Graph(), "x"
    for _ in range(4):
        x = net.op("Relu", net.linear(x, WIDTH, WIDTH))
    return net.model(x, (WIDTH,), batch)


def convolutions() -> onnx.ModelProto:
    """Four convolutions of 128 channels on 16×16."""
    net, x = Graph(), "x"
    for index in range(4):
        x = net.conv(x, 3 if index == 0 else 128, 128)
    return net.model(x, (3, 16, 16))


MADE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "Transformer block, d = 1024": (transformer_block, f"svd:rank={RANK}"),
    "MLP, 4 × 1024": (partial(wide_mlp, 1), f"svd:rank={RANK}"),
    "MLP, 4 × 1024, batch 32": (partial(wide_mlp, 32), f"svd:rank={RANK}"),
    "4 convolutions of 128": (convolutions, "svd:macs=0.667"),
}
TRAINED = {name: "svd:macs=0.667" for name in ("resnet20", "resnet56")}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model at one number of threads.

    Attributes:
        model: for people.
        option: of the pass.
        threads: of onnxruntime.
        split: layers split; 0 where the pass leaves the model alone.
        before: median milliseconds of the input.
        after: of the output, of the input where the pass leaves it alone.
        ratio: median of before over after.
        low: of a 95 % interval of the ratio.
        high: see above.
    """

    model: str
    option: str
    threads: int
    split: int
    before: float
    after: float
    ratio: float
    low: float
    high: float


def measure_one(label: str, path: Path, option: str, threads: int, calib: Path | None) -> Row:
    """Transforms and times."""
    output = path.with_name("out.onnx")
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "toolchain.cli", "transform", path, "--pass", option]
    command += ["--optimize-for", "latency", "--threads", threads, "-o", output, "--json"]
    command += [] if calib is None else ["--calib", calib]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 4):  # 4: nothing is faster
        sys.exit(f"{label}: exit code {done.returncode}")
    split = sum(
        layer["action"] == "apply" for layer in json.loads(done.stdout)["plans"][0]["layers"]
    )
    after = output if done.returncode == 0 else path
    config = BenchConfig(threads=threads, rounds=ROUNDS)
    feeds = random_feeds(input_specs(load_model(path)), seed=0)
    runners = [Runner(each, threads=threads) for each in (path, after)]
    times = measure(runners, [feeds, feeds], config, lambda done, total, label: None)
    ratio = speedup(times[0], times[1], 0)
    return Row(
        model=label,
        option=option,
        threads=threads,
        split=split,
        before=float(np.median(times[0])),
        after=float(np.median(times[1])),
        ratio=ratio.ratio,
        low=ratio.low,
        high=ratio.high,
    )


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the table as Markdown."""
    order = [*MADE, *TRAINED]
    rows = sorted(rows, key=lambda row: (order.index(row.model), row.threads))
    store(NAME, rows, known, out)
    headers = ("model", "pass", "threads", "layers split", "before", "after", "times as fast")
    lines = [
        [
            row.model,
            f"`{row.option}`",
            str(row.threads),
            str(row.split),
            f"{row.before:.3g} ms",
            f"{row.after:.3g} ms",
            f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})",
        ]
        for row in rows
    ]
    note = (
        "Made by `python -m samples.benchmarks.svd_latency --source DIR` on "
        f"{known['cpu']} ({known['isa']}, {known['cores']} cores), onnxruntime "
        f"{known['onnxruntime']}, batch 1 unless named; medians of {ROUNDS} alternating rounds, in "
        "brackets the 95 % interval of the ratio. `optc transform --pass ... --optimize-for "
        "latency`; where 0 layers are split nothing was faster and the model is its own output, so "
        "the ratio shows the noise. The Transformer block, the MLP and the 4 convolutions have "
        "random weights. The products of the split MLP at batch 1 take 8 µs each, too little to "
        "share between threads."
    )
    publish(NAME, ["# SVD: time", table(headers, lines), note], out)


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--model", "models", multiple=True, type=click.Choice([*MADE, *TRAINED]))
def main(source: Path, out: Path, models: tuple[str, ...]) -> None:
    """Measures models at one and two threads; rows of others that are stored stay."""
    models = models or (*MADE, *TRAINED)
    old, _ = stored(NAME, out)
    rows = [Row(**row) for row in old if row["model"] not in models]
    known = machine()
    with tempfile.TemporaryDirectory() as folder:
        for label, (make, option) in MADE.items():
            if label not in models:
                continue
            path = Path(folder, "model.onnx")
            onnx.save(make(), path)
            rows += [measure_one(label, path, option, threads, None) for threads in (1, 2)]
            write(rows, known, out)
        for name, option in TRAINED.items():
            if name not in models:
                continue
            path = Path(folder, f"{name}.onnx")
            path.write_bytes((source / "models" / f"{name}_cifar10.onnx").read_bytes())
            rows += [measure_one(name, path, option, threads, None) for threads in (1, 2)]
            write(rows, known, out)


if __name__ == "__main__":
    main()
