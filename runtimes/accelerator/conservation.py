"""Checks that a result contradicts neither the tensors nor itself; every simulation runs them."""

import numpy as np

from runtimes.accelerator import scnn
from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray, SystolicArray
from runtimes.accelerator.results import LayerResult
from runtimes.accelerator.workload import Layer, tap_counts, taps


class ConservationError(RuntimeError):
    """The simulator contradicts itself: an internal error."""


def check(result: LayerResult, architecture: Architecture) -> None:
    """Conservation of work, bytes and time.

    Raises:
        ConservationError: something does not add up.
    """
    layer, records, name = result.layer, result.records, result.layer.name
    moved = sum(record.nbytes for record in records)
    facts = {
        "bytes of records and of tensors": (moved, sum(result.dram_bytes.values())),
        "cycles of tiles": (
            sum(r.end - r.start for r in records if r.op == "compute"),
            result.compute_cycles,
        ),
        "work done and skipped": (
            result.macs + result.macs_skipped,
            _all_macs(layer, architecture),
        ),
    }
    expected = _expected_work(layer, architecture)
    if expected is not None:
        facts["work and the count of nonzeros"] = (result.adds or result.macs, expected)
    for what, (left, right) in facts.items():
        if left != right:
            raise ConservationError(f"layer {name}: {what} differ, {left} and {right}")
    floor = max(result.compute_cycles, moved / architecture.bytes_per_cycle)
    if result.total_cycles < floor or result.utilisation > 1:
        raise ConservationError(f"layer {name}: faster than its arithmetic and traffic allow")


def _all_macs(layer: Layer, architecture: Architecture) -> int:
    """Multiply-accumulates without any skipping, of the algorithm that the accelerator runs."""
    array = architecture.array
    if not isinstance(array, EscalateArray) or layer.factors is None:
        return layer.dense_macs
    basis_first = array.stage_order == "basis-first"
    convolved = layer.channels if basis_first else layer.filters
    return convolved * len(layer.factors.basis) * int(tap_counts(layer).sum())


def _expected_work(layer: Layer, architecture: Architecture) -> int | None:
    """Matched nonzeros, counted by channel from the tensors alone; None where zeros count."""
    array = architecture.array
    if isinstance(array, SystolicArray):
        return layer.dense_macs
    if isinstance(array, EscalateArray):
        if not (array.skip_coefficients and array.skip_activations):
            return None
        if layer.factors is not None:
            if array.stage_order == "basis-first":
                inputs = np.logical_or.reduce([view for *_, view in taps(layer.x != 0, layer)])
            else:
                inputs = (layer.x != 0) & (tap_counts(layer) > 0)
            by_channel = inputs.sum(axis=(1, 2)).reshape(layer.geometry.group, -1)
            ce = (layer.factors.coefficients != 0).sum(axis=2)  # (K, C/group)
            by_group = ce.reshape(layer.geometry.group, -1, ce.shape[1]).sum(axis=1)
            return int((by_group * by_channel).sum()) or None
    return sum(scnn.useful_macs(each) for each in layer.groups())
