"""Translation pruned by lines: quality, size and time of several training runs.

    optc train samples/recipes/translation_dense.yaml
    optc train samples/recipes/translation_shs.yaml
    python -m samples.benchmarks.translation quality --run dense=samples/recipes/translation_dense \
        --run shs=samples/recipes/translation_shs --source DIR --work WORK
    python -m samples.benchmarks.translation time --source DIR --work WORK

`quality` makes the ONNX files of every run in WORK, whose decoders score those pieces only that
German training sentences have, and translates test_2016_flickr with them; `time` measures them
beside each other. BLEU is sacreBLEU of raw text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import sacrebleu

from samples.benchmarks.results import RESULTS, machine, publish, store, stored, table
from samples.benchmarks.translation_forms import Form, make_forms
from samples.multi30k import PIECES, read_pairs, train_tokenizer
from samples.networks.vocabulary import Vocabulary, targets_first
from samples.onnx_translator import OnnxTranslator
from samples.translation import BEGIN, Tokenizer, translate
from toolchain.bench import BenchConfig, Run, measure
from toolchain.svg import Cloud, Point, scatter

NAME = "translation"
BEAM = 4
TIMED = 20
"""Sentences that are translated one after the other, one at a time."""
MANY, BATCH = 200, 50
"""Sentences that are translated so many at once."""
SOURCE, PAST = 15, 8
"""Tokens of a typical source, and of half its translation."""
THREADS = (1, 2)
TIMES = ("encoder", "token", "sentence", "batched")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pair of files.

    Attributes:
        method: of training.
        bits: of weights, 32 or 8.
        parameters: without the tables of tokens and positions.
        nbytes: of both files.
        greedy: BLEU on test_2016_flickr.
        beam: BLEU with a beam of 4.
        milliseconds: medians, by what was timed and by threads.
    """

    method: str
    bits: int
    parameters: int
    nbytes: int
    greedy: float
    beam: float
    milliseconds: Mapping[str, float] = field(default_factory=dict)


def measure_quality(form: Form, tokenizer: Tokenizer, pairs: tuple[list[str], list[str]]) -> Row:
    """Translates the test set."""
    english, german = pairs
    translator = OnnxTranslator(form.folder)
    greedy, beam = (
        sacrebleu.corpus_bleu(
            translate(translator, tokenizer, english, batch=50, beam=width), [german]
        ).score
        for width in (1, BEAM)
    )
    click.echo(f"{form.method}, {form.bits} bits: {greedy:.2f}, {beam:.2f}", err=True)
    return Row(
        method=form.method,
        bits=form.bits,
        parameters=form.parameters,
        nbytes=form.nbytes,
        greedy=greedy,
        beam=beam,
    )


def time_forms(
    forms: Sequence[Form], tokenizer: Tokenizer, sentences: Sequence[str], threads: int, rounds: int
) -> list[dict[str, float]]:
    """Median milliseconds of an encoder run, a decoder step and a sentence, forms alternating."""
    every = [
        timed_runs(OnnxTranslator(form.folder, threads), tokenizer, sentences) for form in forms
    ]
    found: list[dict[str, float]] = [{} for _ in forms]
    for what, (_, count) in every[0].items():
        config = BenchConfig(threads=threads, rounds=rounds if count == 1 else max(5, rounds // 10))
        runs = [each[what][0] for each in every]
        times = measure(runs, [{}] * len(runs), config, lambda done, total, label: None)
        for result, each in zip(found, times, strict=True):
            result[f"{what} {threads}"] = float(np.median(each)) / count
    return found


def timed_runs(
    translator: OnnxTranslator, tokenizer: Tokenizer, sentences: Sequence[str]
) -> dict[str, tuple[Run, int]]:
    """What is timed and how many times it does what it is named after, by name."""
    source = np.random.default_rng(0).integers(4, len(tokenizer), (1, SOURCE))
    latest, state = np.full(1, BEGIN), translator.start(source)
    for _ in range(PAST):
        _, state = translator.step(latest, state)
    single = sentences[:TIMED]
    return {
        "encoder": (lambda feeds: translator.start(source), 1),
        "token": (lambda feeds: translator.step(latest, state), 1),
        "sentence": (lambda feeds: translate(translator, tokenizer, single, batch=1), len(single)),
        "batched": (
            lambda feeds: translate(translator, tokenizer, sentences, batch=BATCH),
            len(sentences),
        ),
    }


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON, the table as Markdown and the curve as SVG."""
    rows = sorted(rows, key=lambda row: (-round(row.parameters / 1e5), row.method, -row.bits))
    store(NAME, rows, known, out)
    dense = {row.bits: row for row in rows if row.method == "dense"}
    timed = [f"{what} {n}" for what in TIMES for n in THREADS]
    headers = (
        "training",
        "bits",
        "parameters",
        "files",
        "BLEU",
        f"beam {BEAM}",
        *timed,
        "speed-up alone, batched",
    )
    lines = [
        [
            row.method,
            str(row.bits),
            f"{row.parameters / 1e6:.2f} M",
            f"{row.nbytes / 1e6:.1f} MB",
            f"{row.greedy:.2f}",
            f"{row.beam:.2f}",
            *(_milliseconds(row, what) for what in timed),
            _speedup(dense.get(32), row),
        ]
        for row in rows
    ]
    note = (
        "Multi30k, English to German, test_2016_flickr, sacreBLEU of raw text; parameters without "
        "the tables of tokens and positions. Times are medians of alternating turns, in "
        f"milliseconds at 1 and 2 threads: encoder, {SOURCE} tokens; decoder step after {PAST} "
        f"tokens; one sentence, greedy, alone (of {TIMED}) and batched with {BATCH - 1} others (of "
        f"{MANY}). Speed-up at 1 thread, alone and batched, against dense in 32 bits. Made by "
        f"`python -m samples.benchmarks.translation` on {known['cpu']} "
        f"({known['isa']}, {known['cores']} cores), onnxruntime {known['onnxruntime']}. A row is a "
        "run of `samples/recipes/translation_NAME.yaml`, with one seed."
    )
    publish(NAME, ["# Translation pruned by lines", table(headers, lines), note], out)
    (out / f"{NAME}.svg").write_text(_curve(rows))


def _milliseconds(row: Row, what: str) -> str:
    return f"{row.milliseconds[what]:.3g}" if what in row.milliseconds else "–"


def _speedup(dense: Row | None, row: Row) -> str:
    keys = [f"{what} {THREADS[0]}" for what in ("sentence", "batched")]
    if dense is None or not all(key in each.milliseconds for key in keys for each in (dense, row)):
        return "–"
    return ", ".join(f"{dense.milliseconds[key] / row.milliseconds[key]:.2f}" for key in keys)


def _curve(rows: Sequence[Row]) -> str:
    methods = dict.fromkeys(_family(row.method) for row in rows)
    clouds = [
        Cloud(
            name=method,
            points=[
                Point(x=row.parameters / 1e6, y=row.greedy, label=f"{row.bits} bits")
                for row in rows
                if _family(row.method) == method
            ],
        )
        for method in methods
    ]
    return scatter(
        title="BLEU over parameters", clouds=clouds, x_label="parameters, millions", y_label="BLEU"
    )


def _vocabulary(source: Path) -> tuple[Tokenizer, Vocabulary]:
    """Of the files, and how it differs from that of training."""
    english, german = read_pairs(source, "train")
    trained = train_tokenizer([*english, *german], PIECES)
    vocabulary = targets_first(trained, german)
    return Tokenizer(trained.model, vocabulary.order), vocabulary


def _family(method: str) -> str:
    """Without its size: "shs" for "shs-28"."""
    return method.rstrip("-0123456789")


@click.group()
def main() -> None:
    """Measures pruned translation."""


SOURCE_OPTION = click.option(
    "--source", type=click.Path(exists=True, path_type=Path), required=True, help="Has multi30k/."
)
WORK_OPTION = click.option("--work", type=click.Path(path_type=Path), required=True)
OUT_OPTION = click.option("--out", type=click.Path(path_type=Path), default=RESULTS)


@main.command()
@click.option("--run", "runs", multiple=True, metavar="METHOD=FOLDER", required=True)
@SOURCE_OPTION
@WORK_OPTION
@OUT_OPTION
def quality(runs: tuple[str, ...], source: Path, work: Path, out: Path) -> None:
    """Makes and scores the files of runs; rows of others that are stored stay."""
    methods = {method: Path(folder) for method, _, folder in (run.partition("=") for run in runs)}
    rows = [Row(**row) for row in stored(NAME, out)[0] if row["method"] not in methods]
    pairs = read_pairs(source, "test_2016_flickr")
    tokenizer, vocabulary = _vocabulary(source)
    for method, folder in methods.items():
        forms = make_forms(method, folder, work, vocabulary)
        rows += [measure_quality(form, tokenizer, pairs) for form in forms]
        write(rows, machine(), out)


@main.command()
@click.option("--rounds", default=60, show_default=True)
@SOURCE_OPTION
@WORK_OPTION
@OUT_OPTION
def time(rounds: int, source: Path, work: Path, out: Path) -> None:
    """Times what `quality` has made, all forms beside each other."""
    rows = [Row(**row) for row in stored(NAME, out)[0]]
    forms = [
        Form(
            method=row.method,
            bits=row.bits,
            folder=work / (row.method if row.bits == 32 else f"{row.method}.int8"),
        )
        for row in rows
    ]
    sentences = read_pairs(source, "test_2016_flickr")[0][:MANY]
    tokenizer, _ = _vocabulary(source)
    found: list[dict[str, float]] = [{} for _ in rows]
    for threads in THREADS:
        several = time_forms(forms, tokenizer, sentences, threads, rounds)
        found = [known | new for known, new in zip(found, several, strict=True)]
    rows = [replace(row, milliseconds=each) for row, each in zip(rows, found, strict=True)]
    write(rows, machine(), out)


if __name__ == "__main__":
    main()
