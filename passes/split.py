"""A linear layer as two: their shapes, costs and nodes.

    channel   Conv(r, C, k, k; stride, pad) → Conv(K, r, 1, 1; bias)
    spatial   Conv(r, C, k, 1; stride (s, 1), pad (p, 0)) → Conv(K, r, 1, k; (1, s), (0, p); bias)
    matrix    x·(D, r) → ·(r, K) + bias, as Gemm or MatMul like the layer itself

Source of the two forms of convolutions: SVD training (Yang et al., CVPRW 2020), official code.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.linear import LinearLayer, LinearUse, Sizes

Array = NDArray[np.float32]
Form = Literal["channel", "spatial", "matrix"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Form and rank of a split."""

    form: Form
    rank: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """Weights of the two layers as they are stored, without bias."""

    first: Array
    second: Array


def forms_of(layer: LinearLayer) -> tuple[Form, ...]:
    """How a layer can be split."""
    if not layer.is_conv:
        return ("matrix",)
    return ("channel", "spatial") if len(layer.shape) == 4 else ("channel",)


def dimensions(layer: LinearLayer, form: Form) -> tuple[int, int]:
    """Rows and columns of the matrix that a form factors."""
    if form != "spatial":
        return layer.outputs, layer.width
    K, C, R, S = layer.shape
    return K * S, C * R


def parameters(layer: LinearLayer, split: Split) -> int:
    """Weights of both layers, r·(rows + columns)."""
    return split.rank * sum(dimensions(layer, split.form))


def macs(layer: LinearLayer, split: Split | None = None) -> int | None:
    """Multiply-accumulates of one sample over all uses; None where a shape is unknown."""
    parts = [use_macs(layer, use, split) for use in layer.uses]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def use_macs(layer: LinearLayer, use: LinearUse, split: Split | None = None) -> int | None:
    """The same of one use, as it is (None) or split.

    The first layer of a spatial split has not yet been strided along the last axis.
    """
    positions = layer.positions(use)
    if positions is None or use.output is None or use.input is None:
        return None
    if split is None:
        return positions * layer.outputs * layer.width
    rows, columns = dimensions(layer, split.form)
    between = positions
    if split.form == "spatial":
        between = use.output[0] * use.output[2] * use.input[3] // layer.samples
    return split.rank * (between * columns + positions * rows)


def break_even(layer: LinearLayer, form: Form) -> int:
    """Largest rank with fewer parameters, and fewer MACs where they are known, than the layer."""
    rows, columns = dimensions(layer, form)
    rank = (prod(layer.shape) - 1) // (rows + columns)
    dense, unit = macs(layer), macs(layer, Split(form=form, rank=1))
    return rank if dense is None or unit is None else min(rank, (dense - 1) // unit)


def store(
    layer: LinearLayer, split: Split, U: NDArray[np.float64], V: NDArray[np.float64]
) -> Factors:
    """Factors in the layout of the two nodes.

    Args:
        layer: that is split.
        split: form and rank r.
        U: (K, r), or (K, r, S) of a spatial split.
        V: (r, D), or (r, C·R).
    """
    first, second = V, U
    if split.form == "matrix":
        first, second = V.T, U.T
    elif split.form == "channel":
        first, second = V.reshape(-1, *layer.shape[1:]), U.reshape(*U.shape, *_ones(layer))
    else:
        K, C, R, S = layer.shape
        first, second = V.reshape(-1, C, R, 1), U.reshape(K, -1, 1, S)
    return Factors(
        first=np.ascontiguousarray(first, np.float32),
        second=np.ascontiguousarray(second, np.float32),
    )


def dense_shapes(layer: LinearLayer, split: Split) -> tuple[Sizes, Sizes]:
    """Shapes of both stored weights."""
    rows, columns = dimensions(layer, split.form)
    U = np.broadcast_to(0.0, (layer.outputs, split.rank, rows // layer.outputs))
    V = np.broadcast_to(0.0, (split.rank, columns))
    factors = store(layer, split, U if split.form == "spatial" else U[:, :, 0], V)
    return factors.first.shape, factors.second.shape


def make_nodes(
    use: LinearUse,
    x: ir.Value,
    split: Split,
    factors: tuple[ir.Value, ir.Value],
    bias: ir.Value | None,
) -> list[ir.Node]:
    """The two nodes of one use; the second has the name of the node they replace.

    Args:
        use: node that is split.
        x: its input.
        split: form and rank.
        factors: stored weights of both.
        bias: (K,); not for MatMul.
    """
    one, two = _attributes(use, split)
    names = (f"{use.name}.svd", use.name)
    first = ir.Node("", use.op_type, [x, factors[0]], one, name=names[0])
    first.outputs[0].name = f"{names[0]}.y"
    added = [] if bias is None else [bias]
    second = ir.Node("", use.op_type, [first.outputs[0], factors[1], *added], two, name=names[1])
    return [first, second]


def _attributes(use: LinearUse, split: Split) -> tuple[list[ir.Attr], list[ir.Attr]]:
    geometry = use.geometry
    if geometry is None:
        return [], []
    strides, pads, dilations = geometry.strides, geometry.pads, geometry.dilations
    if split.form == "channel":
        return _conv_attributes(strides, pads, dilations), []
    return (
        _conv_attributes((strides[0], 1), (pads[0], 0, pads[2], 0), (dilations[0], 1)),
        _conv_attributes((1, strides[1]), (0, pads[1], 0, pads[3]), (1, dilations[1])),
    )


def _conv_attributes(strides: Sizes, pads: Sizes, dilations: Sizes) -> list[ir.Attr]:
    given = {"strides": strides, "pads": pads, "dilations": dilations}
    return [ir.AttrInt64s(key, list(value)) for key, value in given.items()]


def _ones(layer: LinearLayer) -> Sizes:
    return (1,) * (len(layer.shape) - 2)
