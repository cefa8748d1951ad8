"""Single layers as models of their own, to be timed."""

import onnx
import onnx_ir as ir

from passes.cost import with_sample_shapes


def isolated_nodes(model: ir.Model) -> dict[str, ir.Model | None]:
    """Every node of the main graph as a model of its own, by name; None where shapes are unknown.

    Inputs have the sizes of one sample; weights stay in memory, shared with the model.
    """
    shaped, _ = with_sample_shapes(model)
    return {node.name or "": _isolated(node, shaped) for node in shaped.graph}


def _isolated(node: ir.Node, model: ir.Model) -> ir.Model | None:
    inputs, weights = [], []
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        if value.const_value is not None:
            weights.append(value)
        elif value.shape is None or value.shape.is_dynamic() or value.dtype is None:
            return None
        else:
            sizes = [int(str(size)) for size in value.shape]
            kind = onnx.TensorProto.DataType.Value(value.dtype.name)
            inputs.append(onnx.helper.make_tensor_value_info(value.name or "", kind, sizes))
    outputs = [onnx.ValueInfoProto(name=value.name) for value in node.outputs]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "layer", inputs, outputs)
    proto = onnx.helper.make_model(graph, ir_version=model.ir_version)
    del proto.opset_import[:]
    isolated = ir.from_proto(proto)
    isolated.graph.opset_imports.update(model.graph.opset_imports)
    isolated.functions.update(model.functions)
    by_name = {value.name: value for value in isolated.graph[0].inputs if value is not None}
    for value in weights:
        by_name[value.name].const_value = value.const_value
        isolated.graph.initializers.add(by_name[value.name])
    return isolated
