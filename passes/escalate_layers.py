"""Which layers `escalate` can quantise, read as plain arrays.

A layer is quantised in one of two forms:

    hybrid   a decomposed convolution: 8-bit basis, coefficients of 8, 4 or 2 bits
    int8     an ordinary Conv, Gemm or MatMul: 8-bit weights, as a QDQ model has them

Where a network has hybrid layers, its first convolution and those of 1×1 are int8, but run in the
same kernel: `passes.escalate_units` has decomposed them into the unit kernels, one for each tap,
whose responses are the input itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import UnsupportedConvError, read_conv
from passes.cost import is_layer, layer_name
from runtimes.operators.decomposed_conv import (
    BASE_NAME,
    INPUTS,
    ConvGeometry,
    DecomposedWeights,
    is_decomposed_conv,
    read_geometry,
    read_weights,
)
from runtimes.operators.hybrid_conv import is_hybrid_conv

Array = NDArray[np.float32]

QUANTISED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv"),
        *("ConvInteger", "MatMulInteger", "QLinearMatMul"),
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecomposedLayer:
    """A `DecomposedConv` node.

    Attributes:
        node: as it is in the graph.
        weights: factors.
        geometry: strides, pads, dilations, group.
        residual: what is added, or None.
        bounds: of the output: (-inf, inf), (0, inf) for Relu, or those of Clip.
    """

    node: ir.Node
    weights: DecomposedWeights
    geometry: ConvGeometry
    residual: ir.Value | None
    bounds: tuple[float, float]

    @property
    def unit(self) -> bool:
        """Whether its basis is that of the unit kernels, as of an ordinary convolution."""
        basis = self.weights.basis
        return np.array_equal(basis.reshape(len(basis), -1), np.eye(len(basis)))


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseLayer:
    """A Conv, or a Gemm or MatMul as a convolution of no spatial axes.

    Attributes:
        node: as it is in the graph.
        weight: (K, C/group, *kernel).
        bias: (K,) or None.
        geometry: strides, pads, dilations, group.
        transposed: the graph stores the weight as (C, K).
    """

    node: ir.Node
    weight: Array
    bias: Array | None
    geometry: ConvGeometry
    transposed: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the output: it has no activation inside."""
        return -np.inf, np.inf


Layer = DecomposedLayer | DenseLayer
_MATRIX = ConvGeometry(strides=(), pads=(), dilations=())


class RefusalError(ValueError):
    """A layer cannot be quantised; the message is the reason for a person."""


def candidates(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes that a decision is made about, in graph order."""
    return (node for node in model.graph if is_layer(node))


def is_quantised(model: ir.Model) -> bool:
    """Whether a model has quantised operators already."""
    return any(
        is_hybrid_conv(node) or (node.domain in ("", "com.microsoft") and _quantises(node))
        for graph in model.graphs()
        for node in graph
    )


def _quantises(node: ir.Node) -> bool:
    return node.op_type in QUANTISED or node.op_type.startswith("QLinear")


def read_layer(node: ir.Node) -> Layer:
    """Reads a node; shapes of its values must have been inferred.

    Raises:
        RefusalError: it cannot be quantised.
    """
    x = node.inputs[0]
    if x is None or x.const_value is not None:
        raise RefusalError("its input is a constant")
    if x.dtype not in (None, ir.DataType.FLOAT):
        raise RefusalError(f"its input is {x.dtype}, not FLOAT")
    if is_decomposed_conv(node):
        return _decomposed(node)
    if node.op_type == "Conv":
        try:
            conv = read_conv(node)
        except UnsupportedConvError as error:
            raise RefusalError(str(error)) from error
        return DenseLayer(node=node, weight=conv.weight, bias=conv.bias, geometry=conv.geometry)
    if node.op_type in ("Gemm", "MatMul"):
        return _matrix(node)
    raise RefusalError(f"{node.op_type} is not quantised")


def _decomposed(node: ir.Node) -> DecomposedLayer:
    weights, geometry = read_weights(node), read_geometry(node)
    if geometry.group != 1:
        raise RefusalError(f"{geometry.group} groups")
    suffix = node.op_type.removeprefix(BASE_NAME)
    bounds = (-np.inf, np.inf)
    if suffix.endswith("Relu"):
        bounds = (0.0, np.inf)
    elif suffix.endswith("Clip"):
        lower, upper = (node.attributes[key].as_float() for key in ("lower", "upper"))
        bounds = (lower, upper)
    residual = node.inputs[len(INPUTS)] if suffix.startswith("Add") else None
    return DecomposedLayer(
        node=node, weights=weights, geometry=geometry, residual=residual, bounds=bounds
    )


def _matrix(node: ir.Node) -> DenseLayer:
    """Gemm Y = X·W + b or MatMul Y = X·W with constant W (C, K)."""
    name = node.op_type
    x, shape = node.inputs[0], None
    assert x is not None
    shape = x.shape
    if shape is None or len(shape) != 2:
        raise RefusalError(f"the input of the {name} is not known to have 2 axes")
    weight = _constant(node, 1)
    if weight.ndim != 2:
        raise RefusalError(f"the weight of the {name} has {weight.ndim} axes")
    attributes = node.attributes
    if attributes.get_int("transA", 0) or {
        attributes.get_float(key, 1.0) for key in ("alpha", "beta")
    } != {1.0}:
        raise RefusalError("Gemm with transA, alpha or beta")
    transposed = not attributes.get_int("transB", 0)
    matrix = weight.T if transposed else weight  # (K, C)
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _constant(node, 2).ravel()
        if bias.shape != (len(matrix),):
            raise RefusalError("the bias is broadcast")
    return DenseLayer(node=node, weight=matrix, bias=bias, geometry=_MATRIX, transposed=transposed)


def _constant(node: ir.Node, index: int) -> Array:
    value = node.inputs[index]
    if value is None or value.const_value is None or value.is_graph_input():
        raise RefusalError("its weights are not constants")
    if len(value.uses()) > 1:
        raise RefusalError(f"its weight is shared by {len(value.uses())} uses")
    if value.const_value.dtype != ir.DataType.FLOAT:
        raise RefusalError(f"its weight is {value.const_value.dtype.name}, not FLOAT")
    return value.const_value.numpy()


def on_node(layer: Layer, node: ir.Node) -> Layer:
    """The same layer as a node of another copy of its graph."""
    if isinstance(layer, DenseLayer):
        return replace(layer, node=node)
    residual = None if layer.residual is None else node.inputs[len(INPUTS)]
    return replace(layer, node=node, residual=residual)


def name_of(layer: Layer) -> str:
    """Name of the layer's node."""
    return layer_name(layer.node)
