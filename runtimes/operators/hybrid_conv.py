"""`optc::HybridDecomposedConv`: decomposed convolution in integers, uint8 in and out.

    R[c, m] = Σ_t B[m, t]·(x[c, t] − x_zero_point)                int32, padding counts as 0
    T[c, m] = clamp((R[c, m] + 2^(shift_m − 1)) >> shift_m, z − 128, z + 127)      responses
    acc[k]  = Σ_{c, m} Ce[k, c, m]·T[c, m],   Ce[k, c, m] = levels[k, m]·v[k, c, m]   int32
    u[k]    = acc·(scale_k / y_scale) + bias_k / y_scale [+ (r − r_zero_point)·(r_scale / y_scale)]
    y[k]    = clamp(rint(u[k]) + y_zero_point, lower, upper)

Sums are exact integers; u is float32 with every operation rounded by itself and rint rounds half
to even, so all implementations agree. Shapes: X uint8 (N, C, *spatial), B int8 (M, *kernel), v
int8 (K, C/group, M), levels int8 (K, M). It stands for the weight

    W[k, c] = Σ_m (scale_k / x_scale)·Ce[k, c, m]·2^−shift_m·B[m]

T − z is int8, and z (attribute `offset`) 0, unless responses are known to lie elsewhere.

Different precision for basis and coefficients, as they are reused differently, is the idea of
ESCALATE (Li et al., MICRO 2021); the arithmetic is ours. Relu and Clip are the bounds `lower` and
`upper`. Two operator names, because a function has one body per name: the suffix ``Add`` takes a
residual. How the v are stored: see `runtimes.operators.symbols`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes.operators import DOMAIN, DOMAINS
from runtimes.operators.decomposed_conv import ConvGeometry, initializer
from runtimes.operators.symbols import PackedSymbols, decode_symbols, encode_symbols

Int8 = NDArray[np.int8]
UInt8 = NDArray[np.uint8]
Float = NDArray[np.float32]

BASE_NAME = "HybridDecomposedConv"
INPUTS = (
    *("X", "x_scale", "x_zero_point", "basis", "shift", "values", "positions", "levels"),
    *("scale", "bias", "y_scale", "y_zero_point"),
)
RESIDUAL_INPUTS = ("residual", "residual_scale", "residual_zero_point")
LARGEST = 127
"""Of |Ce| and |B|."""
MAX_SHIFT = 22
MAX_OFFSET = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedValue:
    """A uint8 tensor q that stands for scale·(q − zero_point); all three are graph values."""

    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value


@dataclass(frozen=True, kw_only=True, eq=False)
class HybridWeights:
    """Factors of one quantised convolution; see the module docstring.

    Attributes:
        basis: (M, *kernel) int8.
        shift: (M,) uint8, bits that responses lose.
        symbols: (K, C/group, M) int8, zeros where dropped.
        levels: (K, M) int8, integer factor of each (output, basis).
        scale: (K,) real value of one unit of the accumulator.
        bias: (K,) real.
        response_offset: z, the middle of what responses may be; |z| ≤ 128.
    """

    basis: Int8
    shift: UInt8
    symbols: Int8
    levels: Int8
    scale: Float
    bias: Float
    response_offset: int = 0

    def __post_init__(self) -> None:
        """Checks shapes and ranges.

        Raises:
            ValueError: they do not fit together; the message names them.
        """
        K, _, M = self.symbols.shape
        shapes = (len(self.basis), self.shift.shape, self.levels.shape)
        if shapes != (M, (M,), (K, M)) or not self.scale.shape == self.bias.shape == (K,):
            raise ValueError(
                f"basis {self.basis.shape}, shift {self.shift.shape}, levels {self.levels.shape}, "
                f"scale {self.scale.shape}, bias {self.bias.shape} do not fit coefficients of "
                f"shape {self.symbols.shape}"
            )
        if np.abs(self.coefficients).max(initial=0) > LARGEST or self.levels.min(initial=1) < 1:
            raise ValueError("levels·values must lie in -127 to 127, levels in 1 to 127")
        if self.basis.min(initial=0) < -LARGEST or self.shift.max(initial=0) > MAX_SHIFT:
            raise ValueError(f"basis must lie in -127 to 127, shift in 0 to {MAX_SHIFT}")
        if not (np.isfinite(self.scale).all() and np.all(self.scale > 0)):
            raise ValueError("scale must be positive and finite")
        if not np.isfinite(self.bias).all():
            raise ValueError("bias must be finite")
        if abs(self.response_offset) > MAX_OFFSET:
            raise ValueError(f"response_offset must lie in -{MAX_OFFSET} to {MAX_OFFSET}")

    @property
    def response_bounds(self) -> tuple[int, int]:
        """Least and largest T."""
        return self.response_offset - 128, self.response_offset + 127

    @property
    def coefficients(self) -> NDArray[np.int32]:
        """Ce = levels·v, (K, C/group, M)."""
        return self.levels[:, None].astype(np.int32) * self.symbols

    @property
    def is_ordinary(self) -> bool:
        """Whether it is an int8 convolution, the basis being `unit_basis`."""
        basis, shift = unit_basis(self.basis.shape[1:])
        return np.array_equal(self.basis, basis) and np.array_equal(self.shift, shift)

    def dense(self, x_scale: float) -> Float:
        """The weight it stands for, (K, C/group, *kernel), for inputs of that scale."""
        factors = self.scale.astype(np.float64) / x_scale
        basis = self.basis / np.exp2(self.shift.astype(np.float64)).reshape(
            -1, *(1,) * (self.basis.ndim - 1)
        )
        scaled = self.coefficients * factors[:, None, None]
        return np.tensordot(scaled, basis, axes=1).astype(np.float32)


def unit_basis(kernel: Sequence[int]) -> tuple[Int8, UInt8]:
    """A basis kernel for each tap, and its shift: T is x − x_zero_point itself.

    Any x fits into T where the response offset is `unit_offset`. An ordinary int8 convolution is a
    decomposed one with this basis and its weights for v. The tap is 64 instead of 1, so that
    training can change it a little.
    """
    bits, taps = 6, int(np.prod(kernel))
    basis = np.eye(taps, dtype=np.int8) << bits
    return basis.reshape(taps, *kernel), np.full(taps, bits, np.uint8)


def unit_offset(x_zero_point: int) -> int:
    """The response offset with which `unit_basis` loses nothing of a uint8 input."""
    return 128 - x_zero_point


def op_type(*, residual: bool = False) -> str:
    """Operator name of a variant."""
    return BASE_NAME + ("Add" if residual else "")


def op_types() -> tuple[str, ...]:
    """All operator names of the family."""
    return tuple(op_type(residual=residual) for residual in (False, True))


def is_hybrid_conv(node: ir.Node) -> bool:
    """Whether a node is one of the family."""
    return node.domain in DOMAINS and node.op_type in op_types()


def make_node(
    x: QuantizedValue,
    y_scale: ir.Value,
    y_zero_point: ir.Value,
    weights: HybridWeights,
    geometry: ConvGeometry,
    *,
    name: str,
    bounds: tuple[int, int] = (0, 255),
    residual: QuantizedValue | None = None,
) -> tuple[ir.Node, list[ir.Value]]:
    """Builds the node and the initializers it needs.

    Args:
        x: input (N, C, *spatial).
        y_scale: of the output, a float scalar.
        y_zero_point: of the output, a uint8 scalar.
        weights: factors; copied into compact initializers named after `name`.
        geometry: convolution attributes.
        name: name of the node, prefix of the initializers.
        bounds: least and largest quantised output.
        residual: added to the convolution.

    Returns:
        The node (one uint8 output) and its new initializers.
    """
    packed = encode_symbols(weights.symbols)
    arrays: dict[str, NDArray[Any]] = {
        "basis": weights.basis,
        "shift": weights.shift,
        "values": packed.values,
        "positions": packed.positions,
        "levels": weights.levels,
        "scale": weights.scale,
        "bias": weights.bias,
    }
    own = {key: initializer(f"{name}.{key}", array) for key, array in arrays.items()}
    inputs = [x.value, x.scale, x.zero_point, *own.values(), y_scale, y_zero_point]
    if residual is not None:
        inputs += [residual.value, residual.scale, residual.zero_point]
    lists = {
        "strides": geometry.strides,
        "pads": geometry.pads,
        "dilations": geometry.dilations,
        "coefficient_shape": weights.symbols.shape,
    }
    numbers = {
        "group": geometry.group,
        "position_bits": packed.position_bits,
        "value_bits": packed.value_bits,
        "block": packed.block,
        "lower": bounds[0],
        "upper": bounds[1],
        "offset": weights.response_offset,
    }
    node = ir.Node(
        DOMAIN,
        op_type(residual=residual is not None),
        inputs,
        [
            *(ir.AttrInt64s(key, ints) for key, ints in lists.items()),
            *(ir.AttrInt64(key, number) for key, number in numbers.items()),
        ],
        name=name,
    )
    node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return node, list(own.values())


def read_packed(node: ir.Node) -> PackedSymbols:
    """What a node stores for its symbols."""
    values, code = (_array(node, key) for key in ("values", "positions"))
    keys = ("value_bits", "position_bits", "block")
    numbers = {key: node.attributes[key].as_int() for key in keys}
    return PackedSymbols(values=values, positions=code, **numbers)


def read_weights(node: ir.Node) -> HybridWeights:
    """Reads the factors of a `HybridDecomposedConv` node back.

    Raises:
        ValueError: an input is not a constant, or what is stored is malformed; the message
            names the node.
    """
    keys = ("basis", "shift", "levels", "scale", "bias")
    arrays = {key: _array(node, key) for key in keys}
    try:
        symbols = decode_symbols(read_packed(node), node.attributes["coefficient_shape"].as_ints())
        offset = node.attributes.get_int("offset", 0)
        return HybridWeights(symbols=symbols, response_offset=offset, **arrays)
    except ValueError as error:
        raise ValueError(f"node '{node.name}': {error}") from error


def read_scale(node: ir.Node, which: str) -> tuple[float, int]:
    """Scale and zero point of "x", "y" or "residual"."""
    scale, zero = (_array(node, f"{which}_{key}") for key in ("scale", "zero_point"))
    return float(scale), int(zero)


def _array(node: ir.Node, key: str) -> NDArray[Any]:
    index = (*INPUTS, *RESIDUAL_INPUTS).index(key)
    value = node.inputs[index]
    if value is None or value.const_value is None:
        raise ValueError(f"node '{node.name}': {key} must be an initializer")
    return value.const_value.numpy()
