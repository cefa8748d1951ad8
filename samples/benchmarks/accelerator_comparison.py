"""ESCALATE against dense and sparse accelerators on ResNet-18 and VGG-16 (CIFAR shape).

    python -m samples.benchmarks.accelerator_comparison

Random weights of a given sparsity and a random image: activations are those that these weights
make. ESCALATE runs the decomposed model with ternary coefficients; the baselines run the dense
model, pruned at random to the density named where they can skip zeros. Nothing is fitted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir

from runtimes.accelerator.architecture_file import load_shipped, shipped_names
from runtimes.accelerator.area import load_table
from runtimes.accelerator.energy import event_energies
from runtimes.accelerator.energy import load_table as load_energies
from runtimes.accelerator.network import run_network
from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import Layer, Workload
from runtimes.operators.decomposed_conv import DecomposedWeights
from runtimes.operators.symbols import encode_symbols
from samples.benchmarks.random_networks import Structure, resnet18_cifar, vgg16_cifar
from samples.benchmarks.results import RESULTS, publish, table
from toolchain.commands.simulate import ablations
from toolchain.console import say

Network = Callable[[Structure | None], ir.Model]

NAME = "accelerator"
RANK = 6
PUBLISHED_COMPRESSION = 325  # Li et al., MICRO 2021, abstract
OTHER_TABLE = "cacti7-45nm"
DENSITIES = (0.1, 0.018)
NETWORKS: Mapping[str, Network] = {"ResNet-18": resnet18_cifar, "VGG-16": vgg16_cifar}
PUBLISHED = (
    ("dense", ("dense-ws", "dense-os", "dense-is"), 17.9, 8.3),
    ("sparse", ("scnn", "sparten"), 2.16, 3.77),
)


@dataclass(frozen=True, kw_only=True)
class Ternary(Structure):
    """Coefficients −s, 0 and s."""

    def draw(self, rng: np.random.Generator, C: int, K: int) -> DecomposedWeights:
        """Random ternary factors that keep the variance of activations near 1."""
        weights = super().draw(rng, C, K)
        scale = np.float32(np.sqrt(2 / (9 * C * self.rank * self.density)))
        return replace(weights, coefficients=np.sign(weights.coefficients) * scale)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network on one architecture."""

    network: str
    density: float
    architecture: str
    result: NetworkResult
    file_bytes: int


def pruned(model: ir.Model, density: float) -> ir.Model:
    """A share of the weights of every 3×3 convolution but the first, drawn at random."""
    rng = np.random.default_rng(2)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.ndim == 4 and array.shape[1] > 3 and array.shape[2] == 3:
            kept = array * (rng.random(array.shape) < density) / np.sqrt(density)
            value.const_value = ir.tensor(kept.astype(np.float32), name=value.name)
    return model


def workload_of(model: ir.Model) -> Workload:
    """One random image through a model."""
    shape = [1, *(int(str(size)) for size in (model.graph.inputs[0].shape or ())[1:])]
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return run_network(model, {"input": image})


def file_bytes(layers: Sequence[Layer]) -> int:
    """Weights in a model file of 8 bits: dense, or as `HybridDecomposedConv` stores factors."""
    total = 0
    for layer in layers:
        if layer.factors is None:
            total += layer.weight.size
            continue
        symbols = np.sign(layer.factors.coefficients).astype(np.int8)  # (K, C, M)
        levels, shifts = symbols[:, 0].size, symbols.shape[2]
        total += encode_symbols(symbols).nbytes + layer.factors.basis.size + levels + shifts
    return total


def dram_share(result: NetworkResult) -> float:
    """Cycles that DRAM needs for its bytes, relative to all."""
    return result.dram_bytes / result.architecture.bytes_per_cycle / result.cycles


def dram_energy(result: NetworkResult) -> float:
    """Share of the energy that DRAM takes."""
    return sum(layer.energy_pj["dram"] for layer in result.layers) / result.energy_pj


def rows_of(network: str, density: float, decomposed: Workload) -> Iterator[Row]:
    """ESCALATE first; sparse baselines at the same density of weights."""
    dense = workload_of(NETWORKS[network](None))
    sparse = workload_of(pruned(NETWORKS[network](None), density))
    for name in shipped_names():
        given = {"escalate": decomposed, "scnn": sparse, "sparten": sparse}.get(name, dense)
        yield Row(
            network=network,
            density=density,
            architecture=name,
            result=simulate(given, load_shipped(name)),
            file_bytes=file_bytes(given.layers),
        )


def comparison(rows: Sequence[Row]) -> str:
    """Table of one network at one density."""
    first = rows[0].result
    headers = (
        *("architecture", "cycles", "latency ratio", "energy, µJ", "energy ratio", "DRAM, kB"),
        *("weights stored, kB", "file, kB", "fp32 / file", "DRAM share of cycles", "of energy"),
    )
    fp32 = 4 * sum(layer.layer.weight.size for layer in first.layers)
    cells = [
        [
            row.architecture,
            f"{row.result.cycles:,}",
            f"{row.result.cycles / first.cycles:.2f}",
            f"{row.result.energy_pj / 1e6:,.0f}",
            f"{row.result.energy_pj / first.energy_pj:.2f}",
            f"{row.result.dram_bytes / 1e3:,.0f}",
            f"{row.result.stored_weight_bytes / 1e3:,.0f}",
            f"{row.file_bytes / 1e3:,.0f}",
            f"{fp32 / row.file_bytes:.0f}",
            f"{dram_share(row.result):.0%}",
            f"{dram_energy(row.result):.0%}",
        ]
        for row in rows
    ]
    title = f"## {rows[0].network}, {rows[0].density:.1%} of coefficients and of pruned weights"
    return f"{title}\n\n{table(headers, cells)}"


def changes(network: str, density: float, workload: Workload) -> list[list[str]]:
    """ESCALATE with one thing changed, relative to what it is."""
    base = simulate(workload, load_shipped("escalate"))
    return [
        [
            f"{network}, {density:.1%}",
            name,
            f"{changed.cycles / base.cycles:.2f}",
            f"{compute(changed) / compute(base):.2f}",
            f"{changed.energy_pj / base.energy_pj:.2f}",
            f"{changed.dram_bytes / base.dram_bytes:.2f}",
        ]
        for name, changed in ablations(workload, base.architecture)
    ]


def compute(result: NetworkResult) -> int:
    """Cycles without waiting for memory."""
    return sum(layer.compute_cycles for layer in result.layers)


def summary(rows: Sequence[Row]) -> str:
    """Geometric means of dense and of sparse baselines, next to what is published."""
    base = {
        (row.network, row.density): row.result for row in rows if row.architecture == "escalate"
    }
    cells = []
    for kind, names, latency, energy in PUBLISHED:
        own = [row for row in rows if row.architecture in names]
        pairs = [(row.result, base[row.network, row.density]) for row in own]
        means = [
            np.exp(np.mean(np.log([value(result) / value(first) for result, first in pairs])))
            for value in (cycles, energy_of, other_energy, traffic)
        ]
        ours = [f"{mean:.1f}" for mean in means]
        cells.append([kind, ours[0], str(latency), ours[1], ours[2], str(energy), ours[3]])
    other = f"energy with {OTHER_TABLE}"
    headers = ("baselines", "latency", "published", "energy", other, "published", "DRAM traffic")
    return f"## Against the published ratios\n\n{table(headers, cells)}"


def cycles(result: NetworkResult) -> float:
    """Of all layers."""
    return result.cycles


def energy_of(result: NetworkResult) -> float:
    """PJ of all layers."""
    return result.energy_pj


def other_energy(result: NetworkResult) -> float:
    """PJ of all layers by another table than the architectures name."""
    energies = event_energies(result.architecture, load_energies(OTHER_TABLE))
    return sum(
        count * energies[component]
        for layer in result.layers
        for (component, _), count in layer.counts.items()
    )


def traffic(result: NetworkResult) -> float:
    """DRAM bytes of all layers."""
    return result.dram_bytes


def areas(rows: Sequence[Row]) -> str:
    """Square millimetres of all architectures, which have as many multipliers."""
    known = {row.architecture: row.result.area_mm2 for row in rows}
    cells = [
        [
            name,
            f"{sum(parts.values()):.2f}",
            f"{sum(area for part, area in parts.items() if part.endswith(('sram', 'buffer'))):.2f}",
        ]
        for name, parts in known.items()
    ]
    source = load_table(rows[0].result.architecture.area_table)
    text = f"At {source.node_nm} nm; {source.source}. Not counted: {source.not_counted}."
    return f"## Area, mm²\n\n{table(('architecture', 'in all', 'memories'), cells)}\n\n{text}"


EXPLANATION = """
Published ratios are recalled, unverified; ours are geometric means over the rows above. They are
not the same experiment, and what is known of it explains these differences:

- Sparsity: the paper's is not known to us. Its abstract says "up to 325 times" smaller; for rank 6
  the entropy of ternary coefficients allows that from 1.8 % down, H(d) + d = 9·32 / (6·325) bits.
  That is why we simulate 1.8 %, at random and equal in all layers; trained ones are neither.
- Memory decides: the last columns say what DRAM alone takes at its full bandwidth. Where that is
  most of the cycles, as on ESCALATE and SparTen, a wider channel, or maps that stay on chip, would
  change the ratios; the ablations below are given with and without it.
- Size: the mask of K·C·6 bits is a floor of ESCALATE's weights on chip and in DRAM, 48 times below
  fp32, so 1.8 % reads little less than 10 %. Files code positions as runs and get further; 325
  times would take an entropy code, fewer basis kernels or fewer channels. ONNX has no form for
  pruned dense kernels, so the files of the sparse baselines are as large as dense ones.
- Energy: DRAM takes most of it, and how much it takes is the least certain number. The second
  table has a source for every entry and 0.4 times the energy for DRAM.
- Dense baselines: 1,024 multipliers like all others here. The paper's are not known to us; fewer
  would be slower.
- Equal density is not equal accuracy: 10 % of K·C·6 coefficients are fewer numbers than 10 % of
  K·C·9 weights, and which of the two loses less accuracy is not simulated here.
- Equal multipliers are not equal area: ESCALATE has adders and buffers beside its multipliers.

Of the ablations, "basis first" is PENNI's order of the stages. With as many input as output
channels it multiplies as often, and its first stage, spread evenly over all blocks by assumption,
never waits for a FIFO: it can be faster where the intermediate map of a tile fits on chip, and
takes more energy for writing and reading that map. Balancing has nothing to do here, as random
weights are spread evenly."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(out: Path) -> None:
    """Simulate, and write the tables."""
    title, _, text = (__doc__ or "").partition(".\n\n")
    parts = [f"# {title}", text.strip("\n")]
    rows, changed = [], []
    for network in NETWORKS:
        for density in DENSITIES:
            say(f"{network}, {density:.1%}")
            structure = Ternary(rank=RANK, density=density)
            decomposed = workload_of(NETWORKS[network](structure))
            found = list(rows_of(network, density, decomposed))
            parts.append(comparison(found))
            rows += found
            changed += changes(network, density, decomposed)
    headers = ("network", "change", "cycles", "without memory", "energy", "DRAM")
    ablated = f"## ESCALATE with one thing changed\n\n{table(headers, changed)}"
    parts += [summary(rows), EXPLANATION.strip(), ablated, areas(rows)]
    publish(NAME, parts, out)


if __name__ == "__main__":
    main()
