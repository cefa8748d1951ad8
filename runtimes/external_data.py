"""External weights of models in memory.

`onnx_ir.external_data` closes the file of a tensor that it loads, which fails while an array of
that file is in use anywhere. Here files stay open until nobody uses them.
"""

import onnx_ir as ir


def load_external(model: ir.Model, limit: int | None = None) -> ir.Model:
    """Replaces external weights by arrays in memory, in place.

    Args:
        model: changed in place; copies that share its weights keep theirs.
        limit: leave those of more bytes where they are.

    Returns:
        The model.
    """
    for value in initializers(model):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and (limit is None or tensor.nbytes <= limit):
            value.const_value = ir.Tensor(tensor.numpy().copy(), tensor.dtype, name=tensor.name)
    return model


def initializers(model: ir.Model) -> list[ir.Value]:
    """Those of the main graph and of all subgraphs."""
    return [value for graph in model.graphs() for value in graph.initializers.values()]
