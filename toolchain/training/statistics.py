"""BatchNorm statistics of a network whose weights were changed otherwise than by training."""

from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from toolchain.training.batches import Batches
from toolchain.training.objectives import model_device
from toolchain.training.seeds import seed_generators


def estimate_batchnorm(model: nn.Module, batches: Batches, count: int, seed: int = 0) -> None:
    """Replaces running means and variances by the average over some batches in training mode.

    Args:
        model: changed in place; its mode stays.
        batches: inputs come first.
        count: number of batches.
        seed: of order and augmentation.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta, training = [layer.momentum for layer in layers], model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # an average in which all batches count the same
    seed_generators(seed)
    model.train()
    device = model_device(model)
    with torch.no_grad():
        for inputs, *_ in islice(batches, count):
            model(inputs.to(device))
    model.train(training)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
