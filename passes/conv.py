"""Reads ONNX Conv nodes as plain arrays and attributes, and replaces nodes in a graph."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes.operators.decomposed_conv import ConvGeometry

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """One convolution.

    Attributes:
        name: of the node.
        weight: (K, C/group, *kernel).
        bias: (K,) or None.
        geometry: strides, pads, dilations, group.
        output_positions: output pixels of one sample, None where the shape is dynamic.
    """

    name: str
    weight: Array
    bias: Array | None
    geometry: ConvGeometry
    output_positions: int | None

    @property
    def kernel_size(self) -> int:
        """Elements of one kernel, R·S."""
        return int(np.prod(self.weight.shape[2:]))


class UnsupportedConvError(ValueError):
    """A Conv that cannot be rewritten; the message is the reason for a person."""


def read_conv(node: ir.Node) -> ConvLayer:
    """Reads a Conv node.

    Raises:
        UnsupportedConvError: weights are not private float32 constants, or the padding depends
            on a shape that is unknown.
    """
    weight = _constant(node, 1, "weight")
    bias = _constant(node, 2, "bias") if _has_input(node, 2) else None
    return ConvLayer(
        name=node.name or "",
        weight=weight,
        bias=bias,
        geometry=conv_geometry(node, weight.shape[2:]),
        output_positions=_positions(node.outputs[0]),
    )


def conv_geometry(node: ir.Node, kernel: Sequence[int]) -> ConvGeometry:
    """Strides, explicit pads, dilations and group of a Conv with such a kernel.

    Raises:
        UnsupportedConvError: the padding depends on a shape that is unknown.
    """
    ones = (1,) * len(kernel)
    return ConvGeometry(
        strides=_ints(node, "strides", ones),
        pads=_pads(node, kernel),
        dilations=_ints(node, "dilations", ones),
        group=node.attributes.get_int("group", 1),
    )


def replace_node(old: ir.Node, new: Sequence[ir.Node], initializers: Sequence[ir.Value]) -> None:
    """Puts nodes in the place of one, keeping the name, type and users of its output.

    Initializers that only the old node used are dropped, so that new ones may have their names.

    Args:
        old: node with one output, removed from its graph.
        new: replacement in execution order; the last one's first output takes over.
        initializers: new initializers, registered in the graph; renamed where a name is taken.
    """
    graph = old.graph
    assert isinstance(graph, ir.Graph)
    before, after = old.outputs[0], new[-1].outputs[0]
    after.name, after.type, after.shape = before.name, before.type, before.shape
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    before.name = None
    given = [value for value in old.inputs if value is not None and value.is_initializer()]
    graph.remove(old, safe=True)
    for value in given:
        if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
            graph.initializers.pop(value.name or "", None)
    for value in initializers:
        value.name = free_name(graph, value.name or "")
        graph.initializers.add(value)


def free_name(graph: ir.Graph, name: str) -> str:
    """The name, or with a number behind it where a value of the graph has it already."""
    taken = set(graph.initializers) | {value.name for value in graph.inputs}
    taken |= {output.name for node in graph for output in node.outputs}
    return _numbered(name, taken)


def free_node_name(graph: ir.Graph, name: str) -> str:
    """The name, or with a number behind it where a node of the graph has it already."""
    return _numbered(name, {node.name for node in graph})


def _numbered(name: str, taken: Container[str | None]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _has_input(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _constant(node: ir.Node, index: int, what: str) -> Array:
    value = node.inputs[index]
    assert value is not None
    if value.is_graph_input():
        raise UnsupportedConvError(f"{what} is a graph input, it may change at run time")
    if value.const_value is None:
        raise UnsupportedConvError(f"{what} is computed at run time")
    if len(value.uses()) > 1:
        raise UnsupportedConvError(f"{what} is shared by {len(value.uses())} uses")
    if value.const_value.dtype != ir.DataType.FLOAT:
        raise UnsupportedConvError(f"{what} is {value.const_value.dtype.name}, not FLOAT")
    return np.asarray(value.const_value.numpy(), np.float32)


def _ints(node: ir.Node, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    attribute = node.attributes.get(key)
    return default if attribute is None else tuple(attribute.as_ints())


def _pads(node: ir.Node, kernel: Sequence[int]) -> tuple[int, ...]:
    """Explicit pads; auto_pad SAME is resolved where the input size is known.

    SAME: total = max((⌈in/stride⌉ − 1)·stride + dilation·(kernel − 1) + 1 − in, 0).
    """
    spatial = len(kernel)
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return _ints(node, "pads", (0,) * 2 * spatial)
    if mode == "VALID":
        return (0,) * 2 * spatial
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    sizes = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    if len(sizes) != spatial:
        raise UnsupportedConvError(f"auto_pad={mode} with an input size known only at run time")
    strides = _ints(node, "strides", (1,) * spatial)
    dilations = _ints(node, "dilations", (1,) * spatial)
    totals = [
        max((-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        for size, stride, dilation, k in zip(sizes, strides, dilations, kernel, strict=True)
    ]
    small = tuple(total // 2 for total in totals)
    large = tuple(total - half for total, half in zip(totals, small, strict=True))
    return small + large if mode == "SAME_UPPER" else large + small


def _positions(output: ir.Value) -> int | None:
    if output.shape is None:
        return None
    sizes = [size for size in output.shape[2:] if isinstance(size, int)]
    return int(np.prod(sizes)) if len(sizes) == len(output.shape) - 2 else None
