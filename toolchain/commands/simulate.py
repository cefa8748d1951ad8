"""`optc simulate`: what a model costs on simulated accelerators."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from runtimes.accelerator.architecture import (
    Architecture,
    ArchitectureError,
    EscalateArray,
    SpartenArray,
    SystolicArray,
)
from runtimes.accelerator.architecture_file import (
    load_file,
    load_shipped,
    override,
    shipped_names,
    to_json,
)
from runtimes.accelerator.network import run_network
from runtimes.accelerator.simulator import NetworkResult, simulate
from runtimes.accelerator.workload import SimulationError, Workload
from runtimes.accelerator.writers import write_all
from toolchain.commands.options import (
    MODEL,
    OpenedModel,
    dim_option,
    json_option,
    open_data_or_random,
    open_model,
    seed_option,
)
from toolchain.console import format_bytes, format_count, note, print_json, print_table, say
from toolchain.environment import environment
from toolchain.errors import UnreadableError, UsageError
from toolchain.fidelity import FidelitySums
from toolchain.runner import Feeds, Runner
from toolchain.simulation_report import render

SCHEMA = "optc-simulate/1"
ABLATIONS = (
    ("no concentration", "concentration", False),
    ("dense activations", "skip_activations", False),
    ("dense coefficients", "skip_coefficients", False),
    ("no balancing", "balance", "round-robin"),
)


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--arch",
    "names",
    multiple=True,
    default=("escalate",),
    show_default=True,
    help=f"One of {', '.join(shipped_names())}, or all; repeats.",
)
@click.option("--arch-file", "files", type=MODEL, multiple=True, help="Another one, as YAML.")
@click.option("--input", "source", help="Activations come from its first sample. Default: random.")
@seed_option
@dim_option
@click.option("--out", type=MODEL, metavar="DIR", help="Write tables, traces and report.html.")
@click.option("--ablate", is_flag=True, help="Also switch off what ESCALATE has, one by one.")
@json_option
def command(
    model: Path,
    names: tuple[str, ...],
    files: tuple[Path, ...],
    source: str | None,
    seed: int,
    dims: dict[str, int],
    out: Path | None,
    ablate: bool,
    as_json: bool,
) -> None:
    """Simulate MODEL on accelerators: cycles, energy and DRAM traffic of every layer.

    Weights and activations are real: the sparsity is that of the model on the given input.
    """
    explicit = click.get_current_context().get_parameter_source("names")
    use_names = not files or explicit is not click.core.ParameterSource.DEFAULT
    architectures = open_architectures(names if use_names else (), files)
    opened = open_model(model)
    data = open_data_or_random(source, opened.inputs, samples=1, seed=seed, dims=dims)
    feeds = next(iter(data.batches(1))).feeds
    try:
        workload = run_network(opened.model, feeds)
    except SimulationError as problem:
        raise UnreadableError(f"{model}: {problem}") from problem
    error = functional_error(opened, workload, feeds)
    results = [simulate(workload, architecture) for architecture in architectures]
    changed = ablations(workload, architectures[0]) if ablate else []
    document = _document(opened, workload, results, error, {"path": data.path, "seed": seed})
    document["ablations"] = [
        {"change": name, "cycles": each.cycles, "energy_pj": each.energy_pj}
        for name, each in changed
    ]
    if out is not None:
        _write(out, results, document)
        origin = f"Input: {data.path}. Relative error against onnxruntime: {error:.2g}."
        page = render(model.name, results, changed, workload.host, origin)
        (out / "report.html").write_text(page, encoding="utf-8", newline="\n")
    if as_json:
        print_json(document)
    else:
        _print(results, workload, error)
        for name, result in changed:
            say(f"{name}: {result.cycles / results[0].cycles:.2f} times the cycles")


def open_architectures(names: tuple[str, ...], files: tuple[Path, ...]) -> list[Architecture]:
    """The architectures that were asked for.

    Raises:
        UsageError: a name is unknown, or a file has wrong content.
        UnreadableError: a file cannot be read.
    """
    wanted = [n for name in names for n in (shipped_names() if name == "all" else [name])]
    try:
        found = [load_shipped(name) for name in dict.fromkeys(wanted)]
        for path in files:
            try:
                found.append(load_file(path))
            except OSError as error:
                raise UnreadableError(f"{path}: {error.strerror or error}") from error
    except ArchitectureError as error:
        raise UsageError(str(error)) from error
    doubled = {each.name for each in found if [a.name for a in found].count(each.name) > 1}
    if doubled:
        raise UsageError(f"two architectures are named '{min(doubled)}', rename one")
    return found


def ablations(workload: Workload, architecture: Architecture) -> list[tuple[str, NetworkResult]]:
    """An ESCALATE architecture with one mechanism switched off at a time.

    Raises:
        UsageError: the architecture is of another kind.
    """
    if not isinstance(architecture.array, EscalateArray):
        raise UsageError(f"--ablate: '{architecture.name}' is not of the kind escalate")
    return [
        (name, simulate(workload, override(architecture, {f"array.{key}": value})))
        for name, key, value in ABLATIONS
    ]


def functional_error(opened: OpenedModel, workload: Workload, feeds: Feeds) -> float:
    """Largest ‖y − ŷ‖ / ‖y‖ of an output of the simulated arithmetic against onnxruntime."""
    expected = Runner(opened.path)(feeds)
    errors = []
    for name, array in expected.items():
        sums = FidelitySums(name)
        sums.add(np.asarray(array), np.asarray(workload.outputs[name]), 1)
        errors.append(sums.fidelity().relative_l2)
    return max(errors, default=0.0)


def _document(
    opened: OpenedModel,
    workload: Workload,
    results: list[NetworkResult],
    error: float,
    data: dict[str, Any],
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": opened.to_json(),
        "input": data,
        "functional_error": error,
        "host": [vars(each) for each in workload.host],
        "architectures": [
            {
                **to_json(each.architecture),
                "cycles": each.cycles,
                "seconds": each.cycles / each.architecture.clock_hz,
                "host_cycles": each.host_cycles,
                "energy_pj": each.energy_pj,
                "dram_bytes": each.dram_bytes,
                "layers": [
                    {
                        "layer": layer.layer.name,
                        "compute_cycles": layer.compute_cycles,
                        "total_cycles": layer.total_cycles,
                        "macs": layer.macs,
                        "macs_skipped": layer.macs_skipped,
                        "adds": layer.adds,
                        "adds_skipped": layer.adds_skipped,
                        "dram_bytes": dict(layer.dram_bytes),
                        "energy_pj": dict(layer.energy_pj),
                        "utilisation": layer.utilisation,
                    }
                    for layer in each.layers
                ],
            }
            for each in results
        ],
        "environment": environment(),
    }


def _write(out: Path, results: list[NetworkResult], document: dict[str, Any]) -> None:
    """Writes the files of each architecture, in a folder of its own if there are several."""
    try:
        for result, entry in zip(results, document["architectures"], strict=True):
            folder = out / result.architecture.name if len(results) > 1 else out
            files = write_all(result, folder)
            sides = array_sides(result.architecture)
            manifest = {
                **{k: v for k, v in document.items() if k != "architectures"},
                "architecture": {k: v for k, v in entry.items() if k != "layers"},
                "array_height": sides[0],
                "array_width": sides[1],
                "clock_hz": result.architecture.clock_hz,
                "word_bits": result.architecture.words.activation_bits,
                "files": files,
            }
            text = json.dumps(manifest, indent=2) + "\n"
            (folder / "manifest.json").write_text(text, encoding="utf-8")
            say(f"wrote {folder}")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}") from error


def array_sides(architecture: Architecture) -> tuple[int, int]:
    """Rows and columns of multipliers; blocks, clusters or elements are rows."""
    array = architecture.array
    if isinstance(array, SystolicArray):
        return array.height, array.width
    if isinstance(array, EscalateArray):
        return array.blocks, array.multipliers_per_block
    if isinstance(array, SpartenArray):
        return array.clusters, array.units
    return array.grid**2, array.activations_per_cycle * array.weights_per_cycle


def _print(results: list[NetworkResult], workload: Workload, error: float) -> None:
    if len(results) == 1:
        rows = [
            [
                layer.layer.name,
                format_count(layer.compute_cycles),
                format_count(layer.total_cycles),
                format_count(layer.macs),
                format_count(layer.adds),
                format_bytes(sum(layer.dram_bytes.values())),
                f"{sum(layer.energy_pj.values()) / 1e6:.3g}",
                f"{100 * layer.utilisation:.1f} %",
            ]
            for layer in results[0].layers
        ]
        headers = ("layer", "compute", "cycles", "MACs", "adds", "DRAM", "energy µJ", "multipliers")
        print_table(headers, rows)
        say()
    totals = [
        [
            each.architecture.name,
            format_count(each.cycles),
            f"{1e3 * each.cycles / each.architecture.clock_hz:.3g}",
            f"{each.energy_pj / 1e6:.3g}",
            format_bytes(each.dram_bytes),
            f"{results[0].cycles / each.cycles:.2f}×",
        ]
        for each in results
    ]
    print_table(("architecture", "cycles", "ms", "energy µJ", "DRAM", "speed"), totals)
    say(f"simulated output against onnxruntime: relative error {error:.2g}")
    if workload.host:
        kinds = ", ".join(sorted({each.op_type for each in workload.host}))
        cycles = format_count(results[0].host_cycles)
        count = len(workload.host)
        note(f"{count} operators run on the host, {cycles} cycles not counted: {kinds}")
