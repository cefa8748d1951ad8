"""MNIST and CIFAR-10 in memory, for training; see samples/README.md for the files.

Each function takes the folder of the data, or finds it in the environment variable OPTC_DATA.
"""

import lzma
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samples.make_data import (
    MEAN,
    SHEET_IMAGES,
    STD,
    TRAIN_SHEETS,
    Images,
    cifar_folder,
    read_full_sheet,
    read_labels,
)
from toolchain.errors import UnreadableError
from toolchain.training.batches import (
    Dataset,
    TensorBatches,
    random_crop_and_flip,
    random_shift,
)

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


def mnist(source: str | None = None, shift: int = 0) -> Dataset:
    """60,000 and 10,000 images (N, 1, 28, 28), normalised.

    Args:
        source: folder of the files.
        shift: training images are moved by up to so many pixels in each direction.

    Raises:
        UnreadableError: a file is missing or damaged.
    """
    folder = data_folder(source) / "mnist"
    train, test = (_read_mnist(folder, part) for part in ("train", "test"))
    background = -MNIST_MEAN / MNIST_STD

    def moved(images: Tensor) -> Tensor:
        return random_shift(images, shift, outside=background) if shift else images

    return Dataset(
        train=lambda size: TensorBatches(tensors=train, size=size, shuffle=True, transform=moved),
        test=lambda size: TensorBatches(tensors=test, size=size),
    )


def cifar10(source: str | None = None, images: int = TRAIN_SHEETS * SHEET_IMAGES) -> Dataset:
    """Images (N, 3, 32, 32), normalised; training images are shifted and mirrored.

    Args:
        source: folder of the sheets.
        images: use only the first so many training images.

    Raises:
        UnreadableError: a file is missing or damaged.
    """
    folder = cifar_folder(data_folder(source))
    sheets = range(-(-images // SHEET_IMAGES))
    pixels = np.concatenate([read_full_sheet(folder / f"train_{k}.avif") for k in sheets])[:images]
    labels = read_labels(folder / "train_labels.npy", TRAIN_SHEETS * SHEET_IMAGES)[:images]
    test = read_full_sheet(folder / "test.webp")
    test_labels = read_labels(folder / "test_labels.npy", len(test))
    train_tensors = (_channels_first(pixels), torch.from_numpy(labels))
    test_tensors = (_channels_first(test), torch.from_numpy(test_labels))
    return Dataset(
        train=lambda size: TensorBatches(
            tensors=train_tensors,
            size=size,
            shuffle=True,
            transform=lambda batch: _normalise(random_crop_and_flip(batch)),
        ),
        test=lambda size: TensorBatches(tensors=test_tensors, size=size, transform=_normalise),
    )


def data_folder(source: str | None) -> Path:
    """The folder named, or that of OPTC_DATA.

    Raises:
        UnreadableError: neither is given.
    """
    named = source or os.environ.get("OPTC_DATA")
    if not named:
        raise UnreadableError("no data: give 'source', or set OPTC_DATA to the folder of the data")
    return Path(named)


def _read_mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    path = folder / f"{part}.npy.xz"
    try:
        with lzma.open(path) as stream:
            pixels = np.load(stream)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise UnreadableError(f"{path}: missing or damaged: {error}") from error
    labels = read_labels(folder / f"{part}_labels.npy", len(pixels))
    images = (torch.from_numpy(pixels).float() / 255 - MNIST_MEAN) / MNIST_STD
    return images.unsqueeze(1), torch.from_numpy(labels)


def _channels_first(pixels: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _normalise(pixels: Tensor) -> Tensor:
    """Bytes (N, 3, H, W) as `samples.make_data.normalise` has them."""
    mean, std = (torch.from_numpy(each)[:, None, None] for each in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std
