"""Training recipes: model, data and stages as YAML or TOML.

    version: 1
    model: {function: "networks:resnet20", weights: resnet20.onnx}
    data: {function: "datasets:cifar10", source: data}
    stages:
      - decompose: {rank: 5}
      - train:
          epochs: 20
          alternate: 2
          penalties: [{regularizer: l1, strength: 1e-4, parameters: ["*.coefficients"]}]
      - prune: {rule: deviation, value: 1.0, parameters: ["*.coefficients"]}
      - train: {epochs: 10, lr: 0.01}
      - export: {}

`model` returns an `nn.Module`, `data` a `toolchain.training.batches.Dataset`; both may be given as
``module:function`` alone, other keys are arguments. So may `teacher`, a network that stages with
`distill` learn from instead of the model as it was. Keys are strict, as in `toolchain.recipe`.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.framework import ConfigError
from toolchain.data_sources import find_function, user_code
from toolchain.errors import UsageError
from toolchain.recipe import check_keys, did_you_mean, read_document, typed_value
from toolchain.training.hooks import Penalty
from toolchain.training.line_pruning import LinePenalty
from toolchain.training.regularizers import LEAST_AXES, Blocks, Groups
from toolchain.training.run import Stage
from toolchain.training.stages import STAGES, TrainStage

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FunctionCall:
    """A function of the user and its arguments."""

    function: str
    arguments: Mapping[str, Any]

    def __call__(self) -> Any:
        """Calls it; what it prints goes to stderr.

        Raises:
            UnreadableError: there is no such function, or it fails.
        """
        function = find_function(self.function)
        with user_code(f"{self.function}: failed with"):
            return function(**self.arguments)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Everything that decides about a run.

    Attributes:
        model: makes the network.
        data: makes the data.
        stages: in the order in which they run.
        teacher: makes a network to distill from; None: the model before it was decomposed.
        seed: of initial weights, order and augmentation.
        strengths: factors of all penalties; more than one makes a run for each, and a curve.
    """

    model: FunctionCall
    data: FunctionCall
    stages: tuple[Stage, ...]
    teacher: FunctionCall | None = None
    seed: int = 0
    strengths: tuple[float, ...] = (1.0,)

    def with_strength(self, factor: float) -> tuple[Stage, ...]:
        """The stages with all penalties so many times as strong."""
        return tuple(_scaled(stage, factor) for stage in self.stages)


def load_training_recipe(path: Path, seed: int | None = None) -> TrainingRecipe:
    """Reads a recipe; a seed that is given replaces its own.

    Raises:
        UnreadableError: the file is missing or not YAML/TOML.
        UsageError: a key, stage or value is unknown.
    """
    return parse_training_recipe(read_document(path), str(path), seed)


def parse_training_recipe(data: Any, where: str, seed: int | None = None) -> TrainingRecipe:
    """Checks the content of a recipe.

    Raises:
        UsageError: what is wrong, naming `where` and the nearest known key.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{where}: a recipe is a mapping with the keys version, model and stages")
    known = [field.name for field in dataclasses.fields(TrainingRecipe)]
    check_keys(data, ["version", *known], where)
    if data.get("version") != VERSION:
        raise UsageError(f"{where}: version is {data.get('version')!r}, this optc reads {VERSION}")
    for key in ("model", "data", "stages"):
        if not data.get(key):
            raise UsageError(f"{where}: '{key}' is missing")
    if seed is None:
        seed = _value(data.get("seed", 0), int, f"{where}: seed")
    assert seed is not None
    strengths = _value(data.get("strengths", [1.0]), tuple[float, ...], f"{where}: strengths")
    if not strengths:
        raise UsageError(f"{where}: strengths is empty; give one or more")
    teacher = data.get("teacher")
    return TrainingRecipe(
        model=_function_call(data["model"], f"{where}: model"),
        data=_function_call(data["data"], f"{where}: data"),
        stages=tuple(_stage(entry, seed, where) for entry in _entries(data["stages"], where)),
        teacher=None if teacher is None else _function_call(teacher, f"{where}: teacher"),
        seed=seed,
        strengths=strengths,
    )


def _entries(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: stages is a list, each entry 'name: {{key: value}}'")
    return value


def _function_call(value: Any, where: str) -> FunctionCall:
    if isinstance(value, str):
        value = {"function": value}
    if not isinstance(value, dict) or not isinstance(value.get("function"), str):
        raise UsageError(f"{where} is 'module:function', or a mapping with the key function")
    arguments = {str(key): item for key, item in value.items() if key != "function"}
    return FunctionCall(function=value["function"], arguments=arguments)


def _stage(entry: Any, seed: int, where: str) -> Stage:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UsageError(f"{where}: each entry of stages is 'name' or 'name: {{key: value}}'")
    [(name, options)] = entry.items()
    if name not in STAGES:
        raise UsageError(f"{where}: unknown stage '{name}'{did_you_mean(str(name), STAGES)}")
    if not isinstance(options or {}, dict):
        raise UsageError(f"{where}: options of {name} are not a mapping")
    given = dict(options or {})
    if STAGES[name] is TrainStage:
        given.setdefault("seed", seed)
    return _build_stage(STAGES[name], given, f"{where}: stage {name}")


def _build_stage(stage: type[Stage], given: dict[str, Any], where: str) -> Stage:
    """The options of a stage and those of its configuration stand side by side in a recipe."""
    hints = _option_types(stage)
    config_type = hints.pop("config", None)
    config_hints = {} if config_type is None else _option_types(config_type)
    check_keys(given, [*hints, *config_hints], where)
    own = {key: item for key, item in given.items() if key in hints}
    if config_type is None:
        return typing.cast(Stage, _build(stage, own, where))
    config = {key: item for key, item in given.items() if key in config_hints}
    return typing.cast(Stage, _build(stage, own, where, config=_build(config_type, config, where)))


def _build(kind: type, given: Mapping[str, Any], where: str, **ready: Any) -> Any:
    """A dataclass from options that are not yet typed, and fields that are."""
    hints = _option_types(kind)
    for field in dataclasses.fields(kind):
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if field.name not in {*given, *ready} and not optional:
            raise UsageError(f"{where}: '{field.name}' is missing")
    try:
        values = {
            key: _value(item, hints[key], f"{where}: {key}", key) for key, item in given.items()
        }
        return kind(**values, **ready)
    except (ConfigError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def _option_types(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(value: Any, hint: Any, where: str, key: str = "") -> Any:
    """Converts a value, or a list of them; one alone is a list of one."""
    if key == "groups" and typing.get_origin(hint) is not tuple:
        return tuple(_groups(item, where) for item in _listed(value))
    if typing.get_origin(hint) in (tuple, Sequence):
        item_hint = typing.get_args(hint)[0]
        return tuple(_value(item, item_hint, where) for item in _listed(value))
    if hint in (Penalty, LinePenalty):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: each is a mapping with regularizer and strength")
        check_keys(value, list(_option_types(hint)), where)
        return _build(hint, value, where)
    return typed_value(value, hint, where)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _groups(value: Any, where: str) -> Groups:
    if isinstance(value, dict):
        check_keys(value, list(_option_types(Blocks)), where)
        return typing.cast(Groups, _build(Blocks, value, where))
    if isinstance(value, list):
        return tuple(_value(axis, int, where) for axis in value)
    if value not in LEAST_AXES:
        raise UsageError(f"{where}: unknown groups '{value}'{did_you_mean(str(value), LEAST_AXES)}")
    return typing.cast(Groups, value)


def _scaled(stage: Stage, factor: float) -> Stage:
    if not isinstance(stage, TrainStage) or factor == 1:
        return stage
    penalties = tuple(
        dataclasses.replace(each, strength=factor * each.strength) for each in stage.penalties
    )
    lines = tuple(
        dataclasses.replace(each, strength=factor * each.strength) for each in stage.lines
    )
    return dataclasses.replace(stage, penalties=penalties, lines=lines)
