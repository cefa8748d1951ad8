"""Batches of data that fits into memory, cut without worker processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from toolchain.training.objectives import Batch, Loss, Measure, classification_loss, top1


class Batches(Protocol):
    """One epoch of data; a `torch.utils.data.DataLoader` is one as well."""

    def __len__(self) -> int:
        """Number of batches."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Yields tuples of tensors."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorBatches:
    """Iterates over tensors of equal length, once for each ``for`` loop.

    Order and augmentation are drawn from torch's global generator, which `Trainer` seeds at the
    start of every epoch.

    Attributes:
        tensors: first axis: samples; usually inputs and labels.
        size: samples of a batch; the last one may be smaller.
        shuffle: draw a new order each time.
        transform: applied to the first tensor of each batch, e.g. to normalise or augment.
    """

    tensors: Batch
    size: int
    shuffle: bool = False
    transform: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Checks sizes.

        Raises:
            ValueError: lengths differ, there are no samples, or the size is below 1.
        """
        lengths = {len(tensor) for tensor in self.tensors}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"tensors of {sorted(lengths)} samples, expected one length above 0")
        if self.size < 1:
            raise ValueError(f"batches of {self.size} samples, expected 1 or more")

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.tensors[0]) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one epoch."""
        samples = len(self.tensors[0])
        order = torch.randperm(samples) if self.shuffle else torch.arange(samples)
        order = order.to(self.tensors[0].device)
        for start in range(0, samples, self.size):
            chosen = order[start : start + self.size]
            first, *rest = (tensor[chosen] for tensor in self.tensors)
            yield (first if self.transform is None else self.transform(first), *rest)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and test data, cut into batches of the size that is asked for.

    Attributes:
        train: batches of one epoch.
        test: batches to measure on.
        loss: what training lowers.
        measure: metrics on batches of `test`.
        metric: the one that counts.
        inputs: what of a batch the model is called with.
    """

    train: Callable[[int], Batches]
    test: Callable[[int], Batches]
    loss: Loss = classification_loss
    measure: Measure = top1
    metric: str = "top1"
    inputs: Callable[[Batch], Batch] = lambda batch: batch[:1]


def random_shift(images: Tensor, most: int, outside: float = 0.0) -> Tensor:
    """Shifts each image by up to `most` pixels in each direction.

    Args:
        images: (N, C, H, W).
        most: pixels.
        outside: what comes in from there.
    """
    y, x = _shifted(images, most)
    return _gathered(images, y, x, most, outside)


def random_crop_and_flip(images: Tensor, padding: int = 4) -> Tensor:
    """The usual augmentation for CIFAR: shifts by up to `padding` pixels, mirrors half of them.

    Args:
        images: (N, C, H, W); what comes in from outside is 0.
        padding: largest shift in each direction.
    """
    y, x = _shifted(images, padding)
    mirrored = torch.rand(len(images), 1) < 0.5
    return _gathered(images, y, torch.where(mirrored, x.flip(1), x), padding, 0.0)


def _shifted(images: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Rows (N, H) and columns (N, W) of the padded images that shifted ones show."""
    N, _, H, W = images.shape
    top, left = torch.randint(2 * most + 1, (2, N, 1), device="cpu")
    return top + torch.arange(H), left + torch.arange(W)


def _gathered(images: Tensor, y: Tensor, x: Tensor, padding: int, outside: float) -> Tensor:
    """Rows y (N, H) and columns x (N, W) of each padded image, (N, C, H, W)."""
    padded = nn.functional.pad(images, (padding,) * 4, value=outside)
    n = torch.arange(len(images))[:, None, None]
    index = tuple(each.to(images.device) for each in (n, y[:, :, None], x[:, None, :]))
    return padded.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)  # (N, C, H, W)
