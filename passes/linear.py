"""Reads layers that multiply by a constant matrix: Conv, Gemm and MatMul.

Each is y = W·x + b with W (K, D): D = C·R·S for a convolution. Nodes that use one stored weight
form one layer. Weights are read when asked for, not before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import UnsupportedConvError, conv_geometry
from passes.cost import layer_name, with_sample_shapes
from runtimes.external_data import read_array
from runtimes.operators.decomposed_conv import ConvGeometry

Array = NDArray[np.float32]
Sizes = tuple[int, ...]

OP_TYPES = ("Conv", "Gemm", "MatMul")


class UnsupportedLayerError(ValueError):
    """A node that cannot be rewritten; the message is the reason for a person."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearUse:
    """One node of a layer.

    Attributes:
        name: of the node.
        op_type: Conv, Gemm or MatMul.
        bias: (K,) that the node adds, scaled; None where there is none.
        takes_bias: a bias may be added or changed without a further node.
        geometry: of a convolution, else None.
        input: shape of one sample's input, None where it is not known.
        output: the same of the output.
    """

    name: str
    op_type: str
    bias: Array | None
    takes_bias: bool
    geometry: ConvGeometry | None
    input: Sizes | None
    output: Sizes | None


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearLayer:
    """A stored weight and the nodes that use it.

    Attributes:
        uses: in graph order.
        tensor: the stored weight.
        shape: (K, C/group, *kernel), or (K, D).
        transposed: stored as (D, K).
        scale: W = scale · stored (alpha of a Gemm).
        samples: that the shapes of the uses are for.
    """

    uses: tuple[LinearUse, ...]
    tensor: ir.TensorProtocol
    shape: Sizes
    transposed: bool
    scale: float
    samples: int

    @property
    def name(self) -> str:
        """Name of the first node."""
        return self.uses[0].name

    @property
    def is_conv(self) -> bool:
        """Whether the weight is that of convolutions."""
        return self.uses[0].op_type == "Conv"

    @property
    def outputs(self) -> int:
        """K."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """D, elements that one output sums."""
        return prod(self.shape[1:])

    @property
    def takes_bias(self) -> bool:
        """Whether every use can have a bias of its own."""
        return all(use.takes_bias for use in self.uses)

    def read(self) -> NDArray[np.float64]:
        """W (K, D)."""
        stored = read_array(self.tensor)
        matrix = stored.T if self.transposed else stored.reshape(self.outputs, -1)
        return matrix.astype(np.float64) * self.scale

    def positions(self, use: LinearUse) -> int | None:
        """Output rows of one sample: pixels, or tokens; None where samples do not divide them."""
        if use.output is None:
            return None
        rows, rest = divmod(prod(use.output), self.outputs * self.samples)
        return rows if rows and not rest else None


def read_layers(model: ir.Model) -> tuple[list[LinearLayer], dict[str, str]]:
    """All layers that can be rewritten, and why other nodes cannot, by name; in graph order.

    The layers share their weights with the model.
    """
    shaped, samples = with_sample_shapes(model)
    groups: dict[str | None, list[ir.Node]] = {}
    refused: dict[str, str] = {}
    for node in shaped.graph:
        if node.domain != "" or node.op_type not in OP_TYPES:
            continue
        weight = _stored_weight(node)
        if weight is None:
            refused[layer_name(node)] = _why_not_stored(node)
        else:
            groups.setdefault(weight.name, []).append(node)
    layers = []
    for nodes in groups.values():
        try:
            layers.append(_read_group(nodes, samples))
        except (UnsupportedLayerError, UnsupportedConvError) as error:
            refused.update({layer_name(node): str(error) for node in nodes})
    return layers, refused


def bias_add(node: ir.Node, outputs: int) -> ir.Node | None:
    """The Add of a constant (K,) that is all that follows a MatMul, or None."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != "Add":
        return None
    add = uses[0].node
    others = [other for other in add.inputs if other is not None and other is not value]
    if len(others) != 1 or not _is_row(others[0], outputs):
        return None
    return add


def bias_value(add: ir.Node) -> ir.Value:
    """The constant of a `bias_add`."""
    [constant] = [value for value in add.inputs if value is not None and value.is_initializer()]
    return constant


def _read_group(nodes: list[ir.Node], samples: int) -> LinearLayer:
    """The layer of all nodes that use one weight.

    Raises:
        UnsupportedLayerError: they, or other uses of the weight, do not allow a split.
    """
    value = _stored_weight(nodes[0])
    assert value is not None and value.const_value is not None
    if value.const_value.dtype != ir.DataType.FLOAT:
        raise UnsupportedLayerError(f"weight is {value.const_value.dtype.name}, not FLOAT")
    _check_other_uses(value, nodes)
    sizes = tuple(value.const_value.shape.numpy())
    if {node.op_type for node in nodes} == {"Conv"}:
        shape, transposed, scale = sizes, False, 1.0
    elif any(node.op_type == "Conv" for node in nodes):
        raise UnsupportedLayerError("weight is shared by Conv and other operators")
    else:
        shape, transposed, scale = _matrix_form(nodes, sizes)
    return LinearLayer(
        uses=tuple(_read_use(node, shape) for node in nodes),
        tensor=value.const_value,
        shape=shape,
        transposed=transposed,
        scale=scale,
        samples=samples,
    )


def _read_use(node: ir.Node, shape: Sizes) -> LinearUse:
    geometry, bias, takes_bias = None, None, True
    if node.op_type == "Conv":
        geometry = conv_geometry(node, shape[2:])
        if geometry.group > 1:
            kind = "depthwise" if shape[1] == 1 else f"{geometry.group} groups"
            raise UnsupportedLayerError(f"{kind}: each group is a small layer of its own")
        bias = _row(node, shape[0], 1.0)
    elif node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0):
            raise UnsupportedLayerError("its input is transposed (transA)")
        bias = _row(node, shape[0], node.attributes.get_float("beta", 1.0))
    else:
        takes_bias = bias_add(node, shape[0]) is not None
    return LinearUse(
        name=layer_name(node),
        op_type=node.op_type,
        bias=bias,
        takes_bias=takes_bias,
        geometry=geometry,
        input=_sizes(node.inputs[0]),
        output=_sizes(node.outputs[0]),
    )


def _matrix_form(nodes: Iterable[ir.Node], sizes: Sizes) -> tuple[Sizes, bool, float]:
    """(K, D), whether the weight is stored as (D, K), and its scale."""
    if len(sizes) != 2:
        raise UnsupportedLayerError(f"weight has {len(sizes)} axes, a split needs a matrix")
    forms = {(_is_stored_transposed(node), _alpha(node)) for node in nodes}
    if len(forms) > 1:
        raise UnsupportedLayerError("weight is used both as it is and transposed, or scaled")
    [(transposed, scale)] = forms
    return (sizes[::-1] if transposed else sizes), transposed, scale


def _is_stored_transposed(node: ir.Node) -> bool:
    """Whether the stored weight is (D, K): true of B in x·B."""
    turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    second = node.inputs[1]
    assert second is not None
    return turned == (second.producer() is not None)


def _alpha(node: ir.Node) -> float:
    return node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0


def _stored_weight(node: ir.Node) -> ir.Value | None:
    """The initializer that is the node's weight, directly or behind a matrix transpose."""
    value = node.inputs[1]
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Transpose" and node.op_type != "Conv":
        axes = producer.attributes.get("perm")
        value = producer.inputs[0]
        if axes is not None and tuple(axes.as_ints()) != (1, 0):
            return None
        if value is not None and value.shape is not None and len(value.shape) != 2:
            return None
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value


def _why_not_stored(node: ir.Node) -> str:
    value, first = node.inputs[1], node.inputs[0]
    if value is not None and value.is_graph_input() and value.const_value is not None:
        return "weight is a graph input, it may change at run time"
    if node.op_type != "Conv" and first is not None and first.const_value is not None:
        return "its first operand is the constant; only x·W is split"
    return "weight is computed at run time"


def _check_other_uses(value: ir.Value, nodes: list[ir.Node]) -> None:
    """Raises UnsupportedLayerError where something else reads the weight."""
    for node, index in value.uses():
        readers = node.outputs[0].uses() if node.op_type == "Transpose" else [(node, index)]
        if not all(place == 1 and reader in nodes for reader, place in readers):
            raise UnsupportedLayerError(
                f"weight is also used by {node.op_type} '{node.name}', it would be stored twice"
            )


def _row(node: ir.Node, outputs: int, scale: float) -> Array | None:
    """The bias of a Conv or Gemm as (K,), scaled."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    if not _is_row(value, outputs):
        raise UnsupportedLayerError("bias is not a constant row of FLOAT")
    assert value.const_value is not None
    row = read_array(value.const_value).reshape(-1) * np.float32(scale)
    return np.broadcast_to(row, (outputs,)).astype(np.float32)


def _is_row(value: ir.Value | None, outputs: int) -> bool:
    """Whether a value is a constant that adds one number to each output, (K,) at most."""
    if value is None or value.const_value is None or value.is_graph_input():
        return False
    sizes = value.const_value.shape.numpy()
    is_row = prod(sizes) == 1 or (prod(sizes) == outputs and sizes[-1] == outputs)
    return is_row and value.const_value.dtype == ir.DataType.FLOAT and len(sizes) <= 2


def _sizes(value: ir.Value | None) -> Sizes | None:
    if value is None or value.shape is None:
        return None
    sizes = tuple(size for size in value.shape if isinstance(size, int))
    return sizes if len(sizes) == len(value.shape) else None
