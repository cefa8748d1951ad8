"""Tiny models for tests, written as onnx text, and their files."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper, parser, shape_inference

HEADER = '<ir_version: 8, opset_import: ["" : 13]>'


def parse(graph: str, weights: dict[str, NDArray[Any]] | None = None) -> onnx.ModelProto:
    """A model from the text of its graph; weights are added as initializers."""
    model = parser.parse_model(f"{HEADER}\n{graph}")
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def parse_ir(graph: str, weights: dict[str, NDArray[Any]] | None = None) -> ir.Model:
    return ir.from_proto(parse(graph, weights))


def inferred_dims(model: onnx.ModelProto) -> list[int | str | None]:
    """Output shape by schema alone: without the function bodies."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:]
    [output] = shape_inference.infer_shapes(copy, strict_mode=True).graph.output
    return [dim.dim_param or dim.dim_value or None for dim in output.type.tensor_type.shape.dim]


def classifier(seed: int = 0, *, batch: str = "N", classes: int = 10) -> onnx.ModelProto:
    """Conv, Relu, global pooling, Gemm: input (N, 3, 8, 8), logits (N, classes)."""
    rng = np.random.default_rng(seed)
    weights = {
        "conv_weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "fc_weight": rng.standard_normal((classes, 4)).astype(np.float32),
        "fc_bias": rng.standard_normal(classes).astype(np.float32),
    }
    return parse(
        f"""net (float[{batch}, 3, 8, 8] input) => (float[{batch}, {classes}] logits) {{
            [conv] a = Conv <pads = [1, 1, 1, 1]> (input, conv_weight)
            [relu] b = Relu (a)
            [pool] c = GlobalAveragePool (b)
            [flat] d = Flatten (c)
            [fc] logits = Gemm <transB = 1> (d, fc_weight, fc_bias)
        }}""",
        weights,
    )


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def images(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((samples, 3, 8, 8)).astype(np.float32)


def with_noise(model: onnx.ModelProto, tensor: str, scale: float = 0.1) -> onnx.ModelProto:
    """A copy that has random numbers added to one of its initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for stored in copy.graph.initializer:
        if stored.name == tensor:
            array = numpy_helper.to_array(stored)
            noise = scale * np.random.default_rng(5).standard_normal(array.shape)
            stored.CopyFrom(numpy_helper.from_array((array + noise).astype(array.dtype), tensor))
    return copy
