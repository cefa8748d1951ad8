"""Checks a rewritten model against the one it came from, before it gets its name."""

import math
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from passes.framework import Progress
from runtimes.operators.schemas import register_schemas
from toolchain.data import Batch, Data
from toolchain.errors import UnreadableError
from toolchain.fidelity import compare_outputs
from toolchain.inputs import InputSpec, batched_names, fixed_batch, random_feeds
from toolchain.model_io import not_finite
from toolchain.results import OutputFidelity, Verification
from toolchain.runner import Runner

EXACT_TOLERANCE = 1e-4
"""Largest relative L2 error of passes that change nothing but rounding."""
LOSSY_TOLERANCE = 1.0
"""Outputs that are all zero have this error: above it, what was learnt is gone."""
OTHER_BATCHES = (1, 3)


def verify(
    original: Path,
    rewritten: Path,
    data: Data,
    *,
    kind: str,
    exact: bool,
    native: Path | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, label: None,
) -> Verification:
    """Compares two model files in stock onnxruntime.

    Args:
        original: the input model.
        rewritten: what was made of it.
        data: inputs to compare on.
        kind: "calibration" or "random", for the report.
        exact: outputs must agree to `EXACT_TOLERANCE`, else to `LOSSY_TOLERANCE`.
        native: library of operators whose outputs must be those of stock onnxruntime.
        seed: of the inputs for other batch sizes.
        progress: called after every batch.

    Raises:
        UnreadableError: the original cannot be run.
    """
    reference = Runner(original)
    tolerance = EXACT_TOLERANCE if exact else LOSSY_TOLERANCE
    outputs: tuple[OutputFidelity, ...] = ()
    try:
        _check_valid(rewritten)
        candidate = Runner(rewritten)
        _check_batches(reference, candidate, data.inputs, seed)
        if native is not None:
            _check_native(candidate, Runner(rewritten, native=native), data)
        total = data.batch_count()
        outputs = compare_outputs(reference, candidate, data.batches(), progress, total=total)
        failures = _check_errors(outputs, tolerance)
    except UnreadableError as error:
        failures = [str(error)]
    return Verification(
        passed=not failures,
        exact=exact,
        tolerance=tolerance,
        data=kind,
        outputs=outputs,
        failures=tuple(failures),
    )


def _check_valid(path: Path) -> None:
    register_schemas()
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the C++ checker raises ValidationError, RuntimeError and others
        reason = " ".join(str(error).split())
        raise UnreadableError(f"onnx refuses the rewritten model: {reason}") from error
    problem = not_finite(ir.load(path))
    if problem is not None:
        raise UnreadableError(f"the rewritten model is broken: {problem}")


def _check_batches(
    reference: Runner, candidate: Runner, inputs: Sequence[InputSpec], seed: int
) -> None:
    """Outputs have the original's names and shapes, also for other batch sizes."""
    if not batched_names(inputs) or fixed_batch(inputs) is not None:
        return
    for size in OTHER_BATCHES:
        feeds = random_feeds(inputs, seed=seed, batch=size)
        compare_outputs(reference, candidate, [Batch(feeds=feeds, labels=None, samples=size)])


def _check_native(stock: Runner, native: Runner, data: Data) -> None:
    """The native kernels compute what the operators' bodies say."""
    first = next(iter(data.batches()))
    for output in compare_outputs(stock, native, [first]):
        if not output.relative_l2 <= EXACT_TOLERANCE:
            raise UnreadableError(
                f"output '{output.name}': native kernels differ from the operators' definition by "
                f"{output.relative_l2:.3g}; please report it"
            )


def _check_errors(outputs: Sequence[OutputFidelity], tolerance: float) -> list[str]:
    failures = []
    for output in outputs:
        if not math.isfinite(output.relative_l2):
            failures.append(f"output '{output.name}' has values that are not finite")
        elif output.relative_l2 > tolerance:
            failures.append(
                f"output '{output.name}': relative error {output.relative_l2:.3g} is above "
                f"{tolerance:g}"
            )
    return failures
