"""Speed of the native kernel on ResNet-18 (CIFAR shape) against onnxruntime's dense convolution.

    python samples/benchmarks/native_resnet18.py --density 0.25,0.1,0.07

Random weights, pure speed: the models compute nothing useful. Every 3×3 convolution but the
first is decomposed into a shared basis and sparse coefficients; the first convolution and the
1×1 shortcuts stay dense, in all models. Models are timed in turns (see `toolchain.bench`).
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes import native_build
from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import (
    ConvGeometry,
    DecomposedWeights,
    FusedActivation,
    make_node,
)
from runtimes.operators.decomposed_conv_function import add_functions
from toolchain.bench import BenchConfig, BenchResult, Candidate, bench
from toolchain.console import format_bytes, format_ms, print_table, say
from toolchain.environment import environment
from toolchain.inputs import InputSpec, input_specs

Array = NDArray[np.float32]

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2
CLASSES = 10
RELU = FusedActivation(name="Relu")


class ResNet18:
    """Builds the network node by node; `density` None leaves every convolution dense."""

    def __init__(self, density: float | None, *, rank: int, pair: bool, seed: int) -> None:
        self.density, self.rank, self.pair = density, rank, pair
        self.rng = np.random.default_rng(seed)
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def build(self) -> ir.Model:
        """The model: input (N, 3, 32, 32), output (N, 10)."""
        x = ir.Value(
            name="input",
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(["N", 3, 32, 32]),
        )
        y, channels = self.relu(self.dense_conv(x, 3, 64, kernel=3)), 64
        for stage, width in enumerate(WIDTHS):
            for block in range(BLOCKS):
                stride = 2 if stage and not block else 1
                y, channels = self.block(y, channels, width, stride), width
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [y])])
        weights = [self.constant("fc", (CLASSES, channels)), self.constant("fc_bias", (CLASSES,))]
        logits = self.node("Gemm", [pooled, *weights], {"transB": 1})
        logits.type = ir.TensorType(ir.DataType.FLOAT)
        logits.shape = ir.Shape(["N", CLASSES])
        graph = ir.Graph(
            [x],
            [logits],
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": 17, DOMAIN: DOMAIN_VERSION},
            name="resnet18",
        )
        model = ir.Model(graph, ir_version=8)
        add_functions(model, [node.op_type for node in self.nodes if node.domain == DOMAIN])
        return model

    def block(self, x: ir.Value, channels: int, width: int, stride: int) -> ir.Value:
        """Relu(conv(Relu(conv(x))) + shortcut(x))."""
        shortcut = x
        if stride != 1 or channels != width:
            shortcut = self.dense_conv(x, channels, width, kernel=1, stride=stride)
        inner = self.conv3x3(x, channels, width, stride)
        return self.conv3x3(inner, width, width, 1, residual=shortcut)

    def conv3x3(
        self, x: ir.Value, C: int, K: int, stride: int, residual: ir.Value | None = None
    ) -> ir.Value:
        """A convolution with bias, residual and Relu, decomposed or dense."""
        if self.density is None:
            y = self.dense_conv(x, C, K, kernel=3, stride=stride)
            return self.relu(y if residual is None else self.node("Add", [y, residual]))
        node, initializers = make_node(
            x,
            self.factors(C, K),
            ConvGeometry(strides=(stride, stride), pads=(1, 1, 1, 1), dilations=(1, 1)),
            name=f"conv{len(self.nodes)}",
            residual=residual,
            activation=RELU,
        )
        self.initializers += initializers
        return self.append(node)

    def factors(self, C: int, K: int) -> DecomposedWeights:
        """Random factors that keep the variance of activations near 1."""
        assert self.density is not None
        shape = (K, C, self.rank)
        kept = self.rng.random((K, C, 1) if self.pair else shape) < self.density
        scale = np.sqrt(2 / (9 * C * self.rank * self.density))
        return DecomposedWeights(
            basis=self.normal((self.rank, 3, 3)),
            coefficients=(self.normal(shape) * kept * scale).astype(np.float32),
            bias=(self.normal((K,)) / 10).astype(np.float32),
        )

    def dense_conv(self, x: ir.Value, C: int, K: int, *, kernel: int, stride: int = 1) -> ir.Value:
        """An ordinary Conv with padding that keeps the image size at stride 1."""
        shape = (K, C, kernel, kernel)
        weight = self.constant(f"w{len(self.nodes)}", shape, np.sqrt(2 / (C * kernel**2)))
        bias = self.constant(f"b{len(self.nodes)}", (K,), 0.1)
        geometry = {"strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.node("Conv", [x, weight, bias], geometry)

    def relu(self, x: ir.Value) -> ir.Value:
        """A Relu node."""
        return self.node("Relu", [x])

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, object] | None = None,
    ) -> ir.Value:
        """A standard node of one output."""
        return self.append(ir.node(op_type, inputs, attributes or {}))  # type: ignore[arg-type]

    def append(self, node: ir.Node) -> ir.Value:
        """Adds a node; returns its output."""
        node.outputs[0].name = f"y{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, shape: tuple[int, ...], scale: float = 1.0) -> ir.Value:
        """An initializer drawn from N(0, scale²)."""
        tensor = ir.tensor((self.normal(shape) * scale).astype(np.float32), name=name)
        value = ir.Value(
            name=name,
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(shape),
        )
        self.initializers.append(value)
        return value

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Draws from N(0, 1)."""
        return self.rng.standard_normal(shape, dtype=np.float32)


@click.command()
@click.option("--density", default="0.25,0.1,0.07", show_default=True, help="Shares kept.")
@click.option("--rank", default=5, show_default=True, help="Basis kernels of a layer.")
@click.option("--pair", is_flag=True, help="Drop whole channel pairs, not single coefficients.")
@click.option("--threads", default=1, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--rounds", default=40, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
def main(
    density: str, rank: int, pair: bool, threads: int, batch: int, rounds: int, as_json: bool
) -> None:
    """Time dense and decomposed ResNet-18 side by side."""
    try:
        library = native_build.library_path(report=say)
    except native_build.NativeError as error:
        raise click.ClickException(str(error)) from error
    densities = [None, *(float(text) for text in density.split(","))]
    config = BenchConfig(threads=threads, batch=batch, rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        candidates = []
        for each in densities:
            model = ResNet18(each, rank=rank, pair=pair, seed=0).build()
            path = Path(folder, "dense.onnx" if each is None else f"density_{each:g}.onnx")
            ir.save(model, path)
            candidates.append(_candidate(path, input_specs(model), library))
        results = bench(candidates, config)
    known = {**environment(threads), "kernels": native_build.instruction_set(library)}
    setting = {"rank": rank, "granularity": "pair" if pair else "element", "batch": batch}
    if as_json:
        rows = [_row(each, result) for each, result in zip(densities, results, strict=True)]
        click.echo(json.dumps({"environment": known, **setting, "results": rows}, indent=2))
    else:
        _print(densities, results)
        say(f"\nrandom weights, pure speed; {setting}\n{known}")


def _candidate(path: Path, inputs: Sequence[InputSpec], library: Path) -> Candidate:
    return Candidate(path=path, inputs=inputs, nbytes=path.stat().st_size, native=library)


def _row(density: float | None, result: BenchResult) -> dict[str, object]:
    return {
        "density": density,
        "median_ms": result.latency.median,
        "p10_ms": result.latency.p10,
        "p90_ms": result.latency.p90,
        "speedup": result.speedup.ratio,
        "speedup_95": [result.speedup.low, result.speedup.high],
        "bytes": result.nbytes,
        "peak_bytes": result.peak_bytes,
        "create_seconds": result.create_seconds,
    }


def _print(densities: Sequence[float | None], results: Sequence[BenchResult]) -> None:
    headers = ("density", "median ms", "p10", "p90", "speedup", "95 %", "size", "memory", "create")
    rows = []
    for density, result in zip(densities, results, strict=True):
        times, ratio = result.latency, result.speedup
        rows.append(
            [
                "dense" if density is None else f"{density:g}",
                *(format_ms(time) for time in (times.median, times.p10, times.p90)),
                f"{ratio.ratio:.2f}×",
                f"{ratio.low:.2f} to {ratio.high:.2f}",
                format_bytes(result.nbytes),
                format_bytes(result.peak_bytes),
                f"{1000 * result.create_seconds:.0f} ms",
            ]
        )
    print_table(headers, rows)


if __name__ == "__main__":
    main()
