"""Between a torch model and its exported graph, in which batch norms are folded into weights.

Row k of a folded weight is s[k]·W[k].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


def modules_by_layer(model: nn.Module, graph: ir.Model) -> Mapping[str, str]:
    """Names of Conv2d and Linear modules by those of the nodes that use their weights."""
    named = {
        f"{name}.weight": name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    return {
        node.name or "": named[value.name or ""]
        for node in graph.graph
        for value in node.inputs
        if value is not None and value.name in named
    }


def unfolded_scales(
    module: nn.Conv2d | nn.Linear, folded: NDArray[Any], bias: NDArray[Any] | None
) -> Array:
    """s, (K,), from the folded weight of a module.

    Where nothing was folded, the module takes over the bias that belongs to its new weight.
    """
    rows = module.weight.detach().cpu().double().numpy().reshape(len(folded), -1)
    scales = row_scales(folded.reshape(rows.shape).astype(np.float64), rows)
    if bias is not None and module.bias is not None and np.allclose(scales, 1):
        with torch.no_grad():
            module.bias.copy_(torch.from_numpy(bias))
    return scales


def row_scales(folded: Array, rows: Array) -> Array:
    """s[k] = ⟨folded row k, row k⟩ / ‖row k‖², (K,); 1 for rows that are zero, folded or not."""
    products, squares = (folded * rows).sum(1), (rows * rows).sum(1)
    scales = np.ones(len(rows))
    np.divide(products, squares, out=scales, where=products != 0)
    return scales
