"""Simulates a workload on an accelerator, and checks that nothing is lost or invented."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtimes.accelerator import escalate, scnn, sparten, systolic
from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray, ScnnArray, SpartenArray, SystolicArray
from runtimes.accelerator.energy import event_energies, load_table
from runtimes.accelerator.schedule import Record, schedule
from runtimes.accelerator.tiles import TilePlan, bitmap_bytes
from runtimes.accelerator.workload import Layer, Workload, tap_counts

Engine = Callable[[Layer, Architecture], TilePlan]
ENGINES: Mapping[type, Engine] = {
    SystolicArray: systolic.plan,
    EscalateArray: escalate.plan,
    ScnnArray: scnn.plan,
    SpartenArray: sparten.plan,
}


class ConservationError(RuntimeError):
    """The simulator contradicts itself: an internal error."""


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """One layer on one accelerator.

    Attributes:
        layer: what was simulated.
        compute_cycles: of the array, without waiting for memory.
        total_cycles: from the first load to the last store.
        macs: multiply-accumulates that were done.
        macs_skipped: those that zeros saved.
        adds: channel-combining additions that were done.
        adds_skipped: those that zeros saved.
        dram_bytes: read and written, by tensor.
        energy_pj: by component.
        counts: bits moved or operations, by component and action.
        utilisation: share of multipliers times cycles that did a multiplication.
        records: what happened when.
    """

    layer: Layer
    compute_cycles: int
    total_cycles: int
    macs: int
    macs_skipped: int
    adds: int
    adds_skipped: int
    dram_bytes: Mapping[str, int]
    energy_pj: Mapping[str, float]
    counts: Mapping[tuple[str, str], int]
    utilisation: float
    records: Sequence[Record]


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """A network on one accelerator.

    Attributes:
        architecture: the accelerator.
        layers: in execution order, one after the other.
        host_cycles: of the operators beside the accelerator.
    """

    architecture: Architecture
    layers: Sequence[LayerResult]
    host_cycles: int

    @property
    def cycles(self) -> int:
        """Of all layers; the host's are not among them."""
        return sum(layer.total_cycles for layer in self.layers)

    @property
    def energy_pj(self) -> float:
        """Of all layers."""
        return sum(sum(layer.energy_pj.values()) for layer in self.layers)

    @property
    def dram_bytes(self) -> int:
        """Of all layers."""
        return sum(sum(layer.dram_bytes.values()) for layer in self.layers)


def simulate(workload: Workload, architecture: Architecture) -> NetworkResult:
    """Simulates all layers of a network, one after the other.

    Raises:
        ArchitectureError: the energy table is unknown.
        ConservationError: counts, bytes or times do not add up.
    """
    energies = event_energies(architecture, load_table(architecture.energy_table))
    results: list[LayerResult] = []
    begin = 0
    for layer in workload.layers:
        results.append(_simulate_layer(layer, architecture, energies, begin))
        begin += results[-1].total_cycles
    elements = sum(each.elements for each in workload.host)
    host = math.ceil(elements / architecture.host.operations_per_cycle)
    return NetworkResult(architecture=architecture, layers=results, host_cycles=host)


def _simulate_layer(
    layer: Layer, architecture: Architecture, energies: Mapping[str, float], begin: int
) -> LayerResult:
    plan = _plan(layer, architecture)
    records = list(schedule(layer.name, plan, architecture.bytes_per_cycle, begin))
    dram_bytes = {tensor: int(sizes.sum()) for tensor, sizes in plan.loads.items()}
    dram_bytes["output"] = int(plan.stores.sum())
    counts: Counter[tuple[str, str]] = Counter(plan.counts)
    loaded = sum(int(sizes.sum()) for sizes in plan.loads.values())
    counts["dram", "read"], counts["dram", "write"] = 8 * loaded, 8 * int(plan.stores.sum())
    energy: Counter[str] = Counter()
    for (component, _), count in counts.items():
        energy[component] += count * energies[component]  # type: ignore[assignment]
    compute = int(plan.compute.sum())
    done = plan.counts.get(("multiplier", "compute"), 0)
    done += plan.counts.get(("basis_multiplier", "compute"), 0)
    result = LayerResult(
        layer=layer,
        compute_cycles=compute,
        total_cycles=max(record.end for record in records) - begin,
        macs=plan.macs,
        macs_skipped=plan.macs_skipped,
        adds=plan.adds,
        adds_skipped=plan.adds_skipped,
        dram_bytes=dram_bytes,
        energy_pj=dict(energy),
        counts=dict(counts),
        utilisation=done / max(compute * architecture.array.multipliers, 1),
        records=records,
    )
    check(result, architecture)
    return result


def _plan(layer: Layer, architecture: Architecture) -> TilePlan:
    """The plans of all channel groups, one after the other."""
    engine = ENGINES[type(architecture.array)]
    plans = [engine(each, architecture) for each in layer.groups()]
    counts: Counter[tuple[str, str]] = Counter()
    for plan in plans:
        counts.update(plan.counts)
    loads = {
        tensor: np.concatenate([plan.loads[tensor] for plan in plans]) for tensor in plans[0].loads
    }
    compute = np.concatenate([plan.compute for plan in plans])
    if layer.residual is not None:
        extra = np.zeros_like(compute)
        extra[-1] = _residual_bytes(layer, architecture)
        loads["residual"] = extra
    return TilePlan(
        compute=compute,
        loads=loads,
        stores=np.concatenate([plan.stores for plan in plans]),
        counts=counts,
        macs=sum(plan.macs for plan in plans),
        macs_skipped=sum(plan.macs_skipped for plan in plans),
        adds=sum(plan.adds for plan in plans),
        adds_skipped=sum(plan.adds_skipped for plan in plans),
    )


def _residual_bytes(layer: Layer, architecture: Architecture) -> int:
    """Bytes of what is added on the way out, in the format that the accelerator stores."""
    assert layer.residual is not None
    bits, array = architecture.words.activation_bits, architecture.array
    if isinstance(array, SystolicArray):
        return -(-layer.residual.size * bits // 8)
    if isinstance(array, ScnnArray):
        return scnn.run_length_bytes(layer.residual, bits, array.run_bits)
    return bitmap_bytes(layer.residual, bits)


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
    if not isinstance(architecture.array, EscalateArray) or layer.factors is None:
        return layer.dense_macs
    from_inputs = int(tap_counts(layer).sum())
    return layer.filters * len(layer.factors.basis) * from_inputs


def _expected_work(layer: Layer, architecture: Architecture) -> int | None:
    """Matched nonzeros, counted by channel from the tensors alone; None where zeros count."""
    array = architecture.array
    if isinstance(array, SystolicArray):
        return layer.dense_macs
    if isinstance(array, EscalateArray):
        if not (array.skip_coefficients and array.skip_activations):
            return None
        if layer.factors is not None:
            used = (layer.x != 0) & (tap_counts(layer) > 0)
            inputs = used.sum(axis=(1, 2)).reshape(layer.geometry.group, -1)  # (group, C/group)
            ce = (layer.factors.coefficients != 0).sum(axis=2)  # (K, C/group)
            by_group = ce.reshape(layer.geometry.group, -1, ce.shape[1]).sum(axis=1)
            adds = int((by_group * inputs).sum())
            return adds or None
    return sum(scnn.useful_macs(each) for each in layer.groups())
