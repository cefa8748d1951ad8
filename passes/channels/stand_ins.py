"""Standard operators that make values of the same shapes as those of onnxruntime do.

onnx infers no shapes through operators that it does not know, and knows no sizes behind them. In a
copy that is only made for its shapes, these take their place.
"""

import onnx_ir as ir

CONTRIB = "com.microsoft"

_LIKE_FIRST_INPUT = frozenset(
    {
        *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
    }
)
_SUM_OUTPUT = 3
"""Of the normalisations with a skip, input + skip: as large as the first."""


def use_stand_ins(model: ir.Model) -> None:
    """Replaces operators of onnxruntime in the main graph; the result has only its shapes right."""
    for node in model.graph:
        if node.domain != CONTRIB:
            continue
        if node.op_type in _LIKE_FIRST_INPUT:
            if len(node.outputs) > _SUM_OUTPUT:
                _copy_input(node, _SUM_OUTPUT)
            _become(node, "Identity", [0])
        elif node.op_type == "FusedConv":
            _become(node, "Conv", [0, 1], keep=True)
        elif node.op_type == "FusedMatMul":
            one = "...ji" if node.attributes.get_int("transA", 0) else "...ij"
            other = "...kj" if node.attributes.get_int("transB", 0) else "...jk"
            _become(node, "Einsum", [0, 1], equation=f"{one},{other}->...ik")
        elif node.op_type == "MultiHeadAttention" and _is_flat(node):
            _become(node, "Einsum", [0, 2], equation="bsq,btv->bsv")
        elif node.op_type == "GroupQueryAttention" and node.inputs[1] is not None:
            _become(node, "Identity", [0])
        elif node.op_type == "Attention":
            _project(model, node)


def _is_flat(node: ir.Node) -> bool:
    """Whether the values are (B, T, H·e), as far as that is known."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return value is not None and (value.shape is None or len(value.shape) == 3)


def _project(model: ir.Model, node: ir.Node) -> None:
    """Attention with a weight (C, ·) of its own: (B, S, C) to (B, S, H·e)."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return
    C, width = weight.const_value.shape.numpy()
    given = node.attributes.get("qkv_hidden_sizes")
    out = width // 3 if given is None else list(given.as_ints())[2]
    name = f"{node.name}.{node.outputs[0].name}.shape"
    values = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([C, out]))
    model.graph.inputs.append(values)
    node.replace_input_with(1, values)
    _become(node, "Einsum", [0, 1], equation="bsc,cv->bsv")


def _copy_input(node: ir.Node, output: int) -> None:
    """Another node makes this output, as large as the first input."""
    old = node.outputs[output]
    copy = ir.Node("", "Identity", [node.inputs[0]])
    new, name = copy.outputs[0], old.name
    new.type, old.name, new.name = old.type, None, name
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_after(node, copy)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _become(
    node: ir.Node, op_type: str, inputs: list[int], equation: str = "", keep: bool = False
) -> None:
    """Makes it another operator on some of its inputs; `keep` its attributes."""
    values = [node.inputs[i] for i in inputs]
    node.domain, node.op_type, node.overload = "", op_type, ""
    if not keep:
        node.attributes.clear()
    if equation:
        node.attributes.add(ir.AttrString("equation", equation))
    node.resize_inputs(len(values))
    for index, value in enumerate(values):
        node.replace_input_with(index, value)
