"""Runs a model node by node: layers by the accelerator's arithmetic, the rest by onnxruntime.

What every layer reads and writes comes from this run, so sparsity is that of real data.
"""

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from runtimes import ort
from runtimes.accelerator.layers import read_layer
from runtimes.accelerator.node_values import used_values
from runtimes.accelerator.reading import ReadLayer, UnsupportedError
from runtimes.accelerator.workload import (
    Array,
    HostOperation,
    Layer,
    Mask,
    SimulationError,
    Workload,
)

FUSED = frozenset(
    [
        *("BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu", "Add"),
        *("QuantizeLinear", "DequantizeLinear"),
    ]
)
"""Applied to a layer's results on their way out."""

FREE = frozenset(
    [
        *("Constant", "ConstantOfShape", "Shape", "Size", "Range"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"),
        "DequantizeLinear",
    ]
)
"""Move no data; what reads a dequantised value reads its codes."""


class _Run:
    """One run: values by name, layers as they come."""

    def __init__(self, model: ir.Model, feeds: Mapping[str, Array]) -> None:
        self.model = model
        self.values: dict[str, Array] = dict(feeds)
        self.constants = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and name not in feeds
        }
        self.fixed = set(self.constants)  # values that do not depend on the input
        self.read: dict[ir.Node, ReadLayer] = {}
        self.reasons: dict[ir.Node, str] = {}

    def lookup(self, value: ir.Value | None) -> Array | None:
        if value is None or value.name is None:
            return None
        if value.name not in self.values and value.name in self.constants:
            return self.constants[value.name].numpy()
        return self.values.get(value.name)

    def same_shape(self, left: ir.Node, right: ir.Node) -> bool:
        """Whether the first outputs of two nodes, which have been computed, have one shape."""
        names = [node.outputs[0].name or "" for node in (left, right)]
        return self.values[names[0]].shape == self.values[names[1]].shape

    def step(self, node: ir.Node) -> None:
        """Computes the outputs of one node."""
        used = {value.name for value in used_values(node) if value.name}
        if used <= self.fixed or node.op_type in ("Shape", "Size"):
            self.fixed |= {value.name for value in node.outputs if value.name}
            self._run_host(node)
            return
        try:
            read = read_layer(node, self.lookup)
        except UnsupportedError as error:
            self.reasons[node] = str(error)
            self._run_host(node)
            return
        self.read[node] = read
        self.values[node.outputs[0].name or ""] = read.compute()

    def _run_host(self, node: ir.Node) -> None:
        outputs = [value.name for value in node.outputs if value.name]
        try:
            session = ort.session(self._node_model(node).SerializeToString())
            feeds = {each.name: self.values[each.name] for each in session.get_inputs()}
            results = ort.run(session, feeds, outputs)
        except ort.SessionError as error:
            raise SimulationError(f"node '{node.name}' ({node.op_type}): {error}") from error
        self.values.update(zip(outputs, results, strict=True))

    def _node_model(self, node: ir.Node) -> onnx.ModelProto:
        """The node alone: computed values are inputs, stored ones are initializers."""
        inputs, initializers = [], []
        for name in dict.fromkeys(value.name for value in used_values(node) if value.name):
            if name in self.values:
                array = self.values[name]
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
            else:
                tensor = ir.to_proto(ir.tensor(self.constants[name].numpy(), name=name))
                initializers.append(tensor)
        outputs = [onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name]
        graph = helper.make_graph([ir.to_proto(node)], "node", inputs, outputs, initializers)
        opsets = [helper.make_opsetid(d, v) for d, v in self.model.graph.opset_imports.items()]
        functions = [ir.to_proto(function) for function in self.model.functions.values()]
        return helper.make_model(
            graph,
            ir_version=self.model.ir_version,
            opset_imports=opsets,
            functions=functions if node.domain else [],
        )


def run_network(model: ir.Model, feeds: Mapping[str, Array]) -> Workload:
    """Runs one sample through a model.

    Args:
        model: plain or transformed; it stays as it is.
        feeds: arrays by input name, of one sample.

    Raises:
        SimulationError: onnxruntime refuses a node, or the input holds several samples.
    """
    run = _Run(model, feeds)
    order = {node: index for index, node in enumerate(model.graph)}
    for node in model.graph:
        run.step(node)
    layers, fused = [], set()
    for node, read in run.read.items():
        steps = _chain(node, order, run.read.keys())
        chain = list(itertools.takewhile(functools.partial(run.same_shape, node), steps))
        fused.update(chain)
        layers.append(_stored(run, node, read, chain))
    host = tuple(
        _host_operation(run, node, reason)
        for node, reason in run.reasons.items()
        if node not in fused and node.op_type not in FREE
    )
    found = {value.name or "": run.lookup(value) for value in model.graph.outputs}
    outputs = {name: array for name, array in found.items() if array is not None}
    return Workload(layers=tuple(layers), host=host, outputs=outputs)


def _chain(
    node: ir.Node, order: Mapping[ir.Node, int], layers: Collection[ir.Node]
) -> Iterator[ir.Node]:
    """Operators that a layer's results pass on their way out, in order.

    An Add of two layers' results goes with the one that is computed last.
    """
    value = node.outputs[0]
    while not value.is_graph_output() and len(value.uses()) == 1:
        [(consumer, _)] = value.uses()
        if consumer.op_type not in FUSED or consumer.domain or consumer not in order:
            return
        others = [each for each in consumer.inputs if each is not None and each is not value]
        producers = [other.producer() for other in others]
        made_by = value.producer()
        assert made_by is not None
        late = [p for p in producers if p is not None and order.get(p, -1) > order[made_by]]
        if any(p in layers or p.op_type in FUSED for p in late):
            return
        yield consumer
        value = consumer.outputs[0]


def _stored(run: _Run, node: ir.Node, read: ReadLayer, chain: list[ir.Node]) -> Layer:
    """The layer with what it writes to memory, and what it adds before."""
    last = chain[-1] if chain else node
    zero_point = _zero_point(run, last) if chain else read.zero_point
    others = []
    if read.residual is not None:
        others.append(_mask(run, read.residual, read.layer, read.residual_zero_point))
    own = {value for each in (node, *chain) for value in each.outputs}
    for each in chain:
        if each.op_type == "Add":
            added = [v for v in each.inputs if v is not None and v.name not in run.fixed]
            others += [_mask(run, value, read.layer) for value in added if value not in own]
    return replace(
        read.layer,
        stored=_mask(run, last.outputs[0], read.layer, zero_point),
        residual=np.concatenate(others) if others else None,
        fused=tuple(each.op_type for each in chain),
        output_name=last.outputs[0].name or "",
    )


def _zero_point(run: _Run, node: ir.Node) -> int:
    """The code of 0 in what a fused operator writes."""
    if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
        return 0
    array = run.lookup(node.inputs[2])
    return 0 if array is None else int(array)


def _mask(run: _Run, value: ir.Value, layer: Layer, zero_point: int = 0) -> Mask:
    """Nonzeros of a value that a layer reads or writes, (K, Ho, Wo) of it."""
    array = run.lookup(value)
    assert array is not None
    own = run.values[layer.output_name]
    mask: Mask = np.broadcast_to(array != zero_point, own.shape)
    if layer.op_type in ("Gemm", "MatMul"):
        rows = layer.positions
        batch = layer.geometry.group
        return mask.reshape(batch, rows, -1).transpose(0, 2, 1).reshape(-1, 1, rows)
    return mask.reshape(layer.filters, *layer.output_size)


def _host_operation(run: _Run, node: ir.Node, reason: str) -> HostOperation:
    values = [*used_values(node), *node.outputs]
    arrays = [run.lookup(value) for value in values if value.name not in run.constants]
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return HostOperation(
        name=node.name or node.outputs[0].name or "",
        op_type=name,
        reason=reason,
        elements=sum(array.size for array in arrays if array is not None),
    )
