"""ResNet-18 and VGG-16 (CIFAR shape) with random weights, in fp32, int8 and decomposed forms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes.operators import hybrid_conv_function, max_pool
from runtimes.operators.decomposed_conv import ConvGeometry
from runtimes.operators.hybrid_conv import (
    HybridWeights,
    QuantizedValue,
    make_node,
    op_types,
    unit_basis,
    unit_offset,
)
from samples.benchmarks.graph_builder import GraphBuilder
from samples.benchmarks.random_networks import VGG16

RANK = 4
CLASSES = 10
ACTIVATION_SCALE = 0.04
RESNET_WIDTHS = (64, 128, 256, 512)
HALVING = max_pool.PoolGeometry(
    kernel_shape=(2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1)
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the 3×3 convolutions run: fp32, int8, pair or ternary, the latter two with a density."""

    name: str
    density: float = 1.0

    def __str__(self) -> str:
        """As a row of the table says it."""
        return self.name if self.dense else f"{self.name} {self.density:.0%}"

    @property
    def dense(self) -> bool:
        """Whether every convolution is an ordinary one."""
        return self.name in ("fp32", "int8")

    @property
    def quantised(self) -> bool:
        """Whether activations are uint8."""
        return self.name != "fp32"


FORMS = (
    Form(name="int8"),
    Form(name="fp32"),
    *(Form(name="pair", density=density) for density in (1.0, 0.5, 0.25, 0.1)),
    *(Form(name="ternary", density=density) for density in (0.3, 0.07)),
)


class Network(GraphBuilder):
    """Builds a network. Between layers lie quantised values, except in fp32."""

    def __init__(self, form: Form, *, image: int = 32, seed: int = 0) -> None:
        super().__init__(channels=3, image=image, seed=seed)
        self.form = form
        self.scale = self.keep("scale", np.array(ACTIVATION_SCALE, np.float32))
        self.zero = self.keep("zero", np.array(0, np.uint8))

    def build(self, body: "Callable[[Network, ir.Value], ir.Value]") -> ir.Model:
        """The model: input (N, 3, image, image), output (N, 10)."""
        features = self.dequantise(body(self, self.input))
        pooled = self.quantise(self.node("GlobalAveragePool", [features]))
        flat = self.node("Flatten", [self.dequantise(pooled)])
        logits = self.node("Gemm", [flat, *self.weights((CLASSES, 512))], {"transB": 1})
        return self.finished(logits, [CLASSES], add_functions)

    def unit_conv(
        self, x: ir.Value, C: int, K: int, *, kernel: int, stride: int = 1, relu: bool = True
    ) -> ir.Value:
        """An ordinary convolution: int8, in the kernel of the hybrid layers where there are any."""
        if self.form.dense:
            return self.dense_conv(x, C, K, kernel=kernel, stride=stride, relu=relu)
        basis, shift = unit_basis((kernel, kernel))
        weights = HybridWeights(
            basis=basis,
            shift=shift,
            symbols=self.rng.integers(-127, 128, (K, C, len(basis))).astype(np.int8),
            levels=np.ones((K, len(basis)), np.int8),
            scale=np.full(K, ACTIVATION_SCALE / 73 * np.sqrt(2 / (C * len(basis))), np.float32),
            bias=self.rng.standard_normal(K).astype(np.float32),
            response_offset=unit_offset(0),
        )
        return self.hybrid(self.quantised(x), weights, stride)

    def conv3x3(
        self, x: ir.Value, C: int, K: int, stride: int = 1, residual: ir.Value | None = None
    ) -> ir.Value:
        """A 3×3 convolution with bias, residual and Relu in the form of the network."""
        if self.form.dense:
            return self.dense_conv(x, C, K, kernel=3, stride=stride, residual=residual)
        added = None if residual is None else self.quantised(residual)
        return self.hybrid(self.quantised(x), self.factors(C, K), stride, added)

    def hybrid(
        self,
        x: QuantizedValue,
        weights: HybridWeights,
        stride: int = 1,
        residual: QuantizedValue | None = None,
    ) -> ir.Value:
        """A HybridDecomposedConv."""
        node, own = make_node(
            x,
            self.scale,
            self.zero,
            weights,
            ConvGeometry(
                strides=(stride, stride),
                pads=(weights.basis.shape[1] // 2,) * 4,
                dilations=(1, 1),
            ),
            name=f"conv{len(self.nodes)}",
            residual=residual,
        )
        self.initializers += own
        return self.append(node)

    def factors(self, C: int, K: int) -> HybridWeights:
        """Random factors that keep activations within the range of uint8."""
        ternary, density = self.form.name == "ternary", self.form.density
        shape = (K, C, RANK)
        kept = self.rng.random(shape if ternary else (K, C, 1)) < density
        symbols = self.rng.choice([-1, 1], shape) * self.rng.integers(
            1, 2 if ternary else 128, shape
        )
        levels = self.rng.integers(1, 128, (K, RANK)) if ternary else np.ones((K, RANK))
        return HybridWeights(
            basis=self.rng.integers(-127, 128, (RANK, 3, 3)).astype(np.int8),
            shift=np.full(RANK, 9, np.uint8),
            symbols=(symbols * kept).astype(np.int8),
            levels=levels.astype(np.int8),
            scale=np.full(K, 0.01 / np.sqrt(C * RANK * density) * ACTIVATION_SCALE, np.float32),
            bias=self.rng.standard_normal(K).astype(np.float32),
        )

    def dense_conv(
        self,
        x: ir.Value,
        C: int,
        K: int,
        *,
        kernel: int,
        stride: int = 1,
        residual: ir.Value | None = None,
        relu: bool = True,
    ) -> ir.Value:
        """An ordinary convolution, int8 where the network is quantised."""
        geometry = {"strides": [stride] * 2, "pads": [kernel // 2] * 4}
        weights = self.weights((K, C, kernel, kernel))
        y = self.node("Conv", [self.dequantise(x), *weights], geometry)
        if residual is not None:
            y = self.node("Add", [self.dequantise(self.quantise(y)), self.dequantise(residual)])
        return self.quantise(self.node("Relu", [y]) if relu else y)

    def max_pool(self, x: ir.Value) -> ir.Value:
        """Halves the image."""
        if self.form.dense:
            return self.node("MaxPool", [x], {"kernel_shape": [2, 2], "strides": [2, 2]})
        return self.append(max_pool.make_node(x, HALVING, name=f"pool{len(self.nodes)}"))

    def weights(self, shape: tuple[int, ...]) -> list[ir.Value]:
        """Random weight and bias: int8 and int32 with a scale per channel, or fp32."""
        name, K, deviation = str(len(self.nodes)), shape[0], np.sqrt(2 / np.prod(shape[1:]))
        if not self.form.quantised:
            weight = (self.rng.standard_normal(shape) * deviation).astype(np.float32)
            bias = self.rng.standard_normal(K).astype(np.float32)
            return [self.keep(f"w{name}", weight), self.keep(f"b{name}", bias)]
        scale = np.full(K, deviation / 73, np.float32)
        return [
            self.scaled(f"w{name}", self.rng.integers(-127, 128, shape).astype(np.int8), scale),
            # onnxruntime wants the scale of the products here.
            self.scaled(
                f"b{name}",
                self.rng.integers(-1000, 1000, K).astype(np.int32),
                scale * np.float32(ACTIVATION_SCALE),
            ),
        ]

    def scaled(self, name: str, array: NDArray[np.generic], scale: NDArray[np.float32]) -> ir.Value:
        """DequantizeLinear of a constant, with a scale per channel."""
        inputs = [
            self.keep(name, array),
            self.keep(f"{name}_scale", scale),
            self.keep(f"{name}_zero", np.zeros(scale.shape, array.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, {"axis": 0})

    def quantised(self, x: ir.Value) -> QuantizedValue:
        """A value with the scale that all activations have."""
        return QuantizedValue(value=x, scale=self.scale, zero_point=self.zero)

    def quantise(self, x: ir.Value) -> ir.Value:
        """QuantizeLinear, except in fp32."""
        if not self.form.quantised:
            return x
        return self.node("QuantizeLinear", [x, self.scale, self.zero])

    def dequantise(self, x: ir.Value) -> ir.Value:
        """DequantizeLinear, except in fp32."""
        if not self.form.quantised:
            return x
        return self.node("DequantizeLinear", [x, self.scale, self.zero])


def resnet18(network: Network, x: ir.Value) -> ir.Value:
    """Four stages of two blocks Relu(conv(Relu(conv(x))) + shortcut(x))."""
    y, C = network.unit_conv(network.quantise(x), 3, 64, kernel=3), 64
    for stage, K in enumerate(RESNET_WIDTHS):
        for block in range(2):
            stride, shortcut = (2 if stage and not block else 1), y
            if stride != 1:
                shortcut = network.unit_conv(y, C, K, kernel=1, stride=stride, relu=False)
            inner = network.conv3x3(y, C, K, stride)
            y, C = network.conv3x3(inner, K, K, residual=shortcut), K
    return y


def vgg16(network: Network, x: ir.Value) -> ir.Value:
    """Thirteen convolutions, with a pooling after some."""
    y, C = x, 3
    for K in VGG16:
        if K == 0:
            y = network.max_pool(y)
        elif C == 3:
            y, C = network.unit_conv(network.quantise(y), C, K, kernel=3), K
        else:
            y, C = network.conv3x3(y, C, K), K
    return y


def add_functions(model: ir.Model, names: Sequence[str]) -> None:
    """Stores the bodies of the operators that the networks have."""
    hybrid_conv_function.add_functions(model, [name for name in names if name in op_types()])
    max_pool.add_functions(model, names)


NETWORKS = {"resnet18": resnet18, "vgg16": vgg16}
