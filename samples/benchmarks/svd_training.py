"""SVD training of a CIFAR-10 ResNet against plain SVD with fine-tuning, at equal MACs and epochs.

    python -m samples.benchmarks.svd_training train --source DIR --work WORK --model resnet20
    python -m samples.benchmarks.svd_training time --source DIR --work WORK
    python -m samples.benchmarks.svd_training table --work WORK

DIR holds `models/` and `cifar10/` (see samples/README.md). Every method starts from the trained
weights and trains for the same number of epochs in all: plain SVD cuts the ranks first and
fine-tunes all the while; "optc svd" fine-tunes what the pass `svd` makes of 512 images; the others
train factors of full rank with their penalties, once for all shares of the MACs, cut, and
fine-tune. Ranks are cut by energy, with the one e for all layers that leaves the share of MACs.
`--recipe paper` has the epochs and optimiser of the paper's code, for a GPU. A run that was killed
goes on where it was; runs of one folder may go on side by side.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from samples.benchmarks.results import RESULTS, machine, optc, publish, store, stored, table
from samples.benchmarks.svd_training_methods import METHODS, Settings
from samples.benchmarks.svd_training_runs import FILE, MODELS, ROW, Bench, Row, claim
from samples.datasets import cifar10
from toolchain.svg import Cloud, Point, scatter
from toolchain.training.log import read_json, write_json
from toolchain.training.low_rank import Form
from toolchain.training.memory import keep_freed_memory

NAME = "svd_training"
TIME = "time.json"
existing = click.Path(exists=True, path_type=Path)


@click.group()
def main() -> None:
    """Train, time and tabulate."""


@main.command()
@click.option("--source", type=existing, required=True, help="Data and models.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--model", "name", type=click.Choice(list(MODELS)), default="resnet20")
@click.option("--form", type=click.Choice(["channel", "spatial"]), default="spatial")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)))
@click.option("--macs", multiple=True, default=(0.4,), help="Share of the MACs that is left.")
@click.option("--recipe", type=click.Choice(["short", "paper"]), default="short")
@click.option("--epochs", default=6, help="Of the short recipe, both phases together.")
@click.option("--images", default=50_000, help="Of an epoch: the first so many.")
@click.option("--distill", default=0.0, help="Share of the loss: nearness to the dense model.")
@click.option("--strength", default=1.0, help="Factor of the regularisers' strengths.")
@click.option("--lr", default=0.01, help="Learning rate of the short recipe.")
@click.option("--cycles", default=1, help="Of the learning rate after the cut.")
@click.option("--mixup", default=0.0, help="α of images mixed for distillation; 0 mixes none.")
@click.option("--threads", default=1, help="Of torch.")
def train(
    source: Path,
    work: Path,
    name: str,
    form: Form,
    methods: tuple[str, ...],
    macs: tuple[float, ...],
    threads: int,
    **options: object,
) -> None:
    """Train the methods one after the other, each for all shares of the MACs."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = Settings(**options)  # type: ignore[arg-type]
    claim(work, settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = Bench(source=source, work=work, name=name, form=form, settings=settings, device=device)
    data = cifar10(str(source), settings.images)
    for method in methods or METHODS:
        for share in macs:
            row = bench.run(method, share, data)
            click.echo(
                f"{name} {form} {method} {share:g}: {row.full:.2f} at full rank, {row.cut:.2f} "
                f"after the cut (e = {row.energy:.2g}), {row.top1:.2f} in the end"
            )


@main.command("time")
@click.option("--source", type=existing, required=True, help="Data and models.")
@click.option("--work", type=existing, required=True, help="Folder of the runs.")
def measure(source: Path, work: Path) -> None:
    """Time all exported models of the folder against the dense ones, in turns, on one thread."""
    rows = rows_of(work)
    for name in dict.fromkeys(row.model for row in rows.values()):
        own = [folder for folder, row in rows.items() if row.model == name]
        files = [source / "models" / f"{name}_cifar10.onnx", *(each / FILE for each in own)]
        timed = optc("bench", *files, "--threads", "1")[0]["models"]
        for folder, result in zip(own, timed[1:], strict=True):
            known = {"milliseconds": result["median_ms"], "speedup": result["speedup"]}
            write_json(folder / TIME, known)


@main.command("table")
@click.option("--work", type=existing, help="Folder of the runs; else the stored rows are taken.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def tabulate(work: Path | None, out: Path) -> None:
    """Write the tables and curves; rows of runs that the folder does not hold stay."""
    documents, known = stored(NAME, out)
    rows = {key(row): row for row in (Row(**each) for each in documents)}
    if work is not None:
        rows |= {key(row): row for row in rows_of(work).values()}
        known = {**machine(), "torch": torch.__version__}
    order = {method: index for index, method in enumerate(METHODS)}
    found = sorted(
        rows.values(), key=lambda row: (row.model, row.form, -row.share, order[row.method])
    )
    write(found, known, out)


def key(row: Row) -> tuple[object, ...]:
    """What makes a run another one."""
    return row.model, row.form, row.method, row.share, Settings(**row.settings)


def rows_of(work: Path) -> dict[Path, Row]:
    """Finished runs of a folder, with their times where they were measured."""
    found = {}
    for path in sorted(work.glob(f"*/{ROW}")):
        times = path.with_name(TIME)
        found[path.parent] = Row(**read_json(path) | (read_json(times) if times.exists() else {}))
    return found


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON, the tables as Markdown and a curve of each network and form."""
    store(NAME, rows, known, out)
    parts = ["# SVD training"]
    for name, form in dict.fromkeys((row.model, row.form) for row in rows):
        own = [row for row in rows if (row.model, row.form) == (name, form)]
        picture = f"{NAME}_{name}_{form}.svg"
        (out / picture).write_text(curves(own), encoding="utf-8")
        title = f"## {name}, {form} form, {own[0].dense:.2f} % as it comes"
        parts += [title, markdown(own), f"![top-1 over MACs]({picture})"]
    publish(NAME, [*parts, note(known)], out)


def markdown(rows: Sequence[Row]) -> str:
    """The runs of one network and form."""
    headers = ["MACs", "method", "at full rank", "after the cut", "top-1", "loss"]
    headers += ["parameters", "file", "one thread", "times as fast", "e", "residual", "run"]
    lines = [
        [
            f"{row.macs:.1%} (÷ {1 / row.macs:.2f})",
            row.method,
            f"{row.full:.2f}",
            f"{row.cut:.2f}",
            f"**{row.exported:.2f}**",
            f"{row.dense - row.exported:.2f}",
            f"{row.parameters:.0%}",
            f"{row.nbytes / 1000:.0f} kB",
            "" if row.milliseconds is None else f"{row.milliseconds:.3f} ms",
            "" if row.speedup is None else f"{row.speedup:.2f}",
            f"{row.energy:.1g}",
            f"{row.residual:.1g}",
            described(row),
        ]
        for row in rows
    ]
    return table(headers, lines)


def described(row: Row) -> str:
    """Settings of a run in short."""
    settings = Settings(**row.settings)
    if settings.recipe == "paper":
        return "paper"
    penalised = METHODS[row.method].regularizer is not None
    parts = [f"{settings.epochs} epochs of {settings.images}"]
    parts += [f"distilled {settings.distill:g}"] if settings.distill else []
    parts += [f"mixup {settings.mixup:g}"] if settings.mixup else []
    parts += [f"λ_s × {settings.strength:g}"] if penalised and settings.strength != 1 else []
    parts += [f"lr {settings.lr:g}"] if settings.lr != 0.01 else []
    parts += [f"{settings.cycles} cycles"] if settings.cycles != 1 else []
    return ", ".join(parts)


def curves(rows: Sequence[Row]) -> str:
    """Top-1 over MACs as SVG, one line for each method."""
    clouds = [
        Cloud(
            name=method,
            points=[Point(x=100 * row.macs, y=row.exported, label=method) for row in own],
            line=True,
        )
        for method in METHODS
        if (own := [row for row in rows if row.method == method])
    ]
    title = f"{rows[0].model}, {rows[0].form} form"
    return scatter(title=title, clouds=clouds, x_label="MACs left, %", y_label="top-1, %")


def note(known: dict[str, str]) -> str:
    """How the numbers came about."""
    return (
        "Made by `python -m samples.benchmarks.svd_training train`, `time` and `table` on "
        f"{known['cpu']} ({known['isa']}), torch {known['torch']}, onnxruntime "
        f"{known['onnxruntime']}. All methods of a table start from the same trained weights and "
        "train for the same number of epochs in all, half of them at full rank apart from plain "
        "SVD and optc svd, which fine-tune all the while, the latter what the pass `svd` has split "
        "by 512 images; SGD, learning rate 0.01 unless it says so (constant at full rank, "
        "cosine afterwards), bfloat16, lossy training images, seed 0. Top-1 of the exported file "
        "by onnxruntime on the 10,000 exact CIFAR-10 test images, after the last epoch, never the "
        "best one. *e*: share of σ² that the cut takes from every layer. *residual*: the largest "
        "‖UᵀU − I‖² / r² + ‖VVᵀ − I‖² / r² of a layer before the cut. Times: median of one image, "
        "in turns with the dense file in fp32."
    )


if __name__ == "__main__":
    main()
