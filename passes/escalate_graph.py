"""Codes and quantisers of values, and the rewriting of a graph that has them.

Each layer is first written by itself, float in and out (`passes.escalate_nodes`). `simplify` then
removes what cancels, so that consecutive layers hand on uint8 and nothing else:

    Q(DQ(q)) = q                  both of the same scale and zero point
    Q(f(DQ(q))) = f(q)            f moves values about: Slice, Pad with zeros, Reshape, …, MaxPool,
                                  which becomes QuantizedMaxPool, or casts where that cannot be
    Relu(DQ(q)) = DQ(q)           of zero point 0
    equal Q or DQ of one value    are one
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import free_name, free_node_name
from passes.mathematics.quantization import Affine
from passes.pooling import pool_of_integers
from runtimes.operators.decomposed_conv import initializer
from runtimes.operators.hybrid_conv import QuantizedValue

MOVES = frozenset(
    {"Slice", "Pad", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
)
"""Operators that move values about: they take uint8 as they take float."""

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")

PARTS = frozenset({"Slice", "MaxPool"})
"""Those whose output need not have the range of the input."""


def _moves(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in MOVES or node.inputs[0] is None:
        return False
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    if node.op_type != "Pad":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    zeros = fill is None or (fill.const_value is not None and not fill.const_value.numpy().any())
    return zeros and node.attributes.get_string("mode", "constant") == "constant"


@dataclass
class Codes:
    """Scale and zero point of every quantised value, as constants that its uses share."""

    graph: ir.Graph
    known: dict[str, Affine] = field(default_factory=dict)
    _same: dict[str, str] = field(default_factory=dict)
    _scales: dict[str, ir.Value] = field(default_factory=dict)
    _zero_points: dict[int, ir.Value] = field(default_factory=dict)

    def constants(self, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of a value with a known code."""
        name = self.name(value)
        code = self.known[name]
        if name not in self._scales:
            array = np.array(code.scale, np.float32)
            self._scales[name] = initializer(free_name(self.graph, f"{name}.scale"), array)
        zero = code.zero_point
        if zero not in self._zero_points:
            shared = free_name(self.graph, f"zero_point.{zero}")
            self._zero_points[zero] = initializer(shared, np.array(zero, np.uint8))
        return self._scales[name], self._zero_points[zero]

    def name(self, value: ir.Value) -> str:
        """Of the value whose code this one has.

        It is that of the value which it was moved from. A part of a value that has no code yet,
        when it is first asked for, has one of its own: its range need not hold the rest.
        """
        own, producer = value.name or "", value.producer()
        if own not in self._same:
            self._same[own] = own
            if producer is not None and _moves(producer):
                source = producer.inputs[0]
                assert source is not None
                if producer.op_type not in PARTS or self.has(source):
                    self._same[own] = self.name(source)
        return self._same[own]

    def share(self, value: ir.Value, other: ir.Value) -> None:
        """Gives a value the code of another."""
        self._same[value.name or ""] = self.name(other)

    def code(self, value: ir.Value) -> Affine:
        """Code of a value."""
        return self.known[self.name(value)]

    def has(self, value: ir.Value) -> bool:
        """Whether the value has a code."""
        return self.name(value) in self.known


def quantize(value: ir.Value, codes: Codes, name: str) -> tuple[ir.Node, QuantizedValue]:
    """A QuantizeLinear of a float value."""
    scale, zero_point = codes.constants(value)
    node = ir.Node("", "QuantizeLinear", [value, scale, zero_point], name=name)
    _name_output(node, name, ir.DataType.UINT8)
    return node, QuantizedValue(value=node.outputs[0], scale=scale, zero_point=zero_point)


def dequantize(quantised: QuantizedValue, name: str, output: str) -> ir.Node:
    """A DequantizeLinear; what leads to it and is new gets names that are free in the graph."""
    inputs = [quantised.value, quantised.scale, quantised.zero_point]
    node = ir.Node("", "DequantizeLinear", inputs, name=name)
    _name_output(node, output, ir.DataType.FLOAT)
    _free_names(node)
    return node


def constant(
    array: NDArray[np.generic], scale: NDArray[np.float32], axis: int, name: str
) -> tuple[ir.Node, list[ir.Value]]:
    """A DequantizeLinear of a stored array with a scale along an axis."""
    stored = [initializer(name, array), initializer(f"{name}.scale", scale)]
    if array.dtype == np.int8:
        zeros = np.zeros(len(scale), np.int8)
        stored.append(initializer(f"{name}.zero_point", zeros))
    node = ir.Node(
        "", "DequantizeLinear", stored, [ir.AttrInt64("axis", axis)], name=f"{name}.real"
    )
    _name_output(node, f"{name}.real", ir.DataType.FLOAT)
    return node, stored


def _free_names(last: ir.Node) -> None:
    """Gives new nodes, up to the last, and their values names that are free where they read from.

    A layer among them keeps its name, and the last its output: those of the layer in the graph.
    """
    before = _new_before(last)
    nodes = [*before, last]
    quantisers = [node for node in nodes if node.op_type in QUANTISERS]
    read = (value.graph for node in nodes for value in node.inputs if value is not None)
    graph = next((each for each in read if isinstance(each, ir.Graph)), None)
    if graph is None:
        return
    for node in quantisers:
        node.name = free_node_name(graph, node.name or "")
    for node in nodes if quantisers == nodes else before:
        node.outputs[0].name = free_name(graph, node.outputs[0].name or "")


def _new_before(node: ir.Node) -> list[ir.Node]:
    """The nodes that lead to one and are in no graph yet."""
    producers = [value.producer() for value in node.inputs if value is not None]
    new = [each for each in producers if each is not None and each.graph is None]
    return [found for each in new for found in (*_new_before(each), each)]


def _name_output(node: ir.Node, name: str, kind: ir.DataType) -> None:
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(kind)


def register(graph: ir.Graph, constants: Sequence[ir.Value]) -> None:
    """Adds initializers that the graph does not have yet."""
    for value in constants:
        if value.graph is None:
            graph.initializers.add(value)


def simplify(graph: ir.Graph) -> None:
    """Removes what cancels; see the module docstring."""
    first: dict[tuple[object, ...], ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Relu" and _is_positive(node.inputs[0]):
            _bypass(node, node.inputs[0])
        elif node.op_type == "QuantizeLinear" and (integers := _cancelled(node, graph)):
            _bypass(node, integers)
        elif node.op_type in QUANTISERS:
            earlier = first.setdefault((node.op_type, *node.inputs), node.outputs[0])
            if earlier is not node.outputs[0]:
                _bypass(node, earlier)


def _is_positive(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or len(producer.inputs) < 3:
        return False
    zero_point = producer.inputs[2]
    if zero_point is None or zero_point.const_value is None:
        return False
    return zero_point.dtype == ir.DataType.UINT8 and not zero_point.const_value.numpy().any()


def _cancelled(node: ir.Node, graph: ir.Graph) -> ir.Value | None:
    """What a QuantizeLinear computes, without it; None where its value is not made from uint8."""
    value, moves = node.inputs[0], []
    while value is not None and (producer := value.producer()) is not None and _moves(producer):
        moves.append(producer)
        value = producer.inputs[0]
    producer = None if value is None else value.producer()
    if producer is None or not _cancels(producer, node):
        return None
    moved = producer.inputs[0]
    for move in reversed(moves):
        moved = _on_integers(move, moved, node, graph)
    return moved


def _cancels(producer: ir.Node, node: ir.Node) -> bool:
    same = all(a is b for a, b in zip(producer.inputs[1:], node.inputs[1:], strict=False))
    return producer.op_type == "DequantizeLinear" and same and len(producer.inputs) == 3


def _on_integers(
    move: ir.Node, q: ir.Value | None, quantize_node: ir.Node, graph: ir.Graph
) -> ir.Value:
    """A copy of an operator that moves values, for uint8."""
    inputs = [q, *move.inputs[1:]]
    if move.op_type == "Pad":  # zeros are the zero point
        inputs = [*inputs, None][:3]
        inputs[2:3] = [quantize_node.inputs[2]]
        inputs += move.inputs[3:]
    name = f"{move.name}.uint8"
    if move.op_type == "MaxPool":
        nodes = pool_of_integers(move, q, name)
    else:
        nodes = [ir.Node("", move.op_type, inputs, list(move.attributes.values()), name=name)]
        nodes[0].outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    graph.insert_before(quantize_node, nodes)
    for node in nodes:
        node.outputs[0].name = free_name(graph, node.name or "")
    moved = nodes[-1].outputs[0]
    moved.shape = move.outputs[0].shape
    return moved


def _bypass(node: ir.Node, value: ir.Value | None) -> None:
    """Lets the users of a node take another value; a graph output stays as it is."""
    output = node.outputs[0]
    if output.is_graph_output() or value is None:
        return
    ir.convenience.replace_all_uses_with(output, value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
