"""`optc simulate`: what a model costs on simulated accelerators."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from runtimes.accelerator.architecture import Architecture, ArchitectureError
from runtimes.accelerator.architecture_file import override, shipped_names, to_json
from runtimes.accelerator.arrays import EscalateArray, SpartenArray, SystolicArray
from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import Workload
from runtimes.accelerator.writers import write_all
from runtimes.accelerator.writers.layer_traces import write_layer_traces
from toolchain.commands.options import (
    MODEL,
    POSITIVE,
    OpenedModel,
    dim_option,
    json_option,
    seed_option,
)
from toolchain.commands.simulate_sweep import print_sweep, sweep
from toolchain.commands.simulation import Sample, open_architectures, open_sample, run_sample
from toolchain.console import format_bytes, format_count, note, print_json, print_table, say
from toolchain.environment import environment
from toolchain.errors import UsageError
from toolchain.simulation_report import render

SCHEMA = "optc-simulate/1"
ABLATIONS = (
    ("basis first", "stage_order", "basis-first"),
    ("no concentration", "concentration", False),
    ("dense activations", "skip_activations", False),
    ("dense coefficients", "skip_coefficients", False),
    ("no balancing", "balance", "round-robin"),
)


@click.command()
@click.argument("models", type=MODEL, nargs=-1, required=True, metavar="MODEL...")
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
@click.option(
    "--layer-traces", is_flag=True, help="Also write SRAM and DRAM traces of every layer (large)."
)
@click.option("--ablate", is_flag=True, help="Also change what ESCALATE has, one by one.")
@click.option("--sweep", "sweep_file", type=MODEL, help="Simulate a design space, as YAML.")
@click.option("--jobs", type=POSITIVE, help="Processes of a sweep. Default: one a core.")
@json_option
def command(
    models: tuple[Path, ...],
    names: tuple[str, ...],
    files: tuple[Path, ...],
    source: str | None,
    seed: int,
    dims: dict[str, int],
    out: Path | None,
    layer_traces: bool,
    ablate: bool,
    sweep_file: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Simulate MODEL on accelerators: cycles, energy and DRAM traffic of every layer.

    Weights and activations are real: the sparsity is that of the model on the given input. A sweep
    takes several models, and continues where it was left if --out names the same folder.
    """
    explicit = click.get_current_context().get_parameter_source("names")
    use_names = not files or explicit is not click.core.ParameterSource.DEFAULT
    if sweep_file is None and (len(models) > 1 or jobs is not None):
        raise UsageError("several models and --jobs need --sweep")
    if sweep_file is not None and ablate:
        raise UsageError("--ablate does not go with --sweep")
    if layer_traces and (out is None or sweep_file is not None):
        raise UsageError("--layer-traces needs --out, and does not go with --sweep")
    architectures = open_architectures(names if use_names else (), files)
    samples = [open_sample(path, source, seed=seed, dims=dims) for path in models]
    if sweep_file is not None:
        cores = jobs or available_cores()
        document = sweep(sweep_file, samples, architectures, jobs=cores, out=out)
        show = print_json if as_json else print_sweep
        show(document)
        return
    _simulate_one(
        samples[0],
        architectures,
        seed=seed,
        out=out,
        layer_traces=layer_traces,
        ablate=ablate,
        as_json=as_json,
    )


def available_cores() -> int:
    """Cores that this process may use, or all where the system does not say."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _simulate_one(
    sample: Sample,
    architectures: list[Architecture],
    *,
    seed: int,
    out: Path | None,
    layer_traces: bool,
    ablate: bool,
    as_json: bool,
) -> None:
    """One model on every architecture, in detail."""
    workload, error = run_sample(sample)
    try:
        results = [simulate(workload, architecture) for architecture in architectures]
        changed = ablations(workload, architectures[0]) if ablate else []
    except ArchitectureError as problem:
        raise UsageError(str(problem)) from problem
    data = sample.data.path
    document = _document(sample.opened, workload, results, error, {"path": data, "seed": seed})
    document["ablations"] = [
        {"change": name, "cycles": each.cycles, "energy_pj": each.energy_pj}
        for name, each in changed
    ]
    if out is not None:
        _write(out, results, document, layer_traces=layer_traces)
        origin = f"Input: {data}. Relative error against onnxruntime: {error:.2g}."
        page = render(sample.opened.path.name, results, changed, workload.host, origin)
        (out / "report.html").write_text(page, encoding="utf-8", newline="\n")
    if as_json:
        print_json(document)
        return
    _print(results, workload, error)
    for name, result in changed:
        say(f"{name}: {result.cycles / results[0].cycles:.2f} times the cycles")


def ablations(workload: Workload, architecture: Architecture) -> list[tuple[str, NetworkResult]]:
    """An ESCALATE architecture with one mechanism changed at a time.

    Raises:
        UsageError: the architecture is of another kind.
    """
    if not isinstance(architecture.array, EscalateArray):
        raise UsageError(f"--ablate: '{architecture.name}' is not of the kind escalate")
    return [
        (name, simulate(workload, override(architecture, {f"array.{key}": value})))
        for name, key, value in ABLATIONS
    ]


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
                        "way": layer.way,
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


def _write(
    out: Path, results: list[NetworkResult], document: dict[str, Any], *, layer_traces: bool
) -> None:
    """Writes the files of each architecture, in a folder of its own if there are several."""
    try:
        for result, entry in zip(results, document["architectures"], strict=True):
            folder = out / result.architecture.name if len(results) > 1 else out
            files = write_all(result, folder)
            files += write_layer_traces(result, folder) if layer_traces else []
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
