"""Walks calibration samples through a network, original and compressed side by side.

Activations that later nodes still need are kept, so every node runs once in each branch: a walk
costs two forward passes, whatever the number of layers. Each step runs as a small model in
onnxruntime, without graph optimisation.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from passes.layerwise import LayerMaps
from runtimes.external_data import load_external

Array = NDArray[np.float32]
Feeds = Mapping[str, NDArray[np.generic]]
Batches = list[NDArray[np.generic]]
Replaced = Mapping[str, tuple[Array, Array]]

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
        whole = ir.to_proto(load_external(model.clone()))
        return Walk(_Network(whole, self._threads), layers, batches)


class Walk:
    """One walk; implements `LayerwiseWalk`."""

    def __init__(self, network: "_Network", layers: Sequence[str], batches: list[Feeds]) -> None:
        """Starts both branches at the inputs; `layers` will be committed in graph order."""
        self._network = network
        self._open = set(layers)
        self._original = _Branch(network, batches)
        self._compressed = _Branch(network, batches)

    def maps(self, layer: str) -> LayerMaps:
        """Runs both branches up to a layer; see `LayerwiseWalk`."""
        node = self._network.nodes[layer]
        meeting = self._network.meeting(node)
        if meeting.shortcut and self._network.ancestors([meeting.shortcut]) & self._open:
            meeting = _Meeting(value=node.output[0], shortcut=None, relu=False)
        shortcut = [meeting.shortcut] if meeting.shortcut else []
        self._original.compute([meeting.value])
        self._compressed.compute([node.input[0], *shortcut])
        return LayerMaps(
            inputs=self._compressed.read(node.input[0]),
            targets=self._original.read(meeting.value),
            shortcut=self._compressed.read(shortcut[0]) if shortcut else None,
            relu=meeting.relu,
        )

    def commit(self, layer: str, weight: Array, bias: Array) -> None:
        """Replaces a layer in the compressed branch; see `LayerwiseWalk`."""
        self._open.discard(layer)
        self._compressed.replaced[layer] = (weight, bias)

    def probe(self, layer: str, weight: Array, bias: Array, limit: int) -> Sequence[Array]:
        """Runs on from a layer with other weights; see `LayerwiseWalk`."""
        name = self._network.graph.output[0].name
        return self._compressed.probe(name, {layer: (weight, bias)}, limit)

    def outputs(self) -> Sequence[tuple[Array, Array]]:
        """First graph output of every batch; see `LayerwiseWalk`."""
        name = self._network.graph.output[0].name
        for branch in (self._original, self._compressed):
            branch.compute([name])
        return list(zip(self._original.read(name), self._compressed.read(name), strict=True))


@dataclass(frozen=True, kw_only=True)
class _Meeting:
    """Where the outputs of the two branches are compared for one layer."""

    value: str
    shortcut: str | None
    relu: bool


class _Network:
    """Lookups in a graph, and steps of it as runnable models."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self.model, self.graph, self.threads = model, model.graph, threads
        self.nodes = {node.name: node for node in self.graph.node}
        self.producers = {name: node for node in self.graph.node for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in set(_inputs(node)):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in self.graph.output}

    def meeting(self, node: onnx.NodeProto) -> _Meeting:
        """Behind the residual Add if the layer's only consumer is one, else at its output."""
        value, shortcut = node.output[0], None
        consumers = self.consumers.get(value, [])
        if len(consumers) == 1 and consumers[0].op_type == "Add" and value not in self.outputs:
            [add] = consumers
            others = [name for name in add.input if name != value]
            if len(others) == 1 and others[0] in self.producers:
                value, shortcut = add.output[0], others[0]
        after = self.consumers.get(value, [])
        relu = bool(after) and all(consumer.op_type == "Relu" for consumer in after)
        return _Meeting(value=value, shortcut=shortcut, relu=relu and value not in self.outputs)

    def ancestors(self, names: Iterable[str], known: Iterable[str] = ()) -> set[str]:
        """Names of the nodes needed to compute values, given the known ones."""
        found: set[str] = set()
        known, stack = set(known), list(names)
        while stack:
            name = stack.pop()
            producer = None if name in known else self.producers.get(name)
            if producer is not None and producer.name not in found:
                found.add(producer.name)
                stack.extend(_inputs(producer))
        return found

    def step(
        self,
        names: set[str],
        inputs: Mapping[str, int],
        outputs: Sequence[str],
        replaced: Replaced,
    ) -> onnxruntime.InferenceSession:
        """A session that runs the named nodes; `inputs` gives onnx element types."""
        nodes, tensors = [], {}
        for node in self.graph.node:
            if node.name not in names:
                continue
            used = [self.initializers[name] for name in _inputs(node) if name in self.initializers]
            tensors.update({tensor.name: tensor for tensor in used})
            if node.name in replaced:
                node, extra = _replace_weight(node, *replaced[node.name])
                tensors.update({tensor.name: tensor for tensor in extra})
            nodes.append(node)
        graph = helper.make_graph(
            nodes,
            "step",
            [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            list(tensors.values()),
        )
        model = helper.make_model(
            graph,
            ir_version=self.model.ir_version,
            opset_imports=self.model.opset_import,
            functions=self.model.functions,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


class _Branch:
    """Kept activations of one branch, computed as they are asked for."""

    def __init__(self, network: _Network, batches: list[Feeds]) -> None:
        self._network = network
        self._values: dict[str, Batches] = {
            name: [np.asarray(feeds[name]) for feeds in batches] for name in batches[0]
        }
        self._n_batches = len(batches)
        self._done: set[str] = set()
        self.replaced: dict[str, tuple[Array, Array]] = {}

    def read(self, name: str) -> list[Array]:
        """A value that was computed last, by batch."""
        return [np.asarray(batch, np.float32) for batch in self._values[name]]

    def compute(self, names: Sequence[str]) -> None:
        """Makes values available, and forgets those that nothing needs any more."""
        network = self._network
        nodes = network.ancestors([n for n in names if n not in self._values], self._values)
        if nodes:
            self._done |= nodes
            made = [output for node in nodes for output in network.nodes[node].output if output]
            wanted = sorted(name for name in made if name in names or self._is_needed(name))
            used = {name for node in nodes for name in _inputs(network.nodes[node])}
            inputs = self._element_types(used)
            session = network.step(nodes, inputs, wanted, self.replaced)
            columns: list[Batches] = [[] for _ in wanted]
            for index in range(self._n_batches):
                feeds = {name: self._values[name][index] for name in inputs}
                for column, array in zip(columns, session.run(wanted, feeds), strict=True):
                    column.append(array)
            for name, column in zip(wanted, columns, strict=True):
                self._values[name] = self._store(column)
        for name in list(self._values):
            if name not in names and not self._is_needed(name):
                del self._values[name]

    def probe(self, name: str, replaced: Replaced, limit: int) -> list[Array]:
        """A later value with some weights replaced; leaves the branch as it is."""
        network = self._network
        nodes = network.ancestors([name], self._values)
        used = {value for node in nodes for value in _inputs(network.nodes[node])}
        inputs = self._element_types(used)
        session = network.step(nodes, inputs, [name], {**self.replaced, **replaced})
        results: list[Array] = []
        samples = 0
        for index in range(self._n_batches):
            if samples >= limit:
                break
            feeds = {value: self._values[value][index] for value in inputs}
            samples += len(next(iter(feeds.values())))
            results.append(np.asarray(session.run([name], feeds)[0], np.float32))
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
        return [_spill(batch) for batch in batches]


def _spill(batch: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same array in a temporary file, which goes away together with the array."""
    if not batch.nbytes:
        return batch  # an empty file cannot be mapped
    with tempfile.TemporaryFile(prefix="optc-") as file:
        mapped: np.memmap[Any, Any] = np.memmap(file, batch.dtype, "w+", shape=batch.shape)
    mapped[...] = batch
    return mapped


def _inputs(node: onnx.NodeProto) -> list[str]:
    """Values a node reads, those used inside its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names.extend(_inputs(inner))
    return names


def _replace_weight(
    node: onnx.NodeProto, weight: Array, bias: Array
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    names = [f"{node.name}.optc.weight", f"{node.name}.optc.bias"]
    new = onnx.NodeProto()
    new.CopyFrom(node)
    del new.input[1:]
    new.input.extend(names)
    arrays = (np.ascontiguousarray(weight), np.ascontiguousarray(bias))
    return new, [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]
