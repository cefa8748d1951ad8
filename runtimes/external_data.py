"""External weights of models in memory, and arrays that are kept out of it.

`onnx_ir.external_data` closes the file of a tensor that it loads, which fails while an array of
that file is in use anywhere. Here files stay open until nobody uses them.
"""

import tempfile
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


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


def read_array(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """The elements of a tensor; those of an external one are read anew and not kept by it."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8:  # packed
        return tensor.numpy()
    kind = tensor.dtype.numpy().newbyteorder("<")
    array = np.fromfile(tensor.path, kind, tensor.size, offset=tensor.offset or 0)
    return array.reshape(tensor.shape.numpy())


def spill(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same array in a temporary file, which goes away together with the array."""
    if not array.nbytes:
        return array  # an empty file cannot be mapped
    with tempfile.TemporaryFile(prefix="optc-") as file:
        mapped: np.memmap[Any, Any] = np.memmap(file, array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped
