"""Constant weights as the channel rules read them, through transposed views."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, fixed, stored_shape
from passes.channels.layout import Constants

Array = NDArray[Any]


def weight_shape(node: ir.Node, index: int, what: str, graph: ChannelGraph) -> tuple[int, ...]:
    """Sizes of a constant weight, which is not read.

    Raises:
        NotFollowedError: it is missing, or may be different at run time.
    """
    value = fixed(node, index, what)
    if value in graph.views:
        base, order = graph.views[value]
        assert base.const_value is not None
        return tuple(stored_shape(base)[axis] for axis in order)
    if value.const_value is None:
        raise NotFollowedError(f"{what} is computed at run time")
    return stored_shape(value)


def read_weight(node: ir.Node, index: int, graph: ChannelGraph) -> Array:
    """A constant weight, or its transposed view."""
    value, order = graph.weight(node, index)
    assert value.const_value is not None
    return value.const_value.numpy().transpose(order)


def per_channel(array: Array, axis: int) -> Constants:
    """The constant of each slice along an axis, NaN where a slice is not constant; (size,)."""
    slices = np.moveaxis(np.asarray(array, np.float64), axis, 0).reshape(array.shape[axis], -1)
    same = np.all(slices == slices[:, :1], axis=1)
    return np.where(same, slices[:, 0], np.nan)
