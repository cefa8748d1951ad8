"""Statistics of interleaved timings; no onnxruntime here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Distribution of the time of one run, in milliseconds.

    Attributes:
        median: of all timed runs.
        p10: a tenth of the runs were faster.
        p90: a tenth of the runs were slower.
        mad: median absolute deviation from the median.
        runs: how many were timed.
    """

    median: float
    p10: float
    p90: float
    mad: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Ratio of two medians, above 1 where the second model is faster.

    Attributes:
        ratio: median of the first model / median of this one.
        low: lower end of the 95 % bootstrap interval.
        high: its upper end.
    """

    ratio: float
    low: float
    high: float


def latency(times: Times) -> Latency:
    """Summarises times (rounds, runs) in milliseconds."""
    median = float(np.median(times))
    p10, p90 = np.percentile(times, [10, 90])
    return Latency(
        median=median,
        p10=float(p10),
        p90=float(p90),
        mad=float(np.median(np.abs(times - median))),
        runs=times.size,
    )


def speedup(first: Times, other: Times, seed: int) -> Speedup:
    """Ratio of medians with a bootstrap interval over rounds.

    A round holds runs of both models close in time, so rounds are drawn for both together: what
    slowed down a whole round cancels.

    Args:
        first: (rounds, runs of the first model a round).
        other: (rounds, runs of the other model a round).
        seed: of the bootstrap.
    """
    rounds = len(first)
    draws = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    ratios = [np.median(first[draw]) / np.median(other[draw]) for draw in draws]
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ratio = float(np.median(first) / np.median(other))
    return Speedup(ratio=ratio, low=float(low), high=float(high))


def random_orders(models: int, rounds: int, seed: int) -> Sequence[NDArray[np.int64]]:
    """The order of the models in each round, (models,) each."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(models) for _ in range(rounds)]
