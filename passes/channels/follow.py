"""One rule per operator: which channels are the same, and what is constant in them.

`follow_channels` applies the rules to the nodes of the main graph in order. An operator without a
rule freezes the channels that it reads and makes, with its name as the reason.
"""

import numpy as np
import onnx_ir as ir

from passes.channels.attention import (
    attention,
    grouped_query_attention,
    multi_head_attention,
    packed_attention,
    rotary_embedding,
)
from passes.channels.concat import concat
from passes.channels.elementwise import (
    Rule,
    add,
    cast_like,
    clip,
    divide,
    either,
    elementwise,
    gated_sum,
    multiply,
    power,
    relu,
    same,
    slope,
    subtract,
    unary,
    unknown,
    zero_only,
)
from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError
from passes.channels.layers import (
    conv,
    conv_transpose,
    decomposed_conv,
    fused_conv,
    gemm,
    hybrid_conv,
)
from passes.channels.movement import (
    expand,
    pad,
    reduce_axes,
    resize,
    squeeze,
    transpose,
    unsqueeze,
)
from passes.channels.normalization import (
    along,
    batch_normalization,
    group_normalization,
    instance_normalization,
    layer_normalization,
    skip_layer_normalization,
)
from passes.channels.products import einsum, matmul
from passes.channels.readings import freeze_counted, shape
from passes.channels.reshape import flatten, reshape
from passes.channels.sizes import sample_sizes
from passes.channels.slicing import gather, slice_axes, split
from runtimes.operators import DOMAINS
from runtimes.operators import hybrid_conv as hybrid_operator
from runtimes.operators import max_pool as max_pool_operator
from runtimes.operators.decomposed_conv import op_types

STANDARD = ""
CONTRIB = "com.microsoft"

RULES: dict[tuple[str, str], Rule] = {
    # Layers that mix channels.
    (STANDARD, "Conv"): conv,
    (STANDARD, "ConvTranspose"): conv_transpose,
    (STANDARD, "Gemm"): gemm,
    (STANDARD, "MatMul"): matmul,
    (STANDARD, "Einsum"): einsum,
    (CONTRIB, "FusedConv"): fused_conv,
    (CONTRIB, "FusedMatMul"): matmul,
    **{(domain, name): decomposed_conv for domain in DOMAINS for name in op_types()},
    **{(domain, name): hybrid_conv for domain in DOMAINS for name in hybrid_operator.op_types()},
    # Attention.
    (STANDARD, "Attention"): attention,
    (CONTRIB, "Attention"): packed_attention,
    (CONTRIB, "MultiHeadAttention"): multi_head_attention,
    (CONTRIB, "GroupQueryAttention"): grouped_query_attention,
    (STANDARD, "RotaryEmbedding"): rotary_embedding,
    (CONTRIB, "RotaryEmbedding"): rotary_embedding,
    # Statistics.
    (STANDARD, "BatchNormalization"): batch_normalization,
    (STANDARD, "InstanceNormalization"): instance_normalization,
    (STANDARD, "LayerNormalization"): layer_normalization,
    (STANDARD, "RMSNormalization"): layer_normalization,
    (STANDARD, "SimplifiedLayerNormalization"): layer_normalization,  # of onnxruntime
    (STANDARD, "GroupNormalization"): group_normalization,
    (CONTRIB, "SkipLayerNormalization"): skip_layer_normalization,
    (CONTRIB, "SkipSimplifiedLayerNormalization"): skip_layer_normalization,
    **{
        (STANDARD, name): along("relates all elements of an axis", -1)
        for name in ("Softmax", "LogSoftmax", "LpNormalization")
    },
    # One channel at a time.
    (STANDARD, "Identity"): unary(same),
    (STANDARD, "Dropout"): unary(same),
    (STANDARD, "Relu"): unary(relu),
    (STANDARD, "CastLike"): cast_like,
    (STANDARD, "Clip"): unary(clip),
    **{
        (STANDARD, name): unary(zero_only)
        for name in (
            *("Abs", "Neg", "Sign", "Sqrt", "Floor", "Ceil", "Round", "Cast"),
            *("LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish"),
            *("HardSwish", "Tanh", "Softsign", "Erf", "Sin", "Sinh", "Tan", "Atan", "Asinh"),
            *("MaxPool", "AveragePool", "LpPool"),
            *("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"),
        )
    },
    **{(domain, max_pool_operator.OP_TYPE): unary(zero_only) for domain in DOMAINS},
    **{(CONTRIB, name): unary(zero_only) for name in ("Gelu", "QuickGelu")},
    **{
        (STANDARD, name): unary(unknown)
        for name in ("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Log", "Reciprocal", "Cos")
    },
    # Several operands with the same channels.
    (STANDARD, "Add"): elementwise(add),
    (STANDARD, "Sum"): elementwise(add),
    (STANDARD, "Sub"): elementwise(subtract),
    (STANDARD, "Mul"): elementwise(multiply),
    (STANDARD, "Div"): elementwise(divide),
    (STANDARD, "Max"): elementwise(np.maximum),
    (STANDARD, "Min"): elementwise(np.minimum),
    (STANDARD, "PRelu"): elementwise(slope),
    (STANDARD, "Pow"): elementwise(power),
    (STANDARD, "Where"): elementwise(either, first=1),
    (CONTRIB, "BiasGelu"): elementwise(gated_sum),
    (CONTRIB, "FastGelu"): elementwise(gated_sum),
    # Movements.
    (STANDARD, "Concat"): concat,
    (STANDARD, "Split"): split,
    (STANDARD, "Gather"): gather,
    (STANDARD, "Expand"): expand,
    (STANDARD, "Flatten"): flatten,
    (STANDARD, "Reshape"): reshape,
    (STANDARD, "Squeeze"): squeeze,
    (STANDARD, "Unsqueeze"): unsqueeze,
    (STANDARD, "Transpose"): transpose,
    (STANDARD, "Pad"): pad,
    (STANDARD, "Slice"): slice_axes,
    (STANDARD, "Resize"): resize,
    (STANDARD, "Shape"): shape,
    **{
        (STANDARD, name): reduce_axes
        for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
    },
}


def follow_channels(model: ir.Model, *, masked: bool = False) -> ChannelGraph:
    """Applies the rules to every node of the main graph, in order.

    Args:
        model: prepared model, not changed.
        masked: see `ChannelGraph`; weights are not read then.
    """
    graph = ChannelGraph(shapes=sample_sizes(model), masked=masked)
    for node in model.graph:
        rule = RULES.get((node.domain, node.op_type))
        if rule is None:
            continue  # its inputs and outputs are frozen: nothing was said of them
        try:
            rule(node, graph)
        except NotFollowedError as error:
            graph.refuse(node, str(error))
    freeze_counted(graph)
    graph.seal()
    return graph
