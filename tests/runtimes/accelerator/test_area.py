import numpy as np
import pytest

from runtimes.accelerator import energy
from runtimes.accelerator.architecture import ArchitectureError
from runtimes.accelerator.architecture_file import load_shipped, override, shipped_names
from runtimes.accelerator.area import areas_mm2, load_table
from runtimes.accelerator.energy import event_energies

TABLE = load_table("cacti7-aladdin-45nm")


def test_memories_grow_with_their_size() -> None:
    sizes = [64, 256, 500, 8192, 300_000, 2**20, 2**22]
    areas = [TABLE.sram(size) for size in sizes]
    assert areas == sorted(areas)
    assert [areas[1], areas[3]] == pytest.approx([1622, 29403])
    assert areas[-1] == pytest.approx(4 * areas[-2])
    per_bit = np.array(areas) / np.array(sizes) / 8
    assert np.all((per_bit > 0.4) & (per_bit < 0.8))  # a 6T cell and what is around it at 45 nm


def test_energy_tables_agree_within_a_factor_of_three() -> None:
    architecture = load_shipped("escalate")
    ours, other = (
        event_energies(architecture, energy.load_table(name))
        for name in ("horowitz-45nm", "cacti7-45nm")
    )
    assert set(ours) == set(other)
    for component, value in ours.items():
        assert 1 / 3 < other[component] / value < 3, component
    assert ours["dram"] / other["dram"] == pytest.approx(1300 / 512)


def test_logic_is_scaled_from_its_own_node() -> None:
    assert TABLE.shrink == (45 / 40) ** 2
    assert TABLE.multiplier(8, 8) == pytest.approx(6350 / 16 * TABLE.shrink)
    assert TABLE.multiplier(16, 8) == 2 * TABLE.multiplier(8, 8)
    assert TABLE.adder(16) == pytest.approx(139 * TABLE.shrink)


@pytest.mark.parametrize("name", shipped_names())
def test_every_memory_and_multiplier_is_counted(name: str) -> None:
    areas = areas_mm2(load_shipped(name))
    assert areas["input_sram"] == pytest.approx(1.39838)
    assert {"input_sram", "weight_sram", "output_sram", "multiplier", "accumulator"} <= set(areas)
    larger = areas_mm2(override(load_shipped(name), {"buffers.weight_bytes": 524288}))
    assert larger["weight_sram"] == pytest.approx(1.77514)
    assert {**larger, "weight_sram": 0} == {**areas, "weight_sram": 0}


def test_dense_array_by_hand() -> None:
    areas = areas_mm2(load_shipped("dense-ws"))
    scale = 1024 * (45 / 40) ** 2 / 1e6
    assert areas["multiplier"] == pytest.approx(scale * 6350 / 16)
    assert areas["accumulator"] == pytest.approx(scale * 278)
    assert areas["register"] == pytest.approx(scale * 5.98 * 48)


def test_unknown_tables_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="unknown area table 'none'"):
        areas_mm2(override(load_shipped("escalate"), {"area_table": "none"}))
