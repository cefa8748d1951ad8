"""onnx schemas of the `optc` domain: what the checker and shape inference know of it."""

from collections.abc import Sequence

import onnx
from onnx import defs, shape_inference

from runtimes.operators import DOMAIN_VERSION, DOMAINS
from runtimes.operators.decomposed_conv import (
    BASE_NAME,
    ConvGeometry,
    op_types,
)

_GEOMETRY = ("strides", "pads", "dilations")
_INPUTS = (
    ("X", "T", "input (N, C, *spatial)", True),
    ("basis", "T", "shared kernels (M, *kernel)", True),
    ("values", "T", "stored coefficient blocks (n_stored, block)", True),
    ("positions", "P", "packed run lengths (n_bytes,)", True),
    ("bias", "T", "(K,)", False),
)


def register_schemas() -> None:
    """Makes the domains known to this process's onnx; calling it again changes nothing."""
    for domain in DOMAINS:
        for name in op_types():
            if not defs.has(name, domain):
                defs.register_schema(_schema(name, domain))


def _schema(name: str, domain: str) -> defs.OpSchema:
    option = defs.OpSchema.FormalParameterOption
    inputs = [
        defs.OpSchema.FormalParameter(
            key, kind, doc, param_option=option.Single if required else option.Optional
        )
        for key, kind, doc, required in _INPUTS
    ]
    suffix = name.removeprefix(BASE_NAME)
    if suffix.startswith("Add"):
        inputs.append(defs.OpSchema.FormalParameter("residual", "T", "added before activation"))
    attribute, kinds = defs.OpSchema.Attribute, defs.OpSchema.AttrType
    attributes = [
        attribute(key, kinds.INTS, "as of Conv", required=True)
        for key in (*_GEOMETRY, "coefficient_shape")
    ]
    attributes += [
        attribute(key, kinds.INT, doc, required=True)
        for key, doc in (("group", "as of Conv"), ("position_bits", "width of a run length"))
    ]
    if suffix.endswith("Clip"):
        attributes += [
            attribute(key, kinds.FLOAT, "bound of the output", required=True)
            for key in ("lower", "upper")
        ]
    schema = defs.OpSchema(
        name,
        domain,
        DOMAIN_VERSION,
        "Convolution with a shared basis and sparse coefficients.",
        inputs=inputs,
        outputs=[defs.OpSchema.FormalParameter("Y", "T", "output (N, K, *spatial)")],
        type_constraints=[
            ("T", ["tensor(float)"], "activations and weights"),
            ("P", ["tensor(uint8)"], "packed positions"),
        ],
        attributes=attributes,
    )
    schema.set_type_and_shape_inference_function(_infer)
    return schema


def _infer(context: shape_inference.InferenceContext) -> None:
    """Output (N, K, *out) from X (N, C, *spatial), basis (M, *kernel) and the attributes."""
    x, basis = (context.get_input_type(index) for index in (0, 1))
    if x is None:  # made by an operator that onnx does not know
        return
    output = onnx.TypeProto()
    output.tensor_type.elem_type = x.tensor_type.elem_type
    kernel = basis.tensor_type.shape.dim[1:] if basis is not None else []
    if x.tensor_type.HasField("shape") and kernel:
        dims = x.tensor_type.shape.dim
        ints = {key: _ints(context, key) for key in _GEOMETRY}
        _check_ranks(ints, len(kernel), len(dims) - 2)
        geometry = ConvGeometry(
            strides=ints["strides"], pads=ints["pads"], dilations=ints["dilations"]
        )
        shape = output.tensor_type.shape
        shape.dim.add().CopyFrom(dims[0])
        shape.dim.add().dim_value = _ints(context, "coefficient_shape")[0]
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


def _ints(context: shape_inference.InferenceContext, key: str) -> tuple[int, ...]:
    attribute = context.get_attribute(key)
    values: Sequence[int] = attribute.ints if attribute is not None else ()
    return tuple(values)
