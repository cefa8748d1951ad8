"""What a model is trained for and measured by; classification, where nothing else is said."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]
"""The mean loss of a batch, a scalar."""
Measure = Callable[[nn.Module, Iterable[Batch]], Mapping[str, float]]
"""Metrics by name, of a model in eval mode without gradients."""


def classification_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of (inputs, class numbers)."""
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels)


def top1(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """``{"top1": percent}`` of (inputs, class numbers), on the device of the model."""
    device = model_device(model)
    right = total = 0
    for inputs, labels in batches:
        scores: Tensor = model(inputs.to(device))
        right += int((scores.argmax(1) == labels.to(device)).sum())
        total += len(labels)
    return {"top1": 100 * right / total}


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as numbers of Python, also those of numpy and tensors: files can hold them."""
    return {name: float(value) for name, value in metrics.items()}


def model_device(model: nn.Module) -> torch.device:
    """Where the parameters are, or else the buffers; the CPU for a model without any."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
