"""`optc compare`: how far apart the outputs, or all layers, of two models are."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from toolchain.commands.options import (
    LIMIT,
    MODEL,
    SUMMARY_HEADERS,
    OpenedModel,
    common_inputs,
    data_json,
    dim_option,
    json_option,
    native_library,
    native_option,
    open_data_or_random,
    open_model,
    samples_option,
    seed_option,
    summary_row,
    threads_option,
)
from toolchain.console import UNKNOWN, format_share, print_json, print_table, progress, say
from toolchain.data import DEFAULT_BATCH, Data
from toolchain.environment import environment
from toolchain.errors import VerificationError
from toolchain.fidelity import compare_outputs
from toolchain.layer_fidelity import LayerFidelity, compare_layers
from toolchain.results import OutputFidelity
from toolchain.runner import Runner

SCHEMA = "optc-compare/1"
HEADERS = ("max abs", "rel L2", "SQNR dB", "cosine", "same top-1")


@click.command()
@click.argument("first", type=MODEL)
@click.argument("second", type=MODEL)
@click.option("--data", help="Inputs: .npz, folder of them, or module:function; else random.")
@samples_option
@seed_option
@dim_option
@click.option("--per-layer", is_flag=True, help="Compare every layer that both models have.")
@click.option(
    "--max-rel",
    type=LIMIT,
    help="Fail (exit code 5) if the relative L2 error of an output is above this.",
)
@threads_option
@native_option
@json_option
def command(
    first: Path,
    second: Path,
    data: str | None,
    samples: int | None,
    seed: int,
    dims: dict[str, int],
    per_layer: bool,
    max_rel: float | None,
    threads: int,
    native: bool,
    as_json: bool,
) -> None:
    """Compare the outputs of two models on the same inputs; FIRST is the reference."""
    models = [open_model(path) for path in (first, second)]
    opened = open_data_or_random(data, common_inputs(models), samples=samples, seed=seed, dims=dims)
    opened = opened.limited(samples)
    library = native_library(models, native)
    outputs = _compare_outputs(models, opened, threads, library)
    layers = _compare_layers(models, opened) if per_layer else ()
    if as_json:
        print_json(
            {
                "schema": SCHEMA,
                "models": [model.to_json() for model in models],
                "data": data_json(opened, outputs[0].samples if outputs else 0),
                "outputs": [asdict(output) for output in outputs],
                "layers": [asdict(layer) for layer in layers],
                "environment": environment(threads),
            }
        )
    else:
        _print(models, opened, outputs, layers)
    check_tolerance(outputs, max_rel)


def check_tolerance(outputs: Sequence[OutputFidelity], max_rel: float | None) -> None:
    """Compares every output's relative error with the largest allowed.

    Raises:
        VerificationError: one is above it, or not a number.
    """
    for output in outputs:
        if max_rel is not None and not output.relative_l2 <= max_rel:
            raise VerificationError(
                f"output '{output.name}': relative L2 error {output.relative_l2:.3g} is above "
                f"--max-rel {max_rel:g}"
            )


def _compare_outputs(
    models: Sequence[OpenedModel],
    data: Data,
    threads: int,
    library: Path | None,
) -> tuple[OutputFidelity, ...]:
    reference, candidate = (Runner(model.path, threads=threads, native=library) for model in models)
    total = data.batch_count()
    with progress(total, "compare") as report:
        return compare_outputs(reference, candidate, data.batches(), report, total=total)


def _compare_layers(models: Sequence[OpenedModel], data: Data) -> tuple[LayerFidelity, ...]:
    first, second = ((model.path, model.model) for model in models)
    with progress(1, "layers") as report:
        return compare_layers(
            first,
            second,
            data.batches,
            batch_size=DEFAULT_BATCH,
            progress=report,
        )


def _print(
    models: Sequence[OpenedModel],
    data: Data,
    outputs: Sequence[OutputFidelity],
    layers: Sequence[LayerFidelity],
) -> None:
    rows = [summary_row(name, model.summary) for name, model in zip("AB", models, strict=True)]
    print_table(SUMMARY_HEADERS, rows, text=(0, 1))
    say()
    if layers:
        layer_rows = [[x.layer, x.op_type, *_cells(x.fidelity)[:-1]] for x in layers]
        print_table(("layer", "operator", *HEADERS[:-1]), layer_rows, text=(0, 1))
        say()
    print_table(("output", *HEADERS), [[output.name, *_cells(output)] for output in outputs])
    say()
    count = outputs[0].samples if outputs else 0
    say(f"{count} samples of {data.path}; errors are of B against A")


def _cells(fidelity: OutputFidelity) -> list[str]:
    sqnr = "equal" if fidelity.sqnr_db is None else f"{fidelity.sqnr_db:.1f}"
    same = fidelity.top1_agreement
    return [
        f"{fidelity.max_abs:.3g}",
        f"{fidelity.relative_l2:.3g}",
        sqnr,
        f"{fidelity.cosine:.6f}",
        UNKNOWN if same is None else format_share(same),
    ]
