"""PENNI from where its pass ends: factors that were fitted to data, to be trained on.

The pass folds batch norms into the weights; here they remain layers of their own, so coefficients
of row k are divided by s[k] (see `folding`), and the statistics of batch norms have to be estimated
anew afterwards (see `statistics`).
"""

import torch
from torch import Tensor, nn

from passes.cleanup import prepare
from passes.conv import ConvLayer
from passes.cost import layer_name
from passes.framework import ConfigError, Context, Plan, Progress
from passes.penni import PenniPass, readable_convs
from passes.penni_config import PenniConfig
from runtimes.operators.decomposed_conv import DecomposedWeights, is_decomposed_conv, read_weights
from toolchain.layerwise import ArrayCalibration
from toolchain.training.decomposed_conv import DecomposedConv2d
from toolchain.training.export import INPUT, dense_onnx
from toolchain.training.folding import modules_by_layer, unfolded_scales
from toolchain.training.modules import replace_module

BATCH = 32


def decompose_by_pass(
    model: nn.Module,
    config: PenniConfig,
    images: Tensor,
    progress: Progress = lambda done, total, label: None,
) -> Plan:
    """Replaces convolutions in place by what ``optc transform --pass penni --calib`` makes of them.

    Args:
        model: of one input; changed in place.
        config: of the pass.
        images: (N, C, H, W) to fit the factors with; labels are not needed.
        progress: called as layers are fitted.

    Returns:
        The plan, with a decision for every convolution.

    Raises:
        ConfigError: the options cannot be met, or no convolution is decomposed.
    """
    graph = prepare(dense_onnx(model, images[:2]))
    dense = {layer.name: layer for layer in readable_convs(graph)}
    modules = modules_by_layer(model, graph)
    feeds = [{INPUT: part.cpu().numpy()} for part in torch.split(images, BATCH)]
    step = PenniPass(config, Context(calibration=ArrayCalibration(feeds), progress=progress))
    plan = step.analyse(graph)
    if not plan.applied:
        reasons = "; ".join(f"{each.layer}: {each.reason}" for each in plan.layers)
        raise ConfigError(f"nothing to decompose: {reasons or 'the model has no convolutions'}")
    plan = step.apply(graph, plan)
    for node in graph.graph:
        if is_decomposed_conv(node):
            layer = dense[layer_name(node)]
            if layer.name not in modules:
                raise ConfigError(f"layer '{layer.name}': its weight is none of the torch model")
            _take(model, modules[layer.name], layer, read_weights(node))
    return plan


def _take(model: nn.Module, name: str, dense: ConvLayer, factors: DecomposedWeights) -> None:
    """Puts factors of the folded layer in the place of the module."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    scale = unfolded_scales(conv, dense.weight, factors.bias)  # (K,)
    basis = torch.tensor(factors.basis)  # (M, R, S)
    coefficients = torch.tensor(factors.coefficients / scale[:, None, None])  # (K, C, M)
    replace_module(model, name, DecomposedConv2d(conv, basis, coefficients))
