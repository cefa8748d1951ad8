"""Time and memory of the simulator, and how they grow with the number of tiles.

    python -m samples.benchmarks.simulator_speed [MODEL ...]

Random ternary ResNet-18 at growing image sizes, and the models named, on ESCALATE.
"""

import resource
import time
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from runtimes.accelerator.architecture_file import load_shipped
from runtimes.accelerator.network import run_network
from runtimes.accelerator.simulator import simulate
from samples.benchmarks.accelerator_comparison import RANK, Ternary
from samples.benchmarks.random_networks import resnet18_cifar, resnet18_imagenet

SIZES = (32, 64, 112)


def measure(name: str, model: ir.Model, size: int) -> None:
    """Prints one row."""
    image = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
    start = time.perf_counter()
    workload = run_network(model, {model.graph.inputs[0].name or "": image})
    middle = time.perf_counter()
    result = simulate(workload, load_shipped("escalate"))
    end = time.perf_counter()
    positions = sum(layer.x[0].size * layer.filters for layer in workload.layers)
    tiles = sum(sum(r.op == "compute" for r in layer.records) for layer in result.layers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    click.echo(
        f"| {name} | {tiles:,} | {positions / 1e6:.2f} | {middle - start:.1f} | "
        f"{end - middle:.1f} | {1e6 * (end - middle) / positions:.2f} | {peak:.2f} |"
    )


@click.command()
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(models: tuple[Path, ...]) -> None:
    """Print the table as Markdown; peak memory is of the whole process so far."""
    click.echo(
        "| model | tile rounds | channel positions, M | run, s | simulate, s | µs a position "
        "| peak, GB |\n|---|---|---|---|---|---|---|"
    )
    for path in models:
        measure(path.stem, ir.load(path), 32)
    for size in SIZES:
        model = resnet18_cifar(Ternary(rank=RANK, density=0.1))
        model.graph.inputs[0].shape = ir.Shape(["N", 3, size, size])
        measure(f"ResNet-18 without stem, {size}×{size}", model, size)
    measure("ResNet-18, 224×224", resnet18_imagenet(Ternary(rank=RANK, density=0.1)), 224)


if __name__ == "__main__":
    main()
