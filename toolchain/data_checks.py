"""Whether arrays fit the inputs of a model; every complaint says what, where and what to do."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UnreadableError
from toolchain.inputs import InputSpec, batched_names, format_shape

Array = NDArray[Any]
Chunk = Mapping[str, Array]

LABELS = "labels"


def check_chunk(
    where: str, chunk: Chunk, inputs: Sequence[InputSpec]
) -> tuple[dict[str, Array], int]:
    """Checks and converts the arrays of one file or one yield.

    Args:
        where: they come from, for messages.
        chunk: arrays by name; others than the inputs and labels are left out.
        inputs: of the model.

    Returns:
        Arrays of the inputs' types (with labels, if any), and the number of samples.

    Raises:
        UnreadableError: a name, shape, type or value does not fit.
    """
    arrays = {spec.name: _converted(where, chunk, spec) for spec in inputs}
    samples = _check_shapes(where, arrays, inputs)
    if LABELS in chunk and LABELS not in arrays:
        labels = np.asarray(chunk[LABELS])
        if labels.dtype.kind not in "iu" or labels.shape[:1] != (samples,):
            raise UnreadableError(
                f"{where}: 'labels' is {labels.dtype} {format_shape(labels.shape)}, expected one "
                f"integer class number for each of {samples} samples"
            )
        arrays[LABELS] = labels
    return arrays, samples


def _converted(where: str, chunk: Chunk, spec: InputSpec) -> Array:
    if spec.name not in chunk:
        names = ", ".join(f"'{name}'" for name in chunk) or "nothing"
        near = difflib.get_close_matches(spec.name, chunk, n=1)
        hint = f"rename '{near[0]}'" if near else "name arrays like the model's inputs"
        raise UnreadableError(f"{where}: no array named '{spec.name}' (has: {names}); {hint}")
    array = np.asarray(chunk[spec.name])
    if spec.dtype.kind == "O":
        return array.astype(object)
    if array.dtype != spec.dtype and not _casts(array, spec.dtype):
        raise UnreadableError(
            f"{where}: '{spec.name}' is {array.dtype}, the model wants {spec.dtype}; "
            f"{_cast_hint(array.dtype, spec.dtype)}"
        )
    array = array.astype(spec.dtype, copy=False)
    if spec.dtype.kind == "f" and not np.isfinite(array).all():
        index = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise UnreadableError(
            f"{where}: '{spec.name}' has NaN or infinite values, first in sample {index}; "
            "check the preprocessing"
        )
    return array


def _casts(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a conversion stays within the kind of number and changes no value."""
    kinds = {array.dtype.kind, dtype.kind}
    if not (kinds == {"f"} or kinds <= {"i", "u"}):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(array.astype(dtype), array, equal_nan=kinds == {"f"}))


def _cast_hint(given: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    if given.kind in "iub" and wanted.kind == "f":
        return "save it after the model's preprocessing (scaling and normalisation)"
    return f"save it with .astype('{wanted}')"


def _check_shapes(where: str, arrays: Mapping[str, Array], inputs: Sequence[InputSpec]) -> int:
    """Compares with fixed and repeated symbolic dimensions; returns the number of samples."""
    batched = batched_names(inputs)
    samples = len(arrays[inputs[0].name]) if batched and arrays[inputs[0].name].ndim else 1
    symbols: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        shape = arrays[spec.name].shape
        fits = len(shape) == len(spec.shape)
        for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=False)):
            if axis == 0 and spec.name in batched:
                _check_samples(where, spec.name, size, inputs[0].name, samples)
            elif isinstance(wanted, int):
                fits &= size == wanted
            elif wanted is not None:
                known, owner = symbols.setdefault(wanted, (size, spec.name))
                if known != size:
                    raise UnreadableError(
                        f"{where}: dimension '{wanted}' is {known} in '{owner}' and {size} in "
                        f"'{spec.name}'; they must be equal"
                    )
        if not fits:
            raise UnreadableError(
                f"{where}: '{spec.name}' has shape {format_shape(shape)}, the model wants "
                f"{format_shape(spec.shape)}{_shape_hint(shape, spec)}"
            )
    return samples


def _check_samples(where: str, name: str, size: int, first: str, samples: int) -> None:
    if size != samples:
        raise UnreadableError(
            f"{where}: '{name}' has {size} samples, '{first}' has {samples}; they must be equal"
        )
    if size == 0:
        raise UnreadableError(f"{where}: '{name}' is empty; give at least one sample")


def _shape_hint(shape: tuple[int, ...], spec: InputSpec) -> str:
    def fits(candidate: tuple[int, ...]) -> bool:
        return len(candidate) == len(spec.shape) and all(
            axis == 0 or not isinstance(wanted, int) or size == wanted
            for axis, (size, wanted) in enumerate(zip(candidate, spec.shape, strict=True))
        )

    if len(shape) == 4 and fits((shape[0], shape[3], shape[1], shape[2])):
        return "; channels come last, transpose with .transpose(0, 3, 1, 2)"
    if fits((1, *shape)):
        return "; the first axis counts samples, add it with array[None]"
    return ""
