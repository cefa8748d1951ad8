"""Walks calibration samples through a network, original and compressed side by side.

Activations that later nodes still need are kept, so every node runs once in each branch: a walk
costs two forward passes, whatever the number of layers. Each step runs as a small model in
onnxruntime, without graph optimisation but for probes, which only ask how large an error is.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper

from passes.layerwise import LayerMaps, Substitute
from runtimes import ort
from runtimes.external_data import spill
from toolchain.errors import UnreadableError
from toolchain.layerwise_network import (
    Array,
    Meeting,
    Network,
    Part,
    Replaced,
    inputs_of,
    part_of,
    with_weight,
)

Feeds = Mapping[str, NDArray[np.generic]]
Batches = list[NDArray[np.generic]]

MEMORY_LIMIT = 2**29
"""Bytes of kept activations, a branch, above which further ones go to temporary files."""


class ArrayCalibration:
    """Calibration data held as batches of feeds; implements `LayerwiseCalibration`."""

    def __init__(self, batches: Sequence[Feeds], threads: int = 0) -> None:
        """Takes feeds by input name; the first axis of the first input counts samples.

        Args:
            batches: at least one.
            threads: of onnxruntime, 0 for all cores.
        """
        self._batches = list(batches)
        self._threads = threads
        self.samples = sum(len(next(iter(feeds.values()))) for feeds in self._batches)

    def walk(self, model: ir.Model, layers: Sequence[str], limit: int | None = None) -> "Walk":
        """Starts a walk; see `passes.layerwise.LayerwiseCalibration`."""
        batches, taken = [], 0
        for feeds in self._batches:
            if limit is not None and taken >= limit:
                break
            batches.append(feeds)
            taken += len(next(iter(feeds.values())))
        return Walk(Network(model, self._threads), layers, batches)


class Walk:
    """One walk; implements `LayerwiseWalk`."""

    def __init__(self, network: "Network", layers: Sequence[str], batches: list[Feeds]) -> None:
        """Starts both branches at the inputs; `layers` will be committed in graph order."""
        self._network = network
        self._open = set(layers)
        self._original = _Branch(network, batches)
        self._compressed = _Branch(network, batches)

    def maps(self, layer: str) -> LayerMaps:
        """Runs both branches up to a layer; see `LayerwiseWalk`.

        Raises:
            UnreadableError: activations are not finite, or too large to be squared.
        """
        node = self._network.nodes[layer]
        meeting = self._network.meeting(node)
        if meeting.shortcut and self._network.ancestors([meeting.shortcut]) & self._open:
            meeting = Meeting(value=node.output[0], shortcut=None, relu=False)
        shortcut = [meeting.shortcut] if meeting.shortcut else []
        self._original.compute([node.output[0]])
        self._compressed.compute([node.input[0], *shortcut])
        if shortcut and not self._adds_up(node.output[0], shortcut[0]):
            meeting = Meeting(value=node.output[0], shortcut=None, relu=False)
            shortcut = []
        self._original.compute([meeting.value])
        maps = LayerMaps(
            inputs=self._compressed.read(node.input[0]),
            targets=self._original.read(meeting.value),
            shortcut=self._compressed.read(shortcut[0]) if shortcut else None,
            relu=meeting.relu,
        )
        _check_finite(layer, maps)
        return maps

    def _adds_up(self, own: str, shortcut: str) -> bool:
        """Whether the operands of a residual Add have one shape: none is broadcast."""
        return self._original.shape(own) == self._compressed.shape(shortcut)

    def commit(self, layer: str, weight: Array, bias: Array | None) -> None:
        """Replaces a layer in the compressed branch; see `LayerwiseWalk`."""
        self._open.discard(layer)
        self._compressed.replaced[layer] = self._with_weight(layer, weight, bias)

    def substitute(self, layer: str, substitute: Substitute) -> None:
        """Replaces a layer's node in the compressed branch; see `LayerwiseWalk`."""
        self._open.discard(layer)
        self._compressed.replaced[layer] = part_of(substitute)

    def probe_substitute(self, layer: str, substitute: Substitute, limit: int) -> Sequence[Array]:
        """Runs on from a layer with other nodes; see `LayerwiseWalk`."""
        name = self._network.graph.output[0].name
        return self._compressed.probe(name, {layer: part_of(substitute)}, limit)

    def probe(self, layer: str, weight: Array, bias: Array, limit: int) -> Sequence[Array]:
        """Runs on from a layer with other weights; see `LayerwiseWalk`."""
        name = self._network.graph.output[0].name
        return self._compressed.probe(name, {layer: self._with_weight(layer, weight, bias)}, limit)

    def _with_weight(self, layer: str, weight: Array, bias: Array | None) -> Part:
        return with_weight(self._network.nodes[layer], weight, bias)

    def outputs(self) -> Sequence[tuple[Array, Array]]:
        """First graph output of every batch; see `LayerwiseWalk`."""
        name = self._network.graph.output[0].name
        for branch in (self._original, self._compressed):
            branch.compute([name])
        return list(zip(self._original.read(name), self._compressed.read(name), strict=True))


def _check_finite(layer: str, maps: LayerMaps) -> None:
    """What is fitted to NaN or infinity is NaN itself."""
    for what, batches in (("input", maps.inputs), ("output", maps.targets)):
        if not all(np.isfinite(np.vdot(batch, batch)) for batch in batches):
            raise UnreadableError(
                f"layer '{layer}': its {what} on calibration data is not finite, or so large that "
                "its square is not; check the data, or leave the layer out with --exclude"
            )


class _Branch:
    """Kept activations of one branch, computed as they are asked for."""

    def __init__(self, network: Network, batches: list[Feeds]) -> None:
        self._network = network
        self._values: dict[str, Batches] = {
            name: [np.asarray(feeds[name]) for feeds in batches] for name in batches[0]
        }
        self._samples = [len(next(iter(feeds.values()))) for feeds in batches]
        self._done: set[str] = set()
        self.replaced: dict[str, Part] = {}

    def read(self, name: str) -> list[Array]:
        """A value that was computed last, by batch."""
        return [np.asarray(batch, np.float32) for batch in self._values[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the first batch of a value that was computed last."""
        return self._values[name][0].shape

    def compute(self, names: Sequence[str]) -> None:
        """Makes values available, and forgets those that nothing needs any more."""
        network = self._network
        nodes = network.ancestors([n for n in names if n not in self._values], self._values)
        if nodes:
            self._done |= nodes
            made = [output for node in nodes for output in network.nodes[node].output if output]
            wanted = sorted(name for name in made if name in names or self._is_needed(name))
            used = {name for node in nodes for name in inputs_of(network.nodes[node])}
            inputs = self._element_types(used)
            session = network.step(nodes, inputs, wanted, self.replaced)
            columns: list[Batches] = [[] for _ in wanted]
            for index in range(len(self._samples)):
                feeds = {name: self._values[name][index] for name in inputs}
                for column, array in zip(columns, ort.run(session, feeds, wanted), strict=True):
                    column.append(array)
            for name, column in zip(wanted, columns, strict=True):
                self._values[name] = self._store(column)
            for node in nodes & self.replaced.keys():
                del self.replaced[node]  # no node runs twice
        for name in list(self._values):
            if name not in names and not self._is_needed(name):
                del self._values[name]

    def probe(self, name: str, replaced: Replaced, limit: int) -> list[Array]:
        """A later value with some weights replaced; leaves the branch as it is."""
        network = self._network
        nodes = network.ancestors([name], self._values)
        used = {value for node in nodes for value in inputs_of(network.nodes[node])}
        inputs = self._element_types(used)
        own = {**self.replaced, **replaced}
        session = network.step(nodes, inputs, [name], own, optimised=True)
        results: list[Array] = []
        samples = 0
        for index, count in enumerate(self._samples):
            if samples >= limit:
                break
            feeds = {value: self._values[value][index] for value in inputs}
            samples += count
            results.append(np.asarray(ort.run(session, feeds, [name])[0], np.float32))
        return results

    def _element_types(self, names: Iterable[str]) -> dict[str, int]:
        return {
            name: helper.np_dtype_to_tensor_dtype(self._values[name][0].dtype)
            for name in sorted(set(names) & self._values.keys())
        }

    def _is_needed(self, name: str) -> bool:
        consumers = self._network.consumers.get(name, [])
        unfinished = any(consumer.name not in self._done for consumer in consumers)
        return unfinished or name in self._network.outputs

    def _store(self, batches: Batches) -> Batches:
        """Keeps a value in memory, or in temporary files once memory is used up."""
        kept = sum(
            batch.nbytes
            for value in self._values.values()
            for batch in value
            if not isinstance(batch, np.memmap)
        )
        if kept + sum(batch.nbytes for batch in batches) <= MEMORY_LIMIT:
            return batches
        return [spill(batch) for batch in batches]
