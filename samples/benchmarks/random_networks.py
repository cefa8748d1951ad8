"""Convolutional networks with random weights, for timing: they compute nothing useful.

A network is drawn from a seed and a `Structure`: how its 3×3 convolutions are stored. Everything
else (first convolution, 1×1 convolutions, classifier) is dense in all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes.operators.decomposed_conv import (
    ConvGeometry,
    DecomposedWeights,
    FusedActivation,
    make_node,
)
from runtimes.operators.decomposed_conv_function import add_functions
from samples.benchmarks.graph_builder import GraphBuilder

Array = NDArray[np.float32]

RELU = FusedActivation(name="Relu")
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Widths of the convolutions of VGG-16; 0 is a pooling layer."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How a decomposed convolution looks.

    Attributes:
        rank: basis kernels.
        density: share of the coefficients, or pairs, that are kept.
        pair: whole (output, input) pairs are kept or dropped, not single coefficients.
    """

    rank: int = 5
    density: float
    pair: bool = False

    def draw(self, rng: np.random.Generator, C: int, K: int) -> DecomposedWeights:
        """Factors of a 3×3 convolution that keep the variance of activations near 1."""
        shape = (K, C, self.rank)
        kept = rng.random((K, C, 1) if self.pair else shape) < self.density
        scale = np.sqrt(2 / (9 * C * self.rank * self.density))
        coefficients = rng.standard_normal(shape, dtype=np.float32) * kept * scale
        return DecomposedWeights(
            basis=rng.standard_normal((self.rank, 3, 3), dtype=np.float32),
            coefficients=coefficients.astype(np.float32),
            bias=rng.standard_normal(K, dtype=np.float32) * np.float32(0.1),
        )


class Builder(GraphBuilder):
    """Builds a network; without a structure every convolution is dense."""

    def __init__(self, structure: Structure | None, *, channels: int, image: int, seed: int = 0):
        """Starts with an input (N, channels, image, image)."""
        super().__init__(channels=channels, image=image, seed=seed)
        self.structure = structure

    def model(self, output: ir.Value, shape: Sequence[int]) -> ir.Model:
        """The model whose output (N, *shape) is given."""
        return self.finished(output, shape, add_functions)

    def conv3x3(
        self, x: ir.Value, C: int, K: int, *, stride: int = 1, residual: ir.Value | None = None
    ) -> ir.Value:
        """Relu(conv(x) + bias [+ residual]), as the structure says."""
        if self.structure is None:
            y = self.conv(x, C, K, kernel=3, stride=stride)
            return self.relu(y if residual is None else self.node("Add", [y, residual]))
        node, initializers = make_node(
            x,
            self.structure.draw(self.rng, C, K),
            ConvGeometry(strides=(stride, stride), pads=(1, 1, 1, 1), dilations=(1, 1)),
            name=f"conv{len(self.nodes)}",
            residual=residual,
            activation=RELU,
        )
        self.initializers += initializers
        return self.append(node)

    def conv(self, x: ir.Value, C: int, K: int, *, kernel: int, stride: int = 1) -> ir.Value:
        """A dense Conv with padding that keeps the image size at stride 1."""
        weight = self.constant((K, C, kernel, kernel), np.sqrt(2 / (C * kernel**2)))
        geometry = {"strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.node("Conv", [x, weight, self.constant((K,), 0.1)], geometry)

    def linear(self, x: ir.Value, C: int, K: int) -> ir.Value:
        """A dense Gemm (N, C) → (N, K)."""
        weight = self.constant((K, C), np.sqrt(2 / C))
        return self.node("Gemm", [x, weight, self.constant((K,), 0.1)], {"transB": 1})

    def relu(self, x: ir.Value) -> ir.Value:
        """A Relu node."""
        return self.node("Relu", [x])

    def max_pool(self, x: ir.Value, *, kernel: int, pad: int = 0) -> ir.Value:
        """Max pooling with stride 2."""
        geometry = {"kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": [pad] * 4}
        return self.node("MaxPool", [x], geometry)

    def mean_pixels(self, x: ir.Value) -> ir.Value:
        """Global average pooling, (N, C, H, W) → (N, C)."""
        return self.node("Flatten", [self.node("GlobalAveragePool", [x])])

    def constant(self, shape: tuple[int, ...], scale: float) -> ir.Value:
        """An initializer drawn from N(0, scale²)."""
        array = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        return self.keep(f"w{len(self.initializers)}", array)


def resnet18_cifar(structure: Structure | None) -> ir.Model:
    """ResNet-18 as used for CIFAR: (N, 3, 32, 32) → (N, 10)."""
    builder = Builder(structure, channels=3, image=32)
    stem = builder.relu(builder.conv(builder.input, 3, 64, kernel=3))
    return _resnet(builder, stem, (2, 2, 2, 2), _basic_block, classes=10)


def resnet18_imagenet(structure: Structure | None) -> ir.Model:
    """ResNet-18 for ImageNet: (N, 3, 224, 224) → (N, 1000)."""
    builder = Builder(structure, channels=3, image=224)
    return _resnet(builder, _stem(builder), (2, 2, 2, 2), _basic_block, classes=1000)


def resnet50_imagenet(structure: Structure | None) -> ir.Model:
    """ResNet-50 for ImageNet: (N, 3, 224, 224) → (N, 1000)."""
    builder = Builder(structure, channels=3, image=224)
    return _resnet(builder, _stem(builder), (3, 4, 6, 3), _bottleneck, classes=1000)


def vgg16_cifar(structure: Structure | None) -> ir.Model:
    """VGG-16 as PENNI's authors use it for CIFAR: 13 convolutions, 3 linear layers."""
    builder = Builder(structure, channels=3, image=32)
    y = builder.relu(builder.conv(builder.input, 3, VGG16[0], kernel=3))
    channels = VGG16[0]
    for width in VGG16[1:]:
        y = builder.conv3x3(y, channels, width) if width else builder.max_pool(y, kernel=2)
        channels = width or channels
    y = builder.mean_pixels(y)
    for _ in range(2):
        y = builder.relu(builder.linear(y, channels, channels))
    return builder.model(builder.linear(y, channels, 10), [10])


NETWORKS: Mapping[str, Callable[[Structure | None], ir.Model]] = {
    "resnet18 (CIFAR)": resnet18_cifar,
    "vgg16 (CIFAR)": vgg16_cifar,
    "resnet18 (224)": resnet18_imagenet,
    "resnet50 (224)": resnet50_imagenet,
}


def single_conv(structure: Structure | None, C: int, K: int, image: int, stride: int) -> ir.Model:
    """One 3×3 convolution with bias and Relu."""
    builder = Builder(structure, channels=C, image=image)
    out = (image - 1) // stride + 1
    return builder.model(builder.conv3x3(builder.input, C, K, stride=stride), [K, out, out])


Block = Callable[[Builder, ir.Value, int, int, int], tuple[ir.Value, int]]


def _resnet(
    builder: Builder, y: ir.Value, blocks: Sequence[int], block: Block, *, classes: int
) -> ir.Model:
    """Stages of residual blocks behind a stem of 64 channels."""
    channels = 64
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage and not index else 1
            y, channels = block(builder, y, channels, 64 << stage, stride)
    logits = builder.linear(builder.mean_pixels(y), channels, classes)
    return builder.model(logits, [classes])


def _stem(builder: Builder) -> ir.Value:
    """The 7×7 convolution and pooling in front of a ResNet for ImageNet."""
    y = builder.relu(builder.conv(builder.input, 3, 64, kernel=7, stride=2))
    return builder.max_pool(y, kernel=3, pad=1)


def _basic_block(
    builder: Builder, x: ir.Value, channels: int, width: int, stride: int
) -> tuple[ir.Value, int]:
    """Relu(conv(Relu(conv(x))) + shortcut(x))."""
    shortcut = x
    if stride != 1 or channels != width:
        shortcut = builder.conv(x, channels, width, kernel=1, stride=stride)
    inner = builder.conv3x3(x, channels, width, stride=stride)
    return builder.conv3x3(inner, width, width, residual=shortcut), width


def _bottleneck(
    builder: Builder, x: ir.Value, channels: int, width: int, stride: int
) -> tuple[ir.Value, int]:
    """Relu(1×1(3×3(1×1(x))) + shortcut(x)), the output four times as wide."""
    shortcut, out = x, 4 * width
    if stride != 1 or channels != out:
        shortcut = builder.conv(x, channels, out, kernel=1, stride=stride)
    inner = builder.relu(builder.conv(x, channels, width, kernel=1))
    inner = builder.conv3x3(inner, width, width, stride=stride)
    inner = builder.conv(inner, width, out, kernel=1)
    return builder.relu(builder.node("Add", [inner, shortcut])), out
