"""`optc::DecomposedConv`: convolution with a shared basis and sparse coefficients.

    W[k, c] = Σ_m Ce[k, c, m] · B[m],      Y = act(X ∗ W + bias [+ residual])

Shapes: X (N, C, *spatial), B (M, *kernel), Ce (K, C/group, M), bias (K,), residual like Y.
Source: PENNI (Li et al., ICML 2020), section 3; see `passes/penni.py`.

One meaning, six operator names, because a model-local function has one body per name: the
suffix ``Add`` takes a residual input, then ``Relu`` or ``Clip`` applies an activation. Every
name has the inputs ``X, basis, values, positions, bias`` (bias may be absent, written as ""),
and ``residual`` last where the name has ``Add``.

The coefficients are stored compactly: Ce, flattened row-major, is cut into blocks of ``block``
elements (1, or M for whole channel pairs); ``values`` (n_stored, block) holds the stored blocks
and ``positions`` says where they go (`runtimes.operators.positions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes.operators import DOMAIN, DOMAINS, positions

Array = NDArray[np.float32]
Activation = Literal["", "Relu", "Clip"]

BASE_NAME = "DecomposedConv"
ACTIVATIONS: tuple[Activation, ...] = ("", "Relu", "Clip")
INPUTS = ("X", "basis", "values", "positions", "bias")


@dataclass(frozen=True, kw_only=True)
class ConvGeometry:
    """Attributes of a convolution over n spatial axes.

    Attributes:
        strides: (n,).
        pads: (2n,), begin of every axis, then end of every axis.
        dilations: (n,).
        group: number of channel groups.
    """

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1

    def output_size(self, size: int, kernel: int, axis: int) -> int:
        """⌊(size + pads − dilation·(kernel − 1) − 1) / stride⌋ + 1 along one spatial axis."""
        padded = size + self.pads[axis] + self.pads[axis + len(self.strides)]
        return (padded - self.dilations[axis] * (kernel - 1) - 1) // self.strides[axis] + 1


@dataclass(frozen=True, kw_only=True)
class DecomposedWeights:
    """Factors of one convolution.

    Attributes:
        basis: (M, *kernel).
        coefficients: (K, C/group, M), zeros where dropped.
        bias: (K,) or None.
    """

    basis: Array
    coefficients: Array
    bias: Array | None = None

    def dense(self) -> Array:
        """Rebuilds the dense kernel W[k, c] = Σ_m Ce[k, c, m]·B[m], (K, C/group, *kernel)."""
        product = np.tensordot(
            self.coefficients.astype(np.float64), self.basis.astype(np.float64), axes=1
        )
        return product.astype(np.float32)

    @property
    def parameters(self) -> int:
        """Nonzero coefficients and basis elements (bias not counted, as for a dense conv)."""
        return int(np.count_nonzero(self.coefficients)) + self.basis.size


@dataclass(frozen=True, kw_only=True)
class EncodedCoefficients:
    """What a model file stores for Ce: see the module docstring."""

    values: Array  # (n_stored, block)
    positions: NDArray[np.uint8]  # (n_bytes,)
    position_bits: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.values.nbytes + self.positions.nbytes


@dataclass(frozen=True, kw_only=True)
class FusedActivation:
    """What is applied to the sum: nothing, Relu, or Clip to [lower, upper]."""

    name: Activation = ""
    lower: float = field(default=-np.inf)
    upper: float = field(default=np.inf)


def op_type(activation: Activation = "", *, residual: bool = False) -> str:
    """Operator name of a variant, e.g. ``DecomposedConvAddRelu``."""
    return BASE_NAME + ("Add" if residual else "") + activation


def op_types() -> tuple[str, ...]:
    """All operator names of the family."""
    return tuple(op_type(a, residual=r) for r in (False, True) for a in ACTIVATIONS)


def is_decomposed_conv(node: ir.Node) -> bool:
    """Whether a node is one of the family."""
    return node.domain in DOMAINS and node.op_type in op_types()


def encode_coefficients(coefficients: Array) -> EncodedCoefficients:
    """Stores Ce (K, C/group, M) in the fewest bytes, element- or pair-wise.

    A tensor without nonzeros stores one explicit zero, so `values` is never empty.
    """
    blocks = {1, coefficients.shape[-1]}
    return min((_encode_blocks(coefficients, block) for block in sorted(blocks)), key=_nbytes)


def _nbytes(encoded: EncodedCoefficients) -> int:
    return encoded.nbytes


def _encode_blocks(coefficients: Array, block: int) -> EncodedCoefficients:
    blocks = coefficients.reshape(-1, block)  # (n_blocks, block)
    mask: NDArray[np.bool_] = np.any(blocks != 0, axis=1)
    if not mask.any():
        mask[0] = True
    code, width = positions.cheapest_code(mask)
    values = np.ascontiguousarray(blocks[mask], np.float32)
    return EncodedCoefficients(values=values, positions=code, position_bits=width)


def decode_coefficients(encoded: EncodedCoefficients, shape: Sequence[int]) -> Array:
    """Inverse of `encode_coefficients` for Ce of the given (K, C/group, M) shape.

    Raises:
        ValueError: the stored values or positions do not fit the shape.
    """
    size, block = int(np.prod(shape)), encoded.values.shape[1]
    if block < 1 or size % block:
        raise ValueError(f"blocks of {block} do not divide coefficients of shape {tuple(shape)}")
    mask = positions.decode_runs(encoded.positions, encoded.position_bits, size // block)
    if mask.sum() != len(encoded.values):
        raise ValueError(f"{mask.sum()} positions for {len(encoded.values)} stored blocks")
    blocks = np.zeros((size // block, block), np.float32)
    blocks[mask] = encoded.values
    return blocks.reshape(tuple(shape))


def make_node(
    x: ir.Value,
    weights: DecomposedWeights,
    geometry: ConvGeometry,
    *,
    name: str,
    residual: ir.Value | None = None,
    activation: FusedActivation = FusedActivation(),
) -> tuple[ir.Node, list[ir.Value]]:
    """Builds the node and the initializers it needs.

    Args:
        x: input (N, C, *spatial).
        weights: factors; copied into compact initializers named after `name`.
        geometry: convolution attributes.
        name: name of the node, prefix of the initializers.
        residual: added to the convolution before the activation.
        activation: applied last.

    Returns:
        The node (one output, same element type as `x`) and its new initializers.
    """
    encoded = encode_coefficients(weights.coefficients)
    arrays: dict[str, NDArray[np.generic]] = {
        "basis": np.ascontiguousarray(weights.basis, np.float32),
        "values": encoded.values,
        "positions": encoded.positions,
    }
    if weights.bias is not None:
        arrays["bias"] = np.ascontiguousarray(weights.bias, np.float32)
    initializers = {key: initializer(f"{name}.{key}", array) for key, array in arrays.items()}
    inputs = [x, *(initializers.get(key) for key in INPUTS[1:])]
    attributes = [
        ir.AttrInt64s("strides", geometry.strides),
        ir.AttrInt64s("pads", geometry.pads),
        ir.AttrInt64s("dilations", geometry.dilations),
        ir.AttrInt64("group", geometry.group),
        ir.AttrInt64s("coefficient_shape", weights.coefficients.shape),
        ir.AttrInt64("position_bits", encoded.position_bits),
    ]
    if activation.name == "Clip":
        attributes.append(ir.AttrFloat32("lower", activation.lower))
        attributes.append(ir.AttrFloat32("upper", activation.upper))
    node = ir.Node(
        DOMAIN,
        op_type(activation.name, residual=residual is not None),
        [*inputs, *([] if residual is None else [residual])],
        attributes,
        name=name,
    )
    node.outputs[0].type = x.type
    return node, list(initializers.values())


def initializer(name: str, array: NDArray[np.generic]) -> ir.Value:
    """A constant of a graph."""
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    return ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )


def read_geometry(node: ir.Node) -> ConvGeometry:
    """Reads the convolution attributes of a `DecomposedConv` node."""
    ints = {key: tuple(node.attributes[key].as_ints()) for key in ("strides", "pads", "dilations")}
    return ConvGeometry(**ints, group=node.attributes["group"].as_int())


def read_weights(node: ir.Node) -> DecomposedWeights:
    """Reads the factors of a `DecomposedConv` node back.

    Raises:
        ValueError: an input is not a constant, or the stored coefficients are malformed; the
            message names the node.
    """
    constants = [None if value is None else value.const_value for value in node.inputs[1:5]]
    if any(constant is None for constant in constants[:3]):
        raise ValueError(f"node '{node.name}': basis, values and positions must be initializers")
    basis, values, code, bias = (None if c is None else c.numpy() for c in constants)
    assert basis is not None and values is not None and code is not None
    encoded = EncodedCoefficients(
        values=values,
        positions=code,
        position_bits=node.attributes["position_bits"].as_int(),
    )
    try:
        coefficients = decode_coefficients(encoded, node.attributes["coefficient_shape"].as_ints())
    except ValueError as error:
        raise ValueError(f"node '{node.name}': {error}") from error
    return DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
