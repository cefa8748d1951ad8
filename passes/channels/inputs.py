"""What is known of the inputs of a node: constants, sizes, and names for messages."""

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

Shape = tuple[int | None, ...]


class NotFollowedError(ValueError):
    """A node does something to channels that is not understood; the message says what."""


def describe(node: ir.Node) -> str:
    """Operator and name, for messages."""
    return f"{node.op_type} '{node.name}'"


def stored_shape(value: ir.Value) -> tuple[int, ...]:
    """Sizes of a constant."""
    assert value.const_value is not None
    return tuple(size for size in value.const_value.shape if isinstance(size, int))


def is_fixed(value: ir.Value | None) -> bool:
    """Whether a value is a constant that cannot be fed at run time."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def fixed(node: ir.Node, index: int, what: str) -> ir.Value:
    """A node's input that is the same at every run.

    Raises:
        NotFollowedError: it is missing, or may be different at run time.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise NotFollowedError(f"{what} is missing")
    if value.is_graph_input():
        raise NotFollowedError(f"{what} is a graph input, it may change at run time")
    return value


def constant(node: ir.Node, index: int, what: str) -> NDArray[Any]:
    """A node's constant input.

    Raises:
        NotFollowedError: it is missing, or may be different at run time.
    """
    value = fixed(node, index, what)
    if value.const_value is None:
        raise NotFollowedError(f"{what} is computed at run time")
    return value.const_value.numpy()


def has_input(node: ir.Node, index: int) -> bool:
    """Whether an optional input is given."""
    return index < len(node.inputs) and node.inputs[index] is not None
