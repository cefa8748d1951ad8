"""Arrays of multipliers, one class a kind: frozen parameters; files are read elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Dataflow = Literal["ws", "os", "is"]
Tile = tuple[int, int, int]
"""Inputs, weights and results, words, that the halves of the buffers hold for any layer."""


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

    @property
    def smallest_tile(self) -> Tile:
        """A column of inputs, the weights of a fold, a row of results."""
        return self.height, self.height * self.width, self.width


@dataclass(frozen=True, kw_only=True)
class EscalateArray:
    """Blocks of one combine unit (adders) and one row of multipliers.

    Attributes:
        stage_order: "coefficients-first" combines channels first, as ESCALATE does; "basis-first"
            convolves first, as PENNI does, and has to hold the intermediate map for all channels.
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
        coefficient_bits: of a coefficient that the file holds as a real number and that is not
            ternary, sign included.
        wide_coefficient_cycles: bit-serial adder cycles that one such coefficient takes; one of
            fewer bits takes proportionally fewer.
        balance: channels are dealt to blocks by nonzero coefficients, or round-robin.
        skip_coefficients: zero coefficients take no adder slot.
        skip_activations: nor do zero activations.
    """

    stage_order: Literal["coefficients-first", "basis-first"]
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
    def smallest_tile(self) -> Tile:
        """What is compared at once, and a result a block."""
        return self.scan_bits, self.scan_bits, self.blocks

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

    @property
    def smallest_tile(self) -> Tile:
        """What is multiplied at once, and a result an element."""
        n_elements = self.grid**2
        return n_elements * self.activations_per_cycle, self.weights_per_cycle, n_elements


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

    @property
    def smallest_tile(self) -> Tile:
        """A chunk a cluster, a chunk a unit, and a result a multiplier."""
        return self.chunk * self.clusters, self.chunk * self.units, self.multipliers


Array = SystolicArray | EscalateArray | ScnnArray | SpartenArray
KINDS: Mapping[str, type[Any]] = {
    "systolic": SystolicArray,
    "escalate": EscalateArray,
    "scnn": ScnnArray,
    "sparten": SpartenArray,
}
