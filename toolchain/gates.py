"""Gates of `optc transform`: what the result must reach besides being correct."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passes.framework import Progress
from toolchain.accuracy import drop_points, evaluate
from toolchain.bench import BenchConfig, Candidate, bench
from toolchain.data import Data
from toolchain.inputs import InputSpec
from toolchain.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits; None where there is none.

    Attributes:
        max_size: share of the input's file size.
        min_speedup: ratio of median latencies, one thread and one sample.
        max_drop: percentage points of top-1 accuracy.
        labelled: data that accuracy is measured on.
    """

    max_size: float | None = None
    min_speedup: float | None = None
    max_drop: float | None = None
    labelled: Data | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(limit is not None for limit in (self.max_size, self.min_speedup, self.max_drop))


def missed_gates(
    gates: Gates,
    models: tuple[Path, Path],
    sizes: tuple[int, int],
    inputs: tuple[InputSpec, ...],
    native: Path | None = None,
    progress: Progress = lambda done, total, label: None,
) -> tuple[str, ...]:
    """One line for every gate that is missed.

    Args:
        gates: what to check.
        models: the input and the rewritten model.
        sizes: their bytes.
        inputs: of both.
        native: library that the rewritten model is timed with.
        progress: called before every gate.
    """
    checks: list[tuple[str, Callable[[], str | None]]] = []
    if (size := gates.max_size) is not None:
        checks.append(("size", lambda: _size(size, sizes)))
    if (drop := gates.max_drop) is not None and (data := gates.labelled) is not None:
        checks.append(("accuracy", lambda: _drop(drop, data, models)))
    if (speedup := gates.min_speedup) is not None:
        checks.append(("latency", lambda: _speedup(speedup, models, sizes, inputs, native)))
    missed = []
    for done, (label, check) in enumerate(checks):
        progress(done, len(checks), label)
        missed.append(check())
    return tuple(line for line in missed if line is not None)


def _size(limit: float, sizes: tuple[int, int]) -> str | None:
    share = sizes[1] / sizes[0]
    return (
        None
        if share <= limit
        else f"the result has {share:.3f} of the size, --max-size is {limit:g}"
    )


def _drop(limit: float, data: Data, models: tuple[Path, Path]) -> str | None:
    before, after = (evaluate(Runner(path), data) for path in models)
    drop = drop_points(before, after)
    if drop <= limit:
        return None
    return f"top-1 is {drop:.2f} points below the input's, --max-drop allows {limit:g}"


def _speedup(
    limit: float,
    models: tuple[Path, Path],
    sizes: tuple[int, int],
    inputs: tuple[InputSpec, ...],
    native: Path | None,
) -> str | None:
    candidates = [
        Candidate(path=path, inputs=inputs, nbytes=nbytes, native=library)
        for path, nbytes, library in zip(models, sizes, (None, native), strict=True)
    ]
    ratio = bench(candidates, BenchConfig())[1].speedup.ratio
    return (
        None
        if ratio >= limit
        else f"the result is {ratio:.2f}× as fast, --min-speedup is {limit:g}"
    )
