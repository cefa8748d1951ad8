"""Learning from the outputs of a larger model as well as from labels.

    L = (1 − a)·CE(z, y) + a·T²·KL(softmax(t/T) ‖ softmax(z/T))

Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
"""

import torch
from torch import Tensor, nn

from toolchain.training.objectives import Batch, Loss, model_device


def distillation_loss(teacher: nn.Module, share: float, temperature: float) -> Loss:
    """A loss for `Trainer`; batches are (inputs, class numbers).

    Args:
        teacher: gives t; set to eval mode.
        share: a, of the comparison with the teacher.
        temperature: T.
    """
    teacher.eval()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, labels = batch
        if model_device(teacher) != inputs.device:
            teacher.to(inputs.device)
        with torch.no_grad():
            target = (teacher(inputs) / temperature).log_softmax(1)
        logits = model(inputs)
        cross_entropy = nn.functional.cross_entropy(logits, labels)
        divergence = nn.functional.kl_div(
            (logits / temperature).log_softmax(1), target, reduction="batchmean", log_target=True
        )
        return (1 - share) * cross_entropy + share * temperature**2 * divergence

    return loss
