"""A small vision Transformer for images (N, 1, 28, 28) of MNIST; Dosovitskiy et al., 2021."""

import torch
from torch import Tensor, nn

PATCH = 7
TOKENS = (28 // PATCH) ** 2


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and beside an identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) → the same."""
        normed = self.norm1(x)
        q, k, v = (self._split(layer(normed)) for layer in (self.query, self.key, self.value))
        scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)  # (N, heads, T, T)
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(torch.relu(self.up(self.norm2(x))))
        return y

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, width) → (N, heads, T, width / heads)."""
        return _cut(x, 2, x.shape[2] // self.heads).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Patches of 7×7 as tokens, blocks, and the mean of all tokens as features."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, width)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) → logits (N, 10)."""
        patches = _cut(_cut(x, 3, PATCH), 2, PATCH)  # (N, 1, 4, 7, 4, 7)
        tokens = patches.transpose(3, 4).flatten(4).flatten(1, 3)  # (N, T, 49)
        y = self.blocks(self.embed(tokens) + self.positions)
        logits: Tensor = self.linear(self.norm(y).mean(1))
        return logits


def _cut(x: Tensor, axis: int, size: int) -> Tensor:
    """Splits an axis into parts of a size."""
    parts: Tensor = x.unflatten(axis, (-1, size))  # type: ignore[no-untyped-call]
    return parts
