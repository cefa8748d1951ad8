"""Translation with an encoder and a decoder: greedy and beam search, in numpy.

A `Translator` runs the two; `samples.torch_translator` does so in torch, `OnnxTranslator` here in
onnxruntime.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import sentencepiece
from numpy.typing import NDArray

PAD, BEGIN, END = 0, 1, 2
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
"""Names of the two files of a model."""
EXTRA = 20
"""Tokens that a translation may have beyond 1.5 times those of its source."""

Ids: TypeAlias = NDArray[np.int64]
Array: TypeAlias = NDArray[np.float32]
State: TypeAlias = Any
"""What a decoder keeps of its sentences."""


class Translator(Protocol):
    """Runs an encoder and a decoder."""

    def start(self, source: Ids) -> State:
        """Encodes sentences (N, S), filled up with `PAD`."""
        ...

    def step(self, tokens: Ids, state: State) -> tuple[Array, State]:
        """Scores (N, tokens that may follow) of what follows the latest tokens (N,)."""
        ...

    def select(self, state: State, rows: Ids) -> State:
        """The state of some sentences, in another order, or more than once."""
        ...


class Tokenizer:
    """Sentences to ids of pieces and back.

    Args:
        model: of sentencepiece, serialised.
        order: its pieces by id, all of them; as the model has them if None.
    """

    def __init__(self, model: bytes, order: Sequence[int] | None = None) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._pieces = list(range(len(self)) if order is None else order)
        self._ids = {piece: number for number, piece in enumerate(self._pieces)}

    def __len__(self) -> int:
        """Pieces in all."""
        return int(self._processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids, without `BEGIN` and `END`."""
        return [self._ids[piece] for piece in self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text."""
        return str(self._processor.decode([self._pieces[number] for number in ids]))


def translate(
    translator: Translator,
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    batch: int = 100,
    beam: int = 1,
) -> list[str]:
    """Translations of sentences, those of similar length together."""
    ids = [[*tokenizer.encode(text), END] for text in sentences]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    results = [""] * len(ids)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        source = _padded([ids[i] for i in chosen])
        for i, tokens in zip(chosen, search(translator, source, beam), strict=True):
            results[i] = tokenizer.decode(tokens)
    return results


def search(
    translator: Translator, source: Ids, beam: int = 1, penalty: float = 1.0
) -> list[list[int]]:
    """The likeliest translation of every sentence: by beam search, or greedy with a beam of 1.

    Args:
        translator: of N sentences at once.
        source: ids, (N, S).
        beam: translations that are continued for each sentence.
        penalty: exponent of the length, see `beam_search`.
    """
    longest = int(1.5 * source.shape[1]) + EXTRA
    if beam == 1:
        texts = greedy_search(translator, source, longest)
    else:
        texts = beam_search(translator, source, longest, beam, penalty)
    return [[int(token) for token in row if token not in (END, PAD)] for row in texts]


def greedy_search(translator: Translator, source: Ids, longest: int) -> Ids:
    """The likeliest token at every step, (N, tokens); `PAD` after the end."""
    state = translator.start(source)
    latest: Ids = np.full(len(source), BEGIN)
    tokens: list[Ids] = []
    ended = np.zeros(len(source), bool)
    while not ended.all() and len(tokens) < longest:
        scores, state = translator.step(latest, state)
        best = scores[:, PAD + 1 :].argmax(axis=1) + PAD + 1
        latest = np.where(ended, PAD, best)
        tokens.append(latest)
        ended |= latest == END
    return np.stack(tokens, axis=1)


def beam_search(
    translator: Translator, source: Ids, longest: int, beam: int, penalty: float
) -> Ids:
    """The best of the translations that are left in the beam, (N, tokens).

    A translation of n tokens, its end included, scores Σ log p / n^penalty. One that has ended
    stays in the beam, followed by `PAD`, until better ones push it out.
    """
    N = len(source)
    first = np.arange(N)[:, None] * beam
    state = translator.select(translator.start(source), np.repeat(np.arange(N), beam))
    texts = np.full((N * beam, 1), BEGIN)  # the latest token last
    totals = np.full((N, beam), -np.inf)  # Σ log p
    totals[:, 0] = 0
    for _ in range(longest):
        scores, state = translator.step(texts[:, -1], state)
        ended = np.isin(texts[:, -1], (END, PAD))
        sums = totals.reshape(-1, 1) + _continuations(scores, ended)  # (N·beam, tokens)
        lengths = (texts != PAD).sum(1) - ended  # with the one to come, without BEGIN
        ranks = (sums / lengths[:, None] ** penalty).reshape(N, -1)
        picked = _best(ranks, beam)  # (N, beam)
        totals = np.take_along_axis(sums.reshape(N, -1), picked, axis=1)
        parents, tokens = np.divmod(picked, scores.shape[1])
        rows = (first + parents).reshape(-1)
        texts = np.concatenate([texts[rows], tokens.reshape(-1, 1)], axis=1)
        if np.isin(texts[:, -1], (END, PAD)).all():
            break
        state = translator.select(state, rows)
    return texts[first[:, 0], 1:]


def _best(ranks: Array, count: int) -> Ids:
    """Places of the largest in every row, the best first."""
    places = np.argpartition(-ranks, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(ranks, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def _continuations(scores: Array, ended: NDArray[np.bool_]) -> Array:
    """Log p of every next token; `PAD` is the only one, and certain, after the end."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    chances: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    chances[:, PAD] = -np.inf
    chances[ended] = -np.inf
    chances[ended, PAD] = 0
    return chances


def _padded(sentences: Sequence[list[int]]) -> Ids:
    ids = np.full((len(sentences), max(map(len, sentences))), PAD)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = sentence
    return ids
