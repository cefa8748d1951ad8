"""Quantisation-aware fine-tuning of what `optc transform --pass escalate` wrote.

    network = HybridNetwork(ir.load("small.onnx"))
    Trainer(network, batches, config).run()
    save_model(network.exported(), Path("tuned.onnx"))

The ONNX graph itself is run in torch, on real numbers: QuantizeLinear rounds them to the grid of
its code, DequantizeLinear does nothing. Hybrid layers are trained; the first and the last layer,
ordinary int8, stay. The exported model is the one read, with other symbols, levels, scales and
biases: exactly what the pass would write.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from passes.conv import replace_node
from passes.cost import layer_name
from runtimes.operators.decomposed_conv import (
    BASE_NAME,
    DecomposedWeights,
    is_decomposed_conv,
    read_geometry,
    read_weights,
)
from runtimes.operators.decomposed_conv import INPUTS as FLOAT_INPUTS
from runtimes.operators.hybrid_conv import INPUTS, QuantizedValue, is_hybrid_conv, make_node
from toolchain.errors import UsageError
from toolchain.training.hybrid_conv import HybridConv2d, convolve, quantize_through


class HybridNetwork(nn.Module):
    """An ONNX model of one input and output, run in torch.

    Args:
        model: quantised by `escalate`, or a float model, which has nothing to train then.
        start: the decomposed model it was quantised from, see `HybridConv2d`.

    Raises:
        UsageError: the model has an operator that is not known here.
    """

    def __init__(self, model: ir.Model, start: ir.Model | None = None) -> None:
        super().__init__()
        self.model = model
        self._real = {} if start is None else _factors(start)
        self.layers = nn.ModuleDict()
        self._steps: list[tuple[ir.Node, Callable[..., Tensor]]] = []
        self._constants: dict[str, Tensor] = {}
        for node in model.graph:
            self._steps.append((node, self._step(node)))
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                array = np.array(value.const_value.numpy())
                if array.dtype != np.uint8 or array.ndim == 0:
                    self._constants[value.name or ""] = torch.from_numpy(array)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, classes)."""
        [fed] = [value for value in self.model.graph.inputs if not value.is_initializer()]
        values: dict[str, Tensor] = {**self._constants, fed.name or "": x}
        for node, run in self._steps:
            inputs = [None if v is None else values.get(v.name or "") for v in node.inputs]
            values[node.outputs[0].name or ""] = run(*inputs)
        return values[self.model.graph.outputs[0].name or ""]

    def exported(self) -> ir.Model:
        """The model with what was trained, ready to be saved."""
        model = self.model.clone()
        for node in [each for each in model.graph if is_hybrid_conv(each)]:
            layer = self.layers[_key(node)]
            assert isinstance(layer, HybridConv2d)
            _rewrite(node, layer)
        return model

    def _step(self, node: ir.Node) -> Callable[..., Tensor]:
        if is_hybrid_conv(node):
            layer = HybridConv2d(node, self._real.get(layer_name(node)))
            self.layers[_key(node)] = layer
            residual = len(INPUTS)
            return lambda x, *rest: layer(x, rest[residual - 1] if len(rest) >= residual else None)
        if is_decomposed_conv(node):
            return _decomposed(node)
        if node.domain != "" or node.op_type not in _OPERATORS:
            raise UsageError(
                f"'{node.name}': {node.op_type} cannot be trained through; known are "
                f"{', '.join(sorted(_OPERATORS))}"
            )
        return _OPERATORS[node.op_type](node)


def _key(node: ir.Node) -> str:
    return layer_name(node).replace(".", "_")  # torch has no dots in names


def _factors(model: ir.Model) -> Mapping[str, DecomposedWeights]:
    return {
        layer_name(node): read_weights(node) for node in model.graph if is_decomposed_conv(node)
    }


def _rewrite(node: ir.Node, layer: HybridConv2d) -> None:
    """The same node with the trained weights."""
    given = [value for value in node.inputs if value is not None]
    values = [given[0:3], given[len(INPUTS) :]]
    x, *residual = [
        QuantizedValue(value=three[0], scale=three[1], zero_point=three[2])
        for three in values
        if three
    ]
    new, constants = make_node(
        x,
        given[10],
        given[11],
        layer.weights(),
        layer.geometry,
        name=node.name or "",
        bounds=(node.attributes["lower"].as_int(), node.attributes["upper"].as_int()),
        residual=residual[0] if residual else None,
    )
    replace_node(node, [new], constants)


def _decomposed(node: ir.Node) -> Callable[..., Tensor]:
    """A float layer with Add and activation inside; frozen."""
    weights, geometry = read_weights(node), read_geometry(node)
    kernel = torch.from_numpy(weights.dense())
    bias = None if weights.bias is None else torch.from_numpy(np.array(weights.bias))
    suffix = node.op_type.removeprefix(BASE_NAME)

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        y = convolve(x, kernel, bias, geometry.strides, geometry.pads, geometry.dilations)
        if suffix.startswith("Add"):
            y = y + rest[len(FLOAT_INPUTS) - 1]
        return y.relu() if suffix.endswith("Relu") else y

    return run


def _quantize(_: ir.Node) -> Callable[..., Tensor]:
    def run(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        zero = int(zero_point)
        return quantize_through(x, float(scale), -zero, 255 - zero)

    return run


def _dequantize(node: ir.Node) -> Callable[..., Tensor]:
    """Constants become real; everything else is real already."""
    source, axis = node.inputs[0], node.attributes.get_int("axis", 1)

    def run(x: Tensor, scale: Tensor, *_: Tensor) -> Tensor:
        if source is None or source.const_value is None:
            return x
        shape = [1] * x.ndim
        shape[axis or 0] = -1
        return x.float() * scale.reshape(shape)

    return run


def _conv(node: ir.Node) -> Callable[..., Tensor]:
    ints = node.attributes.get_ints
    strides, dilations, pads = (
        ints(key, default) or default
        for key, default in (("strides", [1, 1]), ("dilations", [1, 1]), ("pads", [0] * 4))
    )
    groups = node.attributes.get_int("group", 1) or 1

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, weight, bias, strides, pads, dilations, groups)

    return run


def _gemm(node: ir.Node) -> Callable[..., Tensor]:
    transposed = node.attributes.get_int("transB", 0)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, weight if transposed else weight.T, bias)

    return run


def _batch_norm(node: ir.Node) -> Callable[..., Tensor]:
    epsilon = node.attributes.get_float("epsilon", 1e-5) or 0.0

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)

    return run


def _slice(_: ir.Node) -> Callable[..., Tensor]:
    def run(
        x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor | None = None
    ) -> Tensor:
        index = [slice(None)] * x.ndim
        by = [1] * len(starts) if steps is None else steps.tolist()
        limits = zip(axes.tolist(), starts.tolist(), ends.tolist(), by, strict=True)
        for axis, start, end, step in limits:
            index[axis] = slice(start, min(end, x.shape[axis]), step)
        return x[tuple(index)]

    return run


def _pad(_: ir.Node) -> Callable[..., Tensor]:
    """Pads with zeros, which is what the zero point stands for."""

    def run(x: Tensor, pads: Tensor, *_: Tensor) -> Tensor:
        before, after = pads.reshape(2, -1).tolist()
        pairs = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
        return nn.functional.pad(x, pairs)

    return run


def _plain(function: Callable[..., Tensor]) -> Callable[[ir.Node], Callable[..., Tensor]]:
    return lambda node: function


_OPERATORS: Mapping[str, Callable[[ir.Node], Callable[..., Tensor]]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "Slice": _slice,
    "Pad": _pad,
    "GlobalAveragePool": _plain(lambda x: x.mean(dim=(2, 3), keepdim=True)),
    "Flatten": _plain(lambda x: x.flatten(1)),
    "Relu": _plain(torch.relu),
    "Add": _plain(torch.add),
}
