"""Multi30k, English to German, for training; see samples/README.md for the files.

The sentences are cut by sentencepiece into pieces of one vocabulary for both languages, trained on
the training sentences as they are: nothing is lower-cased, and BLEU compares raw text.
"""

import gzip
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import sacrebleu
import sentencepiece
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from samples.datasets import data_folder
from samples.networks.transformer import PAD, Transformer
from samples.torch_translator import TorchTranslator
from samples.translation import BEGIN, END, Tokenizer, translate
from toolchain.errors import UnreadableError
from toolchain.training.batches import Dataset
from toolchain.training.objectives import Batch

PIECES = 4000
SMOOTHING = 0.1
"""Share of a target that is spread over all tokens."""
EVALUATED = 100
"""Sentences decoded at once."""
Pairs: TypeAlias = tuple[list[str], list[str]]
"""English and German, sentence by sentence."""


def multi30k(source: str | None = None, pieces: int = PIECES, test: str = "val") -> Dataset:
    """29,000 sentence pairs, and 1,014 (val) or 1,000 (test_2016_flickr) to measure BLEU on.

    Args:
        source: folder that has the folder ``multi30k``.
        pieces: in the vocabulary.
        test: the files that are measured on.

    Raises:
        UnreadableError: a file is missing or damaged.
    """
    folder = data_folder(source)
    return translation_data(read_pairs(folder, "train"), read_pairs(folder, test), pieces)


def translation_data(train: Pairs, test: Pairs, pieces: int) -> Dataset:
    """Sentence pairs cut into pieces, and how a translation model is trained and measured."""
    tokenizer = train_tokenizer([*train[0], *train[1]], pieces)
    train_ids, test_ids = (
        tuple([tokenizer.encode(text) for text in side] for side in pairs)
        for pairs in (train, test)
    )

    def measure(model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        return translation_quality(model, batches, tokenizer, test)

    return Dataset(
        train=lambda size: PairBatches(sides=train_ids, size=size, shuffle=True),
        test=lambda size: PairBatches(sides=test_ids, size=min(size, EVALUATED)),
        loss=translation_loss,
        measure=measure,
        metric="bleu",
        inputs=lambda batch: (batch[0], batch[1][:, :-1]),
    )


def read_pairs(folder: Path, part: str) -> Pairs:
    """Sentences of a part of Multi30k.

    Raises:
        UnreadableError: a file is missing or damaged, or lengths differ.
    """
    english, german = (_lines(folder / "multi30k" / f"{part}.{side}.gz") for side in ("en", "de"))
    if len(english) != len(german):
        raise UnreadableError(f"{folder}: {part} has {len(english)} and {len(german)} sentences")
    return english, german


def _lines(path: Path) -> list[str]:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path}: missing or damaged: {error}") from error


def train_tokenizer(sentences: Sequence[str], pieces: int) -> Tokenizer:
    """A vocabulary by byte pair encoding; the same for the same sentences."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        character_coverage=1.0,
        pad_id=PAD,
        bos_id=BEGIN,
        eos_id=END,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return Tokenizer(model.getvalue())


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatches:
    """Batches of sentence pairs (source ids, target ids), each (N, length), filled with `PAD`.

    Sentences of similar length share a batch when shuffled; else they keep their order. Targets
    start with `BEGIN`, and both sides end with `END`.

    Attributes:
        sides: ids of source and target sentences, without `BEGIN` and `END`.
        size: sentences of a batch; the last one may be smaller.
        shuffle: draw batches anew each time.
    """

    sides: tuple[Sequence[list[int]], ...]
    size: int
    shuffle: bool = False

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.sides[0]) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one epoch."""
        sources, targets = self.sides
        order = torch.arange(len(sources))
        if self.shuffle:
            longest = [max(map(len, pair)) for pair in zip(sources, targets, strict=True)]
            order = (torch.tensor(longest) + torch.rand(len(sources))).argsort()
        batches = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        drawn = torch.randperm(len(batches)) if self.shuffle else torch.arange(len(batches))
        for chosen in (batches[number].tolist() for number in drawn.tolist()):
            yield (
                padded([[*sources[i], END] for i in chosen]),
                padded([[BEGIN, *targets[i], END] for i in chosen]),
            )


def padded(sentences: Sequence[list[int]]) -> Tensor:
    """(N, longest), the rest `PAD`."""
    rows = [torch.tensor(ids) for ids in sentences]
    return pad_sequence(rows, batch_first=True, padding_value=PAD)


def translation_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of every token of the target given those before, smoothed."""
    source, target = batch
    scores = model(source, target[:, :-1])  # (N, T, tokens)
    return nn.functional.cross_entropy(
        scores.flatten(0, 1),
        target[:, 1:].flatten(),
        ignore_index=PAD,
        label_smoothing=SMOOTHING if model.training else 0.0,
    )


def translation_quality(
    model: nn.Module, batches: Iterable[Batch], tokenizer: Tokenizer, pairs: Pairs
) -> Mapping[str, float]:
    """BLEU of greedy translations of raw text, and perplexity of the tokens."""
    assert isinstance(model, Transformer)
    english, german = pairs
    total = tokens = 0.0
    for batch in batches:
        count = float((batch[1][:, 1:] != PAD).sum())
        total += float(translation_loss(model, batch)) * count
        tokens += count
    translations = translate(TorchTranslator(model), tokenizer, english, batch=EVALUATED)
    bleu = sacrebleu.corpus_bleu(translations, [german]).score
    return {"bleu": bleu, "perplexity": float(torch.tensor(total / tokens).exp())}
