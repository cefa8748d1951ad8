"""Takes channels and basis kernels out of a model: slices every tensor that has them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.layout import Mask, kept_counts, kept_size
from passes.channels.records import Mixing, SizeEntry
from passes.channels.removal import Indices, Removal, kept_weights, lost_channels
from passes.conv import free_name
from runtimes.operators.decomposed_conv import encode_coefficients, is_decomposed_conv


def remove_channels(
    model: ir.Model, graph: ChannelGraph, kept: Mask, removals: Mapping[str, Removal]
) -> None:
    """Rewrites a model in place; names and order of nodes and values stay.

    Args:
        model: the model that `graph` describes.
        graph: from `follow_channels`.
        kept: (ids in all,), the same for tied ids, one or more on every axis.
        removals: what layers lose, by name of the node; only the basis kernels are looked at.
    """
    for (value, axis), ids in graph.slices.items():
        if not kept[ids].all():
            _slice_initializer(value, axis, kept[ids])
    for mixing in graph.mixings:
        dropped = removals.get(mixing.node.name or "", Removal()).basis
        if is_decomposed_conv(mixing.node):
            if dropped or not lost_channels(mixing, kept).empty:
                _rewrite_factors(model.graph, mixing, kept, dropped)
        elif mixing.depthwise:
            _set_group(mixing, kept)
    _write_out_splits(model.graph, graph.sizes)
    written: set[tuple[ir.Node, int | str, int | None]] = set()
    for entry in _with_own_shapes(model.graph, graph.sizes):
        place = (entry.node, entry.attribute or entry.index, entry.entry)
        if place not in written:
            written.add(place)
            _write_size(model.graph, entry, kept)
    for value, layout in graph.tracked.items():
        if value.shape is not None and not all(kept[ids].all() for ids in layout.ids):
            dims = list(value.shape)
            for axis in layout.axes:
                dims[axis] = kept_size(layout, kept, axis)
            value.shape = ir.Shape(dims)
    for view, (base, order) in graph.views.items():
        if view.shape is not None and base.shape is not None:
            view.shape = ir.Shape([base.shape[axis] for axis in order])


def _slice_initializer(value: ir.Value, axis: int, kept: Mask) -> None:
    assert value.const_value is not None
    array = value.const_value.numpy()
    _set_constant(value, np.compress(kept, array, axis=axis))


def _set_constant(value: ir.Value, array: NDArray[Any]) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
    value.shape = ir.Shape(array.shape)


def _rewrite_factors(graph: ir.Graph, mixing: Mixing, kept: Mask, dropped: Indices) -> None:
    """Stores the remaining factors of a `DecomposedConv` in fresh initializers."""
    node, weights = mixing.node, kept_weights(mixing, kept)
    coefficients = np.delete(weights.coefficients, dropped, axis=-1)
    encoded = encode_coefficients(coefficients)
    _replace_constant(graph, node, 1, np.delete(weights.basis, dropped, axis=0))
    _replace_constant(graph, node, 2, encoded.values)
    _replace_constant(graph, node, 3, encoded.positions)
    if weights.bias is not None:
        _replace_constant(graph, node, 4, weights.bias)
    node.attributes.add(ir.AttrInt64s("coefficient_shape", coefficients.shape))
    node.attributes.add(ir.AttrInt64("position_bits", encoded.position_bits))
    if mixing.depthwise:
        _set_group(mixing, kept)


def _set_group(mixing: Mixing, kept: Mask) -> None:
    mixing.node.attributes.add(ir.AttrInt64("group", int(kept[mixing.reads].sum())))


def _with_own_shapes(graph: ir.Graph, sizes: Sequence[SizeEntry]) -> list[SizeEntry]:
    """Gives every Reshape its own Concat of sizes where several share one."""
    own: dict[ir.Node, ir.Node] = {}
    entries = []
    for entry in sizes:
        node, reader = entry.node, entry.reader
        if reader is not None and node.op_type == "Concat":
            shared = reader.inputs[1]
            if shared is node.outputs[0] and len(shared.uses()) > 1:
                taken = {other.name for other in graph}
                output = ir.Value(name=free_name(graph, f"{shared.name}_own"), type=shared.type)
                name = next(
                    n for i in range(len(taken) + 1) if (n := f"{node.name}_{i}") not in taken
                )
                own[reader] = ir.Node(
                    "", "Concat", list(node.inputs), list(node.attributes.values()), name=name,
                    outputs=[output],
                )  # fmt: skip
                graph.insert_before(reader, own[reader])
                reader.replace_input_with(1, output)
            entry = replace(entry, node=own.get(reader, node))
        entries.append(entry)
    return entries


def _write_out_splits(graph: ir.Graph, sizes: Sequence[SizeEntry]) -> None:
    """Gives a Split into equal parts its sizes as an input, so that they can differ."""
    for node in dict.fromkeys(entry.node for entry in sizes):
        if node.op_type == "Split" and len(node.inputs) < 2:
            parts = [entry.layout.size(entry.axis) for entry in sizes if entry.node is node]
            value = ir.Value(
                name=free_name(graph, f"{node.name}.split"), type=ir.TensorType(ir.DataType.INT64)
            )
            _set_constant(value, np.array(parts, np.int64))
            graph.initializers.add(value)
            node.resize_inputs(2)
            node.replace_input_with(1, value)
            node.attributes.pop("num_outputs", None)


def _write_size(graph: ir.Graph, entry: SizeEntry, kept: Mask) -> None:
    """Writes the new number of channels where the old one stands."""
    node, layout = entry.node, entry.layout
    if entry.dim is None:
        count, old = kept_size(layout, kept, entry.axis), layout.size(entry.axis)
    else:
        p = layout.positions(entry.axis)[entry.dim]
        count, old = int(kept_counts(layout, kept, p).max(initial=0)), layout.sizes[p]
    if entry.default is not None:
        if count != old:
            node.attributes.add(ir.AttrFloat32(entry.attribute, entry.default))
    elif entry.attribute and entry.entry is not None:
        given = node.attributes.get(entry.attribute)
        numbers = [] if given is None else list(given.as_ints())
        numbers += [0] * (entry.entry + 1 - len(numbers))  # the others follow in order
        numbers[entry.entry] = count
        node.attributes.add(ir.AttrInt64s(entry.attribute, numbers))
    elif entry.attribute:
        node.attributes.add(ir.AttrInt64(entry.attribute, count))
    else:
        value = node.inputs[entry.index]
        assert value is not None and value.const_value is not None
        sizes = value.const_value.numpy().copy()
        if node.op_type == "Slice":  # it may be counted from the end, or be beyond it
            number = count
        else:  # it may be a part of the size, next to a dynamic one
            number = int(sizes.reshape(-1)[entry.entry]) * count // old
        if sizes.reshape(-1)[entry.entry] != number:
            sizes.reshape(-1)[entry.entry] = number
            _replace_constant(graph, node, entry.index, sizes)


def _replace_constant(graph: ir.Graph, node: ir.Node, index: int, array: NDArray[Any]) -> None:
    """Gives one node another constant; other users of the old one keep it."""
    old = node.inputs[index]
    assert old is not None and old.name is not None
    if len(old.uses()) == 1 and old.name in graph.initializers and not old.is_graph_output():
        _set_constant(old, array)
        return
    new = ir.Value(name=free_name(graph, old.name), type=old.type)
    _set_constant(new, array)
    graph.initializers.add(new)
    node.replace_input_with(index, new)
