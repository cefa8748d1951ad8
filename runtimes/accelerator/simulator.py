"""Simulates a workload on an accelerator, every layer in the fastest way that fits."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from runtimes.accelerator import escalate, scnn, sparten, systolic
from runtimes.accelerator.architecture import Architecture, TileError
from runtimes.accelerator.area import areas_mm2
from runtimes.accelerator.arrays import EscalateArray, ScnnArray, SpartenArray, SystolicArray
from runtimes.accelerator.conservation import check
from runtimes.accelerator.energy import event_energies, load_table
from runtimes.accelerator.results import LayerResult, NetworkResult
from runtimes.accelerator.schedule import least_cycles, schedule, total_cycles
from runtimes.accelerator.tiles import Ints, Plans, TilePlan, bitmap_bytes, spread
from runtimes.accelerator.workload import Layer, Workload

Engine = Callable[[Layer, Architecture], Plans]
ENGINES: Mapping[type, Engine] = {
    SystolicArray: systolic.plans,
    EscalateArray: escalate.plans,
    ScnnArray: scnn.plans,
    SpartenArray: sparten.plans,
}


def simulate(workload: Workload, architecture: Architecture) -> NetworkResult:
    """Simulates all layers of a network, one after the other.

    Raises:
        ArchitectureError: the energy or the area table is unknown.
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
    return NetworkResult(
        architecture=architecture,
        layers=results,
        host_cycles=host,
        area_mm2=areas_mm2(architecture),
    )


def _simulate_layer(
    layer: Layer, architecture: Architecture, energies: Mapping[str, float], begin: int
) -> LayerResult:
    way, plan = _fastest(layer, architecture)
    records = list(schedule(layer.name, plan, architecture.bytes_per_cycle, begin))
    counts: Counter[tuple[str, str]] = Counter(plan.counts)
    loads = {tensor: int(sizes.sum()) for tensor, sizes in plan.loads.items()}
    stores, spilled = int(plan.stores.sum()), plan.spilled_bytes
    counts["dram", "read"] = 8 * (sum(loads.values()) + spilled)
    counts["dram", "write"] = 8 * (stores + spilled)
    compute = int(plan.compute.sum())
    done = counts["multiplier", "compute"] + counts["basis_multiplier", "compute"]
    result = LayerResult(
        layer=layer,
        way=way,
        compute_cycles=compute,
        total_cycles=max(record.end for record in records) - begin,
        macs=plan.macs,
        macs_skipped=plan.macs_skipped,
        adds=plan.adds,
        adds_skipped=plan.adds_skipped,
        dram_bytes={**loads, "output": stores, **({"partial": 2 * spilled} if spilled else {})},
        stored_weight_bytes=plan.stored_weight_bytes,
        regions=plan.regions,
        energy_pj=_energy(counts, energies),
        counts={key: count for key, count in counts.items() if count},
        utilisation=done / max(compute * architecture.array.multipliers, 1),
        records=records,
    )
    check(result, architecture)
    return result


def _energy(
    counts: Mapping[tuple[str, str], int], energies: Mapping[str, float]
) -> dict[str, float]:
    """PJ by component."""
    energy: dict[str, float] = {}
    for (component, _), count in counts.items():
        energy[component] = energy.get(component, 0.0) + count * energies[component]
    return energy


def _fastest(layer: Layer, architecture: Architecture) -> tuple[str, TilePlan]:
    """Of all ways that fit for every channel group; the fewest bytes decide between equals.

    Raises:
        TileError: there is none.
    """
    engine = ENGINES[type(architecture.array)]
    groups = [engine(each, architecture) for each in layer.groups()]
    joined = {
        way: _one_after_the_other([group[way] for group in groups], layer, architecture)
        for way in groups[0]
        if all(way in group for group in groups)
    }
    if not joined:
        raise TileError(f"{architecture.name}, layer '{layer.name}': no tiling fits all groups")

    return _best(joined, architecture.bytes_per_cycle)


def _best(plans: Plans, bytes_per_cycle: float) -> tuple[str, TilePlan]:
    """The plan of the fewest cycles, then bytes; one that cannot win is not scheduled."""
    bounds = {way: (least_cycles(plan, bytes_per_cycle), plan.bytes) for way, plan in plans.items()}
    found: tuple[tuple[int, int], str] | None = None
    for way in sorted(plans, key=bounds.__getitem__):
        if found is None or bounds[way] < found[0]:
            cost = total_cycles(plans[way], bytes_per_cycle), plans[way].bytes
            if found is None or cost < found[0]:
                found = cost, way
    assert found is not None
    return found[1], plans[found[1]]


def _one_after_the_other(
    plans: Sequence[TilePlan], layer: Layer, architecture: Architecture
) -> TilePlan:
    """The plans of all channel groups, and what is added on the way out."""
    counts: Counter[tuple[str, str]] = Counter()
    for plan in plans:
        counts.update(plan.counts)
    loads = {
        tensor: np.concatenate([plan.loads[tensor] for plan in plans]) for tensor in plans[0].loads
    }
    compute = np.concatenate([plan.compute for plan in plans])
    if layer.residual is not None:
        loads["residual"] = spread(_residual_bytes(layer, architecture), len(compute))
    return TilePlan(
        compute=compute,
        loads=loads,
        stores=np.concatenate([plan.stores for plan in plans]),
        spills=_spills(plans),
        counts=counts,
        macs=sum(plan.macs for plan in plans),
        macs_skipped=sum(plan.macs_skipped for plan in plans),
        adds=sum(plan.adds for plan in plans),
        adds_skipped=sum(plan.adds_skipped for plan in plans),
        stored_weight_bytes=sum(plan.stored_weight_bytes for plan in plans),
        stored_input_bytes=sum(plan.stored_input_bytes for plan in plans),
    )


def _spills(plans: Sequence[TilePlan]) -> Ints | None:
    spills = [plan.spills for plan in plans if plan.spills is not None]
    return np.concatenate(spills) if spills else None  # groups are alike: all spill, or none


def _residual_bytes(layer: Layer, architecture: Architecture) -> int:
    """Bytes of what is added on the way out, in the format that the accelerator stores."""
    assert layer.residual is not None
    bits, array = architecture.words.activation_bits, architecture.array
    if isinstance(array, SystolicArray):
        return -(-layer.residual.size * bits // 8)
    if isinstance(array, ScnnArray):
        return scnn.run_length_bytes(layer.residual, bits, array.run_bits)
    return bitmap_bytes(layer.residual, bits)
