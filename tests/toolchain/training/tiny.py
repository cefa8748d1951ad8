"""A small task that a small network learns in a second."""

import torch
from torch import nn

from toolchain.training.batches import Dataset, TensorBatches


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def data(samples: int = 96, *, seed: int = 0, shuffle: bool = True) -> TensorBatches:
    """Images (N, 1, 6, 6) with a bright quarter; the class is which."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 1, 6, 6, generator=generator)
    labels = torch.randint(4, (samples,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 1
    return TensorBatches(tensors=(images, labels), size=32, shuffle=shuffle)


def dataset() -> Dataset:
    train, test = data(256), data(200, seed=1)
    return Dataset(
        train=lambda size: TensorBatches(tensors=train.tensors, size=size, shuffle=True),
        test=lambda size: TensorBatches(tensors=test.tensors, size=size),
    )
