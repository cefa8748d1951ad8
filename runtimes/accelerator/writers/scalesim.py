"""Files in the formats of SCALE-Sim 3.0.0; every row ends with a comma, as its parser needs."""

from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.writers.tables import csv_name


def topology(result: NetworkResult) -> str:
    """The dense original of every layer, input sizes with their padding.

    SCALE-Sim knows one stride, no dilation and no groups: a dilated kernel is written as large as
    what it spans, and one group of a grouped convolution stands for all.
    """
    lines = [
        "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter,"
        " Strides,"
    ]
    for each in result.layers:
        layer, geometry = each.layer, each.layer.geometry
        top, left, bottom, right = geometry.pads
        sizes = (layer.x.shape[1] + top + bottom, layer.x.shape[2] + left + right)
        spans = [d * (k - 1) + 1 for d, k in zip(geometry.dilations, layer.kernel, strict=True)]
        depthwise = geometry.group == layer.channels > 1
        channels = layer.channels if depthwise else layer.channels // geometry.group
        row = (*sizes, *spans, channels, layer.filters // geometry.group, geometry.strides[0])
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
        overall = 100 * each.utilisation * each.compute_cycles / each.total_cycles
        mapping = 100 * _mapping(result, index)
        lines.append(
            f"{index}, {each.total_cycles}, {each.total_cycles}, {stall}, {overall:.4f}, "
            f"{mapping:.4f}, {100 * each.macs / (each.compute_cycles * multipliers):.4f},"
        )
    return "\n".join(lines) + "\n"


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
