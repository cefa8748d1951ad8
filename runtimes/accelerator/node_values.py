"""What a node reads, through its subgraphs."""

from collections.abc import Iterator

import onnx_ir as ir


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Values that a node reads, those used inside its subgraphs included."""
    own = {value for inner in _inner_nodes(node) for value in inner.outputs}
    own |= {value for graph in _subgraphs(node) for value in graph.inputs}
    for each in (node, *_inner_nodes(node)):
        for value in each.inputs:
            if value is not None and value not in own and not _is_inner_constant(node, value):
                yield value


def _is_inner_constant(node: ir.Node, value: ir.Value) -> bool:
    return any(value.name in graph.initializers for graph in _subgraphs(node))


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for graph in _subgraphs(node):
        for inner in graph:
            yield inner
            yield from _inner_nodes(inner)
