"""onnx schemas of the `HybridDecomposedConv` family."""

from onnx import defs, helper

from runtimes.operators import DOMAIN_VERSION
from runtimes.operators.hybrid_conv import INPUTS, RESIDUAL_INPUTS
from runtimes.operators.schema_inference import GEOMETRY, infer_conv

_TYPES = {
    **dict.fromkeys(("X", "residual"), "Q"),
    **dict.fromkeys(("basis", "levels"), "W"),
    **dict.fromkeys(("shift", "values", "positions"), "P"),
    **dict.fromkeys(("x_zero_point", "y_zero_point", "residual_zero_point"), "Q"),
}
_DOCS = {
    "X": "input (N, C, *spatial)",
    "basis": "shared kernels (M, *kernel)",
    "shift": "bits that responses lose (M,)",
    "values": "packed symbols (n_bytes,)",
    "positions": "packed run lengths (n_bytes,)",
    "levels": "factor of each output and basis kernel (K, M)",
    "scale": "real value of one unit of the accumulator (K,)",
    "bias": "(K,)",
    "residual": "added to the convolution",
}
_OFFSET = "offset"
_NUMBERS = {
    "group": "as of Conv",
    "position_bits": "width of a run length",
    "value_bits": "width of a symbol: 8, 4 or 1 (sign)",
    "block": "elements stored together: 1, M or C/group·M",
    "lower": "least quantised output",
    "upper": "largest quantised output",
}


def hybrid_schema(name: str, domain: str) -> defs.OpSchema:
    """The schema of one operator name."""
    inputs = [*INPUTS, *(RESIDUAL_INPUTS if name.endswith("Add") else ())]
    attribute, kinds = defs.OpSchema.Attribute, defs.OpSchema.AttrType
    attributes = [
        attribute(key, kinds.INTS, "as of Conv", required=True)
        for key in (*GEOMETRY, "coefficient_shape")
    ]
    attributes += [attribute(key, kinds.INT, doc, required=True) for key, doc in _NUMBERS.items()]
    doc = "middle of the 256 numbers that a response may be"
    attributes.append(attribute(_OFFSET, helper.make_attribute(_OFFSET, 0), doc))
    schema = defs.OpSchema(
        name,
        domain,
        DOMAIN_VERSION,
        "Quantised convolution with a shared basis and sparse coefficients.",
        inputs=[
            defs.OpSchema.FormalParameter(key, _TYPES.get(key, "T"), _DOCS.get(key, "scalar"))
            for key in inputs
        ],
        outputs=[defs.OpSchema.FormalParameter("Y", "Q", "output (N, K, *spatial)")],
        type_constraints=[
            ("Q", ["tensor(uint8)"], "activations"),
            ("W", ["tensor(int8)"], "weights"),
            ("P", ["tensor(uint8)"], "packed bits"),
            ("T", ["tensor(float)"], "scales and bias"),
        ],
        attributes=attributes,
    )
    schema.set_type_and_shape_inference_function(lambda context: infer_conv(context, basis=3))
    return schema
