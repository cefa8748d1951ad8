"""Channel rules of the operators that keep channels apart: activations and joins.

What they do to a constant channel is computed only where that is exact. Everything else becomes
NaN, unknown, which is always safe.
"""

from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx_ir as ir

from passes.channels.broadcasting import join
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import constant, has_input
from passes.channels.layout import Constants

Rule = Callable[[ir.Node, ChannelGraph], None]
Unary = Callable[[ir.Node, Constants], Constants]
Fold = Callable[[Constants, Constants], Constants]


def same(node: ir.Node, x: Constants) -> Constants:
    """Nothing is done: y = x."""
    return x


def zero_only(node: ir.Node, x: Constants) -> Constants:
    """f(0) = 0; other constants are given up."""
    return np.where(x == 0, 0.0, np.nan)


def unknown(node: ir.Node, x: Constants) -> Constants:
    """f(0) ≠ 0."""
    return np.full_like(x, np.nan)


def relu(node: ir.Node, x: Constants) -> Constants:
    """max(x, 0)."""
    return np.maximum(x, 0)


def clip(node: ir.Node, x: Constants) -> Constants:
    """min(max(x, lower), upper)."""
    lower = constant(node, 1, "lower bound") if has_input(node, 1) else -np.inf
    upper = constant(node, 2, "upper bound") if has_input(node, 2) else np.inf
    return np.minimum(np.maximum(x, lower), upper)


def unary(transfer: Unary) -> Rule:
    """Rule of an operator that maps every element by itself, or every channel by itself."""

    def rule(node: ir.Node, graph: ChannelGraph) -> None:
        x = graph.layout(node, 0)
        if x is not None:
            graph.single_output(node)
            graph.write(node, x.with_constants(transfer(node, x.constants)))

    return rule


def cast_like(node: ir.Node, graph: ChannelGraph) -> None:
    """CastLike: of its second input only the type matters."""
    graph.layout(node, 1)
    unary(zero_only)(node, graph)


def add(a: Constants, b: Constants) -> Constants:
    """Of two addends."""
    return a + b


def gated_sum(a: Constants, b: Constants) -> Constants:
    """f(a + b) with f(0) = 0."""
    return np.where(a + b == 0, 0.0, np.nan)


def subtract(a: Constants, b: Constants) -> Constants:
    """Of minuend and subtrahend."""
    return a - b


def multiply(a: Constants, b: Constants) -> Constants:
    """Zero where one factor is: a gate closes a channel."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def divide(a: Constants, b: Constants) -> Constants:
    """Zero where the dividend is zero and the divisor is known not to be."""
    return np.where((a == 0) & ~np.isnan(b) & (b != 0), 0.0, np.nan)


def slope(a: Constants, b: Constants) -> Constants:
    """PRelu: f(0) = 0 for any slope."""
    return np.where(a == 0, 0.0, np.nan)


def either(a: Constants, b: Constants) -> Constants:
    """One of two values, or anything between: constant where they agree."""
    return np.where(a == b, a, np.nan)


def power(a: Constants, b: Constants) -> Constants:
    """Zero stays zero under a positive exponent."""
    return np.where((a == 0) & (b > 0), 0.0, np.nan)


def elementwise(fold: Fold, first: int = 0) -> Rule:
    """Rule of an operator on broadcast operands: it ties their channels.

    Args:
        fold: what becomes of constants.
        first: operands before this one are joined as well but have no part in the value.
    """

    def rule(node: ir.Node, graph: ChannelGraph) -> None:
        indices = [i for i, value in enumerate(node.inputs) if value is not None]
        joined = join(node, indices, graph)
        if joined is not None:
            layout, constants = joined
            graph.write(node, layout.with_constants(reduce(fold, constants[first:])))

    return rule
