"""Single layers as models of their own, to be timed."""

import onnx_ir as ir

from passes.cost import layer_name, with_sample_shapes
from runtimes.operators.decomposed_conv import is_decomposed_conv
from runtimes.operators.hybrid_conv import is_hybrid_conv


def isolated_layers(model: ir.Model) -> dict[str, ir.Model | None]:
    """Every decomposed convolution as a model of its own, by name; None where shapes are unknown.

    Inputs have the sizes of one sample; weights are shared with the model.
    """
    shaped, _ = with_sample_shapes(model)
    layers = (node for node in shaped.graph if is_decomposed_conv(node) or is_hybrid_conv(node))
    return {layer_name(node): _isolated(node, shaped) for node in layers}


def _isolated(node: ir.Node, model: ir.Model) -> ir.Model | None:
    values = {value: _copy(value) for value in node.inputs if value is not None}
    fed = [value for value in values.values() if value.const_value is None]
    if any(value.shape is None or value.shape.is_dynamic() for value in fed):
        return None
    inputs = [None if value is None else values[value] for value in node.inputs]
    layer = ir.Node(
        node.domain, node.op_type, inputs, list(node.attributes.values()), name=node.name
    )
    output = layer.outputs[0]
    output.name, output.type = node.outputs[0].name, fed[0].type
    graph = ir.Graph(
        fed,
        [output],
        nodes=[layer],
        initializers=[value for value in values.values() if value.const_value is not None],
        opset_imports=dict(model.graph.opset_imports),
        name="layer",
    )
    functions = list(model.functions.values())
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


def _copy(value: ir.Value) -> ir.Value:
    return ir.Value(
        name=value.name, type=value.type, shape=value.shape, const_value=value.const_value
    )
