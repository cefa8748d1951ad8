"""Accuracy against MACs of `optc transform --pass svd` on CIFAR-10 ResNets, without training.

    python -m samples.benchmarks.svd_posttraining --source DIR --out samples/results

DIR holds `models/` and `cifar10/` (see samples/README.md). Every row runs the command as a user
would, in a process of its own, and scores its output on the full exact test set. With data: 512
training images without labels; factors whitened, ranks allocated by measured sensitivity, layers
refitted. Plain: truncated SVD of the weights, ranks allocated by the weights' energy. The steps
between the two are kinds of their own. Prints and writes tables (Markdown), curves (SVG) and all
numbers (JSON).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from samples.benchmarks.results import (
    RESULTS,
    machine,
    make_data,
    optc,
    publish,
    score,
    store,
    stored,
    table,
)
from toolchain.svg import Cloud, Point, scatter

NAME = "svd_posttraining"
MODELS = ("resnet20", "resnet56")
SHARES = (0.667, 0.5, 0.4)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to compress.

    Attributes:
        label: for people.
        options: of the pass.
        calibrated: fitted on data.
        planned_blind: ranks are those that are chosen without data.
    """

    label: str
    options: str
    calibrated: bool = True
    planned_blind: bool = False


KINDS = (
    Kind(label="plain, channel", options="form=channel,multiple=1", calibrated=False),
    Kind(label="plain, spatial", options="form=spatial,multiple=1", calibrated=False),
    Kind(
        label="spatial, whitened",
        options="form=spatial,multiple=1,refit=false",
        planned_blind=True,
    ),
    Kind(label="spatial, whitened, allocated", options="form=spatial,multiple=1,refit=false"),
    Kind(
        label="spatial, whitened, refitted",
        options="form=spatial,multiple=1",
        planned_blind=True,
    ),
    Kind(label="channel", options="form=channel,multiple=1"),
    Kind(label="spatial", options="form=spatial,multiple=1"),
    Kind(label="auto", options="multiple=1"),
    Kind(label="auto, ranks in multiples of 16", options=""),
)
STEPS = ("spatial, whitened", "spatial, whitened, allocated", "spatial, whitened, refitted")
ABLATION = ("plain, spatial", *STEPS, "spatial")
CURVES = ("plain, channel", "plain, spatial", "channel", "spatial")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        model: name of the network.
        kind: of the factors.
        share: of the MACs that was asked for.
        command: what was run.
        baseline: top-1 of the input, percent.
        top1: of the output, percent.
        macs: share left.
        parameters: share left.
        seconds: wall time of the command.
    """

    model: str
    kind: str
    share: float
    command: str
    baseline: float
    top1: float
    macs: float
    parameters: float
    seconds: float


def measure(model: Path, baseline: float, kind: Kind, share: float, work: Path) -> Row:
    """Transforms and scores."""
    steps = ["--pass", ",".join(filter(None, [f"svd:macs={share:g}", kind.options]))]
    command = f"optc transform {model.name} {' '.join(steps)}"
    if kind.planned_blind:
        optc("transform", model, *steps, "--dry-run", "--report", work / "plan")
        steps = ["--plan", str(work / "plan" / "report.json")]
        command += " --dry-run --report plan; the same with --plan plan/report.json"
    output = work / "out.onnx"
    data: list[str | Path] = ["--calib", work / "calib.npz"] if kind.calibrated else []
    result, _ = optc("transform", model, *steps, "-o", output, *data)
    before, after = result["input"], result["output"]
    return Row(
        model=model.stem.removesuffix("_cifar10"),
        kind=kind.label,
        share=share,
        command=command + (" --calib calib.npz" if kind.calibrated else ""),
        baseline=baseline,
        top1=score(output, work / "eval_full.npz"),
        macs=after["macs"] / before["macs"],
        parameters=after["parameters"] / before["parameters"],
        seconds=sum(result["seconds"].values()),
    )


def markdown(rows: Sequence[Row], model: str) -> str:
    """Top-1 of one network by kind and share of the MACs."""
    own = {(row.kind, row.share): row for row in rows if row.model == model}
    if not own:
        return ""
    baseline = next(iter(own.values())).baseline
    kinds = [kind.label for kind in KINDS if kind.label not in STEPS]
    return (
        f"## {model}, {baseline:.2f} % as it comes\n\n{_table(own, kinds)}\n\n"
        f"![top-1 over MACs]({NAME}_{model}.svg)"
    )


def ablation(rows: Sequence[Row], model: str) -> str:
    """What each step from plain SVD to the pass adds, at the shares where it was measured."""
    own = {(row.kind, row.share): row for row in rows if row.model == model}
    shares = [share for share in SHARES if all((kind, share) in own for kind in ABLATION)]
    if not shares:
        return ""
    return f"### {model}, step by step\n\n{_table(own, ABLATION, shares)}"


def _table(
    rows: Mapping[tuple[str, float], Row], kinds: Sequence[str], shares: Sequence[float] = SHARES
) -> str:
    lines = []
    for kind in kinds:
        found = [rows.get((kind, share)) for share in shares]
        cells = ["" if row is None else f"{row.top1:.2f} ({row.parameters:.0%})" for row in found]
        lines.append([kind, *cells])
    return table(["factors", *(f"{share:.1%} of the MACs" for share in shares)], lines)


def curves(rows: Sequence[Row], model: str) -> str:
    """Top-1 of one network over the MACs left as SVG, with data and without."""
    own = [row for row in rows if row.model == model]
    dense = Point(x=100, y=own[0].baseline, label="as it comes")
    clouds = []
    for kind in CURVES:
        points = [Point(x=100 * r.macs, y=r.top1, label=kind) for r in own if r.kind == kind]
        clouds.append(Cloud(name=kind, points=[dense, *points], line=True))
    return scatter(title=model, clouds=clouds, x_label="MACs left, %", y_label="top-1, %")


def write(rows: Sequence[Row], known: dict[str, str], out: Path) -> None:
    """Writes all numbers as JSON and the tables as Markdown."""
    store(NAME, rows, known, out)
    note = (
        "Made by `python -m samples.benchmarks.svd_posttraining --source DIR` on "
        f"{known['cpu']} ({known['cores']} cores), onnxruntime {known['onnxruntime']}, numpy "
        f"{known['numpy']}. Top-1 in percent on the 10,000 exact CIFAR-10 test images, in brackets "
        "the share of parameters left; calibration on 512 training images without labels; no "
        "gradient steps. *plain*: truncated SVD of the weights without data, ranks shared out by "
        "the energy of the weights at the same number of MACs; *whitened*: the same ranks, "
        "truncated in the metric of the inputs; *allocated*: ranks by what an error of each layer "
        "does to the output; *refitted*: each layer fitted to what those before it leave. The pass "
        "does all three."
    )
    tables = [make(rows, model) for model in MODELS for make in (markdown, ablation)]
    for model in dict.fromkeys(row.model for row in rows):
        (out / f"{NAME}_{model}.svg").write_text(curves(rows, model), encoding="utf-8")
    publish(NAME, ["# SVD after training", *tables, note], out)


def measure_all(
    source: Path,
    models: Sequence[str],
    kinds: Sequence[str],
    shares: Sequence[float],
    old: list[Row],
    out: Path,
) -> list[Row]:
    """All settings of the named models; old rows are not measured again."""
    rows = list(old)
    have = {(row.model, row.kind, row.share) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_data(source, work)
        for name in models:
            path = source / "models" / f"{name}_cifar10.onnx"
            chosen = [kind for kind in KINDS if kind.label in kinds]
            todo = [(k, s) for s in shares for k in chosen if (name, k.label, s) not in have]
            baseline = score(path, work / "eval_full.npz") if todo else 0.0
            for kind, share in todo:
                rows.append(measure(path, baseline, kind, share, work))
                click.echo(f"{name}, {kind.label}, {share:g}: {rows[-1].top1:.2f}", err=True)
                write(rows, machine(), out)
    return rows


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="Data and models.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
@click.option("--kind", "kinds", multiple=True, default=[kind.label for kind in KINDS])
@click.option("--share", "shares", multiple=True, type=float, default=SHARES, help="Of the MACs.")
@click.option("--resume", is_flag=True, help="Keep the rows that are stored, measure the others.")
def main(
    source: Path | None,
    out: Path,
    models: tuple[str, ...],
    kinds: tuple[str, ...],
    shares: tuple[float, ...],
    resume: bool,
) -> None:
    """Measure all settings and write the tables; without --source, only write the tables anew."""
    documents, known = stored(NAME, out)
    old = [Row(**row) for row in documents]
    if source is None:
        write(old, known, out)
        return
    rows = measure_all(source, models, kinds, shares, old if resume else [], out)
    write(rows, machine(), out)


if __name__ == "__main__":
    main()
