"""What the layers of a model cost: nonzero parameters, multiply-accumulates, bytes in the file.

Multiply-accumulates of one sample, from output shape Y and the elements that one output sums:

    Conv            |Y| · C/group · RS             MatMul, Gemm    |Y| · K
    ConvTranspose   |X| · K/group · RS             DecomposedConv  Ho·Wo · (C · M · RS + nnz(Ce))

Quantised forms (QLinearConv, ConvInteger, QLinearMatMul, MatMulInteger) count like their float
form. Other operators count zero. A weight that several nodes share is stored once, so it counts
for the first of them only; the work counts at every use.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from passes.framework import Cost
from runtimes.external_data import read_array
from runtimes.operators import DOMAINS, hybrid_conv
from runtimes.operators.decomposed_conv import is_decomposed_conv
from runtimes.operators.hybrid_conv import is_hybrid_conv
from runtimes.operators.schemas import register_schemas

Sizes = tuple[int, ...]
Work = Callable[[ir.Node], int | None]

_SHAPE_BYTES = 1000
"""Constants up to this size may be shapes, pads and the like."""

_PASS_THROUGH = frozenset({"DequantizeLinear", "Transpose", "Cast", "Identity"})
"""Operators through which a layer's input is still its stored weight."""


def layer_costs(model: ir.Model) -> dict[str, Cost]:
    """Cost of every layer of the main graph, by name (see `layer_name`), in graph order."""
    return {layer_name(node): cost for node, cost in layer_table(model)}


def layer_table(model: ir.Model) -> list[tuple[ir.Node, Cost]]:
    """Every layer of the main graph with its cost, in graph order; the model stays as it is."""
    macs = _layer_macs(model)
    seen: set[str | None] = set()
    table = []
    for index, node in enumerate(model.graph):
        if is_layer(node):
            stored = [_stored(value) for value in node.inputs]
            own = [None if value is None or value.name in seen else value for value in stored]
            seen.update(value.name for value in own if value is not None)
            table.append((node, _cost(node, own, macs[index])))
    return table


def model_cost(model: ir.Model) -> Cost:
    """Cost of the whole model: parameters and bytes of all initializers, biases included.

    The work is None if that of any layer is, or if layers hide in subgraphs or functions that
    run an unknown number of times.
    """
    tensors = list(_constants(model))
    hybrids = [node for graph in model.graphs() for node in graph if is_hybrid_conv(node)]
    packed = {id(v.const_value) for node in hybrids for v in node.inputs[3:8] if v is not None}
    weights = (tensor for tensor in tensors if _is_weight(tensor) and id(tensor) not in packed)
    return Cost(
        parameters=sum(map(_nonzeros, weights)) + sum(map(hybrid_parameters, hybrids)),
        macs=None if _has_hidden_layers(model) else _sum(_layer_macs(model).values()),
        nbytes=sum(tensor.nbytes for tensor in tensors),
    )


def is_layer(node: ir.Node) -> bool:
    """Whether a node's cost is counted."""
    return (
        is_decomposed_conv(node)
        or is_hybrid_conv(node)
        or (node.domain == "" and node.op_type in _WORK)
    )


def layer_name(node: ir.Node) -> str:
    """The node's name, or that of its first output where it has none."""
    return node.name or node.outputs[0].name or ""


def with_sample_shapes(model: ir.Model, samples: int = 1) -> tuple[ir.Model, int]:
    """A copy with inferred shapes, its dynamic batch set to a number of samples.

    The first axis of the first input counts samples: where it is symbolic, its symbol becomes
    `samples` everywhere.

    Returns:
        The copy, which shares its weights with the model, and the number of samples that its
        shapes are for: `samples`, or the batch size the model is fixed to.
    """
    register_schemas()
    copy = model.clone()
    shapes = [value.shape for value in copy.graph.inputs if not value.is_initializer()]
    first = shapes[0] if shapes else None
    batch = first[0] if first is not None and len(first) > 1 else 1
    if isinstance(batch, ir.SymbolicDim):
        _fix_symbol(copy, batch.value, samples)
        batch = samples
    for value in copy.graph.initializers.values():  # inference reads small integers, in memory
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _SHAPE_BYTES:
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    return copy, int(batch)


def _fix_symbol(model: ir.Model, symbol: str | None, size: int) -> None:
    """Gives a symbolic dimension a size; one without a name, on the first axis of all inputs."""
    outputs = [value for node in model.graph for value in node.outputs]
    for value in [*model.graph.inputs, *(outputs if symbol is not None else [])]:
        if value.shape is None:
            continue
        value.shape = ir.Shape(
            [
                size
                if isinstance(dim, ir.SymbolicDim)
                and dim.value == symbol
                and (symbol is not None or axis == 0)
                else dim
                for axis, dim in enumerate(value.shape)
            ]
        )


def _layer_macs(model: ir.Model) -> dict[int, int | None]:
    """Work of every layer for one sample, by position of the node in the main graph.

    Rounded up: a layer that works once for all samples costs each of them a little, not nothing.
    """
    shaped, samples = with_sample_shapes(model)
    macs: dict[int, int | None] = {}
    for index, node in enumerate(shaped.graph):
        if is_layer(node):
            total = _work(node)(node)
            macs[index] = None if total is None else -(-total // samples)
    return macs


def _work(node: ir.Node) -> Work:
    if is_hybrid_conv(node):
        return _hybrid_macs
    return _decomposed_macs if is_decomposed_conv(node) else _WORK[node.op_type]


def _cost(node: ir.Node, own: Sequence[ir.Value | None], macs: int | None) -> Cost:
    """Cost of a layer whose i-th input is the stored value own[i]; None: not stored, or shared."""
    tensors = [None if v is None else ir.convenience.get_const_tensor(v) for v in own]
    if is_decomposed_conv(node):
        basis, values = tensors[1:3]
        parameters = (0 if basis is None else basis.size) + _nonzeros(values)
    elif is_hybrid_conv(node):
        parameters = hybrid_parameters(node)
    else:  # biases, scales and zero points are vectors
        matrices = [tensor for tensor in tensors if tensor is not None and len(tensor.shape) > 1]
        parameters = sum(_nonzeros(tensor) for tensor in matrices)
    nbytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return Cost(parameters=parameters, macs=macs, nbytes=nbytes)


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The constant that an input is, directly or dequantised, or None."""
    while value is not None and ir.convenience.get_const_tensor(value) is None:
        producer = value.producer()
        passes_through = producer is not None and producer.op_type in _PASS_THROUGH
        value = producer.inputs[0] if producer is not None and passes_through else None
    return value


def _constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """All tensors stored in the graphs, as initializers or Constant nodes."""
    for graph in model.graphs():
        outputs = (node.outputs[0] for node in graph if node.op_type == "Constant")
        for value in itertools.chain(graph.initializers.values(), outputs):
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is not None:
                yield tensor


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    """Floating-point, or a matrix of at most 8 bits: those are quantised weights."""
    if tensor.dtype.is_floating_point():
        return True
    return tensor.dtype.is_integer() and tensor.dtype.bitwidth <= 8 and len(tensor.shape) > 1


def _nonzeros(tensor: ir.TensorProtocol | None) -> int:
    return 0 if tensor is None else int(np.count_nonzero(read_array(tensor)))


def _has_hidden_layers(model: ir.Model) -> bool:
    inner = [function for function in model.functions.values() if function.domain not in DOMAINS]
    subgraphs = [graph for graph in model.graph.subgraphs() if graph is not model.graph]
    return any(is_layer(node) for graph in [*inner, *subgraphs] for node in graph)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)


def _sizes(value: ir.Value | None) -> Sizes | None:
    """The shape, or None unless it is known in full."""
    if value is None or value.shape is None:
        return None
    sizes = tuple(size for size in value.shape if isinstance(size, int))
    return sizes if len(sizes) == len(value.shape) else None


def _conv(weight_index: int, *, transposed: bool = False) -> Work:
    """|Y| or, transposed, |X| times the elements of one kernel over its second axis."""

    def macs(node: ir.Node) -> int | None:
        mapped = _sizes(node.inputs[0] if transposed else node.outputs[0])
        weight = _sizes(node.inputs[weight_index])
        if mapped is None or weight is None:
            return None
        return math.prod(mapped) * math.prod(weight[1:])

    return macs


def _product(node: ir.Node) -> int | None:
    """|Y| · K, K the axis that A and B share."""
    a, y = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if a is None or y is None:
        return None
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", False)
    return math.prod(y) * (a[0] if transposed else a[-1])


def _decomposed_macs(node: ir.Node) -> int | None:
    """Ho·Wo · (C · M · RS + nnz(Ce)), for all samples of the batch."""
    x, basis, y = (_sizes(v) for v in (*node.inputs[:2], node.outputs[0]))
    values = node.inputs[2]
    if x is None or basis is None or y is None or values is None or values.const_value is None:
        return None
    pixels = y[0] * math.prod(y[2:])
    return pixels * (x[1] * math.prod(basis) + _nonzeros(values.const_value))


def hybrid_parameters(node: ir.Node) -> int:
    """Coefficients of a `HybridDecomposedConv` that are not zero, and the basis.

    An ordinary convolution has no basis to count.
    """
    weights = hybrid_conv.read_weights(node)
    basis = 0 if weights.is_ordinary else weights.basis.size
    return int(np.count_nonzero(weights.symbols)) + basis


def _hybrid_macs(node: ir.Node) -> int | None:
    """Ho·Wo · (C · M · RS + nnz(Ce)), for all samples of the batch; Ho·Wo · |W| if ordinary."""
    x, y = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if x is None or y is None:
        return None
    weights = hybrid_conv.read_weights(node)
    pixels = y[0] * math.prod(y[2:])
    if weights.is_ordinary:
        return pixels * weights.symbols.size
    return pixels * (x[1] * weights.basis.size + int(np.count_nonzero(weights.symbols)))


_WORK: dict[str, Work] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv(1, transposed=True),
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
}
