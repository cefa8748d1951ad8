"""Learning from the outputs of a larger model as well as from labels.

    L = (1 − a)·CE(z, y) + a·T²·KL(softmax(t/T) ‖ softmax(z/T))

Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.

A trained model is so sure of the images it was trained on that its outputs say little more than
their labels. Of mixed images they say more (Beyer et al., "Knowledge distillation: a good teacher
is patient and consistent", CVPR 2022, section 3).
"""

import torch
from torch import Tensor, nn

from toolchain.training.objectives import Batch, Loss, model_device


def distillation_loss(
    teacher: nn.Module, share: float, temperature: float, mixup: float = 0.0
) -> Loss:
    """A loss for `Trainer`; batches are (inputs, class numbers).

    Args:
        teacher: gives t; set to eval mode.
        share: a, of the comparison with the teacher.
        temperature: T.
        mixup: α of `mixed`, which both models are called with; 0 leaves inputs as they are.
    """
    teacher.eval()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, labels = batch
        if model_device(teacher) != inputs.device:
            teacher.to(inputs.device)
        inputs, order, first = mixed(inputs, mixup)
        with torch.no_grad():
            target = (teacher(inputs).float() / temperature).log_softmax(1)
        logits = model(inputs).float()  # on CPUs autocast leaves log_softmax in bfloat16
        own = nn.functional.cross_entropy(logits, labels, reduction="none")  # (N)
        other = nn.functional.cross_entropy(logits, labels[order], reduction="none")
        cross_entropy = torch.lerp(other, own, first.to(own)).mean()
        divergence = nn.functional.kl_div(
            (logits / temperature).log_softmax(1), target, reduction="batchmean", log_target=True
        )
        return (1 - share) * cross_entropy + share * temperature**2 * divergence

    return loss


def mixed(inputs: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mixes each sample with another one of the batch.

        x̃ = λ·x + (1 − λ)·x',  λ ~ Beta(α, α)

    Source: Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018, with a λ of its
    own for every sample, which keeps the statistics of batches alike.

    Args:
        inputs: (N, ...).
        alpha: 1 draws λ evenly; 0 leaves samples as they are, and draws nothing.

    Returns:
        Mixed samples, the number (N) of each one's x', and λ (N).
    """
    samples = len(inputs)
    if not alpha:
        every = torch.arange(samples, device=inputs.device)
        return inputs, every, torch.ones(samples, device=inputs.device)
    order = torch.randperm(samples).to(inputs.device)
    first = torch.distributions.Beta(alpha, alpha).sample((samples,)).to(inputs)
    shares = first.view(-1, *[1] * (inputs.ndim - 1))  # (N, 1, ...)
    return torch.lerp(inputs[order], inputs, shares), order, first
