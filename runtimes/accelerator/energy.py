"""Energy of counted events, from one sourced table."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from runtimes.accelerator.architecture import Architecture
from runtimes.accelerator.arrays import EscalateArray, ScnnArray
from runtimes.accelerator.table_files import at_size, read_table


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Energies at one node, pJ; see the files in `energy_tables` for their sources."""

    name: str
    node_nm: int
    source: str
    add_pj: Mapping[int, float]
    multiply_int8_pj: float
    sram_64bit_pj: Mapping[int, float]
    dram_64bit_pj: float
    register_bit_pj: float

    def add(self, bits: int) -> float:
        """One addition."""
        return float(np.interp(bits, list(self.add_pj), list(self.add_pj.values())))

    def multiply(self, a: int, b: int) -> float:
        """One a-bit by b-bit multiplication."""
        return self.multiply_int8_pj * a * b / 64

    def sram_bit(self, nbytes: int) -> float:
        """One bit of an SRAM access; below the smallest size of the table by the square root."""
        smallest = min(self.sram_64bit_pj)
        if nbytes < smallest:
            return float(self.sram_64bit_pj[smallest] * np.sqrt(nbytes / smallest)) / 64
        return at_size(self.sram_64bit_pj, nbytes) / 64


def load_table(name: str) -> EnergyTable:
    """Reads a table that comes with optc.

    Raises:
        ArchitectureError: there is none of that name.
    """
    return EnergyTable(**read_table("energy", name))


def event_energies(architecture: Architecture, table: EnergyTable) -> dict[str, float]:
    """PJ of one event, a bit moved or an operation, by component."""
    words, buffers, array = architecture.words, architecture.buffers, architecture.array
    local = getattr(array, "tile_buffer_bytes", getattr(array, "unit_buffer_bytes", 512))
    wide = array.intermediate_bits if isinstance(array, EscalateArray) else words.activation_bits
    energies = {
        "dram": table.dram_64bit_pj / 64,
        "input_sram": table.sram_bit(buffers.input_bytes),
        "weight_sram": table.sram_bit(buffers.weight_bytes),
        "output_sram": table.sram_bit(buffers.output_bytes),
        "tile_buffer": table.sram_bit(local),
        "unit_buffer": table.sram_bit(local),
        "fifo": table.register_bit_pj,
        "register": table.register_bit_pj,
        "combine_adder": table.add(wide),
        "accumulator": table.add(words.accumulator_bits),
        "multiplier": table.multiply(words.activation_bits, words.weight_bits),
        "basis_multiplier": table.multiply(wide, words.weight_bits),
    }
    if isinstance(array, ScnnArray):
        nbytes = array.accumulators * words.accumulator_bits // 8
        energies["accumulator_sram"] = table.sram_bit(nbytes)
    return energies
