"""Files in the formats of SCALE-Sim 3.0.0; every row ends with a comma, as its parser needs."""

from dataclasses import dataclass

import numpy as np

from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.results import LayerResult, NetworkResult
from runtimes.accelerator.writers.layer_traces import TENSORS, first_tile, fold_addresses
from runtimes.accelerator.writers.tables import csv_name


def topology(result: NetworkResult) -> str:
    """The dense original of every layer, inputs with their padding, as far as they are read.

    SCALE-Sim rounds output sizes up, so what a stride leaves over is cut off. It knows one stride,
    no dilation and no groups: the map is as large as the stride of the first axis needs for as many
    outputs, a dilated kernel as what it spans, and one group of a grouped convolution stands for
    all.
    """
    lines = [
        "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter,"
        " Strides,"
    ]
    for each in result.layers:
        layer, geometry = each.layer, each.layer.geometry
        spans = [d * (k - 1) + 1 for d, k in zip(geometry.dilations, layer.kernel, strict=True)]
        stride = geometry.strides[0]
        sizes = [(n - 1) * stride + span for n, span in zip(layer.output_size, spans, strict=True)]
        depthwise = geometry.group == layer.channels > 1
        channels = layer.channels if depthwise else layer.channels // geometry.group
        row = (*sizes, *spans, channels, layer.filters // geometry.group, stride)
        lines.append(",".join([csv_name(layer), *map(str, row)]) + ",")
    return "\n".join(lines) + "\n"


def compute_report(result: NetworkResult) -> str:
    """``COMPUTE_REPORT.csv``; unlike SCALE-Sim's, which counts one less, cycles are the sum."""
    lines = [
        "LayerID, Total Cycles (incl. prefetch), Total Cycles, Stall Cycles, Overall Util %, "
        "Mapping Efficiency %, Compute Util %,"
    ]
    multipliers = result.architecture.array.multipliers
    for index, each in enumerate(result.layers):
        stall = each.total_cycles - each.compute_cycles
        overall = 100 * each.utilisation * each.compute_cycles / max(each.total_cycles, 1)
        computing = 100 * each.macs / max(each.compute_cycles * multipliers, 1)
        mapping = 100 * _mapping(result, index)
        lines.append(
            f"{index}, {each.total_cycles}, {each.total_cycles}, {stall}, {overall:.4f}, "
            f"{mapping:.4f}, {computing:.4f},"
        )
    return "\n".join(lines) + "\n"


SRAMS = {"IFMAP": "input_sram", "FILTER": "weight_sram", "OFMAP": "output_sram"}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Accesses of one memory for one tensor of a layer, cycles from its first tile."""

    start: int
    stop: int  # of the last one
    count: int  # words

    @property
    def per_cycle(self) -> float:
        """Words a cycle between the first and the last one."""
        return self.count / max(self.stop - self.start + 1, 1)


def bandwidth_report(result: NetworkResult) -> str:
    """``BANDWIDTH_REPORT.csv``, words a cycle: of SRAM over all cycles, of DRAM while it moves."""
    lines = [
        "LayerID, Avg IFMAP SRAM BW, Avg FILTER SRAM BW, Avg OFMAP SRAM BW, Avg IFMAP DRAM BW, "
        "Avg FILTER DRAM BW, Avg OFMAP DRAM BW,"
    ]
    for index, each in enumerate(result.layers):
        sram = [_sram(each, result, name).count / max(each.total_cycles, 1) for name in SRAMS]
        dram = [_dram(each, result, tensor).per_cycle for tensor in TENSORS]
        lines.append(", ".join([str(index), *(f"{value:.6g}" for value in (*sram, *dram))]) + ",")
    return "\n".join(lines) + "\n"


def detailed_access_report(result: NetworkResult) -> str:
    """``DETAILED_ACCESS_REPORT.csv``: when memories are used, and for how many words."""
    columns = [
        f"{memory} {name} {what}"
        for memory in ("SRAM", "DRAM")
        for name in ("IFMAP", "Filter", "OFMAP")
        for what in ("Start Cycle", "Stop Cycle", "Writes" if name == "OFMAP" else "Reads")
    ]
    lines = [f"LayerID, {', '.join(columns)},"]
    for index, each in enumerate(result.layers):
        accesses = [_sram(each, result, name) for name in SRAMS]
        accesses += [_dram(each, result, tensor) for tensor in TENSORS]
        numbers = [str(n) for a in accesses for n in (a.start, a.stop, a.count)]
        lines.append(", ".join([str(index), *numbers]) + ",")
    return "\n".join(lines) + "\n"


def _sram(each: LayerResult, result: NetworkResult, name: str) -> Access:
    """Words by the counted bits; a write of a dense array is one of a partial sum."""
    words, array = result.architecture.words, result.architecture.array
    dense = isinstance(array, SystolicArray)
    widths = {"IFMAP": words.activation_bits, "FILTER": words.weight_bits}
    widths["OFMAP"] = words.accumulator_bits if dense else words.activation_bits
    action = "write" if name == "OFMAP" else "read"
    bits = each.counts.get((SRAMS[name], action), 0)
    start, stop = _span(each, array, name) if isinstance(array, SystolicArray) else _tiles(each)
    return Access(start=start, stop=stop, count=-(-bits // widths[name]))


def _tiles(each: LayerResult) -> tuple[int, int]:
    """First and last cycle of the tiles."""
    ends = [record.end for record in each.records if record.op == "compute"]
    return 0, ends[-1] - 1 - first_tile(each)


def _span(each: LayerResult, array: SystolicArray, name: str) -> tuple[int, int]:
    """First and last cycle of accesses: of the first and of the last fold."""
    tiles = [record.start for record in each.records if record.op == "compute"]
    groups = list(each.layer.groups())
    found = []
    for group, fold in ((0, 0), (len(groups) - 1, len(tiles) // len(groups) - 1)):
        addresses = fold_addresses(each.layer, groups[group], group, array, each.way, fold)[name]
        found.append(np.flatnonzero((addresses >= 0).any(axis=1)))
    label = int(name != "OFMAP")
    return int(found[0][0]) + label, tiles[-1] - tiles[0] + int(found[1][-1]) + label


def _dram(each: LayerResult, result: NetworkResult, tensor: str) -> Access:
    words = result.architecture.words
    bits = words.weight_bits if tensor == "weight" else words.activation_bits
    moved = [record for record in each.records if record.tensor == tensor]
    if not moved:
        return Access(start=0, stop=0, count=0)
    begin, count = first_tile(each), -(-8 * sum(r.nbytes for r in moved) // bits)
    return Access(start=moved[0].start - begin, stop=moved[-1].end - 1 - begin, count=count)


def _mapping(result: NetworkResult, index: int) -> float:
    """Share of a systolic array that folds cover; 1 for other arrays."""
    array, layer = result.architecture.array, result.layers[index].layer
    if not isinstance(array, SystolicArray):
        return 1.0
    M, N, K = layer.positions, layer.filters // layer.geometry.group, int(layer.weight[0].size)
    sides = {"ws": (K, N), "is": (K, M), "os": (M, N)}[array.dataflow]
    rows, columns = -(-sides[0] // array.height), -(-sides[1] // array.width)
    share: float = sides[0] * sides[1] / (rows * array.height * columns * array.width)
    return share
