"""Time and memory of the simulator, and how they grow with the number of tiles.

    python -m samples.benchmarks.simulator_speed --input calib.npz MODEL ...

The models named with the first image of the input (see samples/make_data.py), and networks with
random ternary weights at 10 % density with random images, on ESCALATE; one thread, every row in a
process of its own. On a machine that others use, times are upper bounds.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from runtimes.accelerator.architecture_file import load_shipped
from runtimes.accelerator.arrays import EscalateArray
from runtimes.accelerator.network import run_network
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import Array
from samples.benchmarks.accelerator_comparison import RANK, Network, Ternary
from samples.benchmarks.random_networks import resnet18_cifar, resnet18_imagenet, vgg16_cifar
from samples.benchmarks.results import RESULTS, machine, publish, table
from toolchain.console import say

NAME = "simulator_speed"
SIZES = (32, 64, 96, 128)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network."""

    name: str
    tiles: int  # of positions, over all channels: what the engine works through
    run_seconds: float
    simulate_seconds: float
    peak_bytes: int


def measure(name: str, model: ir.Model, image: Array) -> Row:
    """Runs one image and simulates what it does."""
    start = time.perf_counter()
    workload = run_network(model, {model.graph.inputs[0].name or "": image})
    middle = time.perf_counter()
    architecture = load_shipped("escalate")
    simulate(workload, architecture)
    end = time.perf_counter()
    assert isinstance(architecture.array, EscalateArray)
    positions = architecture.array.tile_positions
    return Row(
        name=name,
        tiles=sum(
            layer.filters * -(-(layer.x[0].size if layer.factors else layer.positions) // positions)
            for layer in workload.layers
        ),
        run_seconds=middle - start,
        simulate_seconds=end - middle,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def measure_file(path: Path, data: Path) -> Row:
    """A model file and the first sample of its input."""
    model = ir.load(path)
    return measure(path.stem, model, np.load(data)[model.graph.inputs[0].name][:1])


def measure_random(name: str, network: Network, size: int) -> Row:
    """A network with random weights, at another image size than its own."""
    model = network(Ternary(rank=RANK, density=0.1))
    model.graph.inputs[0].shape = ir.Shape(["N", 3, size, size])
    image = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
    return measure(name, model, image)


def alone(function: Callable[..., Row], *arguments: object) -> Row:
    """The row of a new process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        row = pool.submit(function, *arguments).result()
    say(f"{row.name}: {row.simulate_seconds:.1f} s")
    return row


def growth(rows: Sequence[Row]) -> str:
    """How time grows with tiles, as the exponent of a line through logarithms."""
    tiles, seconds = (
        np.log([getattr(row, key) for row in rows]) for key in ("tiles", "simulate_seconds")
    )
    exponent = np.polyfit(tiles, seconds, 1)[0]
    first, last = rows[0], rows[-1]
    return (
        f"From {first.name} to {last.name}: {last.tiles / first.tiles:.1f} times the tiles, "
        f"{last.simulate_seconds / first.simulate_seconds:.1f} times the time; over all sizes time "
        f"grows like tiles to the power of {exponent:.2f}."
    )


@click.command()
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--input", "data", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(models: tuple[Path, ...], data: Path | None, out: Path) -> None:
    """Measure, and write the table."""
    if models and data is None:
        raise click.UsageError("models need --input")
    rows = [alone(measure_file, path, data) for path in models]
    rows.append(alone(measure_random, "VGG-16, 32×32", vgg16_cifar, 32))
    grown = [
        alone(measure_random, f"ResNet-18 without stem, {size}×{size}", resnet18_cifar, size)
        for size in SIZES
    ]
    rows += [*grown, alone(measure_random, "ResNet-18, 224×224", resnet18_imagenet, 224)]
    headers = ("model", "tiles of a channel", "run, s", "simulate, s", "µs a tile", "peak, GB")
    cells = [
        [
            row.name,
            f"{row.tiles:,}",
            f"{row.run_seconds:.1f}",
            f"{row.simulate_seconds:.1f}",
            f"{1e6 * row.simulate_seconds / row.tiles:.0f}",
            f"{row.peak_bytes / 1e9:.2f}",
        ]
        for row in rows
    ]
    known = ", ".join(f"{key} {value}" for key, value in machine().items())
    title, _, text = (__doc__ or "").partition(".\n\n")
    publish(
        NAME, [f"# {title}", text.strip("\n"), table(headers, cells), growth(grown), known], out
    )


if __name__ == "__main__":
    main()
