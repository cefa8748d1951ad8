"""Between a torch model and its exported graph, in which batch norms are folded into weights.

Row k of a folded weight is s[k]·W[k].
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.float64]


def modules_by_layer(model: ir.Model) -> Mapping[str, str]:
    """Module name by name of the convolution, from the names of weights."""
    return {
        node.name: weight.name.removesuffix(".weight")
        for node in model.graph
        if node.op_type == "Conv"
        and node.name
        and (weight := node.inputs[1]) is not None
        and weight.name
    }


def row_scales(folded: Array, rows: Array) -> Array:
    """s[k] = ⟨folded row k, row k⟩ / ‖row k‖², (K,); 1 for rows that are zero, folded or not."""
    products, squares = (folded * rows).sum(1), (rows * rows).sum(1)
    scales = np.ones(len(rows))
    np.divide(products, squares, out=scales, where=products != 0)
    return scales
