"""A recipe at several strengths of its penalties: single points mislead, curves compare."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from passes.framework import ConfigError, Progress
from toolchain.errors import UnreadableError, UsageError
from toolchain.svg import Cloud, Point, scatter
from toolchain.training.batches import Dataset
from toolchain.training.log import json_form, read_json, write_json
from toolchain.training.objectives import Batch
from toolchain.training.recipe import FunctionCall, TrainingRecipe
from toolchain.training.run import Run
from toolchain.training.stages import Outcome, run_stages, seeded

RECIPE = "recipe.json"
CURVE = "curve.svg"
METRICS = {"top1": "top-1, %", "bleu": "BLEU"}
"""How people write them."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Where one run ended.

    Attributes:
        label: for people, e.g. the strength.
        compression: weight elements in all for each that is left.
        quality: by the metric that counts for the data.
    """

    label: str
    compression: float
    quality: float


def run_recipe(
    recipe: TrainingRecipe,
    folder: Path,
    device: torch.device,
    progress: Progress = lambda done, total, label: None,
) -> list[tuple[float, Outcome]]:
    """Runs a recipe once for each strength, with data read once, and draws the curve.

    Returns:
        Strength factor and outcome of every run.

    Raises:
        UsageError: the folder holds runs of another recipe, a stage cannot do what it is asked
            to with this model, or nothing measures what the curve shows.
        UnreadableError: model or data cannot be made.
    """
    _claim(folder, recipe)
    data = recipe.data()
    if not isinstance(data, Dataset):
        raise UnreadableError(f"{recipe.data.function}: returns no Dataset")
    if len(recipe.strengths) > 1:
        data = _for_curve(data)
    teacher = None if recipe.teacher is None else _network(recipe.teacher, recipe.seed, device)
    outcomes = []
    for factor in recipe.strengths:
        model = _network(recipe.model, recipe.seed, device)
        place = folder if len(recipe.strengths) == 1 else folder / f"strength-{factor:g}"
        run = Run(model=model, data=data, folder=place, progress=progress, teacher=teacher)
        try:
            outcomes.append((factor, run_stages(run, recipe.with_strength(factor))))
        except ConfigError as error:
            raise UsageError(str(error)) from error
    if len(outcomes) > 1:
        points = [curve_point(f"×{factor:g}", each, data.metric) for factor, each in outcomes]
        (folder / CURVE).write_text(draw_curves({"penalties": points}, data.metric))
    return outcomes


def curve_point(label: str, outcome: Outcome, metric: str = "top1") -> CurvePoint:
    """The point of one run: its last measurement and what is left of its weights.

    Raises:
        UsageError: no stage has measured the metric.
    """
    measured = [stage[metric] for stage in outcome.stages if metric in stage]
    if not measured:
        raise UsageError(f"no stage measures '{metric}', which the curve shows")
    size = sum(torch.Size(tensor["shape"]).numel() for tensor in outcome.sparsity)
    return CurvePoint(label=label, compression=size / max(outcome.nonzero, 1), quality=measured[-1])


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]], metric: str = "top1") -> str:
    """A metric over compression as SVG text, one line for each method."""
    clouds = [
        Cloud(
            name=name,
            points=[Point(x=p.compression, y=p.quality, label=p.label) for p in _by_size(points)],
            line=True,
        )
        for name, points in curves.items()
    ]
    return scatter(
        title=f"{METRICS.get(metric, metric)} over compression",
        clouds=clouds,
        x_label="weights in all for each that is left",
        y_label=METRICS.get(metric, metric),
        x_log=True,
    )


def _network(function: FunctionCall, seed: int, device: torch.device) -> nn.Module:
    network = seeded(function, seed)
    if not isinstance(network, nn.Module):
        raise UnreadableError(f"{function.function}: returns no nn.Module")
    return network.to(device)


def _for_curve(data: Dataset) -> Dataset:
    """Data whose first measurement, not the last run, tells that a curve has no metric."""

    def measure(model: nn.Module, batches: Iterable[Batch]) -> Mapping[str, float]:
        metrics = data.measure(model, batches)
        if data.metric not in metrics:
            raise ConfigError(
                f"the data's metric is '{data.metric}', measured are {', '.join(metrics)}"
            )
        return metrics

    return replace(data, measure=measure)


def _by_size(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    return sorted(points, key=lambda point: point.compression)


def _claim(folder: Path, recipe: TrainingRecipe) -> None:
    """Writes the recipe into the folder, or finds the same one there."""
    document = asdict(recipe)
    document["stages"] = [
        {"stage": stage.name, **asdict(stage)}  # type: ignore[call-overload]
        for stage in recipe.stages
    ]
    path = folder / RECIPE
    if path.exists() and read_json(path) != json_form(document):
        raise UsageError(f"{folder}: holds a run of another recipe; remove it or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
