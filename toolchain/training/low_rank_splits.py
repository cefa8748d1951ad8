"""Takes splits of the pass `svd` over to the torch model that was exported, to fine-tune them.

The pass folds batch norms into the weights; here they remain layers of their own, so rows of the
split weight are divided by s[k] (see `folding`), and the statistics of batch norms have to be
estimated anew afterwards (see `statistics`).
"""

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from passes.cleanup import prepare
from passes.framework import ConfigError
from passes.linear import LinearLayer, read_layers
from passes.mathematics import separable
from runtimes.external_data import read_array
from toolchain.training.folding import modules_by_layer, unfolded_scales
from toolchain.training.low_rank import Form, LowRank
from toolchain.training.modules import replace_module

Array = NDArray[np.float64]
FIRST, SECOND, BIAS = ".svd.first", ".svd.second", ".svd.bias"


def take_splits(model: nn.Module, exported: ir.Model, split: ir.Model) -> nn.Module:
    """Replaces Conv2d and Linear by factored layers with the ranks and weights of a split file.

    Layers that were not split stay.

    Args:
        model: changed in place.
        exported: the model as ONNX; weights have the names of the model's parameters.
        split: what the pass `svd` has made of it.

    Returns:
        The model.

    Raises:
        ConfigError: a split layer has no weight of the model.
    """
    modules = modules_by_layer(model, exported)
    layers = {layer.name: layer for layer in read_layers(prepare(exported.clone()))[0]}
    stored = {
        name: read_array(value.const_value)
        for name, value in split.graph.initializers.items()
        if value.const_value is not None and ".svd." in name
    }
    for layer in (name.removesuffix(FIRST) for name in stored if name.endswith(FIRST)):
        if layer not in modules:
            raise ConfigError(f"split layer '{layer}': its weight is none of the torch model")
        first, second = stored[layer + FIRST], stored[layer + SECOND]
        _take(model, modules[layer], layers[layer], (first, second), stored.get(layer + BIAS))
    return model


def _take(
    model: nn.Module,
    name: str,
    dense: LinearLayer,
    factors: tuple[Array, Array],
    bias: Array | None,
) -> None:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    scale = unfolded_scales(module, dense.read(), bias)  # (K,)
    U, V, form = _read(*factors)
    rows = separable.product(U, V) / scale[:, None]  # (K, D)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(rows.reshape(module.weight.shape)))
    low_rank = LowRank(module, form)
    low_rank.keep(torch.arange(len(V)))
    replace_module(model, name, low_rank)


def _read(first: Array, second: Array) -> tuple[Array, Array, Form]:
    """U (K, r, S), V (r, ·) and their form from the layouts of `passes.split.store`."""
    if first.ndim == 2:
        return second.T[:, :, None], first.T, "channel"
    U = second[:, :, 0]  # (K, r, S); S = 1 in the channel form
    return U, first.reshape(len(first), -1), "channel" if U.shape[2] == 1 else "spatial"
