"""Latency, memory and size of models, measured side by side.

After warm-up, every round times each model once, A B A B, in an order drawn anew; a round's turn
of a model is a few runs in a row, after one that is not timed. So a change of clock rate or load
hits all models alike, and the ratio of two models is steadier than either time. On several threads
a turn begins once those of the model before have gone to sleep; within a turn they stay awake, as
onnxruntime has it.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from passes.framework import Progress
from toolchain.bench_statistics import Latency, Speedup, Times, latency, random_orders, speedup
from toolchain.errors import UnreadableError
from toolchain.inputs import InputSpec, random_feeds
from toolchain.runner import Feeds, Runner

Run = Callable[[Feeds], object]
"""Runs a model once."""

TURN_SECONDS = 0.01
MOST_RUNS = 50
FEWEST_ROUNDS = 5
PROFILED_RUNS = 20
REST_SECONDS = 0.002
MOST_RESTS = 50


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """How to measure.

    Attributes:
        threads: of onnxruntime; 0 for all cores.
        batch: samples a run, where models leave it free.
        rounds: turns of each model.
        warmup: seconds that each model runs before.
        seconds: stop earlier after this time, but not before five rounds; None: never.
        seed: of the inputs, the order and the bootstrap.
        dims: sizes of symbolic dimensions.
    """

    threads: int = 1
    batch: int = 1
    rounds: int = 100
    warmup: float = 0.3
    seconds: float | None = None
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OpTime:
    """Time of one kind of operator in the optimised graph.

    Attributes:
        op_type: operator, as onnxruntime names it.
        nodes: how many the graph has.
        milliseconds: a run, all nodes together.
        share: of the time of all operators.
    """

    op_type: str
    nodes: int
    milliseconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One model's measurements.

    Attributes:
        path: of the model.
        latency: of one run.
        speedup: against the first model.
        peak_bytes: memory at its highest while loading and running, without the interpreter.
        create_seconds: time to create the session in a fresh process.
        nbytes: file size, external data included.
    """

    path: str
    latency: Latency
    speedup: Speedup
    peak_bytes: int
    create_seconds: float
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to be measured.

    Attributes:
        path: of the file.
        inputs: what it must be fed.
        nbytes: file size, external data included.
        native: library that runs its `optc` operators; None for their function bodies.
    """

    path: Path
    inputs: Sequence[InputSpec]
    nbytes: int
    native: Path | None = None


def bench(
    candidates: Sequence[Candidate],
    config: BenchConfig,
    progress: Progress = lambda done, total, label: None,
) -> list[BenchResult]:
    """Measures models side by side; ratios are against the first.

    Raises:
        UnreadableError: a model cannot be opened or run.
    """
    feeds = [feeds_of(candidate, config) for candidate in candidates]
    runners = [
        Runner(candidate.path, threads=config.threads, native=candidate.native)
        for candidate in candidates
    ]
    times = measure(runners, feeds, config, progress)
    results = []
    for candidate, fed, own in zip(candidates, feeds, times, strict=True):
        peak_bytes, create_seconds = probe(candidate, fed, config.threads)
        results.append(
            BenchResult(
                path=str(candidate.path),
                latency=latency(own),
                speedup=speedup(times[0], own, config.seed),
                peak_bytes=peak_bytes,
                create_seconds=create_seconds,
                nbytes=candidate.nbytes,
            )
        )
    return results


def feeds_of(candidate: Candidate, config: BenchConfig) -> Feeds:
    """The random inputs a model is timed with: equal for equal input signatures."""
    return random_feeds(candidate.inputs, seed=config.seed, batch=config.batch, dims=config.dims)


def measure(
    runners: Sequence[Run], feeds: Sequence[Feeds], config: BenchConfig, progress: Progress
) -> list[Times]:
    """Times all models in turns; (rounds, runs a turn) milliseconds for each."""
    runs = [
        _warm_up(runner, fed, config.warmup) for runner, fed in zip(runners, feeds, strict=True)
    ]
    times: list[list[list[float]]] = [[] for _ in runners]
    start = time.perf_counter()
    for index, order in enumerate(random_orders(len(runners), config.rounds, config.seed)):
        for model in order:
            if config.threads != 1:
                _rest()
            times[model].append(_turn(runners[model], feeds[model], runs[model]))
        progress(index + 1, config.rounds, "rounds")
        spent = time.perf_counter() - start
        if config.seconds is not None and index + 1 >= FEWEST_ROUNDS and spent > config.seconds:
            break
    return [np.array(rows) for rows in times]


def _warm_up(runner: Run, feeds: Feeds, seconds: float) -> int:
    """Runs until caches and clock are warm; returns how many runs make a turn."""
    runner(feeds)
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        runner(feeds)
        runs += 1
    one = (time.perf_counter() - start) / runs
    return max(1, min(MOST_RUNS, math.ceil(TURN_SECONDS / one)))


def _rest() -> None:
    """Waits until no thread of this process keeps a core busy: idle threads of onnxruntime spin."""
    for _ in range(MOST_RESTS):
        start = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - start < REST_SECONDS / 4:
            break


def _turn(runner: Run, feeds: Feeds, runs: int) -> list[float]:
    """Milliseconds of each of some runs in a row, after one that brings the model into cache."""
    runner(feeds)
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        runner(feeds)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def probe(candidate: Candidate, feeds: Feeds, threads: int) -> tuple[int, float]:
    """Peak memory (bytes) and session creation time (seconds) in a fresh process.

    Raises:
        UnreadableError: the process fails.
    """
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        inputs = Path(folder, "inputs.npz")
        np.savez(inputs, **feeds)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "toolchain.memory_probe"]
        native = [] if candidate.native is None else [str(candidate.native)]
        done = subprocess.run(
            [*command, str(candidate.path), str(inputs), str(threads), *native],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UnreadableError(f"{candidate.path}: measuring its memory failed: {last[0]}")
    measured = json.loads(done.stdout)
    return measured["peak_bytes"], measured["create_seconds"]


def profile(candidate: Candidate, config: BenchConfig) -> list[OpTime]:
    """Time by operator, largest first, from onnxruntime's profile of some runs."""
    feeds = feeds_of(candidate, config)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        runner = Runner(
            candidate.path,
            threads=config.threads,
            profile_prefix=Path(folder, "profile"),
            native=candidate.native,
        )
        for _ in range(PROFILED_RUNS):
            runner(feeds)
        events = json.loads(Path(runner.session.end_profiling()).read_text(encoding="utf-8"))
    return aggregate_profile(events, PROFILED_RUNS)


def aggregate_profile(events: Sequence[Mapping[str, object]], runs: int) -> list[OpTime]:
    """Sums kernel times of a profile by operator.

    Args:
        events: of onnxruntime's profile file; durations in microseconds.
        runs: that were profiled.
    """
    totals: dict[str, float] = defaultdict(float)
    nodes: dict[str, set[str]] = defaultdict(set)
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if name.endswith("_kernel_time") and isinstance(arguments, Mapping):
            op_type = str(arguments.get("op_name"))
            totals[op_type] += float(str(event["dur"]))
            nodes[op_type].add(name)
    total = sum(totals.values()) or 1.0
    largest_first = sorted(totals, key=lambda op_type: -totals[op_type])
    return [
        OpTime(
            op_type=op_type,
            nodes=len(nodes[op_type]),
            milliseconds=totals[op_type] / 1000 / runs,
            share=totals[op_type] / total,
        )
        for op_type in largest_first
    ]
