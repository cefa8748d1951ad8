"""Puts the two nodes of every fitted split in the place of one."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import free_name, free_node_name, replace_node
from passes.cost import layer_name
from passes.linear import LinearLayer, LinearUse, bias_add, bias_value
from passes.split import make_nodes
from passes.svd_fit import FittedSplit
from runtimes.external_data import read_array


def rewrite(
    model: ir.Model, layers: Sequence[LinearLayer], fitted: Mapping[str, FittedSplit]
) -> None:
    """Replaces all nodes of the fitted layers in place; their names stay on the second nodes."""
    nodes = {layer_name(node): node for node in model.graph}
    for layer in layers:
        result = fitted.get(layer.name)
        if result is None:
            continue
        factors = (
            _constant(model, f"{layer.name}.svd.first", result.factors.first),
            _constant(model, f"{layer.name}.svd.second", result.factors.second),
        )
        for use in layer.uses:
            _replace(model, nodes[use.name], use, result, factors)


def _replace(
    model: ir.Model,
    node: ir.Node,
    use: LinearUse,
    result: FittedSplit,
    factors: tuple[ir.Value, ir.Value],
) -> None:
    x, row = node.inputs[0], result.biases[use.name]
    assert x is not None
    bias = None
    if use.op_type == "MatMul":
        _shift(model, node, row)
    elif use.bias is not None or row.any():
        bias = _constant(model, f"{use.name}.svd.bias", row)
    first, second = make_nodes(use, x, result.split, factors, bias)
    first.name = free_node_name(model.graph, first.name or "")
    first.outputs[0].name = free_name(model.graph, first.outputs[0].name or "")
    replace_node(node, [first, second], [])


def _shift(model: ir.Model, node: ir.Node, row: NDArray[np.float32]) -> None:
    """Adds a row to the bias that follows a MatMul."""
    add = bias_add(node, len(row))
    if add is None or not row.any():
        return
    before = bias_value(add)
    assert before.const_value is not None
    moved = read_array(before.const_value).reshape(-1) + row
    after = _constant(model, f"{layer_name(node)}.svd.bias", moved.astype(np.float32))
    add.replace_input_with(list(add.inputs).index(before), after)


def _constant(model: ir.Model, name: str, array: NDArray[np.float32]) -> ir.Value:
    """A new initializer of the model, renamed where its name is taken."""
    name = free_name(model.graph, name)
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
    )
    model.graph.initializers.add(value)
    return value
