"""Writers of traces and tables; each derives its files from a `NetworkResult` alone."""

from collections.abc import Callable
from pathlib import Path

from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.writers.dram import dramsim3_trace, ramulator2_trace
from runtimes.accelerator.writers.scalesim import (
    bandwidth_report,
    compute_report,
    detailed_access_report,
    topology,
)
from runtimes.accelerator.writers.tables import activity, layers_table
from runtimes.accelerator.writers.timeline import timeline

FILES: dict[str, Callable[[NetworkResult], str]] = {
    "layers.csv": layers_table,
    "activity.csv": activity,
    "topology.csv": topology,
    "COMPUTE_REPORT.csv": compute_report,
    "BANDWIDTH_REPORT.csv": bandwidth_report,
    "DETAILED_ACCESS_REPORT.csv": detailed_access_report,
    "dram.dramsim3.trace": dramsim3_trace,
    "dram.ramulator2.trace": ramulator2_trace,
    "timeline.json": timeline,
}


def write_all(result: NetworkResult, folder: Path) -> list[str]:
    """Writes every file into a folder, which is created if need be; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, render in FILES.items():
        (folder / name).write_text(render(result), encoding="utf-8", newline="\n")
    return list(FILES)
