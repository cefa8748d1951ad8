"""What an accelerator consists of: frozen, validated parameters; files are read elsewhere.

Times are in cycles of the accelerator's clock, sizes in bytes unless a name says bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Dataflow = Literal["ws", "os", "is"]


class ArchitectureError(ValueError):
    """A description of an accelerator that makes no sense; the message is one line."""


class TileError(ArchitectureError):
    """A memory that does not hold one tile: of any layer, or of the one that the message names."""


@dataclass(frozen=True, kw_only=True)
class Buffers:
    """On-chip SRAMs, each split into two halves: one is filled while the other is used.

    Attributes:
        input_bytes: activations that a layer reads.
        weight_bytes: its weights.
        output_bytes: its results, partial sums included where the dataflow leaves them here.
    """

    input_bytes: int
    weight_bytes: int
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class Dram:
    """Off-chip memory of fixed bandwidth, shared by reads and writes.

    Attributes:
        bytes_per_second: sustained.
        clock_hz: of its command bus, for traces.
        burst_bytes: smallest transfer.
    """

    bytes_per_second: float
    clock_hz: int
    burst_bytes: int


@dataclass(frozen=True, kw_only=True)
class Words:
    """Widths of what is stored and computed, bits."""

    activation_bits: int
    weight_bits: int
    accumulator_bits: int


@dataclass(frozen=True, kw_only=True)
class Host:
    """What runs the operators that the accelerator has no unit for.

    Attributes:
        operations_per_cycle: elements produced or read a cycle of the accelerator.
    """

    operations_per_cycle: float


@dataclass(frozen=True, kw_only=True)
class SystolicArray:
    """Dense array of multipliers.

    Attributes:
        height: rows.
        width: columns.
        dataflow: what stays in place: weights, outputs or inputs.
    """

    height: int
    width: int
    dataflow: Dataflow

    @property
    def multipliers(self) -> int:
        """In all."""
        return self.height * self.width


@dataclass(frozen=True, kw_only=True)
class EscalateArray:
    """Blocks of one combine unit (adders) and one row of multipliers.

    Attributes:
        blocks: each works on one output channel and one tile of the map at a time.
        multipliers_per_block: of the basis stage.
        combine_width: matched coefficient–activation pairs that the adder tree takes a cycle.
        look_ahead: groups of `combine_width` channels that concentration may draw from.
        concentration: refill holes from the look-ahead window; off: one group at a time.
        scan_bits: positions of the two masks that are compared a cycle.
        fifo_depth: intermediate values between the two stages.
        tile_positions: largest tile of the map, positions.
        tile_buffer_bytes: a block's copy of what it reads of a tile, for energy.
        intermediate_bits: width of an intermediate value.
        coefficient_bits: of a coefficient that is not ternary, sign included.
        wide_coefficient_cycles: bit-serial adder cycles that one such coefficient takes.
        balance: channels are dealt to blocks by nonzero coefficients, or round-robin.
        skip_coefficients: zero coefficients take no adder slot.
        skip_activations: nor do zero activations.
    """

    blocks: int
    multipliers_per_block: int
    combine_width: int
    look_ahead: int
    concentration: bool
    scan_bits: int
    fifo_depth: int
    tile_positions: int
    tile_buffer_bytes: int
    intermediate_bits: int
    coefficient_bits: int
    wide_coefficient_cycles: int
    balance: Literal["greedy", "round-robin"]
    skip_coefficients: bool
    skip_activations: bool

    @property
    def multipliers(self) -> int:
        """In all."""
        return self.blocks * self.multipliers_per_block

    @property
    def window(self) -> int:
        """Groups that one cycle may draw from."""
        return self.look_ahead if self.concentration else 1


@dataclass(frozen=True, kw_only=True)
class ScnnArray:
    """SCNN-like: processing elements that multiply all pairs of nonzero weights and activations.

    Attributes:
        grid: processing elements along one side of the square grid; each owns a part of the plane.
        activations_per_cycle: I, nonzero activations taken a cycle.
        weights_per_cycle: F, nonzero weights taken a cycle.
        accumulators: partial sums that one processing element holds.
        run_bits: width of a run length of the compressed storage.
    """

    grid: int
    activations_per_cycle: int
    weights_per_cycle: int
    accumulators: int
    run_bits: int

    @property
    def multipliers(self) -> int:
        """In all."""
        return self.grid**2 * self.activations_per_cycle * self.weights_per_cycle


@dataclass(frozen=True, kw_only=True)
class SpartenArray:
    """SparTen-like: clusters of units that each find one matching pair of nonzeros a cycle.

    Attributes:
        clusters: each owns a share of the output positions.
        units: multipliers of a cluster; each owns some filters.
        chunk: positions of a vector that are broadcast and compared at once.
        filters_per_unit: of different density, so that a unit's work evens out.
        unit_buffer_bytes: filter chunks and the input chunk that a unit holds, for energy.
    """

    clusters: int
    units: int
    chunk: int
    filters_per_unit: int
    unit_buffer_bytes: int

    @property
    def multipliers(self) -> int:
        """In all."""
        return self.clusters * self.units


Array = SystolicArray | EscalateArray | ScnnArray | SpartenArray
KINDS: Mapping[str, type[Any]] = {
    "systolic": SystolicArray,
    "escalate": EscalateArray,
    "scnn": ScnnArray,
    "sparten": SpartenArray,
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One accelerator.

    Attributes:
        name: for people and file names.
        summary: one line.
        clock_hz: of the accelerator.
        array: what computes; its type decides the model.
        buffers: on-chip memories.
        dram: off-chip memory.
        words: bit widths.
        host: for other operators.
        energy_table: name of a table in `energy_tables`.
        assumptions: what the model takes for granted, each with its source.
        sources: of parameters, by dotted name.
    """

    name: str
    summary: str
    clock_hz: int
    array: Array
    buffers: Buffers
    dram: Dram
    words: Words
    host: Host
    energy_table: str
    assumptions: tuple[tuple[str, str], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ArchitectureError: a number is not positive.
            TileError: a buffer cannot hold one tile of any layer.
        """
        if self.clock_hz <= 0:
            raise ArchitectureError(f"clock_hz is {self.clock_hz}, expected a positive number")
        parts = {
            name: getattr(self, name) for name in ("array", "buffers", "dram", "words", "host")
        }
        for name, part in parts.items():
            for each in fields(part):
                value = getattr(part, each.name)
                if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                    raise ArchitectureError(
                        f"{name}.{each.name} is {value:g}, expected a positive number"
                    )
        for name, needed in _smallest_tiles(self).items():
            self.check_tile(name, needed)

    def check_tile(self, buffer: str, needed: int, layer: str = "") -> None:
        """Refuses a buffer that does not hold a tile of `needed` bytes in one of its halves.

        Args:
            buffer: a field of `Buffers`.
            needed: bytes of the tile.
            layer: whose tile it is, "" for the smallest of any layer.

        Raises:
            TileError: it is too small; the message names the architecture and the layer.
        """
        half = getattr(self.buffers, buffer) // 2
        if half < needed:
            where = f"{self.name}, layer '{layer}'" if layer else self.name
            raise TileError(
                f"{where}: buffers.{buffer} is too small: half of it, {half} bytes, does not hold "
                f"one tile of {needed} bytes"
            )

    @property
    def bytes_per_cycle(self) -> float:
        """DRAM bytes in one cycle of the accelerator."""
        return self.dram.bytes_per_second / self.clock_hz


def _smallest_tiles(architecture: Architecture) -> dict[str, int]:
    """Bytes that half of every buffer must hold, whatever the layer."""
    array, words = architecture.array, architecture.words
    if isinstance(array, SystolicArray):
        inputs, weights, outputs = array.height, array.height * array.width, array.width
    elif isinstance(array, EscalateArray):
        inputs, weights, outputs = array.scan_bits, array.scan_bits, array.blocks
    elif isinstance(array, ScnnArray):
        inputs = array.grid**2 * array.activations_per_cycle
        weights, outputs = array.weights_per_cycle, array.grid**2
    else:
        inputs = array.chunk * array.clusters
        weights, outputs = array.chunk * array.units, array.multipliers
    return {
        "input_bytes": -(-inputs * words.activation_bits // 8),
        "weight_bytes": -(-weights * words.weight_bits // 8),
        "output_bytes": -(-outputs * words.accumulator_bits // 8),
    }
