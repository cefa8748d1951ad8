"""Reads `optc::HybridDecomposedConv` nodes as layers: integers in, integers out.

The layer holds the integers that are stored: B, the coefficients Ce = levels·v with the bits of v
(ternary where the v of every (output, basis kernel) are 0 and ±1), and x − x_zero_point, whose
zeros are the codes that stand for 0. The accelerator is timed in its own order of the two stages;
the numbers that leave the layer are those of the operator, which rounds the responses between.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from runtimes.accelerator.reading import (
    Lookup,
    ReadLayer,
    UnsupportedError,
    build_layer,
    one_sample,
    operand,
)
from runtimes.accelerator.workload import Array, Factors
from runtimes.operators.decomposed_conv import ConvGeometry, read_geometry
from runtimes.operators.hybrid_conv import (
    HybridWeights,
    op_type,
    read_packed,
    read_scale,
    read_weights,
)
from runtimes.operators.hybrid_reference import QuantizedArray, reference


def read_hybrid(node: ir.Node, lookup: Lookup) -> ReadLayer:
    """Reads a node of the family.

    Raises:
        UnsupportedError: it does not convolve over two axes.
        SimulationError: the input holds more than one sample.
        ValueError: what the node stores is malformed.
    """
    weights, geometry = read_weights(node), read_geometry(node)
    if weights.basis.ndim != 3:
        raise UnsupportedError(f"a convolution over {weights.basis.ndim - 1} axes")
    x = quantized_operand(node, "x", node.inputs[0], lookup)
    centred = one_sample(node, x.values).astype(np.int16) - x.zero_point  # (C, H, W)
    factors = None  # an accelerator has no need of the unit kernels
    if not weights.is_ordinary:
        factors = Factors(
            basis=weights.basis,
            coefficients=weights.coefficients,
            bits=read_packed(node).value_bits,
        )
    layer = build_layer(node, centred, weights.dense(x.scale), factors, geometry)
    residual, added = None, None
    if node.op_type == op_type(residual=True):
        residual = node.inputs[-3]
        added = quantized_operand(node, "residual", residual, lookup)
    return ReadLayer(
        layer=layer,
        compute=_operator(node, x, weights, geometry, added),
        residual=residual,
        zero_point=read_scale(node, "y")[1],
        residual_zero_point=added.zero_point if added is not None else 0,
    )


def quantized_operand(
    node: ir.Node, which: str, value: ir.Value | None, lookup: Lookup
) -> QuantizedArray:
    """The codes of "x" or "residual" with what they stand for."""
    scale, zero_point = read_scale(node, which)
    return QuantizedArray(values=operand(lookup, value), scale=scale, zero_point=zero_point)


def _operator(
    node: ir.Node,
    x: QuantizedArray,
    weights: HybridWeights,
    geometry: ConvGeometry,
    residual: QuantizedArray | None,
) -> Callable[[], Array]:
    y_scale, y_zero_point = read_scale(node, "y")
    lower, upper = (node.attributes[key].as_int() for key in ("lower", "upper"))

    def compute() -> Array:
        return reference(
            x,
            weights,
            geometry,
            y_scale=y_scale,
            y_zero_point=y_zero_point,
            bounds=(lower, upper),
            residual=residual,
        )

    return compute
