"""onnx schemas of the `optc` domain: what the checker and shape inference know of it.

And of an operator that onnxruntime puts into the standard domain when it optimises a model.
"""

from onnx import defs, shape_inference

from runtimes.operators import DOMAIN_VERSION, DOMAINS, hybrid_conv, max_pool
from runtimes.operators.decomposed_conv import BASE_NAME, op_types
from runtimes.operators.hybrid_schemas import hybrid_schema
from runtimes.operators.max_pool_schema import max_pool_schema
from runtimes.operators.schema_inference import GEOMETRY, infer_conv

_INPUTS = (
    ("X", "T", "input (N, C, *spatial)", True),
    ("basis", "T", "shared kernels (M, *kernel)", True),
    ("values", "T", "stored coefficient blocks (n_stored, block)", True),
    ("positions", "P", "packed run lengths (n_bytes,)", True),
    ("bias", "T", "(K,)", False),
)

RMS_NORM = "SimplifiedLayerNormalization"


def register_schemas() -> None:
    """Makes the domains known to this process's onnx; calling it again changes nothing."""
    for domain in DOMAINS:
        for name in op_types():
            if not defs.has(name, domain):
                defs.register_schema(_schema(name, domain))
        for name in hybrid_conv.op_types():
            if not defs.has(name, domain):
                defs.register_schema(hybrid_schema(name, domain))
        if not defs.has(max_pool.OP_TYPE, domain):
            defs.register_schema(max_pool_schema(domain))
    if not defs.has(RMS_NORM):
        defs.register_schema(_rms_norm_schema())


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
        for key in (*GEOMETRY, "coefficient_shape")
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
    schema.set_type_and_shape_inference_function(lambda context: infer_conv(context, basis=1))
    return schema


def _rms_norm_schema() -> defs.OpSchema:
    parameter, option = defs.OpSchema.FormalParameter, defs.OpSchema.FormalParameterOption
    attribute, kinds = defs.OpSchema.Attribute, defs.OpSchema.AttrType
    floats = [f"tensor({name})" for name in ("float", "float16", "bfloat16", "double")]
    schema = defs.OpSchema(
        RMS_NORM,
        "",
        1,
        "RMSNormalization, as onnxruntime calls it.",
        inputs=[parameter("X", "T", "(..., C)"), parameter("scale", "V", "(C,)")],
        outputs=[
            parameter("Y", "V", "(..., C)"),
            parameter("inv_std_var", "U", "(..., 1)", param_option=option.Optional),
        ],
        type_constraints=[(name, floats, "any float") for name in "TUV"],
        attributes=[
            attribute("axis", kinds.INT, "first axis of the statistics", required=False),
            attribute("epsilon", kinds.FLOAT, "added to the mean square", required=False),
            attribute("stash_type", kinds.INT, "type of the statistics", required=False),
        ],
    )
    schema.set_type_and_shape_inference_function(_same_as_input)
    return schema


def _same_as_input(context: shape_inference.InferenceContext) -> None:
    x = context.get_input_type(0)
    if x is not None:
        context.set_output_type(0, x)
