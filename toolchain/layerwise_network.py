"""Lookups in a graph, and parts of it as small models that onnxruntime runs.

No weight passes through a protobuf message that it does not fit into: a part holds only the
weights it uses, and goes by way of a file where those are too large.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from passes.layerwise import Substitute
from runtimes import ort
from runtimes.operators import DOMAINS
from runtimes.operators.decomposed_conv import BASE_NAME, INPUTS

Array = NDArray[np.float32]
Part = tuple[Sequence[onnx.NodeProto], Sequence[onnx.TensorProto]]
"""Nodes that run in the place of one, and the constants they bring."""
Replaced = Mapping[str, Part]
"""By name of the node."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the outputs of the two branches are compared for one layer."""

    value: str
    shortcut: str | None
    relu: bool


class Network:
    """A graph that is run in steps."""

    def __init__(self, model: ir.Model, threads: int) -> None:
        copy = model.clone()
        copy.graph.initializers.clear()  # weights may be too large for one protobuf message
        self.model, self.threads = ir.to_proto(copy), threads
        self.graph = self.model.graph
        self.nodes = {node.name: node for node in self.graph.node}
        self.producers = {name: node for node in self.graph.node for name in node.output if name}
        self.initializers = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None
        }
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in set(inputs_of(node)):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in self.graph.output}

    def meeting(self, node: onnx.NodeProto) -> Meeting:
        """Behind the residual Add if the layer's only consumer is one, else at its output."""
        if node.domain in DOMAINS:
            return _fused_meeting(node)
        value, shortcut = node.output[0], None
        consumers = self.consumers.get(value, [])
        if len(consumers) == 1 and consumers[0].op_type == "Add" and value not in self.outputs:
            [add] = consumers
            others = [name for name in add.input if name != value]
            if len(others) == 1 and others[0] in self.producers:
                value, shortcut = add.output[0], others[0]
        after = self.consumers.get(value, [])
        relu = bool(after) and all(consumer.op_type == "Relu" for consumer in after)
        return Meeting(value=value, shortcut=shortcut, relu=relu and value not in self.outputs)

    def ancestors(self, names: Iterable[str], known: Iterable[str] = ()) -> set[str]:
        """Names of the nodes needed to compute values, given the known ones."""
        found: set[str] = set()
        known, stack = set(known), list(names)
        while stack:
            name = stack.pop()
            producer = None if name in known else self.producers.get(name)
            if producer is not None and producer.name not in found:
                found.add(producer.name)
                stack.extend(inputs_of(producer))
        return found

    def step(
        self,
        names: set[str],
        inputs: Mapping[str, int],
        outputs: Sequence[str],
        replaced: Replaced,
        *,
        optimised: bool = False,
    ) -> onnxruntime.InferenceSession:
        """A session that runs the named nodes; `inputs` gives onnx element types.

        Args:
            names: of nodes.
            inputs: values that are fed.
            outputs: values that come back.
            replaced: what runs in the place of some nodes.
            optimised: let onnxruntime rewrite the graph; faster, and rounded otherwise.
        """
        nodes: list[onnx.NodeProto] = []
        tensors: dict[str, onnx.TensorProto] = {}
        for node in self.graph.node:
            if node.name not in names:
                continue
            part, extra = replaced.get(node.name, ([node], []))
            tensors.update({tensor.name: tensor for tensor in extra})
            for name in (name for each in part for name in inputs_of(each)):
                if name in self.initializers and name not in tensors:
                    tensors[name] = _embedded(name, self.initializers[name])
            nodes.extend(part)
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
        return _open(model, self.threads, optimised=optimised)


def _embedded(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """A tensor that holds its own data, also where the model has it in another file."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
    proto = ir.to_proto(tensor)
    proto.name = name
    return proto


def _open(model: onnx.ModelProto, threads: int, *, optimised: bool) -> onnxruntime.InferenceSession:
    exact = not optimised
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= ort.MAX_MESSAGE_BYTES:
        return ort.session(model.SerializeToString(), threads=threads, disable_optimisation=exact)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        path = Path(folder, "step.onnx")
        onnx.save(model, path, save_as_external_data=True, location="step.data")
        return ort.session(path, threads=threads, disable_optimisation=exact)


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """Values a node reads, those used inside its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names.extend(inputs_of(inner))
    return names


def with_weight(node: onnx.NodeProto, weight: Array, bias: Array | None) -> Part:
    """The layer with another weight (K, C, *kernel) or (K, D), and a bias (K,).

    Without a bias everything but the weight stays as it is.
    """
    names = [f"{node.name}.optc.weight", f"{node.name}.optc.bias"]
    new = onnx.NodeProto()
    new.CopyFrom(node)
    del new.input[1:]
    if bias is None:
        is_stored = node.op_type == "Conv" or _is_transposed(node)
        new.input.extend([names[0], *node.input[2:]])
        stored = np.ascontiguousarray(weight if is_stored else weight.T)
        return [new], [numpy_helper.from_array(stored, names[0])]
    new.input.extend(names)
    nodes = [new]
    if node.op_type == "Gemm":
        del new.attribute[:]
        new.attribute.append(helper.make_attribute("transB", 1))
    elif node.op_type == "MatMul":
        weight = weight.T
        product = f"{node.name}.optc.product"
        new.output[0] = product
        del new.input[2:]
        nodes.append(helper.make_node("Add", [product, names[1]], node.output))
    arrays = (np.ascontiguousarray(weight), np.ascontiguousarray(bias))
    return nodes, [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]


def _is_transposed(node: onnx.NodeProto) -> bool:
    """Whether a Gemm stores its weight as (K, D)."""
    return any(each.name == "transB" and each.i for each in node.attribute)


def part_of(substitute: Substitute) -> Part:
    """The same as messages."""
    tensors = [
        _embedded(value.name or "", value.const_value)
        for value in substitute.constants
        if value.const_value is not None
    ]
    return [ir.to_proto(node) for node in substitute.nodes], tensors


def _fused_meeting(node: onnx.NodeProto) -> Meeting:
    """At the output of an `optc` node, which has Add and activation inside."""
    suffix = node.op_type.removeprefix(BASE_NAME)
    return Meeting(
        value=node.output[0],
        shortcut=node.input[len(INPUTS)] if suffix.startswith("Add") else None,
        relu=suffix.endswith(("Relu", "Clip")),
    )
