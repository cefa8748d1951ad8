"""Layers for the hybrid kernel: one-node models, and what the integer reference says of them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes import ort
from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import ConvGeometry, initializer
from runtimes.operators.hybrid_conv import (
    HybridWeights,
    QuantizedValue,
    make_node,
    unit_basis,
    unit_offset,
)
from runtimes.operators.hybrid_conv_function import add_functions
from runtimes.operators.hybrid_reference import QuantizedArray, reference
from tests.runtimes.native.layers import library

UInt8 = NDArray[np.uint8]

VARIANTS = ("portable", "avx2", "avxvnni", "avx512vnni", "avx512")
FORMS = ("pairs", "dense", "elements")
X_SCALE, Y_SCALE, RESIDUAL_SCALE = 0.05, 0.1, 0.03
Y_ZERO, RESIDUAL_ZERO = 7, 11


@dataclass(frozen=True, kw_only=True)
class HybridLayer:
    weights: HybridWeights
    geometry: ConvGeometry
    feeds: dict[str, UInt8]  # x, and r for a residual
    x_zero: int = 3
    bounds: tuple[int, int] = (0, 255)

    def model(self) -> onnx.ModelProto:
        uint8 = ir.TensorType(ir.DataType.UINT8)
        values = {
            name: ir.Value(name=name, type=uint8, shape=ir.Shape([None] * array.ndim))
            for name, array in self.feeds.items()
        }
        constants: list[ir.Value] = []

        def quantisation(which: str, scale: float, zero: int) -> list[ir.Value]:
            pair = [
                initializer(f"{which}_scale", np.array(scale, np.float32)),
                initializer(f"{which}_zero", np.array(zero, np.uint8)),
            ]
            constants.extend(pair)
            return pair

        def quantised(name: str, scale: float, zero: int) -> QuantizedValue:
            one, other = quantisation(name, scale, zero)
            return QuantizedValue(value=values[name], scale=one, zero_point=other)

        x = quantised("x", X_SCALE, self.x_zero)
        y = quantisation("y", Y_SCALE, Y_ZERO)
        residual = quantised("r", RESIDUAL_SCALE, RESIDUAL_ZERO) if "r" in values else None
        node, own = make_node(
            x,
            *y,
            self.weights,
            self.geometry,
            name="layer",
            bounds=self.bounds,
            residual=residual,
        )
        node.outputs[0].name = "y"
        graph = ir.Graph(
            list(values.values()),
            node.outputs,
            nodes=[node],
            initializers=[*constants, *own],
            opset_imports={"": 17, DOMAIN: DOMAIN_VERSION},
            name="g",
        )
        model = ir.Model(graph, ir_version=8)
        add_functions(model, [node.op_type])
        return ir.to_proto(model)

    def expected(self) -> UInt8:
        residual = None
        if "r" in self.feeds:
            residual = QuantizedArray(
                values=self.feeds["r"], scale=RESIDUAL_SCALE, zero_point=RESIDUAL_ZERO
            )
        return reference(
            QuantizedArray(values=self.feeds["x"], scale=X_SCALE, zero_point=self.x_zero),
            self.weights,
            self.geometry,
            y_scale=Y_SCALE,
            y_zero_point=Y_ZERO,
            bounds=self.bounds,
            residual=residual,
        )


def random_hybrid_layer(
    seed: int,
    *,
    shape: tuple[int, int, int],
    kernel: tuple[int, ...] = (3, 3),
    image: tuple[int, ...] = (8, 8),
    batch: int = 1,
    density: float = 0.3,
    bits: int = 8,
    pair: bool = False,
    one_level: bool = False,
    shifts: tuple[int, int] = (6, 11),
    stride: int | tuple[int, ...] = 1,
    pad: int = 1,
    dilation: int = 1,
    group: int = 1,
    residual: bool = False,
    x_zero: int = 3,
    bounds: tuple[int, int] = (0, 255),
    offset: int = 0,
    unit: bool = False,
) -> HybridLayer:
    """Draws a layer of coefficients (K, C/group, M) = `shape`; its outputs use the whole range.

    `unit`: its basis is that of an ordinary convolution, and its offset what this needs.
    """
    rng = np.random.default_rng(seed)
    rank, (K, C, M) = len(kernel), shape
    strides = (stride,) * rank if isinstance(stride, int) else stride
    geometry = ConvGeometry(
        strides=strides, pads=(pad,) * 2 * rank, dilations=(dilation,) * rank, group=group
    )
    kept = rng.random((K, C, 1) if pair else shape) < density
    largest = {1: 1, 4: 7, 8: 127}[bits]
    symbols = rng.choice([-1, 1], shape) * rng.integers(1, largest + 1, shape) * kept
    levels = rng.integers(1, 127 // largest + 1, (K, 1) if one_level else (K, M))
    typical = 40 * (largest * 64 / largest) * np.sqrt(max(C * M * density, 1))  # of a sum
    weights = HybridWeights(
        basis=rng.integers(-127, 128, (M, *kernel)).astype(np.int8),
        shift=rng.integers(shifts[0], shifts[1] + 1, M).astype(np.uint8),
        symbols=symbols.astype(np.int8),
        levels=np.broadcast_to(levels, (K, M)).astype(np.int8),
        scale=(rng.uniform(0.5, 2, K) * 100 * Y_SCALE / typical).astype(np.float32),
        bias=(5 * rng.standard_normal(K)).astype(np.float32),
        response_offset=offset,
    )
    if unit:
        basis, shift = unit_basis(kernel)
        weights = replace(weights, basis=basis, shift=shift, response_offset=unit_offset(x_zero))
    feeds: dict[str, Any] = {"x": (batch, C * group, *image)}
    if residual:
        sizes = [
            geometry.output_size(n, k, axis)
            for axis, (n, k) in enumerate(zip(image, kernel, strict=True))
        ]
        feeds["r"] = (batch, K, *sizes)
    feeds = {name: rng.integers(0, 256, size).astype(np.uint8) for name, size in feeds.items()}
    return HybridLayer(
        weights=weights, geometry=geometry, feeds=feeds, x_zero=x_zero, bounds=bounds
    )


def run_hybrid(layer: HybridLayer, *, threads: int = 1) -> UInt8:
    session = ort.session(layer.model().SerializeToString(), threads=threads, native=library())
    [y] = ort.run(session, layer.feeds)
    return y
