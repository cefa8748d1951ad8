"""What `optc simulate` says: JSON, files of every architecture, and tables for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.architecture_file import to_json
from runtimes.accelerator.arrays import EscalateArray, SpartenArray, SystolicArray
from runtimes.accelerator.results import LayerResult, NetworkResult
from runtimes.accelerator.workload import Workload
from runtimes.accelerator.writers import write_all
from runtimes.accelerator.writers.layer_traces import write_layer_traces
from toolchain.commands.options import OpenedModel
from toolchain.commands.sweep_journal import Entry
from toolchain.console import format_bytes, format_count, note, print_table, say
from toolchain.environment import environment
from toolchain.errors import UsageError

SCHEMA = "optc-simulate/1"
MANIFEST = "manifest.json"


def to_document(
    opened: OpenedModel,
    workload: Workload,
    results: list[NetworkResult],
    error: float,
    data: dict[str, Any],
) -> dict[str, Any]:
    """The JSON output, without what was changed for comparison."""
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
                "stored_weight_bytes": each.stored_weight_bytes,
                "area_mm2": dict(each.area_mm2),
                "layers": [_layer(layer) for layer in each.layers],
            }
            for each in results
        ],
        "environment": environment(),
    }


def _layer(each: LayerResult) -> dict[str, Any]:
    return {
        "layer": each.layer.name,
        "way": each.way,
        "compute_cycles": each.compute_cycles,
        "total_cycles": each.total_cycles,
        "macs": each.macs,
        "macs_skipped": each.macs_skipped,
        "adds": each.adds,
        "adds_skipped": each.adds_skipped,
        "dram_bytes": dict(each.dram_bytes),
        "energy_pj": dict(each.energy_pj),
        "utilisation": each.utilisation,
    }


def write_files(
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
            (folder / MANIFEST).write_text(text, encoding="utf-8")
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


def print_results(results: list[NetworkResult], workload: Workload, error: float) -> None:
    """Tables for people: layers of one architecture, and totals."""
    if len(results) == 1:
        _print_layers(results[0])
    totals = [
        [
            each.architecture.name,
            format_count(each.cycles),
            f"{1e3 * each.cycles / each.architecture.clock_hz:.3g}",
            f"{each.energy_pj / 1e6:.3g}",
            format_bytes(each.dram_bytes),
            format_bytes(each.stored_weight_bytes),
            f"{sum(each.area_mm2.values()):.2f}",
            f"{results[0].cycles / each.cycles:.2f}×",
        ]
        for each in results
    ]
    headers = ("architecture", "cycles", "ms", "energy µJ", "DRAM", "weights", "mm²", "speed")
    print_table(headers, totals)
    say(f"simulated output against onnxruntime: relative error {error:.2g}")
    if workload.host:
        kinds = ", ".join(sorted({each.op_type for each in workload.host}))
        cycles = format_count(results[0].host_cycles)
        count = len(workload.host)
        note(f"{count} operators run on the host, {cycles} cycles not counted: {kinds}")


def _print_layers(result: NetworkResult) -> None:
    rows = [
        [
            each.layer.name,
            format_count(each.compute_cycles),
            format_count(each.total_cycles),
            format_count(each.macs),
            format_count(each.adds),
            format_bytes(sum(each.dram_bytes.values())),
            f"{sum(each.energy_pj.values()) / 1e6:.3g}",
            f"{100 * each.utilisation:.1f} %",
        ]
        for each in result.layers
    ]
    headers = ("layer", "compute", "cycles", "MACs", "adds", "DRAM", "energy µJ", "multipliers")
    print_table(headers, rows)
    say()


def print_sweep(document: Mapping[str, Any]) -> None:
    """The table of all points; a star marks the front of latency and energy."""
    entries, front = document["points"], document["front"]["energy_pj"]
    names = list(document["parameters"])
    rows = [
        [
            entry["model"],
            entry["architecture"],
            *(str(entry["settings"][name]) for name in names),
            format_count(entry["cycles"]),
            f"{1e3 * entry['seconds']:.3g}",
            f"{entry['energy_pj'] / 1e6:.3g}",
            format_bytes(entry["dram_bytes"]),
            format_count(entry["multipliers"]),
            format_bytes(entry["sram_bytes"]),
            f"{entry['area_mm2']:.2f}",
            "*" if index in front else "",
        ]
        for index, entry in enumerate(entries)
        if "refused" not in entry
    ]
    costs = ("cycles", "ms", "energy µJ", "DRAM", "multipliers", "SRAM", "area mm²", "front")
    print_table(("model", "architecture", *names, *costs), rows, text=(0, 1))
    for entry in entries:
        if "refused" in entry:
            note(f"refused: {describe(entry)}: {entry['refused']}")
    worst = max(entry["functional_error"] for entry in entries if "refused" not in entry)
    say(f"simulated outputs against onnxruntime: relative error at most {worst:.2g}")


def describe(entry: Entry) -> str:
    """A point in one line."""
    settings = ", ".join(f"{name}={value}" for name, value in entry["settings"].items())
    return f"{entry['model']} on {entry['architecture']}, {settings}"
