"""How close the values of two models are, in sums over batches: outputs are never kept.

With y of the reference and ŷ of the candidate, over all elements of all samples:

    relative L2 = ‖y − ŷ‖ / ‖y‖      SQNR = −20·log10(relative L2)      cosine = ⟨y, ŷ⟩ / (‖y‖·‖ŷ‖)

Infinities and NaNs that both models have at the same place are equal; one that only one of them
has makes the error infinite. So does a reference without any finite value: it says nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.framework import Progress
from toolchain.data import Batch
from toolchain.errors import UnreadableError
from toolchain.results import OutputFidelity

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass
class FidelitySums:
    """Running sums of one value, from which `fidelity` follows at any time."""

    name: str
    max_abs: float = 0.0
    error: float = 0.0  # ‖y − ŷ‖²
    reference: float = 0.0  # ‖y‖²
    candidate: float = 0.0  # ‖ŷ‖²
    product: float = 0.0  # ⟨y, ŷ⟩
    elements: int = 0
    finite: int = 0  # elements of y
    same_top1: int = 0
    rows: int = 0
    samples: int = 0

    def add(self, reference: Array, candidate: Array, samples: int) -> None:
        """Adds one batch.

        Raises:
            UnreadableError: the shapes differ, or the elements are not numbers.
        """
        if reference.shape != candidate.shape:
            raise UnreadableError(
                f"'{self.name}' has shape {reference.shape} in the first model and "
                f"{candidate.shape} in the second; only equal shapes can be compared"
            )
        for array in (reference, candidate):
            if array.dtype.kind not in "fiub":
                raise UnreadableError(
                    f"'{self.name}' is {array.dtype}; only numbers can be compared"
                )
        y, z = reference.astype(np.float64), candidate.astype(np.float64)
        self._add_sums(y, z)
        self.samples += samples
        if y.ndim > 1 and y.shape[-1] > 1:
            self.same_top1 += int(np.sum(y.argmax(axis=-1) == z.argmax(axis=-1)))
            self.rows += math.prod(y.shape[:-1])

    def _add_sums(self, y: Array, z: Array) -> None:
        same = (y == z) | (np.isnan(y) & np.isnan(z))
        known = np.isfinite(y)
        finite = known & np.isfinite(z)
        self.elements += y.size
        self.finite += int(np.sum(known))
        difference = np.where(same, 0.0, math.inf)
        np.subtract(y, z, out=difference, where=finite)
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))
        self.error += float(np.sum(np.square(difference)))
        y, z = np.where(finite, y, 0.0), np.where(finite, z, 0.0)
        self.reference += float(np.sum(np.square(y)))
        self.candidate += float(np.sum(np.square(z)))
        self.product += float(np.sum(y * z))

    def fidelity(self) -> OutputFidelity:
        """The result over everything added so far."""
        is_unknown = bool(self.elements) and not self.finite
        error = math.inf if is_unknown else self.error
        relative = _ratio(math.sqrt(error), math.sqrt(self.reference))
        norms = math.sqrt(self.reference) * math.sqrt(self.candidate)
        both_zero = not is_unknown and self.reference == self.candidate == 0
        return OutputFidelity(
            name=self.name,
            max_abs=math.inf if is_unknown else self.max_abs,
            relative_l2=relative,
            sqnr_db=None if error == 0 else _decibels(relative),
            cosine=max(-1.0, min(1.0, self.product / norms)) if norms else float(both_zero),
            top1_agreement=self.same_top1 / self.rows if self.rows else None,
            samples=self.samples,
        )


def compare_outputs(
    reference: Run,
    candidate: Run,
    batches: Iterable[Batch],
    progress: Progress = lambda done, total, label: None,
    total: int = 0,
) -> tuple[OutputFidelity, ...]:
    """Compares all outputs of two models.

    Args:
        reference: returns arrays by output name for feeds.
        candidate: the same for the other model.
        batches: both are given.
        progress: called after every batch.
        total: number of batches, for progress.

    Raises:
        UnreadableError: outputs differ in name, shape or kind, or there are no batches.
    """
    sums: dict[str, FidelitySums] = {}
    for index, batch in enumerate(batches):
        expected, got = reference(batch.feeds), candidate(batch.feeds)
        missing = [name for name in expected if name not in got]
        if missing:
            raise UnreadableError(
                f"the second model has no output '{missing[0]}' (has: {', '.join(got)}); outputs "
                "are compared by name"
            )
        for name, array in expected.items():
            sums.setdefault(name, FidelitySums(name)).add(array, got[name], batch.samples)
        progress(index + 1, max(total, index + 1), "batches")
    if not sums:
        raise UnreadableError("nothing to compare: there are no samples, or no outputs")
    return tuple(value.fidelity() for value in sums.values())


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return math.inf if part else 0.0


def _decibels(relative: float) -> float:
    return -20 * math.log10(relative) if relative and math.isfinite(relative) else -math.inf
