"""What several commands share: options, opened models, how they are shown."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir

from runtimes import native_build
from runtimes.operators import DOMAIN
from toolchain.console import format_bytes, format_count, note, say
from toolchain.data import Data, open_data, random_data
from toolchain.errors import UnreadableError, UsageError
from toolchain.inputs import InputSpec, fixed_batch, input_specs
from toolchain.model_io import load_model, model_summary
from toolchain.results import ModelSummary

RANDOM_SAMPLES = 64


class Limit(click.FloatRange):
    """A number that something is held against: at least 0, and not NaN or infinite."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; a usage error names what is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


MODEL = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
NOT_NEGATIVE = click.IntRange(min=0)
LIMIT = Limit()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
seed_option = click.option(
    "--seed", type=NOT_NEGATIVE, default=0, show_default=True, help="Of everything random."
)
samples_option = click.option("--samples", type=POSITIVE, help="Use at most this many samples.")
threads_option = click.option(
    "--threads", type=NOT_NEGATIVE, default=1, show_default=True, help="Of a run; 0 for all cores."
)
native_option = click.option(
    "--native/--no-native",
    default=True,
    show_default=True,
    help="Run optc operators by their native kernels, where these can be had.",
)
dim_option = click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    callback=lambda _context, _option, given: parse_dims(given),
    help="Size of a symbolic dimension of random inputs; repeats.",
)


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A checked model file and what it must be fed."""

    path: Path
    model: ir.Model
    summary: ModelSummary
    inputs: tuple[InputSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """The summary, JSON-ready."""
        return asdict(self.summary)


def open_model(path: Path) -> OpenedModel:
    """Reads and checks a model.

    Raises:
        UnreadableError: it is missing, damaged or invalid.
    """
    model = load_model(path)
    return OpenedModel(
        path=path, model=model, summary=model_summary(path, model), inputs=input_specs(model)
    )


def native_library(models: Sequence[OpenedModel], wanted: bool) -> Path | None:
    """The native operator library if any model has a use for it; says so where it is missing.

    Args:
        models: that are to be run.
        wanted: False for ``--no-native``.
    """
    return build_native() if wanted and any(has_optc_nodes(m.model) for m in models) else None


def build_native() -> Path | None:
    """The native operator library, built if need be; None, and a note, where it cannot be."""
    try:
        return native_build.library_path(report=say)
    except native_build.NativeError as error:
        note(f"optc operators run as standard ONNX operators: {error}")
        return None


def has_optc_nodes(model: ir.Model) -> bool:
    """Whether any node is of the `optc` domain."""
    return any(node.domain == DOMAIN for graph in model.graphs() for node in graph)


def common_inputs(models: Sequence[OpenedModel]) -> tuple[InputSpec, ...]:
    """Inputs that can be fed to all models: a fixed batch size wins over a dynamic one.

    Raises:
        UnreadableError: the names of inputs differ.
    """
    first = models[0]
    names = {spec.name for spec in first.inputs}
    for other in models[1:]:
        if {spec.name for spec in other.inputs} != names:
            listed = ", ".join(f"'{spec.name}'" for spec in other.inputs)
            raise UnreadableError(
                f"{other.path}: inputs are {listed}, those of {first.path} are "
                + ", ".join(f"'{name}'" for name in sorted(names))
            )
    fixed = [model.inputs for model in models if fixed_batch(model.inputs) is not None]
    return fixed[0] if fixed else first.inputs


def open_data_or_random(
    source: str | None,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None,
    seed: int,
    dims: dict[str, int],
) -> Data:
    """The user's data, or random inputs without; says what a person should know.

    Raises:
        UnreadableError: the data does not fit the inputs.
    """
    if source is not None:
        data = open_data(source, inputs)
    else:
        data = random_data(inputs, samples=samples or RANDOM_SAMPLES, seed=seed, dims=dims)
    for line in data.notes:
        note(line)
    return data


def data_json(data: Data, samples: int) -> dict[str, Any]:
    """Where data came from and how much of it was used, JSON-ready."""
    return {"path": data.path, "sha256": data.sha256, "samples": samples}


def parse_dims(given: Sequence[str]) -> dict[str, int]:
    """Parses ``NAME=SIZE``.

    Raises:
        UsageError: one is not of that form.
    """
    dims = {}
    for text in given:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--dim {text}: expected NAME=SIZE with a positive size")
        dims[name] = int(size)
    return dims


def summary_row(label: str, summary: ModelSummary) -> list[str]:
    """Cells for path, size, parameters and MACs."""
    return [
        label,
        summary.path,
        format_bytes(summary.nbytes),
        format_count(summary.parameters),
        format_count(summary.macs),
    ]


SUMMARY_HEADERS = ("", "model", "size", "nonzero params", "MACs")
