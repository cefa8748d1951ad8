"""Seeds of the global generators that training, augmentation and data of users draw from."""

import random

import numpy as np
import torch

NUMPY_SEEDS = 2**32


def seed_generators(seed: int) -> None:
    """Seeds torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % NUMPY_SEEDS)
    random.seed(seed)


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of one epoch of a run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
