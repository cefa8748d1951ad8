"""Poolings for the native kernel: one-node models, and what onnxruntime's float MaxPool says."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from runtimes import ort
from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.max_pool import LISTS, OP_TYPE, PoolGeometry, add_functions, make_node

UInt8 = NDArray[np.uint8]


def square(kernel: int, stride: int, pad: int = 0, **options: Any) -> PoolGeometry:
    return PoolGeometry(
        kernel_shape=(kernel,) * 2,
        strides=(stride,) * 2,
        pads=(pad,) * 4,
        dilations=(1, 1),
        **options,
    )


def pool_model(
    geometry: PoolGeometry, shape: tuple[int | str | None, ...], opset: int = 17
) -> onnx.ModelProto:
    """The operator from x to y, with its body."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(shape))
    node = make_node(x, geometry, name="pool")
    node.outputs[0].name = "y"
    node.outputs[0].shape = ir.Shape([None] * len(shape))
    opsets = {"": opset, DOMAIN: DOMAIN_VERSION}
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports=opsets, name="g")
    model = ir.Model(graph, ir_version=8)
    add_functions(model, [OP_TYPE])
    return ir.to_proto(model)


def expected(geometry: PoolGeometry, x: UInt8) -> UInt8:
    """By onnxruntime's MaxPool of float32; windows without pixels give the least float there."""
    attributes: dict[str, Any] = {key: getattr(geometry, key) for key in LISTS}
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], ceil_mode=int(geometry.ceil_mode), **attributes
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * x.ndim)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * x.ndim)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    [y] = ort.run(ort.session(model.SerializeToString()), {"x": x.astype(np.float32)})
    return np.maximum(y, 0).astype(np.uint8)


@st.composite
def poolings(draw: st.DrawFn) -> tuple[PoolGeometry, tuple[int, ...]]:
    """A geometry and a shape that it fits."""
    rank = draw(st.integers(1, 2))

    def ints(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations = ints(1, 4), ints(1, 3)
    pads = tuple(draw(st.integers(0, min(k - 1, 2))) for k in kernel * 2)
    covered = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    image = [
        max(size + draw(st.integers(0, 21)) - begin - end, 1)
        for size, begin, end in zip(covered, pads[:rank], pads[rank:], strict=True)
    ]
    geometry = PoolGeometry(
        kernel_shape=kernel,
        strides=ints(1, 4),
        pads=pads,
        dilations=dilations,
        ceil_mode=draw(st.booleans()),
    )
    return geometry, (draw(st.integers(1, 3)), draw(st.integers(1, 5)), *image)


def draw_bytes(shape: tuple[int, ...], seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
