"""Translation, from training to a pruned encoder and decoder, on sentences made up here."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("sentencepiece", "sacrebleu"):
    pytest.importorskip(package, reason="translation needs optc[samples]")

import onnx_ir as ir  # noqa: E402

from samples.multi30k import multi30k, train_tokenizer, translation_data  # noqa: E402
from samples.networks.transformer import PAD, Transformer, padding_mask  # noqa: E402
from samples.networks.translation_files import export_translation  # noqa: E402
from samples.networks.vocabulary import targets_first, with_vocabulary  # noqa: E402
from samples.onnx_translator import OnnxTranslator  # noqa: E402
from samples.torch_translator import TorchTranslator  # noqa: E402
from samples.translation import BEGIN, END, Tokenizer, search, translate  # noqa: E402
from toolchain.cli import run as optc  # noqa: E402
from toolchain.errors import UnreadableError  # noqa: E402
from toolchain.training.line_pruning import (  # noqa: E402
    LinePenalty,
    LinePruneConfig,
)
from toolchain.training.line_stages import PruneLinesStage  # noqa: E402
from toolchain.training.run import Run  # noqa: E402
from toolchain.training.stages import TrainStage, run_stages  # noqa: E402
from toolchain.training.train_config import TrainConfig  # noqa: E402

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf"}
PIECES = 45


def pairs(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Number words, translated one by one."""
    draw = random.Random(seed)
    english = [draw.choices(list(WORDS), k=draw.randint(1, 5)) for _ in range(count)]
    german = [[WORDS[word] for word in sentence] for sentence in english]
    return [" ".join(each) for each in english], [" ".join(each) for each in german]


@pytest.fixture(scope="module")
def data():
    return translation_data(pairs(400, 0), pairs(40, 1), PIECES)


@pytest.fixture(scope="module")
def trained(data):
    """A dense model that can translate, then one with lines pruned and the rest tuned."""
    torch.manual_seed(0)
    model = Transformer(PIECES, width=32, heads=4, inner=64, encoders=1, decoders=2, dropout=0.0)
    config = TrainConfig(epochs=25, optimizer="adam", lr=5e-3, warmup=0.1, evaluate_every=99)
    short = dataclasses.replace(config, epochs=5, lr=2e-3)
    shs = LinePenalty(regularizer="hoyer-square", strength=3e-3)
    stages = [
        TrainStage(config=config, batch=20),
        TrainStage(config=short, batch=20, lines=(shs,)),
        PruneLinesStage(config=LinePruneConfig(params=0.5, multiple=2)),
        TrainStage(config=short, batch=20),
    ]
    outcome = run_stages(Run(model=model, data=data), stages)
    return model, outcome


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the files as exported, with lines of zeros, and without these lines."""
    model, _ = trained
    masked = tmp_path_factory.mktemp("masked")
    small = tmp_path_factory.mktemp("small")
    export_translation(model, masked)
    parts = [str(masked / name) for name in ("encoder.onnx", "decoder.onnx")]
    joined, pruned = (str(small / name) for name in ("joined.onnx", "pruned.onnx"))
    assert optc(["join", *parts, "--carry", "present=past", "-o", joined]) == 0
    assert optc(["transform", joined, "--pass", "tprune:threshold=0,multiple=1", "-o", pruned]) == 0
    names = [str(small / name) for name in ("encoder.onnx", "decoder.onnx")]
    assert optc(["split", pruned, *names]) == 0
    return masked, small


def test_a_pruned_model_still_translates(trained) -> None:
    dense, _, pruned, tuned = trained[1].stages
    assert dense["bleu"] > 80
    assert tuned["bleu"] > max(0.8 * dense["bleu"], pruned["bleu"] + 20)


def test_steps_give_the_scores_of_the_whole_sentence(trained, data) -> None:
    model, _ = trained
    source, target = next(iter(data.test(8)))
    model.eval()
    with torch.no_grad():
        whole = model(source, target[:, :-1])
        sources = model.encode(source)
        pasts = [(keys[:, :, :0], values[:, :, :0]) for keys, values in sources]
        for t in range(target.shape[1] - 1):
            token = target[:, t : t + 1]
            scores, pasts = model.step(token, padding_mask(source), sources, pasts)
            torch.testing.assert_close(scores, whole[:, t], atol=1e-4, rtol=1e-4)


def step_scores(translator, source, tokens) -> np.ndarray:
    state, steps = translator.start(source), []
    for latest in tokens:
        scores, state = translator.step(latest, state)
        steps.append(scores)
    return np.stack(steps)


@pytest.mark.parametrize("which", [0, 1], ids=["exported", "compacted"])
def test_files_do_what_torch_does(trained, files, data, which) -> None:
    """Zeroed in torch and taken out of the files: the same scores at every step."""
    source = next(iter(data.test(7)))[0].numpy()
    tokens = np.random.default_rng(0).integers(3, PIECES, (9, len(source)))
    ours = OnnxTranslator(files[which])
    theirs = TorchTranslator(trained[0])
    expected = step_scores(theirs, source, tokens)
    difference = np.abs(step_scores(ours, source, tokens) - expected).max()
    assert difference < 1e-5 * np.abs(expected).max()
    for beam in (1, 4):
        assert search(ours, source, beam) == search(theirs, source, beam)


def test_targets_come_first_and_translations_stay(trained, data) -> None:
    english, german = pairs(400, 0)
    tokenizer = train_tokenizer([*english, *german], PIECES)
    vocabulary = targets_first(tokenizer, german)
    assert vocabulary.order[:3] == (PAD, BEGIN, END) and 8 < vocabulary.targets < PIECES
    ordered = Tokenizer(tokenizer.model, vocabulary.order)
    assert max(max(ordered.encode(text)) for text in german) < vocabulary.targets
    model, sentences = trained[0].eval(), pairs(20, 2)[0]
    small = with_vocabulary(model, vocabulary)
    assert len(small.target_embedding.weight) == vocabulary.targets
    found = translate(TorchTranslator(small), ordered, sentences)
    assert found == translate(TorchTranslator(model), tokenizer, sentences)


def test_both_files_lose_the_same_lines(files) -> None:
    masked, small = (
        [ir.load(folder / name).graph for name in ("encoder.onnx", "decoder.onnx")]
        for folder in files
    )
    widths = [
        {
            value.name: value.shape[3]
            for graph in graphs
            for value in (*graph.inputs, *graph.outputs)
            if value.name.startswith(("cross", "past", "present"))
        }
        for graphs in (masked, small)
    ]
    assert set(widths[0]) == set(widths[1])
    assert sum(widths[1].values()) < sum(widths[0].values())
    encoder, decoder = small
    given = {value.name: value.shape for value in encoder.outputs}
    for value in decoder.inputs:
        if value.name.startswith("cross"):
            assert value.shape == given[value.name]
        if value.name.startswith("past"):
            layer = value.name.removeprefix("past")
            [present] = [v for v in decoder.outputs if v.name == f"present{layer}"]
            assert (value.shape[1], value.shape[3]) == (present.shape[1], present.shape[3])


class Scripted:
    """Scores from a table of what may follow; two ways to say the same."""

    def __init__(self) -> None:
        self.follows = {
            BEGIN: {4: 0.6, 5: 0.4},
            4: {6: 0.5, 7: 0.5},
            5: {7: 1.0},
            6: {END: 1.0},
            7: {END: 1.0},
        }

    def start(self, source):
        return source

    def step(self, tokens, state):
        chances = np.full((len(tokens), 8), 1e-9, np.float32)
        for row, token in enumerate(tokens):
            for following, chance in self.follows.get(int(token), {}).items():
                chances[row, following] = chance
        return np.log(chances), state

    def select(self, state, rows):
        return state[rows]


def test_a_beam_finds_what_greedy_search_misses() -> None:
    source = np.full((2, 3), 3)
    assert search(Scripted(), source, beam=1) == [[4, 6]] * 2  # 0.6 · 0.5
    assert search(Scripted(), source, beam=3) == [[5, 7]] * 2  # 0.4 · 1.0


def test_batches_hold_every_pair_once(data) -> None:
    torch.manual_seed(3)
    batches = list(data.train(32))
    assert len(batches) == len(data.train(32)) == 13
    assert sum(len(source) for source, _ in batches) == 400
    for source, target in batches:
        assert (target[:, 0] == BEGIN).all()
        assert ((source == END).sum(1) == 1).all() and ((target == END).sum(1) == 1).all()
        spread = (source != PAD).sum(1)
        assert spread.max() - spread.min() <= 12


def test_a_missing_corpus_is_named(tmp_path) -> None:
    with pytest.raises(UnreadableError, match=r"train\.en\.gz: missing or damaged"):
        multi30k(str(tmp_path))
