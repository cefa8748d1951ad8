"""Channel rules of products of two values: MatMul and Einsum.

Letters stand for axes, as in Einsum. A letter of both operands and of the result says that they
have the same channels (heads); one that is missing in the result is summed over, so its channels
must agree pair by pair (the features of queries and keys) and are zero together.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes.channels.broadcasting import aligned, spread_constants, tied
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, is_fixed
from passes.channels.layers import weight_matmul
from passes.channels.layout import Layout, Mask, renumbered, without_dims
from passes.channels.records import Contraction


def matmul(node: ir.Node, graph: ChannelGraph) -> None:
    """MatMul, and com.microsoft's FusedMatMul without transposed batch axes."""
    a, b = node.inputs[:2]
    turned = [bool(node.attributes.get_int(key, 0)) for key in ("transA", "transB")]
    weights = [i for i in (1, 0) if _is_weight(node, i, graph)]
    if weights and not any(turned):
        weight_matmul(node, graph, weights[0])
        return
    if a not in graph.tracked and b not in graph.tracked:
        return
    ranks = [graph.rank(a), graph.rank(b)]
    if min(ranks) < 2:
        raise NotFollowedError("multiplies by a vector")
    batch = list(range(max(ranks) - 2))
    one = [*batch[len(batch) - ranks[0] + 2 :], *((-3, -1) if turned[0] else (-1, -3))]
    other = [*batch[len(batch) - ranks[1] + 2 :], *((-2, -3) if turned[1] else (-3, -2))]
    contract(node, graph, (one, other), [*batch, -1, -2])


def einsum(node: ir.Node, graph: ChannelGraph) -> None:
    """Einsum of two operands."""
    if not any(value in graph.tracked for value in node.inputs):
        return
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != 2 or not arrow or "." in equation or any(len(set(t)) < len(t) for t in terms):
        raise NotFollowedError(f"of equation {equation}")
    one, other = ([ord(letter) for letter in term] for term in terms)
    contract(node, graph, (one, other), [ord(letter) for letter in right])


def contract(
    node: ir.Node,
    graph: ChannelGraph,
    operands: tuple[Sequence[int], Sequence[int]],
    out: Sequence[int],
) -> None:
    """Multiplies two values and sums over the letters that `out` does not have."""
    summed = [letter for letter in dict.fromkeys([*operands[0], *operands[1]]) if letter not in out]
    letters = [*out, *summed]
    rank = len(letters)
    layouts = {}
    for i, term in enumerate(operands):
        x = graph.layout(node, i)
        if x is None:
            continue
        where = {axis: letters.index(letter) for axis, letter in enumerate(term)}
        layouts[i] = renumbered(x, where, rank)
    layouts = aligned(layouts, graph)
    whole = tied(list(layouts.values()), rank, graph)
    for i, term in enumerate(operands):
        _freeze_unknown(node, i, term, letters, layouts.get(i), whole, graph)
    gone = [p for p, dim in enumerate(whole.labelled) if dim.axis >= len(out)]
    _sum_over(node, graph, layouts, whole, gone)
    _write_result(node, graph, layouts, whole, gone, len(out))


def _is_weight(node: ir.Node, index: int, graph: ChannelGraph) -> bool:
    """Whether an operand is a constant matrix, directly or transposed."""
    value = node.inputs[index]
    if value in graph.views:
        return len(graph.views[value][1]) == 2
    if value is not None and value.is_graph_input() and value.const_value is not None:
        raise NotFollowedError("weight is a graph input, it may change at run time")
    return is_fixed(value) and graph.rank(value) == 2


def _freeze_unknown(
    node: ir.Node,
    i: int,
    term: Sequence[int],
    letters: Sequence[int],
    x: Layout | None,
    whole: Layout,
    graph: ChannelGraph,
) -> None:
    """Freezes or slices what one operand has channels on and the other has not."""
    value = node.inputs[i]
    shape = graph.shape(value)
    for axis, letter in enumerate(term):
        place = letters.index(letter)
        positions = whole.positions(place)
        if not positions or (x is not None and place in x.axes):
            continue
        size = None if shape is None else shape[axis]
        if size == 1 and whole.size(place) > 1:
            continue
        if is_fixed(value):
            graph.slice(node, i, axis, graph.flat(whole, place))
            continue
        assert value is not None
        for p in positions:
            graph.freeze(whole.ids[p], graph.origin(value))


def _sum_over(
    node: ir.Node,
    graph: ChannelGraph,
    layouts: dict[int, Layout],
    whole: Layout,
    gone: Sequence[int],
) -> None:
    if not gone:
        return
    zero = _zeros(layouts, whole)
    if graph.masked and any(is_fixed(value) for value in node.inputs[:2]):
        zero = np.ones_like(zero)
    writes = tuple(ids for p, ids in enumerate(whole.ids) if p not in gone)
    for p in gone:
        shape = np.broadcast_shapes(zero.shape, whole.ids[p].shape, *(w.shape for w in writes))
        nonzero = np.broadcast_to(~zero, shape)
        graph.flow.append(
            Contraction(node=node, reads=whole.ids[p], writes=writes, nonzero=nonzero)
        )


def _zeros(layouts: dict[int, Layout], whole: Layout) -> Mask:
    """Where one of the factors is zero."""
    zero = np.zeros((1,) * len(whole.ids), bool)
    for x in layouts.values():
        zero = zero | (spread_constants(x, whole) == 0)
    return zero


def _write_result(
    node: ir.Node,
    graph: ChannelGraph,
    layouts: dict[int, Layout],
    whole: Layout,
    gone: Sequence[int],
    rank: int,
) -> None:
    """Labels the result; it is zero where all that is summed is."""
    zero = _zeros(layouts, whole)
    free = set(range(len(whole.ids))) - set(gone)
    ids = tuple(
        graph.independent(array, free) if p in free else array for p, array in enumerate(whole.ids)
    )
    result = replace(whole, ids=ids).with_constants(np.where(zero, 0.0, np.nan))
    result = without_dims(result, gone, rank)
    if result.ids:
        dims = tuple(dim for dim in result.dims if dim.axis < rank)
        graph.write(node, replace(result, dims=dims))
