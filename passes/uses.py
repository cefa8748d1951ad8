"""The nodes of linear layers in graph order, with weights and biases as a walk takes them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.cost import layer_name
from passes.linear import LinearLayer, LinearUse

Array = NDArray[np.float64]


def uses_in_order(
    model: ir.Model, layers: Sequence[LinearLayer]
) -> list[tuple[LinearUse, LinearLayer]]:
    """Every use of every layer, in graph order."""
    place = {layer_name(node): index for index, node in enumerate(model.graph)}
    pairs = [(use, layer) for layer in layers for use in layer.uses]
    return sorted(pairs, key=lambda pair: place[pair[0].name])


def own_bias(layer: LinearLayer, use: LinearUse) -> Array:
    """The bias (K,) of a node, zeros where it has none."""
    return np.zeros(layer.outputs) if use.bias is None else use.bias.astype(np.float64)


def dense(
    layer: LinearLayer, use: LinearUse, W: Array, bias: Array | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias as a walk takes them; the bias is the node's own where none is given."""
    bias = own_bias(layer, use) if bias is None else bias
    return W.reshape(layer.shape).astype(np.float32), bias.astype(np.float32)
