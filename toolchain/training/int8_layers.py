"""Weights and biases of ordinary int8 layers that can be trained.

    W = s·rint(clamp(u·w, −127, 127)),     b = t·(b₀ + u·Δ)

Scales s and t stay. w and Δ are in units u of the root mean square of a layer's weights or biases,
so that one learning rate suits all layers. The gradient passes through the rounding.
"""

from abc import abstractmethod

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from passes.mathematics.hybrid_fit import INT8
from toolchain.training.straight_through import round_through

Integers = NDArray[np.signedinteger]

INT32 = np.iinfo(np.int32)
PRODUCT = 255 * INT8
"""Largest product of an activation and a weight, in steps of a bias."""


def along_axis(values: Tensor, node: ir.Node, ndim: int) -> Tensor:
    """Scales or zero points of a DequantizeLinear as they broadcast to numbers of some axes."""
    if values.numel() == 1:  # for all numbers, which need not have the default axis
        return values
    shape = [1] * ndim
    shape[node.attributes.get_int("axis", 1) or 0] = -1
    return values.reshape(shape)


class Int8Constant(nn.Module):
    """What a DequantizeLinear makes of whole numbers that are an initializer, trained.

    Attributes:
        scale: that broadcasts to the numbers.
        unit: of what is trained, in steps of the numbers.
    """

    scale: Tensor
    unit: Tensor

    def __init__(self, node: ir.Node, codes: Integers, least_unit: float) -> None:
        super().__init__()
        scale = node.inputs[1]
        assert scale is not None and scale.const_value is not None
        scales = torch.from_numpy(np.array(scale.const_value.numpy()))
        self.register_buffer("scale", along_axis(scales, node, codes.ndim), persistent=False)
        unit = max(float(np.sqrt(np.mean(codes.astype(np.float64) ** 2))), least_unit)
        self.register_buffer("unit", torch.tensor(unit), persistent=False)

    @abstractmethod
    def codes(self) -> Integers:
        """What the file stores."""


class Int8Weight(Int8Constant):
    """Weights, symmetric: int8 of any shape."""

    def __init__(self, node: ir.Node, codes: Integers) -> None:
        super().__init__(node, codes, 1.0)
        self.value = nn.Parameter(torch.from_numpy(codes.astype(np.float32)) / self.unit)

    def forward(self) -> Tensor:
        """Real numbers on the grid."""
        return self._steps() * self.scale

    @torch.no_grad()
    def codes(self) -> Integers:
        """What the file stores."""
        steps: Integers = self._steps().round().cpu().numpy().astype(np.int8)
        return steps

    @torch.no_grad()
    def bound(self) -> None:
        """Takes what lies outside of 8 bits back to their edge."""
        self.value.clamp_(-INT8 / self.unit, INT8 / self.unit)

    def _steps(self) -> Tensor:
        return round_through((self.value * self.unit).clamp(-INT8, INT8))


class Int32Bias(Int8Constant):
    """A bias (K,): int32, so fine that its rounding counts for nothing."""

    start: Tensor

    def __init__(self, node: ir.Node, codes: Integers) -> None:
        super().__init__(node, codes, PRODUCT / 10)
        self._first = codes.astype(np.int64)
        start = torch.from_numpy(codes.astype(np.float32))
        self.register_buffer("start", start, persistent=False)
        self.value = nn.Parameter(torch.zeros(codes.shape))

    def forward(self) -> Tensor:
        """Real numbers."""
        return (self.start + self.value * self.unit) * self.scale

    @torch.no_grad()
    def codes(self) -> Integers:
        """What the file stores."""
        moved = (self.value.double() * self.unit).round().cpu().numpy().astype(np.int64)
        kept: Integers = np.clip(self._first + moved, INT32.min, INT32.max).astype(np.int32)
        return kept


def int8_constant(node: ir.Node) -> Int8Constant | None:
    """The module for a DequantizeLinear of constant weights or biases; None for other nodes."""
    if node.domain != "" or node.op_type != "DequantizeLinear":
        return None
    given = [None if value is None else value.const_value for value in node.inputs]
    if given[0] is None or (len(given) > 2 and given[2] is not None and given[2].numpy().any()):
        return None
    kinds = {ir.DataType.INT8: Int8Weight, ir.DataType.INT32: Int32Bias}
    kind = kinds.get(given[0].dtype)
    return None if kind is None else kind(node, np.array(given[0].numpy()))
