"""onnx schema of `QuantizedMaxPool`."""

import onnx
from onnx import defs, shape_inference

from runtimes.operators import DOMAIN_VERSION
from runtimes.operators.max_pool import LISTS, OP_TYPE, PoolGeometry
from runtimes.operators.schema_inference import read_ints


def max_pool_schema(domain: str) -> defs.OpSchema:
    """The schema in one domain."""
    attribute, kinds = defs.OpSchema.Attribute, defs.OpSchema.AttrType
    parameter = defs.OpSchema.FormalParameter
    schema = defs.OpSchema(
        OP_TYPE,
        domain,
        DOMAIN_VERSION,
        "MaxPool of whole numbers.",
        inputs=[parameter("X", "T", "input (N, C, *spatial)")],
        outputs=[parameter("Y", "T", "output (N, C, *spatial)")],
        type_constraints=[("T", ["tensor(uint8)"], "activations")],
        attributes=[
            *(attribute(key, kinds.INTS, "as of MaxPool", required=True) for key in LISTS),
            attribute("ceil_mode", kinds.INT, "as of MaxPool", required=True),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer)
    return schema


def _infer(context: shape_inference.InferenceContext) -> None:
    x = context.get_input_type(0)
    if x is None:  # made by an operator that onnx does not know
        return
    output = onnx.TypeProto()
    output.tensor_type.elem_type = x.tensor_type.elem_type
    if x.tensor_type.HasField("shape"):
        batch, channels, *spatial = x.tensor_type.shape.dim
        geometry, shape = _geometry(context, len(spatial)), output.tensor_type.shape
        for dim in (batch, channels):
            shape.dim.add().CopyFrom(dim)
        for axis, size in enumerate(spatial):
            out = shape.dim.add()
            if size.HasField("dim_value"):
                out.dim_value = geometry.output_size(size.dim_value, axis)
    context.set_output_type(0, output)


def _geometry(context: shape_inference.InferenceContext, rank: int) -> PoolGeometry:
    ints = {key: read_ints(context, key) for key in LISTS}
    lengths = {key: len(value) // (2 if key == "pads" else 1) for key, value in ints.items()}
    if set(lengths.values()) != {rank}:
        raise shape_inference.InferenceError(f"{OP_TYPE}: input of {rank} axes, {lengths}")
    ceil_mode = context.get_attribute("ceil_mode")
    return PoolGeometry(**ints, ceil_mode=ceil_mode is not None and bool(ceil_mode.i))
