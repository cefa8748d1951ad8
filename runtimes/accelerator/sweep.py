"""Design spaces: the same network on many accelerators that differ in some parameters.

    version: 1
    parameters:
      array.blocks: [64, 128, 256]
      buffers.weight_bytes: [65536, 262144]

Every combination of values is a point. One whose buffers do not hold a tile is refused with its
reason and stays in the list.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from runtimes.accelerator.architecture import Architecture, ArchitectureError, TileError
from runtimes.accelerator.architecture_file import check_keys, override
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import Workload

VERSION = 1
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a point costs.

    Attributes:
        cycles: of all layers.
        seconds: likewise.
        energy_pj: likewise.
        dram_bytes: likewise.
        multipliers: of the accelerator.
        sram_bytes: of its buffers.
        area_mm2: of what its area table counts.
    """

    cycles: int
    seconds: float
    energy_pj: float
    dram_bytes: int
    multipliers: int
    sram_bytes: int
    area_mm2: float


def parse_sweep(data: Any, where: str) -> dict[str, tuple[Any, ...]]:
    """Checks the content of a sweep file.

    Returns:
        Values by the dotted name of an architecture's parameter.

    Raises:
        ArchitectureError: what is wrong, naming `where`; the names are checked by `points`.
    """
    check_keys(data, ("version", "parameters"), where)
    if data.get("version") != VERSION:
        raise ArchitectureError(
            f"{where}: version is {data.get('version')!r}, this optc reads {VERSION}"
        )
    parameters = data.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ArchitectureError(f"{where}: parameters maps dotted names to lists of values")
    for name, values in parameters.items():
        if not isinstance(name, str) or not isinstance(values, list) or not values:
            raise ArchitectureError(f"{where}: parameters.{name}: expected a list of values")
        if any(values.count(value) > 1 for value in values):
            raise ArchitectureError(f"{where}: parameters.{name}: a value occurs twice")
    return {name: tuple(values) for name, values in parameters.items()}


def points(
    architecture: Architecture, parameters: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[Settings, Architecture | TileError]]:
    """Every combination of values, the last parameter changing fastest.

    Raises:
        ArchitectureError: the architecture has no such parameter, or a value does not fit it.
    """
    for values in itertools.product(*parameters.values()):
        settings = dict(zip(parameters, values, strict=True))
        try:
            yield settings, override(architecture, settings)
        except TileError as error:
            yield settings, error


def measure(workload: Workload, architecture: Architecture) -> Measures | TileError:
    """Simulates one point.

    Raises:
        ArchitectureError: the energy or the area table is unknown.
    """
    try:
        result = simulate(workload, architecture)
    except TileError as error:
        return error
    return Measures(
        cycles=result.cycles,
        seconds=result.cycles / architecture.clock_hz,
        energy_pj=result.energy_pj,
        dram_bytes=result.dram_bytes,
        multipliers=architecture.array.multipliers,
        sram_bytes=sum(astuple(architecture.buffers)),
        area_mm2=sum(result.area_mm2.values()),
    )


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other one beats, by their first cost.

    A point beats another if it is no worse in both costs and better in one.
    """
    front: list[int] = []
    best = float("inf")
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        if costs[index][1] < best or (front and costs[index] == costs[front[-1]]):
            front.append(index)
            best = costs[index][1]
    return front
