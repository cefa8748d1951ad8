"""A compact encoder-decoder Transformer (Vaswani et al., 2017), pre-norm, for short sentences.

Every projection is a linear layer of its own, so that each line of its weight is a line of the
exported graph; the embedding of the decoder is its output layer as well. What attention reads is
made by `Attention.keys_values`, apart from what asks: a decoder that runs token by token keeps keys
and values, and makes those of the source once (see `Transformer.encode` and `Transformer.step`).
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.training.checkpoint import load_state

PAD = 0
"""Token that fills up shorter sentences."""
LONGEST = 256
"""Tokens that have a position."""

Cache = tuple[Tensor, Tensor]
"""Keys and values, each (N, heads, T, width / heads)."""


class Attention(nn.Module):
    """Multi-head attention with separate projections.

    Takes tokens (N, T, width), or one token of each sentence, (N, width): with fewer axes there is
    less to transpose, and biases are part of the products.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.heads, self.scale = heads, (width // heads) ** -0.5

    def keys_values(self, x: Tensor) -> Cache:
        """Tokens → keys and values, each (N, heads, T, width / heads)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, cache: Cache, mask: Tensor | None) -> Tensor:
        """softmax(Q·Kᵀ / √(width / heads) + mask)·V, joined and projected.

        Args:
            x: tokens that ask.
            cache: what is read, of S tokens.
            mask: added to the scores, broadcasts to (N, heads, T, S).
        """
        keys, values = cache
        scores = self._split(self.query(x)) @ keys.transpose(2, 3) * self.scale  # (N, heads, T, S)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        mixed: Tensor = self.output(self._join(weights @ values, x))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        """Tokens → (N, heads, T, width / heads)."""
        d = x.shape[-1] // self.heads
        if x.ndim == 2:
            return x.reshape(-1, self.heads, 1, d)
        return x.reshape(*x.shape[:2], self.heads, d).transpose(1, 2)

    def _join(self, x: Tensor, like: Tensor) -> Tensor:
        """(N, heads, T, width / heads) → tokens with the axes of others."""
        return x.flatten(1) if like.ndim == 2 else x.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) → (N, T, width)."""
        y: Tensor = self.second(self.first(x).relu())
        return y


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each x + f(norm(x))."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, inner)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, S, width) → (N, S, width)."""
        y = self.norm1(x)
        x = x + self.dropout(self.attention(y, self.attention.keys_values(y), mask))
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source, and feed-forward."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads)
        self.feed_forward = FeedForward(width, inner)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        past: Cache | None,
        source: Cache,
        causal: Tensor | None,
        padding: Tensor,
    ) -> tuple[Tensor, Cache]:
        """One layer for T more tokens.

        Args:
            x: (N, T, width), or (N, width) for one.
            past: keys and values of the tokens before.
            source: those of the source sentence.
            causal: added to the scores of self-attention.
            padding: added to the scores of the source.

        Returns:
            The result, of the shape of x, and keys and values with those of the new tokens.
        """
        y = self.norm1(x)
        keys, values = self.attention.keys_values(y)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        x = x + self.dropout(self.attention(y, (keys, values), causal))
        x = x + self.dropout(self.cross(self.norm2(x), source, padding))
        x = x + self.dropout(self.feed_forward(self.norm3(x)))
        return x, (keys, values)


class Transformer(nn.Module):
    """Token ids to scores of the next token.

    Args:
        tokens: in the vocabulary that both languages share.
        width: of the residual stream.
        heads: of every attention.
        inner: neurons of every feed-forward layer.
        encoders: layers of the encoder.
        decoders: layers of the decoder.
        dropout: share of what joins the residual stream that is dropped while training.
    """

    def __init__(
        self,
        tokens: int,
        width: int = 256,
        heads: int = 4,
        inner: int = 1024,
        encoders: int = 3,
        decoders: int = 3,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        sizes = (width, heads, inner, dropout)
        self.heads, self.head_width = heads, width // heads
        self.source_embedding = nn.Embedding(tokens, width, PAD)
        self.target_embedding = nn.Embedding(tokens, width, PAD)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(encoders))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(decoders))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("positions", sinusoids(LONGEST, width), persistent=False)
        self.positions: Tensor
        self._initialise()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores of the token after each one of the target, all at once.

        Args:
            source: ids, (N, S), filled up with `PAD`.
            target: ids of the tokens before, (N, T).

        Returns:
            (N, T, tokens).
        """
        T = target.shape[1]
        causal = torch.full((T, T), -math.inf, device=target.device).triu(1)
        x = self._embed(self.target_embedding, target, 0)
        padding = padding_mask(source)
        for layer, cache in zip(self.decoder, self.encode(source), strict=True):
            x, _ = layer(x, None, cache, causal, padding)
        return self._scores(x)

    def encode(self, source: Tensor) -> list[Cache]:
        """Keys and values of the source sentence for every layer of the decoder."""
        x = self._embed(self.source_embedding, source, 0)
        padding = padding_mask(source)
        for layer in self.encoder:
            x = layer(x, padding)
        memory = self.encoder_norm(x)
        layers = cast(Iterable[DecoderLayer], self.decoder)
        return [layer.cross.keys_values(memory) for layer in layers]

    def step(
        self, token: Tensor, padding: Tensor, sources: list[Cache], pasts: list[Cache]
    ) -> tuple[Tensor, list[Cache]]:
        """Scores of the token after the one given.

        Args:
            token: the latest of each sentence, (N, 1).
            padding: `padding_mask` of the source.
            sources: what `encode` gives.
            pasts: what the step before gives; no tokens at the start.

        Returns:
            (N, tokens), and keys and values with those of the token.
        """
        x = self._embed(self.target_embedding, token, pasts[0][0].shape[2])[:, 0]  # (N, width)
        caches = []
        for layer, source, past in zip(self.decoder, sources, pasts, strict=True):
            x, cache = layer(x, past, source, None, padding)
            caches.append(cache)
        return self._scores(x), caches

    def _embed(self, table: nn.Embedding, ids: Tensor, start: int) -> Tensor:
        x = table(ids) * table.embedding_dim**0.5
        placed: Tensor = self.dropout(x + self.positions[start : start + ids.shape[1]])
        return placed

    def _scores(self, x: Tensor) -> Tensor:
        return functional.linear(self.decoder_norm(x), self.target_embedding.weight)

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("embedding.weight"):
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
                parameter.data[PAD] = 0
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


def pretrained(weights: str, **sizes: Any) -> Transformer:
    """A `Transformer` with the parameters in a checkpoint of `optc train`.

    Raises:
        UnreadableError: the file is missing or damaged.
    """
    model = Transformer(**sizes)
    model.load_state_dict(load_state(Path(weights))["model"])
    return model


def padding_mask(source: Tensor) -> Tensor:
    """What is added to scores of source tokens, (N, 1, 1, S): −∞ where ids are `PAD`."""
    return torch.where(source == PAD, -math.inf, 0.0)[:, None, None, :]


def sinusoids(length: int, width: int) -> Tensor:
    """Sin and cos of position · 10000^(−2i / width), (length, width)."""
    rates = 10000 ** (-torch.arange(0, width, 2) / width)  # (width / 2,)
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
