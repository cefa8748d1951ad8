"""Shape inference that the schemas of all convolutions of the `optc` domain share."""

from collections.abc import Sequence

import onnx
from onnx import shape_inference

from runtimes.operators.decomposed_conv import ConvGeometry

GEOMETRY = ("strides", "pads", "dilations")


def infer_conv(context: shape_inference.InferenceContext, *, basis: int) -> None:
    """Output (N, K, *out) from X (N, C, *spatial) and the attributes.

    Args:
        context: of the node.
        basis: index of the input (M, *kernel).
    """
    x, kernels = (context.get_input_type(index) for index in (0, basis))
    if x is None:  # made by an operator that onnx does not know
        return
    output = onnx.TypeProto()
    output.tensor_type.elem_type = x.tensor_type.elem_type
    kernel = kernels.tensor_type.shape.dim[1:] if kernels is not None else []
    if x.tensor_type.HasField("shape") and kernel:
        dims = x.tensor_type.shape.dim
        ints = {key: read_ints(context, key) for key in GEOMETRY}
        _check_ranks(ints, len(kernel), len(dims) - 2)
        geometry = ConvGeometry(
            strides=ints["strides"], pads=ints["pads"], dilations=ints["dilations"]
        )
        shape = output.tensor_type.shape
        shape.dim.add().CopyFrom(dims[0])
        shape.dim.add().dim_value = read_ints(context, "coefficient_shape")[0]
        for axis, (size, width) in enumerate(zip(dims[2:], kernel, strict=True)):
            out = shape.dim.add()
            if size.HasField("dim_value") and width.HasField("dim_value"):
                out.dim_value = geometry.output_size(size.dim_value, width.dim_value, axis)
    context.set_output_type(0, output)


def _check_ranks(ints: dict[str, tuple[int, ...]], kernel_rank: int, spatial_rank: int) -> None:
    lengths = {key: len(value) // (2 if key == "pads" else 1) for key, value in ints.items()}
    if set(lengths.values()) != {kernel_rank} or spatial_rank != kernel_rank:
        raise shape_inference.InferenceError(
            f"DecomposedConv: kernel of {kernel_rank} axes, input of {spatial_rank}, {lengths}"
        )


def read_ints(context: shape_inference.InferenceContext, key: str) -> tuple[int, ...]:
    """An attribute; () where it is missing."""
    attribute = context.get_attribute(key)
    values: Sequence[int] = attribute.ints if attribute is not None else ()
    return tuple(values)
