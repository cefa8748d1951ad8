"""A `Transformer` as the two modules that its ONNX files are made of.

The encoder file projects the source to the keys and values of every decoder layer, once for a
sentence; the decoder file makes one token, and hands on its keys and values. Both files name them
alike:

    encoder   source                                → mask, cross.L.key, cross.L.value
    decoder   token, mask, cross.L.*, past.L.*      → scores, present.L.key, present.L.value

for every decoder layer L. Keys and values are (N, heads, length, width of a head). `past` is what
the step before gave as `present`, and has length 0 at the start. Pruning changes the last axis:
keys and values may have different widths, and other ones in each layer, but a cross input of the
decoder has the width of the encoder's output of that name, and `past` that of `present`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from samples.networks.transformer import Cache, Transformer, padding_mask
from samples.translation import DECODER, ENCODER
from toolchain.model_io import save_model
from toolchain.torch_export import InputShape, export


class EncoderFile(nn.Module):
    """What runs once for a sentence."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        """Ids (N, S) → mask (N, 1, 1, S), then keys and values (N, heads, S, d) of every layer."""
        return (padding_mask(source), *_flat(self.model.encode(source)))


class DecoderFile(nn.Module):
    """What runs once for a token."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, mask: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Scores (N, tokens), and the keys and values with those of the token.

        Args:
            token: ids, (N, 1).
            mask: of the encoder.
            caches: keys and values of the source, then of the tokens before.
        """
        half = len(caches) // 2
        sources, pasts = _pairs(caches[:half]), _pairs(caches[half:])
        scores, presents = self.model.step(token, mask, sources, pasts)
        return (scores, *_flat(presents))


def cache_names(kind: str, layers: int) -> list[str]:
    """``["past.0.key", "past.0.value", …]``."""
    return [f"{kind}.{layer}.{what}" for layer in range(layers) for what in ("key", "value")]


def export_translation(model: Transformer, folder: Path) -> None:
    """Writes ``encoder.onnx`` and ``decoder.onnx``.

    Raises:
        UsageError: the folder cannot be written.
    """
    layers = len(model.decoder)
    source = InputShape(name="source", sizes=("S",), dtype=torch.int64)
    token = InputShape(name="token", sizes=(1,), dtype=torch.int64)
    mask = InputShape(name="mask", sizes=(1, 1, "S"))
    caches = [
        InputShape(name=name, sizes=(model.heads, length, model.head_width))
        for kind, length in (("cross", "S"), ("past", "P"))
        for name in cache_names(kind, layers)
    ]
    model.eval()
    encoder = export(EncoderFile(model), [source], ["mask", *cache_names("cross", layers)])
    decoder = export(
        DecoderFile(model), [token, mask, *caches], ["scores", *cache_names("present", layers)]
    )
    save_model(encoder, folder / ENCODER)
    save_model(decoder, folder / DECODER)


def _flat(caches: Sequence[Cache]) -> list[Tensor]:
    return [tensor for cache in caches for tensor in cache]


def _pairs(tensors: Sequence[Tensor]) -> list[Cache]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
