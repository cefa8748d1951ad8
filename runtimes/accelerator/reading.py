"""What the readers of all operators share: operands, and layers that are made of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from runtimes.accelerator.functional import convolve
from runtimes.accelerator.workload import Array, Factors, Layer, SimulationError
from runtimes.operators.decomposed_conv import ConvGeometry

Lookup = Callable[[ir.Value | None], Array | None]


class UnsupportedError(ValueError):
    """The accelerator has no unit for a node; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class ReadLayer:
    """A layer and how the node's output is computed.

    Attributes:
        layer: what the accelerator computes; what it stores is not known yet.
        compute: the node's output, of its own shape and type.
        residual: value that the node itself adds, or None.
        zero_point: of the output, the code that stands for 0.
        residual_zero_point: likewise of the residual.
    """

    layer: Layer
    compute: Callable[[], Array]
    residual: ir.Value | None = None
    zero_point: int = 0
    residual_zero_point: int = 0


def float_layer(
    layer: Layer, finish: Callable[[Array], Array], residual: ir.Value | None = None
) -> ReadLayer:
    """A layer in real numbers.

    Args:
        layer: what the accelerator computes.
        finish: bias, fused residual and activation, and the node's own shape, from (K, Ho, Wo).
        residual: value that `finish` adds, or None.
    """

    def compute() -> Array:
        y: Array = finish(convolve(layer)).astype(layer.x.dtype)
        return y

    return ReadLayer(layer=layer, compute=compute, residual=residual)


def build_layer(
    node: ir.Node, x: Array, weight: Array, factors: Factors | None, geometry: ConvGeometry
) -> Layer:
    """The layer of a node, for activations x (C, H, W) and the dense weight (K, C/group, R, S).

    Raises:
        UnsupportedError: it reads or writes nothing.
    """
    output_size = tuple(
        geometry.output_size(size, kernel, axis)
        for axis, (size, kernel) in enumerate(zip(x.shape[1:], weight.shape[2:], strict=True))
    )
    if 0 in x.shape or 0 in output_size:
        raise UnsupportedError("an empty tensor")
    return Layer(
        name=node.name or node.outputs[0].name or "",
        op_type=node.op_type,
        x=x,
        weight=weight,
        factors=factors,
        geometry=geometry,
        output_size=(output_size[0], output_size[1]),
        stored=np.zeros((len(weight), *output_size), np.bool_),
        input_name=node.inputs[0].name or "" if node.inputs[0] is not None else "",
        output_name=node.outputs[0].name or "",
    )


def one_sample(node: ir.Node, x: Array) -> Array:
    """The one sample of an input (1, C, *spatial), without its first axis.

    Raises:
        SimulationError: it holds more than one.
    """
    if len(x) != 1:
        raise SimulationError(
            f"node '{node.name}': a batch of {len(x)} samples; simulate one, from a model with a "
            "batch that is dynamic or 1"
        )
    sample: Array = x[0]
    return sample


def operand(lookup: Lookup, value: ir.Value | None) -> Array:
    """The array of a value.

    Raises:
        UnsupportedError: there is none.
    """
    array = lookup(value)
    if array is None:
        raise UnsupportedError("an input is missing")
    return array


def real_operand(lookup: Lookup, value: ir.Value | None) -> Array:
    """The array of a value, of a floating-point type.

    Raises:
        UnsupportedError: there is none, or it is of another type.
    """
    array = operand(lookup, value)
    if array.dtype.kind != "f":
        raise UnsupportedError(f"operands of type {array.dtype}")
    return array
