"""The vocabulary of a translation that runs: pieces of the target first, and the only ones scored.

Both languages share the pieces, but many never stand in the target language. Scoring all of them is
a good part of the time for a token, more so the smaller the rest of the decoder.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from samples.networks.transformer import Transformer
from samples.translation import BEGIN, END, PAD, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Pieces in another order.

    Attributes:
        order: all pieces by their new ids.
        targets: how many of the first may be in a translation.
    """

    order: tuple[int, ...]
    targets: int


def targets_first(tokenizer: Tokenizer, sentences: Iterable[str]) -> Vocabulary:
    """Pieces that sentences of the target language have come first, in the order they had."""
    found = {PAD, BEGIN, END}.union(*(tokenizer.encode(text) for text in sentences))
    order = sorted(range(len(tokenizer)), key=lambda piece: (piece not in found, piece))
    return Vocabulary(order=tuple(order), targets=len(found))


def with_vocabulary(model: Transformer, vocabulary: Vocabulary) -> Transformer:
    """A copy of the model for the new ids; it embeds and scores targets only."""
    changed = copy.deepcopy(model)
    changed.source_embedding = _rows(model.source_embedding, vocabulary.order)
    targets = vocabulary.order[: vocabulary.targets]
    changed.target_embedding = _rows(model.target_embedding, targets)
    return changed


def _rows(table: nn.Embedding, rows: Sequence[int]) -> nn.Embedding:
    weight = table.weight.detach()[list(rows)]
    return nn.Embedding(len(rows), table.embedding_dim, PAD, _weight=weight)
