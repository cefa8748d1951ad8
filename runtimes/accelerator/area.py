"""Area of an accelerator's memories, multipliers, adders and registers, from one sourced table."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray, ScnnArray, SpartenArray
from runtimes.accelerator.table_files import at_size, read_table


@dataclass(frozen=True, kw_only=True)
class AreaTable:
    """Areas at one node, µm²; see the files in `area_tables` for their sources."""

    name: str
    node_nm: int
    source: str
    sram_um2: Mapping[int, float]
    logic_node_nm: int
    add_32bit_um2: float
    multiply_32bit_um2: float
    register_bit_um2: float
    not_counted: str

    @property
    def shrink(self) -> float:
        """Area at the node of the table of what takes 1 at the node of the logic."""
        return (self.node_nm / self.logic_node_nm) ** 2

    def sram(self, nbytes: int) -> float:
        """One memory; beyond the sizes of the table in proportion to the outermost one."""
        inside = min(max(nbytes, min(self.sram_um2)), max(self.sram_um2))
        return at_size(self.sram_um2, inside) * nbytes / inside

    def adder(self, bits: int) -> float:
        """One adder."""
        return self.shrink * self.add_32bit_um2 * bits / 32

    def multiplier(self, a: int, b: int) -> float:
        """One multiplier of a by b bits."""
        return self.shrink * self.multiply_32bit_um2 * a * b / 32**2

    def register(self, bits: int) -> float:
        """One register."""
        return self.shrink * self.register_bit_um2 * bits


def load_table(name: str) -> AreaTable:
    """Reads a table that comes with optc.

    Raises:
        ArchitectureError: there is none of that name.
    """
    return AreaTable(**read_table("area", name))


def areas_mm2(architecture: Architecture) -> dict[str, float]:
    """Square millimetres by component; what is not counted is named by the table.

    Raises:
        ArchitectureError: the area table is unknown.
    """
    table, buffers = load_table(architecture.area_table), architecture.buffers
    parts = {
        "input_sram": table.sram(buffers.input_bytes),
        "weight_sram": table.sram(buffers.weight_bytes),
        "output_sram": table.sram(buffers.output_bytes),
        **_array_areas(architecture, table),
    }
    return {name: area / 1e6 for name, area in parts.items()}


def _array_areas(architecture: Architecture, table: AreaTable) -> dict[str, float]:
    """Of the array alone, µm²."""
    array, words, n = architecture.array, architecture.words, architecture.array.multipliers
    wide = array.intermediate_bits if isinstance(array, EscalateArray) else words.activation_bits
    kept = words.accumulator_bits
    parts = {
        "multiplier": n * table.multiplier(wide, words.weight_bits),
        "accumulator": n * table.adder(words.accumulator_bits),
    }
    if isinstance(array, EscalateArray):
        adders, held = array.blocks * array.combine_width, array.blocks * array.fifo_depth
        parts["combine_adder"] = adders * table.adder(wide)
        parts["fifo"] = held * table.register(wide)
        parts["tile_buffer"] = array.blocks * table.sram(array.tile_buffer_bytes)
    elif isinstance(array, SpartenArray):
        parts["unit_buffer"] = n * table.sram(array.unit_buffer_bytes)
    elif isinstance(array, ScnnArray):
        sums = array.accumulators * words.accumulator_bits // 8
        parts["accumulator_sram"] = array.grid**2 * table.sram(sums)
        return parts  # products go straight into the accumulators
    else:
        kept += words.activation_bits + words.weight_bits
    return parts | {"register": n * table.register(kept)}
