"""What an accelerator consists of around its array: memories, widths, host; checked for sense.

Times are in cycles of the accelerator's clock, sizes in bytes unless a name says bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from runtimes.accelerator.arrays import Array


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
        area_table: name of a table in `area_tables`.
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
    area_table: str = "cacti7-aladdin-45nm"
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
        inputs, weights, results = self.array.smallest_tile
        self.check_tile("input_bytes", -(-inputs * self.words.activation_bits // 8))
        self.check_tile("weight_bytes", -(-weights * self.words.weight_bits // 8))
        self.check_tile("output_bytes", -(-results * self.words.accumulator_bits // 8))

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

    def excess_bytes(self, needed: Mapping[str, int]) -> int:
        """Bytes by which tiles exceed the halves of their buffers, by a field of `Buffers`."""
        halves = {buffer: getattr(self.buffers, buffer) // 2 for buffer in needed}
        return sum(max(nbytes - halves[buffer], 0) for buffer, nbytes in needed.items())

    @property
    def bytes_per_cycle(self) -> float:
        """DRAM bytes in one cycle of the accelerator."""
        return self.dram.bytes_per_second / self.clock_hz
