"""Speed of the native kernel, layer by layer and density by density.

    python -m samples.benchmarks.native_layers

Every 3×3 convolution shape of ResNet-18, ResNet-50 and VGG-16 (224×224 and CIFAR images), with
random weights: onnxruntime's fp32 and int8 against the native kernel, 5 basis kernels with single
coefficients kept or 4 with whole channel pairs. Batch 1; all models of a shape are timed in turns.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from runtimes import native_build, ort
from runtimes.operators.decomposed_conv import initializer
from samples.benchmarks.random_networks import Structure, single_conv
from samples.benchmarks.results import RESULTS, machine, native_library, publish, store, table
from toolchain.bench import BenchConfig, Candidate, feeds_of, measure
from toolchain.bench_statistics import latency
from toolchain.console import say
from toolchain.inputs import input_specs
from toolchain.runner import Runner

NAME = "native_layers"
DENSITIES = (0.5, 0.25, 0.1, 0.05, 0.03, 0.01)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A 3×3 convolution with padding 1.

    Attributes:
        networks: where it occurs.
        C: input channels.
        K: output channels.
        image: height and width of the input.
        stride: of both axes.
    """

    networks: str
    C: int
    K: int
    image: int
    stride: int = 1

    @property
    def label(self) -> str:
        """``64→128, 32×32 /2``."""
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return f"{self.C}→{self.K}, {self.image}×{self.image}{stride}"


SHAPES = (
    Shape(networks="ResNet-18, VGG-16 (CIFAR)", C=64, K=64, image=32),
    Shape(networks="ResNet-18 (CIFAR)", C=64, K=128, image=32, stride=2),
    Shape(networks="ResNet-18, VGG-16 (CIFAR)", C=128, K=128, image=16),
    Shape(networks="VGG-16 (CIFAR)", C=128, K=256, image=8),
    Shape(networks="ResNet-18, VGG-16 (CIFAR)", C=256, K=256, image=8),
    Shape(networks="ResNet-18 (CIFAR)", C=256, K=512, image=8, stride=2),
    Shape(networks="ResNet-18, VGG-16 (CIFAR)", C=512, K=512, image=4),
    Shape(networks="VGG-16 (CIFAR)", C=512, K=512, image=2),
    Shape(networks="ResNet-18, ResNet-50", C=64, K=64, image=56),
    Shape(networks="ResNet-18", C=64, K=128, image=56, stride=2),
    Shape(networks="ResNet-18, ResNet-50", C=128, K=128, image=28),
    Shape(networks="ResNet-18, ResNet-50", C=256, K=256, image=14),
    Shape(networks="ResNet-18, ResNet-50", C=512, K=512, image=7),
    Shape(networks="VGG-16", C=64, K=64, image=224),
    Shape(networks="VGG-16", C=64, K=128, image=112),
    Shape(networks="VGG-16", C=128, K=128, image=112),
    Shape(networks="VGG-16", C=256, K=256, image=56),
    Shape(networks="VGG-16", C=512, K=512, image=28),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One shape.

    Attributes:
        networks: where it occurs.
        shape: for people.
        macs: of the dense convolution, one sample.
        threads: of onnxruntime.
        fp32_ms: onnxruntime's fp32, median.
        int8_ms: onnxruntime's int8, median.
        element_ms: ours by density, single coefficients.
        pair_ms: ours by density, channel pairs.
    """

    networks: str
    shape: str
    macs: int
    threads: int
    fp32_ms: float
    int8_ms: float
    element_ms: dict[str, float]
    pair_ms: dict[str, float]


def int8_conv(shape: Shape) -> ir.Model:
    """The convolution as onnxruntime runs it within an int8 model: uint8 in, uint8 out."""
    rng = np.random.default_rng(0)
    size = (shape.K, shape.C, 3, 3)
    weights = rng.integers(-127, 128, size, dtype=np.int8)
    scales = np.full(shape.K, np.sqrt(2 / (9 * shape.C)) / 50, np.float32)
    arrays = {
        "x_scale": np.float32(0.03),
        "zero": np.uint8(128),
        "w": weights,
        "w_scale": scales,
        "w_zero": np.zeros(shape.K, np.int8),
        "bias": rng.integers(-1000, 1000, shape.K, dtype=np.int32),
        "bias_scale": scales * np.float32(0.03),
        "bias_zero": np.zeros(shape.K, np.int32),
        "y_scale": np.float32(0.03),
        "y_zero": np.uint8(0),
    }
    known = {key: initializer(key, np.asarray(array)) for key, array in arrays.items()}
    x = ir.Value(
        name="input",
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape(["N", shape.C, shape.image, shape.image]),
    )
    read = ir.node("DequantizeLinear", [x, known["x_scale"], known["zero"]])
    kernel = ir.node(
        "DequantizeLinear", [known[k] for k in ("w", "w_scale", "w_zero")], {"axis": 0}
    )
    bias = ir.node(
        "DequantizeLinear", [known[f"bias{k}"] for k in ("", "_scale", "_zero")], {"axis": 0}
    )
    geometry = {"strides": [shape.stride] * 2, "pads": [1] * 4}
    conv = ir.node("Conv", [read.outputs[0], kernel.outputs[0], bias.outputs[0]], geometry)
    relu = ir.node("Relu", [conv.outputs[0]])
    out = ir.node("QuantizeLinear", [relu.outputs[0], known["y_scale"], known["y_zero"]])
    nodes = [read, kernel, bias, conv, relu, out]
    for index, node in enumerate(nodes):
        node.outputs[0].name = f"y{index}"
    size_out = (shape.image - 1) // shape.stride + 1
    out.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    out.outputs[0].shape = ir.Shape(["N", shape.K, size_out, size_out])
    graph = ir.Graph(
        [x],
        [out.outputs[0]],
        nodes=nodes,
        initializers=list(known.values()),
        opset_imports={"": 17},
        name="int8",
    )
    return ir.Model(graph, ir_version=8)


def time_shape(shape: Shape, library: Path, config: BenchConfig) -> Row:
    """Times one shape in all its forms."""
    structures = [
        Structure(density=density, rank=rank, pair=pair)
        for rank, pair in ((5, False), (4, True))
        for density in DENSITIES
    ]
    size = (shape.C, shape.K, shape.image, shape.stride)
    models = [single_conv(None, *size), int8_conv(shape)]
    models += [single_conv(structure, *size) for structure in structures]
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        candidates = []
        for index, model in enumerate(models):
            path = Path(folder, f"{index}.onnx")
            ort.save(model, path)
            native = library if index > 1 else None
            candidates.append(
                Candidate(path=path, inputs=input_specs(model), nbytes=0, native=native)
            )
        runners = [Runner(c.path, threads=config.threads, native=c.native) for c in candidates]
        feeds = [feeds_of(candidate, config) for candidate in candidates]
        times = measure(runners, feeds, config, lambda done, total, label: None)
    medians = [latency(own).median for own in times]
    n = len(DENSITIES)
    out = (shape.image - 1) // shape.stride + 1
    names = [f"{density:g}" for density in DENSITIES]
    return Row(
        networks=shape.networks,
        shape=shape.label,
        macs=9 * shape.C * shape.K * out * out,
        threads=config.threads,
        fp32_ms=medians[0],
        int8_ms=medians[1],
        element_ms=dict(zip(names, medians[2 : 2 + n], strict=True)),
        pair_ms=dict(zip(names, medians[2 + n :], strict=True)),
    )


def markdown(rows: Sequence[Row], kind: str) -> str:
    """Speed over fp32 by density, for one kind of sparsity."""
    densities = [f"{density:g}" for density in DENSITIES]
    headers = ["in", "3×3 convolution", "fp32", "int8", "over fp32"]
    headers += [f"{float(d):.0%}" for d in densities]
    lines = []
    for row in rows:
        own = row.element_ms if kind == "element" else row.pair_ms
        lines.append(
            [
                row.networks,
                row.shape,
                f"{row.fp32_ms:.3g} ms",
                f"{row.int8_ms:.3g} ms",
                f"{row.fp32_ms / row.int8_ms:.1f}×",
                *(f"{row.fp32_ms / own[d]:.1f}×" for d in densities),
            ]
        )
    return table(headers, lines)


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    store(NAME, rows, known, out)
    intro = (
        "Random weights, one sample. Times are medians of interleaved runs, session overhead "
        "included; the last columns say how many times faster than onnxruntime's fp32 the native "
        "kernel is with the share of coefficients named. int8 reads and writes uint8, weights per "
        "channel."
    )
    parts = ["# The native kernel, layer by layer", intro]
    for threads in dict.fromkeys(row.threads for row in rows):
        own = [row for row in rows if row.threads == threads]
        parts += [
            f"## Single coefficients, 5 basis kernels, {threads} thread(s)",
            markdown(own, "element"),
            f"## Channel pairs, 4 basis kernels, {threads} thread(s)",
            markdown(own, "pair"),
        ]
    note = (
        f"Made by `python -m samples.benchmarks.native_layers` on {known['cpu']} ({known['isa']}, "
        f"{known['cores']} cores), native kernels for {known['kernels']}, onnxruntime "
        f"{known['onnxruntime']}."
    )
    publish(NAME, [*parts, note], out)


@click.command()
@click.option("--threads", multiple=True, type=int, default=(1,), show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="Longest time of a shape.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(threads: tuple[int, ...], seconds: float, out: Path) -> None:
    """Time all shapes and write the tables."""
    library = native_library()
    rows = []
    for number in threads:
        config = BenchConfig(threads=number, rounds=15, warmup=0.05, seconds=seconds)
        for shape in SHAPES:
            rows.append(time_shape(shape, library, config))
            say(f"{shape.label}: {rows[-1].fp32_ms / rows[-1].element_ms['0.1']:.1f}× at 10 %")
    write(rows, {**machine(), "kernels": native_build.instruction_set(library)}, out)


if __name__ == "__main__":
    main()
