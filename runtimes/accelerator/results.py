"""What a simulation says about a layer and about a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.schedule import Record
from runtimes.accelerator.workload import Layer


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """One layer on one accelerator.

    Attributes:
        layer: what was simulated.
        way: how loops are cut and ordered, the fastest of those that fit into the buffers.
        compute_cycles: of the array, without waiting for memory.
        total_cycles: from the first load to the last store.
        macs: multiply-accumulates that were done.
        macs_skipped: those that zeros saved.
        adds: channel-combining additions that were done.
        adds_skipped: those that zeros saved.
        dram_bytes: read and written, by tensor.
        stored_weight_bytes: of the weights as they are stored, each once.
        regions: bytes of every tensor in DRAM, each once however often it is read.
        energy_pj: by component.
        counts: bits moved or operations, by component and action.
        utilisation: share of multipliers times cycles that did a multiplication.
        records: what happened when.
    """

    layer: Layer
    way: str
    compute_cycles: int
    total_cycles: int
    macs: int
    macs_skipped: int
    adds: int
    adds_skipped: int
    dram_bytes: Mapping[str, int]
    stored_weight_bytes: int
    regions: Mapping[str, int]
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
        area_mm2: of the accelerator, by component.
    """

    architecture: Architecture
    layers: Sequence[LayerResult]
    host_cycles: int
    area_mm2: Mapping[str, float]

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

    @property
    def stored_weight_bytes(self) -> int:
        """Of all layers."""
        return sum(layer.stored_weight_bytes for layer in self.layers)
