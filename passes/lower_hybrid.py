"""`HybridDecomposedConv` as standard nodes: the same integers in float32, unpacked.

    T = Clip(Floor(Conv(X − x_zero_point, B·2^−shift) + ½)),  acc = Ce·T,
    Y = Clip(Round(acc·a + b [+ residual]) + y_zero_point)

The second stage is a MatMul over flattened pixels: were it a Conv, onnxruntime would fold the
factor a into its weights, and round differently by that.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import replace_node
from runtimes.operators.decomposed_conv import initializer, read_geometry
from runtimes.operators.hybrid_conv import (
    INPUTS,
    read_scale,
    read_weights,
)

FLOAT, UINT8 = ir.DataType.FLOAT, ir.DataType.UINT8


class _Chain:
    """Nodes in execution order, and their initializers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def add(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        attrs = ir.convenience.convert_attributes(attributes)
        name = f"{self.name}.{len(self.nodes)}"
        self.nodes.append(ir.Node("", op, inputs, attrs, name=name))
        return self.nodes[-1].outputs[0]

    def constant(self, key: str, array: Any, kind: type = np.float32) -> ir.Value:
        self.constants.append(initializer(f"{self.name}.{key}", np.asarray(array, kind)))
        return self.constants[-1]

    def real(self, q: ir.Value, zero_point: int, key: str) -> ir.Value:
        """The integers less their zero point, as float."""
        return self.add(
            "Sub", self.add("Cast", q, to=FLOAT), self.constant(f"{key}_zero", zero_point)
        )


def lower_hybrid(node: ir.Node) -> None:
    """Replaces one node by standard ones, in its graph."""
    weights, geometry = read_weights(node), read_geometry(node)
    chain, (K, C_group, M) = _Chain(node.name or ""), weights.symbols.shape
    given = [value for value in node.inputs if value is not None]
    channels, ones = C_group * geometry.group, (1,) * len(geometry.strides)
    scaled = weights.basis / np.exp2(weights.shift.astype(np.float64)).reshape(-1, *ones)
    x = chain.real(given[0], read_scale(node, "x")[1], "x")
    R = chain.add(
        "Conv",
        x,
        chain.constant("basis", np.concatenate([scaled[:, None]] * channels)),
        chain.constant("half", np.full(channels * M, 0.5)),
        group=channels,
        strides=geometry.strides,
        pads=geometry.pads,
        dilations=geometry.dilations,
    )
    least, largest = (chain.constant(f"T_{b}", b) for b in weights.response_bounds)
    T = chain.add("Clip", chain.add("Floor", R), least, largest)
    flat = chain.add("Reshape", T, chain.constant("flat", [0, channels * M, -1], np.int64))
    mixing = _block_diagonal(weights.coefficients, geometry.group)
    acc = chain.add("MatMul", chain.constant("coefficients", mixing), flat)
    Y = _requantize(node, chain, acc, weights.scale, weights.bias)
    spatial = chain.add(
        "Slice",
        chain.add("Shape", T),
        chain.constant("first", [2], np.int64),
        chain.constant("end", [2 + len(ones)], np.int64),
    )
    head = chain.constant("head", [0, K], np.int64)
    chain.add("Reshape", Y, chain.add("Concat", head, spatial, axis=0))
    chain.nodes[-1].name = node.name
    replace_node(node, chain.nodes, chain.constants)


def _requantize(
    node: ir.Node,
    chain: _Chain,
    acc: ir.Value,
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> ir.Value:
    """Y uint8 of acc, both (N, K, pixels)."""
    y_scale, zero_point = read_scale(node, "y")
    one = np.float32(y_scale)
    u = chain.add("Mul", acc, chain.constant("a", (scale / one)[:, None]))
    u = chain.add("Add", u, chain.constant("b", (bias / one)[:, None]))
    if node.op_type.endswith("Add"):
        r_scale, r_zero = read_scale(node, "residual")
        residual = node.inputs[len(INPUTS)]
        assert residual is not None
        r = chain.real(residual, r_zero, "residual")
        shape = chain.constant("rows", [0, len(scale), -1], np.int64)
        rho = chain.constant("rho", np.float32(r_scale) / one)
        u = chain.add("Add", u, chain.add("Mul", chain.add("Reshape", r, shape), rho))
    y = chain.add("Add", chain.add("Round", u), chain.constant("y_zero", zero_point))
    bounds = [chain.constant(key, node.attributes[key].as_int()) for key in ("lower", "upper")]
    return chain.add("Cast", chain.add("Clip", y, *bounds), to=UINT8)


def _block_diagonal(Ce: NDArray[np.int32], group: int) -> NDArray[np.float32]:
    """(K, C·M) of coefficients (K, C/group, M)."""
    K, C_group, M = Ce.shape
    dense = np.zeros((group, K // group, group, C_group * M), np.float32)
    for g, part in enumerate(Ce.reshape(group, K // group, C_group * M)):
        dense[g, :, g] = part
    return dense.reshape(K, group * C_group * M)
