"""A recipe at several strengths of its penalties: single points mislead, curves compare."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from passes.framework import Progress
from toolchain.errors import UnreadableError, UsageError
from toolchain.svg import Cloud, Point, scatter
from toolchain.training.batches import Dataset
from toolchain.training.log import json_form, read_json, write_json
from toolchain.training.recipe import TrainingRecipe
from toolchain.training.stages import Outcome, Run, run_stages, seeded

RECIPE = "recipe.json"
CURVE = "curve.svg"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Where one run ended.

    Attributes:
        label: for people, e.g. the strength.
        compression: weight elements in all for each that is left.
        top1: percent.
    """

    label: str
    compression: float
    top1: float


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
        UsageError: the folder holds runs of another recipe.
        UnreadableError: model or data cannot be made.
    """
    _claim(folder, recipe)
    data = recipe.data()
    if not isinstance(data, Dataset):
        raise UnreadableError(f"{recipe.data.function}: returns no Dataset")
    outcomes = []
    for factor in recipe.strengths:
        model = seeded(recipe.model, recipe.seed)
        if not isinstance(model, nn.Module):
            raise UnreadableError(f"{recipe.model.function}: returns no nn.Module")
        place = folder if len(recipe.strengths) == 1 else folder / f"strength-{factor:g}"
        run = Run(model=model.to(device), data=data, folder=place, progress=progress)
        outcomes.append((factor, run_stages(run, recipe.with_strength(factor))))
    if len(outcomes) > 1:
        points = [curve_point(f"×{factor:g}", outcome) for factor, outcome in outcomes]
        (folder / CURVE).write_text(draw_curves({"penalties": points}))
    return outcomes


def curve_point(label: str, outcome: Outcome) -> CurvePoint:
    """The point of one run: its last accuracy and what is left of its weights."""
    top1 = next(stage["top1"] for stage in reversed(outcome.stages) if "top1" in stage)
    size = sum(torch.Size(tensor["shape"]).numel() for tensor in outcome.sparsity)
    return CurvePoint(label=label, compression=size / max(outcome.nonzero, 1), top1=top1)


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]]) -> str:
    """Accuracy over compression as SVG text, one line for each method."""
    clouds = [
        Cloud(
            name=name,
            points=[Point(x=p.compression, y=p.top1, label=p.label) for p in _by_size(points)],
            line=True,
        )
        for name, points in curves.items()
    ]
    return scatter(
        title="Accuracy over compression",
        clouds=clouds,
        x_label="weights in all for each that is left",
        y_label="top-1, %",
        x_log=True,
    )


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
