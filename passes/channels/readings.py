"""Channel rule of Shape: numbers of channels that are read at run time.

Where such a number becomes a size of another value, as after `view_as` and `expand_as` in torch,
that value must lose the same channels. Whether it does is only known after the last node.
"""

from collections.abc import Iterator

import onnx_ir as ir

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, constant
from passes.channels.layout import Layout
from passes.channels.normalization import freeze_axes
from passes.channels.sizes import Reading, locate

_BRINGS_TO_SHAPE = ("Reshape", "Expand")
_PASSES_SIZES_ON = ("Slice", "Gather", "Concat", "Cast", "Unsqueeze", "Squeeze", "Identity")


def shape(node: ir.Node, graph: ChannelGraph) -> None:
    """Reads sizes: harmless as long as nobody looks at the number of channels."""
    x = graph.layout(node, 0)
    if x is None:
        return
    if _only_shapes(node.outputs[0]):
        graph.counting.append(node)
        return
    seen = set(_span(node, x)) & set(x.axes)
    nodes = [use.node for use in node.outputs[0].uses()]
    picked = all(each.op_type in ("Gather", "Slice") for each in nodes)
    if picked and not node.outputs[0].is_graph_output():
        seen &= {axis for each in nodes for axis in _looked_at(each, _span(node, x))}
    freeze_axes(node, graph, x, seen, "the number of channels is read at run time")


def freeze_counted(graph: ChannelGraph) -> None:
    """Freezes channels that are counted for a value which does not lose them as well."""
    for node in graph.counting:
        value = node.inputs[0]
        assert value is not None
        x = graph.tracked[value]
        for use in node.outputs[0].uses():
            axes = _looked_at(use.node, _span(node, x))
            sizes = [Reading(value=value, axis=axis) for axis in axes]
            for reader in _readers(use.node):
                held = [size.axis for size in sizes if not _adapts(reader, size, graph)]
                freeze_axes(reader, graph, x, held, "one of its sizes is their number")


def _adapts(reader: ir.Node, size: Reading, graph: ChannelGraph) -> bool:
    """Whether a Reshape or Expand loses the same channels wherever it gets a size."""
    out = graph.tracked.get(reader.outputs[0])
    rank = 0 if out is None else out.rank
    entries = [entry for entry in range(rank) if locate(reader, 1, entry, graph) == size]
    return bool(entries) and all((reader, entry) in graph.adapting for entry in entries)


def _only_shapes(value: ir.Value) -> bool:
    """Whether a list of sizes is used for nothing but the shapes that values are brought to."""
    return not value.is_graph_output() and all(
        (use.node.op_type in _BRINGS_TO_SHAPE and use.idx == 1)
        or (use.node.op_type in _PASSES_SIZES_ON and _only_shapes(use.node.outputs[0]))
        for use in value.uses()
    )


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes that bring values to a shape, among a user of sizes and those behind it."""
    if node.op_type in _BRINGS_TO_SHAPE:
        yield node
    else:
        for use in node.outputs[0].uses():
            yield from _readers(use.node)


def _span(node: ir.Node, x: Layout) -> range:
    """The axes of which a Shape lists the sizes."""
    return range(x.rank)[slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))]


def _looked_at(node: ir.Node, span: range) -> set[int]:
    """Which of the listed axes a node looks at; all where that is decided at run time."""
    try:
        if node.op_type == "Gather":
            return {span[int(index)] for index in constant(node, 1, "index").reshape(-1)}
        if node.op_type == "Slice":
            start, end = (int(constant(node, i, "bound").reshape(-1)[0]) for i in (1, 2))
            return set(span[start:end])
    except NotFollowedError:
        pass
    return set(span)
