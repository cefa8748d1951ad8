"""`optc bench`: latency, memory and size of models, measured side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from runtimes import native_build
from toolchain.bench import BenchConfig, BenchResult, Candidate, OpTime, bench, profile
from toolchain.commands.options import (
    LIMIT,
    MODEL,
    POSITIVE,
    OpenedModel,
    dim_option,
    has_optc_nodes,
    json_option,
    native_library,
    native_option,
    open_model,
    seed_option,
    threads_option,
)
from toolchain.console import (
    UNKNOWN,
    format_bytes,
    format_ms,
    format_share,
    print_json,
    print_table,
    progress,
    say,
)
from toolchain.environment import environment
from toolchain.errors import GateError, UsageError

SCHEMA = "optc-bench/1"


@click.command()
@click.argument("models", type=MODEL, nargs=-1, required=True)
@threads_option
@click.option("--batch", type=POSITIVE, default=1, show_default=True, help="Samples a run.")
@click.option(
    "--rounds", type=POSITIVE, default=100, show_default=True, help="Turns of each model."
)
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop earlier after this time.")
@seed_option
@dim_option
@click.option(
    "--min-speedup",
    type=LIMIT,
    help="Fail (exit code 6) if the last model is not this many times as fast as the first.",
)
@click.option(
    "--max-size",
    type=LIMIT,
    metavar="SHARE",
    help="Fail (exit code 6) if the last model's file is above this share of the first's.",
)
@native_option
@click.option("--profile", "with_profile", is_flag=True, help="Show the time of each operator.")
@json_option
def command(
    models: tuple[Path, ...],
    threads: int,
    batch: int,
    rounds: int,
    seconds: float | None,
    seed: int,
    dims: dict[str, int],
    min_speedup: float | None,
    max_size: float | None,
    native: bool,
    with_profile: bool,
    as_json: bool,
) -> None:
    """Time MODELS in turns, A B A B, in onnxruntime on this machine's CPU.

    Speedups are ratios of medians against the first model, with a 95 % bootstrap interval.
    """
    if len(models) < 2 and (min_speedup is not None or max_size is not None):
        raise UsageError("--min-speedup and --max-size compare the last model with the first")
    config = BenchConfig(
        threads=threads, batch=batch, rounds=rounds, seconds=seconds, seed=seed, dims=dims
    )
    opened = [open_model(path) for path in models]
    library = native_library(opened, native)
    candidates = [
        Candidate(path=each.path, inputs=each.inputs, nbytes=each.summary.nbytes, native=library)
        for each in opened
    ]
    operators = describe_operators(opened, library)
    with progress(rounds, "bench") as report:
        results = bench(candidates, config, report)
    profiles = [profile(each, config) for each in candidates] if with_profile else []
    if as_json:
        print_json(_document(opened, results, profiles, config, operators))
    else:
        _print(results, profiles, config, operators)
    check_gates(results, min_speedup, max_size)


def describe_operators(models: Sequence[OpenedModel], library: Path | None) -> str | None:
    """How `optc` operators are run, or None where no model has any."""
    if not any(has_optc_nodes(each.model) for each in models):
        return None
    if library is None:
        return "standard ONNX operators"
    return f"native kernels ({native_build.instruction_set(library)})"


def check_gates(
    results: Sequence[BenchResult], min_speedup: float | None, max_size: float | None
) -> None:
    """Compares the last model with the first.

    Raises:
        GateError: it is too slow or too large.
    """
    first, last = results[0], results[-1]
    ratio, share = last.speedup.ratio, last.nbytes / first.nbytes
    if min_speedup is not None and not ratio >= min_speedup:
        raise GateError(f"{last.path} is {ratio:.2f}× as fast, --min-speedup is {min_speedup:g}")
    if max_size is not None and not share <= max_size:
        raise GateError(f"{last.path} has {share:.3f} of the size, --max-size is {max_size:g}")


def _document(
    models: Sequence[OpenedModel],
    results: Sequence[BenchResult],
    profiles: Sequence[Sequence[OpTime]],
    config: BenchConfig,
    operators: str | None,
) -> dict[str, Any]:
    entries = []
    for index, (model, result) in enumerate(zip(models, results, strict=True)):
        times, ratio = result.latency, result.speedup
        entries.append(
            {
                **model.to_json(),
                "median_ms": times.median,
                "p10_ms": times.p10,
                "p90_ms": times.p90,
                "mad_ms": times.mad,
                "runs": times.runs,
                "speedup": ratio.ratio,
                "speedup_95": [ratio.low, ratio.high],
                "peak_bytes": result.peak_bytes,
                "create_seconds": result.create_seconds,
                "profile": [vars(op) for op in profiles[index]] if profiles else None,
            }
        )
    return {
        "schema": SCHEMA,
        "config": {**vars(config), "dims": dict(config.dims)},
        "models": entries,
        "optc_operators": operators,
        "environment": environment(config.threads),
    }


def _print(
    results: Sequence[BenchResult],
    profiles: Sequence[Sequence[OpTime]],
    config: BenchConfig,
    operators: str | None,
) -> None:
    headers = (
        "model",
        "median ms",
        "p10",
        "p90",
        "±MAD",
        "speedup",
        "95 %",
        "size",
        "memory",
        "create ms",
    )
    rows = [_cells(result) for result in results]
    rows[0][5:7] = ["1", UNKNOWN]
    print_table(headers, rows)
    for result, ops in zip(results, profiles, strict=False):
        say()
        rows = [
            [op.op_type, str(op.nodes), format_ms(op.milliseconds), format_share(op.share, 1)]
            for op in ops
        ]
        say(result.path)
        print_table(("operator", "nodes", "ms a run", "share"), rows)
    known = environment(config.threads)
    say()
    say(
        f"{known['cpu']} ({known['isa']}), onnxruntime {known['onnxruntime']}, "
        f"threads {known['threads']}, batch {config.batch}; "
        f"{results[0].latency.runs} timed runs of the first model"
    )
    if operators is not None:
        say(f"optc operators run as {operators}")


def _cells(result: BenchResult) -> list[str]:
    times, ratio = result.latency, result.speedup
    return [
        result.path,
        format_ms(times.median),
        format_ms(times.p10),
        format_ms(times.p90),
        format_ms(times.mad),
        f"{ratio.ratio:.2f}×",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        format_bytes(result.nbytes),
        format_bytes(result.peak_bytes),
        format_ms(1000 * result.create_seconds),
    ]
