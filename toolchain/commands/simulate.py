"""`optc simulate`: what a model costs on simulated accelerators."""

import os
import sys
from pathlib import Path

import click

from runtimes.accelerator.architecture import Architecture, ArchitectureError
from runtimes.accelerator.architecture_file import override, shipped_names
from runtimes.accelerator.arrays import EscalateArray
from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import Workload
from toolchain.commands.options import MODEL, POSITIVE, dim_option, json_option, seed_option
from toolchain.commands.outputs import ensure_folder_writable
from toolchain.commands.simulate_output import (
    MANIFEST,
    print_results,
    print_sweep,
    to_document,
    write_files,
)
from toolchain.commands.simulate_sweep import JOURNAL, SWEEP_REPORT, sweep
from toolchain.commands.simulation import Sample, open_architectures, open_sample, run_sample
from toolchain.commands.sweep_journal import write_text
from toolchain.console import format_bytes, print_json, say
from toolchain.errors import UsageError
from toolchain.simulation_report import render

REPORT = "report.html"
ABLATIONS = (
    ("basis first", "stage_order", "basis-first"),
    ("no concentration", "concentration", False),
    ("dense inputs", "skip_activations", False),
    ("dense weights", "skip_coefficients", False),
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
    if out is not None:
        single = (REPORT, MANIFEST)
        ensure_folder_writable(out, single if sweep_file is None else (SWEEP_REPORT, JOURNAL))
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
    document = to_document(sample.opened, workload, results, error, {"path": data, "seed": seed})
    document["ablations"] = [
        {"change": name, "cycles": each.cycles, "energy_pj": each.energy_pj}
        for name, each in changed
    ]
    if out is not None:
        write_files(out, results, document, layer_traces=layer_traces)
        size = format_bytes(sample.opened.path.stat().st_size)
        origin = (
            f"Model file: {size}. Input: {data}. Relative error against onnxruntime: {error:.2g}."
        )
        page = render(sample.opened.path.name, results, changed, workload.host, origin)
        write_text(out / REPORT, page)
    if as_json:
        print_json(document)
        return
    print_results(results, workload, error)
    for name, result in changed:
        cycles = result.cycles / results[0].cycles
        energy = result.energy_pj / results[0].energy_pj
        say(f"{name}: {cycles:.2f} times the cycles, {energy:.2f} times the energy")


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
