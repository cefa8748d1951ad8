"""Layers for the native kernel: one-node models, and the convolution in float64."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from runtimes import native_build, ort
from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import (
    ConvGeometry,
    DecomposedWeights,
    FusedActivation,
    make_node,
)
from runtimes.operators.decomposed_conv_function import add_functions

Array = NDArray[np.float32]
NO_ACTIVATION = FusedActivation()
VARIANTS = ("portable", "avx2", "avx512")


@dataclass(frozen=True, kw_only=True)
class Layer:
    weights: DecomposedWeights
    geometry: ConvGeometry
    feeds: dict[str, Array]  # x, and r for a residual
    activation: FusedActivation = NO_ACTIVATION

    def model(self) -> onnx.ModelProto:
        float32 = ir.TensorType(ir.DataType.FLOAT)
        values = {
            name: ir.Value(name=name, type=float32, shape=ir.Shape([None] * array.ndim))
            for name, array in self.feeds.items()
        }
        node, initializers = make_node(
            values["x"],
            self.weights,
            self.geometry,
            name="layer",
            residual=values.get("r"),
            activation=self.activation,
        )
        node.outputs[0].name = "y"
        graph = ir.Graph(
            list(values.values()),
            node.outputs,
            nodes=[node],
            initializers=initializers,
            opset_imports={"": 17, DOMAIN: DOMAIN_VERSION},
            name="g",
        )
        model = ir.Model(graph, ir_version=8)
        add_functions(model, [node.op_type])
        return ir.to_proto(model)

    def expected(self) -> NDArray[np.float64]:
        y = float64_conv(self.feeds["x"], self.weights, self.geometry)
        if "r" in self.feeds:
            y += self.feeds["r"]
        if self.activation.name == "Relu":
            return np.maximum(y, 0)
        if self.activation.name == "Clip":
            return np.clip(y, self.activation.lower, self.activation.upper)
        return y


def float64_conv(
    x: Array, weights: DecomposedWeights, geometry: ConvGeometry
) -> NDArray[np.float64]:
    """Y[n, k, p] = Σ_(c, t) W[k, c, t]·X[n, c, pixel p, tap t], one tap at a time."""
    coefficients, basis = (a.astype(np.float64) for a in (weights.coefficients, weights.basis))
    kernel = np.tensordot(coefficients, basis, axes=1)  # (K, C/group, *kernel)
    spatial, group = kernel.ndim - 2, geometry.group
    pads = [(geometry.pads[i], geometry.pads[i + spatial]) for i in range(spatial)]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    sizes = [
        geometry.output_size(size, k, axis)
        for axis, (size, k) in enumerate(zip(x.shape[2:], kernel.shape[2:], strict=True))
    ]
    split = kernel.reshape(group, -1, *kernel.shape[1:])  # (group, K/group, C/group, *kernel)
    y = np.zeros((x.shape[0], group, split.shape[1], *sizes))
    for tap in np.ndindex(*kernel.shape[2:]):
        window = tuple(
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, s, size in zip(tap, geometry.dilations, geometry.strides, sizes, strict=True)
        )
        pixels = padded[(..., *window)].reshape(x.shape[0], group, split.shape[2], *sizes)
        y += np.einsum("gkc,ngc...->ngk...", split[(..., *tap)], pixels)
    y = y.reshape(x.shape[0], kernel.shape[0], *sizes)
    return y if weights.bias is None else y + weights.bias.reshape(-1, *(1,) * spatial)


def random_layer(
    seed: int,
    *,
    shape: tuple[int, int, int],
    kernel: tuple[int, ...] = (3, 3),
    image: tuple[int, ...] = (8, 8),
    batch: int = 1,
    density: float = 0.2,
    pair: bool = False,
    stride: int = 1,
    pad: int = 1,
    dilation: int = 1,
    group: int = 1,
    bias: bool = True,
    residual: bool = False,
    activation: FusedActivation = NO_ACTIVATION,
) -> Layer:
    """Draws a layer of coefficients (K, C/group, M) = `shape`."""
    rng = np.random.default_rng(seed)
    rank = len(kernel)
    geometry = ConvGeometry(
        strides=(stride,) * rank,
        pads=(pad,) * 2 * rank,
        dilations=(dilation,) * rank,
        group=group,
    )
    kept = rng.random((*shape[:2], 1) if pair else shape) < density
    weights = DecomposedWeights(
        basis=rng.standard_normal((shape[2], *kernel)).astype(np.float32),
        coefficients=(rng.standard_normal(shape) * kept).astype(np.float32),
        bias=rng.standard_normal(shape[0]).astype(np.float32) if bias else None,
    )
    feeds = {"x": rng.standard_normal((batch, shape[1] * group, *image)).astype(np.float32)}
    if residual:
        sizes = [
            geometry.output_size(n, k, axis)
            for axis, (n, k) in enumerate(zip(image, kernel, strict=True))
        ]
        feeds["r"] = rng.standard_normal((batch, shape[0], *sizes)).astype(np.float32)
    return Layer(weights=weights, geometry=geometry, feeds=feeds, activation=activation)


def library() -> Path:
    """The native library; skips the test where it cannot be built."""
    try:
        return native_build.library_path()
    except native_build.NativeError as error:
        pytest.skip(str(error))


def use_variant(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions created from here on use one instruction set; skips where it cannot run."""
    monkeypatch.setenv("OPTC_ISA", variant)
    if native_build.instruction_set(library()) != variant:
        pytest.skip(f"this processor has no {variant}")


def run_native(layer: Layer, *, threads: int = 1) -> Array:
    session = ort.session(layer.model().SerializeToString(), threads=threads, native=library())
    [y] = ort.run(session, layer.feeds)
    return y


def relative_error(y: Array, expected: NDArray[np.float64]) -> float:
    assert y.shape == expected.shape
    return float(np.linalg.norm(y - expected) / (np.linalg.norm(expected) or 1.0))
