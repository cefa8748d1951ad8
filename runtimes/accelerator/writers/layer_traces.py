"""SRAM and DRAM traces of every layer as SCALE-Sim 3.0.0 writes them: ``cycle,address,...``.

Addresses are word indices behind one offset a tensor, −1 is a lane that is idle. The input is that
of ``topology.csv``, with its padding, (H, W, C); a filter is (R, S, C), results are (Ho, Wo, N).
Cycles count from the start of the layer's first tile, so that what is loaded before is negative;
as in SCALE-Sim, SRAM reads are labelled from 1 and writes from 0. Where no tile waits for memory
the SRAM traces are SCALE-Sim's, byte for byte.

The order of accesses within a tile is modelled for dense arrays alone, so only these have SRAM
traces; DRAM traces of the others address packed words. Residuals and partial sums, which SCALE-Sim
does not know, are in ``dram.*.trace``.
"""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.results import LayerResult, NetworkResult
from runtimes.accelerator.systolic import fold_grid, fold_of
from runtimes.accelerator.workload import Layer

Addresses = NDArray[np.int64]
OFFSETS = {"IFMAP": 0, "FILTER": 10_000_000, "OFMAP": 20_000_000}
TENSORS = {"input": "IFMAP", "weight": "FILTER", "output": "OFMAP"}


def write_layer_traces(result: NetworkResult, folder: Path) -> list[str]:
    """Writes ``layerN/*_TRACE.csv.gz`` of all layers; returns their names."""
    names = []
    for index, each in enumerate(result.layers):
        (folder / f"layer{index}").mkdir(parents=True, exist_ok=True)
        for trace, lines in traces(each, result).items():
            names.append(f"layer{index}/{trace}_TRACE.csv.gz")
            with (
                (folder / names[-1]).open("wb") as file,
                gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
            ):
                for block in lines:
                    packed.write(block.encode())
    return names


def first_tile(each: LayerResult) -> int:
    """Cycle at which a layer starts computing."""
    return next(record.start for record in each.records if record.op == "compute")


def traces(each: LayerResult, result: NetworkResult) -> Mapping[str, Iterator[str]]:
    """Blocks of lines of every trace of a layer."""
    found = {f"{name}_DRAM": dram_trace(each, result, tensor) for tensor, name in TENSORS.items()}
    if isinstance(result.architecture.array, SystolicArray):
        found |= {f"{name}_SRAM": sram_trace(each, result, name) for name in TENSORS.values()}
    return found


def dram_trace(each: LayerResult, result: NetworkResult, tensor: str) -> Iterator[str]:
    """A line a cycle with as many words as the channel moves in it."""
    words = result.architecture.words
    bits = words.weight_bits if tensor == "weight" else words.activation_bits
    rate = 8 * result.architecture.bytes_per_cycle / bits  # words a cycle, e.g. 25.6
    begin, base = first_tile(each), OFFSETS[TENSORS[tensor]]
    size = -(-8 * each.regions[tensor] // bits)
    for record in each.records:
        if record.tensor == tensor:
            first, last = (8 * n // bits for n in (record.offset, record.offset + record.nbytes))
            edges = [min(first + int(t * rate), last) for t in range(record.end - record.start)]
            for t, (word, stop) in enumerate(pairwise([*edges, last])):
                part = ",".join(str(base + n % size) for n in range(word, stop))
                if part:
                    yield f"{record.start + t - begin},{part}\n"


def sram_trace(each: LayerResult, result: NetworkResult, which: str) -> Iterator[str]:
    """A block of lines for every fold."""
    array = result.architecture.array
    assert isinstance(array, SystolicArray)
    begin = first_tile(each)
    groups = list(each.layer.groups())
    tiles = [record for record in each.records if record.op == "compute"]
    for index, record in enumerate(tiles):
        group, fold = divmod(index, len(tiles) // len(groups))
        addresses = fold_addresses(each.layer, groups[group], group, array, each.way, fold)[which]
        first = record.start - begin + (which != "OFMAP")
        rows = addresses.tolist()
        yield "".join(f"{first + t},{','.join(map(str, row))}\n" for t, row in enumerate(rows))


@dataclass(frozen=True, kw_only=True)
class _Map:
    """Addresses of operands of the unfolded product; −1 where there is none."""

    layer: Layer  # of one channel group
    whole: Layer
    group: int

    def inputs(self, m: Addresses, k: Addresses) -> Addresses:
        """Of the input that position m multiplies with weight k, k = (r, s, c)."""
        layer, C = self.layer, self.layer.channels
        (sh, sw), (dh, dw) = layer.geometry.strides, layer.geometry.dilations
        _, left, _, right = layer.geometry.pads
        row, column = np.divmod(m, layer.output_size[1])
        (r, s), c = np.divmod(k // C, layer.kernel[1]), k % C
        width = layer.x.shape[2] + left + right
        place = (row * sh + r * dh) * width + column * sw + s * dw
        address = place * self.whole.channels + self.group * C + c
        return np.where((m < layer.positions) & (k < layer.weight[0].size), address, -1)

    def weights(self, k: Addresses, n: Addresses) -> Addresses:
        """Of weight k of filter n."""
        K, N = self.layer.weight[0].size, self.layer.filters
        address = OFFSETS["FILTER"] + (self.group * N + n) * K + k
        return np.where((k < K) & (n < N), address, -1)

    def results(self, m: Addresses, n: Addresses) -> Addresses:
        """Of the result of filter n at position m."""
        N = self.layer.filters
        address = OFFSETS["OFMAP"] + m * self.whole.filters + self.group * N + n
        return np.where((m < self.layer.positions) & (n < N), address, -1)


def fold_addresses(
    whole: Layer, layer: Layer, group: int, array: SystolicArray, way: str, fold: int
) -> dict[str, Addresses]:
    """What every lane reads or writes in every cycle of a fold, (cycles, lanes).

    Args:
        whole: the layer.
        layer: a channel group of it.
        group: its index.
        array: decides what stays in place.
        way: order of the folds.
        fold: index in that order.
    """
    H, W, at = array.height, array.width, _Map(layer=layer, whole=whole, group=group)
    M, N, K = layer.positions, layer.filters, layer.weight[0].size
    rows, columns, cycles = fold_grid(array, M, K, N)
    row, column = fold_of(fold, (rows, columns), way, array)
    down, across = row * H + np.arange(H), column * W + np.arange(W)
    turned = down[::-1, None]
    if array.dataflow == "ws":
        m, found = np.arange(M)[:, None], {}
        found["IFMAP"] = _waves(at.inputs(m, down), H, cycles)
        found["FILTER"] = _padded(at.weights(turned, across), cycles)
        found["OFMAP"] = _waves(at.results(m, across), 2 * H - 1, cycles)
    elif array.dataflow == "is":
        n, found = np.arange(N)[:, None], {}
        found["IFMAP"] = _padded(at.inputs(across, turned), cycles)
        found["FILTER"] = _waves(at.weights(down, n), H, cycles)
        found["OFMAP"] = _waves(at.results(across, n), 2 * H - 1, cycles)
    else:
        k, found = np.arange(K)[:, None], {}
        found["IFMAP"] = _waves(at.inputs(down, k), 0, cycles)
        found["FILTER"] = _waves(at.weights(k, across), 0, cycles)
        found["OFMAP"] = _waves(at.results(turned, across), K - 1, cycles)
    return found


def _waves(values: Addresses, start: int, cycles: int) -> Addresses:
    """Row t of the values in cycle start + t, every lane a cycle behind the one before it."""
    table = np.full((cycles, values.shape[1]), -1, np.int64)
    for lane in range(values.shape[1]):
        first = start + lane
        table[first : first + len(values), lane] = values[:, lane]
    return table


def _padded(values: Addresses, cycles: int) -> Addresses:
    """The values in the first cycles."""
    return np.pad(values, ((0, cycles - len(values)), (0, 0)), constant_values=-1)
