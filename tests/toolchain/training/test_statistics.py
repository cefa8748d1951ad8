"""Statistics of BatchNorm against their definition."""

import numpy as np
import torch
from torch import nn

from toolchain.training.batches import TensorBatches
from toolchain.training.statistics import estimate_batchnorm


def test_statistics_are_means_over_the_batches() -> None:
    x = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).eval()
    estimate_batchnorm(model, TensorBatches(tensors=(x,), size=4), count=2)
    batches = x[:8].reshape(2, 4, 3, 16).transpose(1, 2).reshape(2, 3, 64)
    torch.testing.assert_close(model[0].running_mean, batches.mean(2).mean(0))
    torch.testing.assert_close(model[0].running_var, batches.var(2).mean(0))
    assert model[0].momentum == 0.1
    assert not model.training


def test_augmentation_that_draws_from_numpy_follows_from_the_seed() -> None:
    means = []
    for state in (1, 2):  # of another process
        np.random.seed(state)
        batches = TensorBatches(
            tensors=(torch.zeros(8, 3),),
            size=4,
            transform=lambda x: x + torch.from_numpy(np.random.randn(*x.shape)).float(),
        )
        model = nn.BatchNorm1d(3)
        estimate_batchnorm(model, batches, count=2)
        means.append(model.running_mean)
    assert torch.equal(*means)
