"""Quantisation-aware fine-tuning of what `optc transform --pass escalate` wrote.

    network = HybridNetwork(ir.load("small.onnx"))
    Trainer(network, batches, config).run()
    save_model(network.exported(), Path("tuned.onnx"))

The ONNX graph itself is run in torch, on real numbers: QuantizeLinear rounds them to the grid of
its code, DequantizeLinear does nothing. Hybrid layers are trained, and ordinary int8 layers. The
exported model is the one read, with other symbols, levels, scales, weights and biases: exactly what
the pass would write.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from runtimes.operators.max_pool import is_max_pool
from toolchain.errors import UsageError
from toolchain.training.graph_operators import OPERATORS, Operator
from toolchain.training.hybrid_conv import HybridConv2d, convolve
from toolchain.training.int8_layers import Int8Constant, int8_constant


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
        self._steps = [self._step(node) for node in model.graph]
        self._constants: dict[str, str] = {}  # buffers, whose names have no dots, by value
        used = {name for step in self._steps for name in step.inputs}
        for name, value in model.graph.initializers.items():
            if name in used and value.const_value is not None:
                self._constants[name] = f"constant{len(self._constants)}"
                tensor = torch.from_numpy(np.array(value.const_value.numpy()))
                self.register_buffer(self._constants[name], tensor, persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "HybridNetwork":
        """A network with parameters of its own; both share the ONNX model, which stays as it is."""
        memo[id(self.model)] = self.model
        copied = memo[id(self)] = self.__new__(type(self))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, classes)."""
        [fed] = [value for value in self.model.graph.inputs if not value.is_initializer()]
        values = {name: self.get_buffer(buffer) for name, buffer in self._constants.items()}
        values[fed.name or ""] = x
        for step in self._steps:
            run = self.layers[step.run] if isinstance(step.run, str) else step.run
            values[step.output] = run(*[values.get(name) for name in step.inputs])
        return values[self.model.graph.outputs[0].name or ""]

    def exported(self) -> ir.Model:
        """The model with what was trained, ready to be saved."""
        model, layers = self.model.clone(), dict(self.layers.items())
        for node in [each for each in model.graph if is_hybrid_conv(each)]:
            layer = layers[_key(layer_name(node))]
            assert isinstance(layer, HybridConv2d)
            _rewrite(node, layer)
        for name, initializer in model.graph.initializers.items():
            constant = layers.get(_key(name))
            if isinstance(constant, Int8Constant):
                initializer.const_value = ir.tensor(constant.codes(), name=name)
        return model

    def _step(self, node: ir.Node) -> "_Step":
        names = tuple("" if value is None else value.name or "" for value in node.inputs)
        output = node.outputs[0].name or ""
        for kind, layer, inputs in (
            (is_hybrid_conv, self._hybrid, INPUTS),
            (is_decomposed_conv, _FloatConv2d, FLOAT_INPUTS),
        ):
            if kind(node):
                key = _key(layer_name(node))
                self.layers[key] = layer(node)
                residual = names[len(inputs) : len(inputs) + 1]
                return _Step(run=key, inputs=(names[0], *residual), output=output)
        constant = int8_constant(node)
        if constant is not None:
            key = _key(names[0])
            if key not in self.layers:  # layers may share it
                self.layers[key] = constant
            return _Step(run=key, inputs=(), output=output)
        known = node.op_type in OPERATORS and (node.domain == "" or is_max_pool(node))
        if not known:
            raise UsageError(
                f"'{node.name}': {node.op_type} cannot be trained through; known are "
                f"{', '.join(sorted(OPERATORS))}"
            )
        return _Step(run=OPERATORS[node.op_type](node), inputs=names, output=output)

    def _hybrid(self, node: ir.Node) -> HybridConv2d:
        return HybridConv2d(node, self._real.get(layer_name(node)))


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What one node computes: an operator, or the layer of this key."""

    run: Operator | str
    inputs: tuple[str, ...]
    output: str


class _FloatConv2d(nn.Module):
    """A float layer with Add and activation inside; frozen."""

    kernel: Tensor
    bias: Tensor | None

    def __init__(self, node: ir.Node) -> None:
        super().__init__()
        weights, self.geometry = read_weights(node), read_geometry(node)
        bias = None if weights.bias is None else torch.from_numpy(np.array(weights.bias))
        self.register_buffer("kernel", torch.from_numpy(weights.dense()), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.ends_with_relu = node.op_type.removeprefix(BASE_NAME).endswith("Relu")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) → (N, K, H', W')."""
        geometry = self.geometry
        y = convolve(x, self.kernel, self.bias, geometry.strides, geometry.pads, geometry.dilations)
        y = y if residual is None else y + residual
        return y.relu() if self.ends_with_relu else y


def _key(name: str) -> str:
    return name.replace(".", "_")  # torch has no dots in names


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
