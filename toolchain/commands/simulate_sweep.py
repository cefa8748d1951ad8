"""`optc simulate --sweep`: a design space, over all cores, continued where it was left."""

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtimes.accelerator.architecture import Architecture, ArchitectureError, TileError
from runtimes.accelerator.architecture_file import to_json
from runtimes.accelerator.sweep import (
    Measures,
    Settings,
    measure,
    pareto_front,
    parse_sweep,
    points,
)
from runtimes.accelerator.workload import Workload
from toolchain.commands.simulation import Sample, run_sample
from toolchain.commands.sweep_journal import Entry, append, read_journal, write_text
from toolchain.console import progress, say
from toolchain.environment import environment, package_version
from toolchain.errors import UsageError
from toolchain.recipe import read_document
from toolchain.sweep_report import COSTS, render

SCHEMA = "optc-simulate-sweep/2"
JOURNAL = "sweep.jsonl"
SWEEP_REPORT = "sweep.html"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model on one accelerator.

    Attributes:
        key: of everything that decides the result; names do not.
        entry: what is written about it, without its costs.
        architecture: the accelerator, or why there is none.
    """

    key: str
    entry: Entry
    architecture: Architecture | TileError


def sweep(
    file: Path,
    samples: Sequence[Sample],
    architectures: Sequence[Architecture],
    *,
    jobs: int,
    out: Path | None,
) -> dict[str, Any]:
    """Simulates every point that is not finished yet, and writes each when it is.

    Args:
        file: the sweep file.
        samples: models with their inputs.
        architectures: that the settings of the file are applied to.
        jobs: processes.
        out: folder of the journal and the report, or None.

    Raises:
        UsageError: the file has wrong content, no point can be simulated, `out` cannot be written.
        UnreadableError: the file, a model or the journal cannot be read.
    """
    try:
        parameters = parse_sweep(read_document(file, "sweep"), str(file))
        grid = [_points(sample, architectures, parameters) for sample in samples]
    except ArchitectureError as error:
        raise UsageError(str(error)) from error
    journal = out / JOURNAL if out is not None else None
    finished = read_journal(journal) if journal is not None else {}
    finished |= _simulate_all(samples, grid, finished, jobs, journal)
    entries = [{**finished[point.key], **point.entry} for wanted in grid for point in wanted]
    if all("refused" in entry for entry in entries):
        raise UsageError(f"{file}: no point can be simulated; the first: {entries[0]['refused']}")
    document = _document(file, parameters, samples, entries)
    if out is not None:
        write_text(out / SWEEP_REPORT, render(str(file), entries, document["front"]))
    return document


def _points(
    sample: Sample, architectures: Sequence[Architecture], parameters: Mapping[str, Sequence[Any]]
) -> list[Point]:
    return [
        _point(sample, architecture, settings, found)
        for architecture in architectures
        for settings, found in points(architecture, parameters)
    ]


def _point(
    sample: Sample, base: Architecture, settings: Settings, found: Architecture | TileError
) -> Point:
    entry = {
        "model": str(sample.opened.path),
        "model_sha256": sample.opened.summary.sha256,
        "input_sha256": _feeds_sha256(sample),
        "architecture": base.name,
        "settings": dict(settings),
    }
    shown = to_json(base if isinstance(found, TileError) else found)
    values = {name: each["value"] for name, each in shown["parameters"].items()}
    decisive = [
        *(SCHEMA, package_version("optc"), entry["model_sha256"], entry["input_sha256"]),
        *(
            type(base.array).__name__,
            shown["energy_table"],
            shown["area_table"],
            {**values, **settings},
        ),
    ]
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return Point(key=key, entry={"key": key, **entry}, architecture=found)


def _feeds_sha256(sample: Sample) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(sample.feeds.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _simulate_all(
    samples: Sequence[Sample],
    grid: Sequence[Sequence[Point]],
    finished: Mapping[str, Entry],
    jobs: int,
    journal: Path | None,
) -> dict[str, Entry]:
    """Entries of the points that are not finished, by key; each is written when it is."""
    left = [[point for point in wanted if point.key not in finished] for wanted in grid]
    count, total = (sum(len(wanted) for wanted in each) for each in (grid, left))
    if total < count:
        say(f"{count - total} of {count} points were finished before")
    found: dict[str, Entry] = {}
    with progress(total, "sweep") as report, _pool(min(jobs, total)) as pool:
        for sample, wanted in zip(samples, left, strict=True):
            for entry in _simulate(sample, wanted, pool):
                found[entry["key"]] = entry
                if journal is not None:
                    append(journal, entry)
                report(len(found), total, entry["model"])
    return found


def _simulate(
    sample: Sample, wanted: Sequence[Point], pool: ProcessPoolExecutor | None
) -> Iterator[Entry]:
    """Entries of points as they are finished; the model runs only if there are any."""
    valid = []
    for point in wanted:
        if isinstance(point.architecture, TileError):
            yield {**point.entry, "refused": str(point.architecture)}
        else:
            valid.append((point, point.architecture))
    if not valid:
        return
    workload, error = run_sample(sample)
    for point, measured in _measure_all(workload, valid, pool):
        if isinstance(measured, TileError):
            yield {**point.entry, "refused": str(measured)}
        else:
            yield {**point.entry, "functional_error": error, **asdict(measured)}


def _measure_all(
    workload: Workload,
    valid: Sequence[tuple[Point, Architecture]],
    pool: ProcessPoolExecutor | None,
) -> Iterator[tuple[Point, Measures | TileError]]:
    try:
        if pool is None:
            for point, architecture in valid:
                yield point, measure(workload, architecture)
            return
        futures = {pool.submit(measure, workload, each): point for point, each in valid}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except ArchitectureError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that end, without the points that wait, when something fails; None for one.

    A terminal sends Ctrl-C to all processes; this one alone answers it.
    """
    if jobs < 2:
        yield None
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by what is started now
    for _ in range(jobs):
        pool.submit(int)  # starts one of them: none is idle so soon
    signal.signal(signal.SIGINT, handler)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _document(
    file: Path,
    parameters: Mapping[str, Sequence[Any]],
    samples: Sequence[Sample],
    entries: list[Entry],
) -> dict[str, Any]:
    simulated = [index for index, entry in enumerate(entries) if "refused" not in entry]
    return {
        "schema": SCHEMA,
        "sweep": str(file),
        "parameters": {name: list(values) for name, values in parameters.items()},
        "input": samples[0].data.path,
        "points": entries,
        "front": {
            cost: [
                simulated[i]
                for i in pareto_front(
                    [(entries[index]["seconds"], entries[index][cost]) for index in simulated]
                )
            ]
            for cost in COSTS
        },
        "environment": environment(),
    }
