"""Small networks with dead channels, and the comparison of a model with its shrunk form."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_ir.passes import common

from passes.shrink import ShrinkConfig, ShrinkPass
from runtimes.operators import DOMAIN, DOMAIN_VERSION, max_pool
from runtimes.operators.decomposed_conv import (
    ConvGeometry,
    DecomposedWeights,
    FusedActivation,
    is_decomposed_conv,
    make_node,
)
from runtimes.operators.decomposed_conv_function import add_functions
from runtimes.operators.schemas import register_schemas

Channels = tuple[int, ...]
NO_ACTIVATION = FusedActivation()


@dataclass
class Net:
    """Builds a model node by node; every method returns the value it made."""

    seed: int = 0
    opset: int = 18
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)
    inputs: list[ir.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def input(self, *shape: int | str, name: str = "x") -> ir.Value:
        value = ir.val(name, dtype=ir.DataType.FLOAT, shape=shape)
        self.inputs.append(value)
        return value

    def constant(self, array: NDArray[Any], name: str) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
        )
        self.initializers.append(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64), f"ints{len(self.initializers)}")

    def normal(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.normal(size=shape).astype(np.float32) / np.float32(
            np.prod(shape[1:]) ** 0.5
        )

    def op(
        self,
        kind: str,
        *inputs: ir.Value | None,
        name: str = "",
        domain: str = "",
        outputs: int = 1,
        **attrs: Any,
    ) -> ir.Value:
        """A node; returns its first output."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        made = [ir.Value(name=f"{name}_out{i or ''}") for i in range(outputs)]
        attributes = ir.convenience.convert_attributes(attrs)
        node = ir.Node(domain, kind, list(inputs), attributes, name=name, outputs=made)
        self.nodes.append(node)
        return node.outputs[0]

    def conv(
        self,
        x: ir.Value,
        C: int,
        K: int,
        name: str,
        *,
        kernel: tuple[int, ...] = (3, 3),
        stride: int = 1,
        group: int = 1,
        dead_out: Channels = (),
        dead_in: Channels = (),
        bias: dict[int, float] | None = None,
        op: str = "Conv",
    ) -> ir.Value:
        """A padded convolution; `dead_in` counts within a group, dead outputs get no bias."""
        weight, shift = self.normal(K, C // group, *kernel), 0.3 * self.normal(K)
        weight[list(dead_out)] = 0
        weight[:, list(dead_in)] = 0
        shift[list(dead_out)] = 0
        for channel, number in (bias or {}).items():
            shift[channel] = number
        parts = [self.constant(weight, f"{name}.weight"), self.constant(shift, f"{name}.bias")]
        n = len(kernel)
        pads = [size // 2 for size in kernel] * 2
        return self.op(op, x, *parts, name=name, group=group, strides=[stride] * n, pads=pads)

    def decomposed(
        self,
        x: ir.Value,
        weights: DecomposedWeights,
        name: str,
        *,
        group: int = 1,
        residual: ir.Value | None = None,
        activation: FusedActivation = NO_ACTIVATION,
    ) -> ir.Value:
        n = weights.basis.ndim - 1
        pads = tuple(size // 2 for size in weights.basis.shape[1:]) * 2
        geometry = ConvGeometry(strides=(1,) * n, pads=pads, dilations=(1,) * n, group=group)
        node, initializers = make_node(
            x, weights, geometry, name=name, residual=residual, activation=activation
        )
        node.outputs[0].name = f"{name}_out"
        self.nodes.append(node)
        self.initializers += initializers
        return node.outputs[0]

    def gemm(self, x: ir.Value, C: int, K: int, name: str, **attrs: Any) -> ir.Value:
        weight = self.constant(self.normal(K, C), f"{name}.weight")
        bias = self.constant(self.normal(K), f"{name}.bias")
        return self.op("Gemm", x, weight, bias, name=name, transB=1, **attrs)

    def head(self, x: ir.Value, C: int, name: str = "fc") -> ir.Value:
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), C, 4, name)

    def model(self, *outputs: ir.Value) -> ir.Model:
        """The model, with shapes, checked."""
        register_schemas()
        for value in outputs:
            value.type = ir.TensorType(ir.DataType.FLOAT)
        fused = {"com.microsoft": 1} if any(n.domain == "com.microsoft" for n in self.nodes) else {}
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": self.opset, DOMAIN: DOMAIN_VERSION, **fused},
            name="net",
        )
        model = ir.Model(graph, ir_version=9)
        add_functions(model, [n.op_type for n in self.nodes if is_decomposed_conv(n)])
        max_pool.add_functions(model, [n.op_type for n in self.nodes])
        common.ShapeInferencePass()(model)
        check(model)
        return model


def random_factors(net: Net, K: int, C: int, M: int = 3, kernel: Channels = (3, 3)) -> Any:
    """Dense (basis, coefficients, bias), for the test to put zeros into."""
    return net.normal(M, *kernel), net.normal(K, C, M), 0.3 * net.normal(K)


def check(model: ir.Model) -> None:
    register_schemas()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def session(model: ir.Model) -> ort.InferenceSession:
    """Runs a model as it is, without any optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)


def run(model: ir.Model, batch: int = 2, seed: int = 7) -> list[NDArray[np.float32]]:
    """Outputs for random inputs, without any optimisation."""
    opened = session(model)
    rng = np.random.default_rng(seed)
    feeds = {
        value.name: rng.normal(
            size=[size if isinstance(size, int) else batch for size in value.shape]
        ).astype(np.float32)
        for value in opened.get_inputs()
        if value.name not in model.graph.initializers
    }
    return list(opened.run(None, feeds))


def difference(one: ir.Model, other: ir.Model) -> float:
    """Largest relative L2 difference of an output."""
    pairs = zip(run(one), run(other), strict=True)
    return max(float(np.linalg.norm(a - b) / (np.linalg.norm(a) + 1e-12)) for a, b in pairs)


def shrink(model: ir.Model, config: ShrinkConfig | None = None) -> ir.Model:
    """A shrunk copy, checked."""
    copy = model.clone()
    ShrinkPass(config)(copy)
    check(copy)
    return copy


def shape_of(model: ir.Model, initializer: str) -> tuple[int, ...]:
    value = model.graph.initializers[initializer].const_value
    assert value is not None
    return tuple(value.numpy().shape)


def widths(model: ir.Model) -> dict[str, int]:
    """Output channels of every layer with a weight of its own."""
    result = {}
    for node in model.graph:
        if is_decomposed_conv(node):
            result[node.name] = node.attributes["coefficient_shape"].as_ints()[0]
        elif node.op_type in ("Conv", "Gemm"):
            result[node.name] = node.inputs[1].const_value.shape[0]
    return result
