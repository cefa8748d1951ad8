"""Removes channels and basis kernels from a model: slices every tensor that has them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channel_graph import ChannelGraph, Ids, Mask, Mixing
from passes.conv import free_name
from runtimes.operators.decomposed_conv import (
    DecomposedWeights,
    encode_coefficients,
    is_decomposed_conv,
    read_weights,
)

Indices = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What one layer loses, as indices into the layer as it was.

    Attributes:
        outputs: of its K output channels.
        inputs: of its C input channels.
        basis: of its M basis kernels, where it is a `DecomposedConv`.
    """

    outputs: Indices = ()
    inputs: Indices = ()
    basis: Indices = ()

    @property
    def empty(self) -> bool:
        """Whether the layer stays as it is."""
        return not (self.outputs or self.inputs or self.basis)


def lost_channels(mixing: Mixing, kept: Mask) -> Removal:
    """What a layer loses when only the ids in `kept` (ids in all,) stay."""
    return Removal(outputs=_missing(mixing.writes, kept), inputs=_missing(mixing.reads, kept))


def find_removal(mixing: Mixing, kept: Mask, *, basis: bool) -> Removal:
    """What a layer loses, with basis kernels or without."""
    return replace(lost_channels(mixing, kept), basis=dead_basis(mixing, kept) if basis else ())


def describe_removal(mixing: Mixing, removal: Removal) -> str:
    """One line for a person, such as "dead: 12 of 64 output channels, 1 of 5 basis kernels"."""
    n_basis = read_weights(mixing.node).basis.shape[0] if removal.basis else 0
    parts = (
        (removal.outputs, len(mixing.writes), "output channels"),
        (removal.inputs, len(mixing.reads), "input channels"),
        (removal.basis, n_basis, "basis kernels"),
    )
    return "dead: " + ", ".join(f"{len(lost)} of {n} {what}" for lost, n, what in parts if lost)


def dead_basis(mixing: Mixing, kept: Mask) -> Indices:
    """Basis kernels of a layer that are zero or not used by what is kept; never all of them."""
    if not is_decomposed_conv(mixing.node):
        return ()
    weights = _kept_weights(mixing, kept)
    kernels = weights.basis.reshape(len(weights.basis), -1)  # (M, kernel size)
    used = np.any(weights.coefficients != 0, axis=(0, 1)) & np.any(kernels != 0, axis=1)
    if not used.any():
        used[0] = True
    return tuple(np.flatnonzero(~used).tolist())


def format_indices(indices: Indices) -> str:
    """Sorted indices as text, runs shortened: (1, 4, 5, 6) is "1,4-6"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def parse_indices(text: str) -> Indices:
    """Inverse of `format_indices`.

    Raises:
        ValueError: the text has another form.
    """
    indices: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)


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
    for size in graph.sizes:
        count = int(kept[size.ids].sum())
        if count != len(size.ids):
            _write_size(model.graph, size.node, size.index, size.entry, count)
    for value, channels in graph.tracked.items():
        if value.shape is not None and not kept[channels.ids].all():
            dims = list(value.shape)
            dims[channels.axis] = int(kept[channels.ids].sum())
            value.shape = ir.Shape(dims)


def _missing(ids: Ids, kept: Mask) -> Indices:
    return tuple(np.flatnonzero(~kept[ids]).tolist())


def _slice_initializer(value: ir.Value, axis: int, kept: Mask) -> None:
    assert value.const_value is not None
    array = value.const_value.numpy()
    _set_constant(value, np.compress(kept, array, axis=axis))


def _set_constant(value: ir.Value, array: NDArray[Any]) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
    value.shape = ir.Shape(array.shape)


def _kept_weights(mixing: Mixing, kept: Mask) -> DecomposedWeights:
    weights = read_weights(mixing.node)
    outputs = kept[mixing.writes]
    coefficients = weights.coefficients[outputs]  # (K', C/group, M)
    if not mixing.depthwise:
        columns = kept[mixing.reads[: coefficients.shape[1]]]  # the same in every group
        coefficients = coefficients[:, columns]
    bias = None if weights.bias is None else weights.bias[outputs]
    return DecomposedWeights(basis=weights.basis, coefficients=coefficients, bias=bias)


def _rewrite_factors(graph: ir.Graph, mixing: Mixing, kept: Mask, dropped: Indices) -> None:
    """Stores the remaining factors of a `DecomposedConv` in fresh initializers."""
    node, weights = mixing.node, _kept_weights(mixing, kept)
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


def _write_size(graph: ir.Graph, node: ir.Node, index: int, entry: int, count: int) -> None:
    value = node.inputs[index]
    assert value is not None and value.const_value is not None
    sizes = value.const_value.numpy().copy()
    sizes[entry] = count
    _replace_constant(graph, node, index, sizes)


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
