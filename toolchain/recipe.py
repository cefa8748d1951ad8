"""Recipes: which passes run with which options, from the command line or from a file.

    version: 1
    seed: 0
    passes:
      - penni: {rank: 5, density: 0.3}
    include: ["layer*"]
    exclude: ["layer1.0.*"]
    lower: optc

Keys are strict: an unknown one is an error that names the nearest known one.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from passes import PASSES
from passes.framework import CompressionPass, ConfigError, Context, Plan, Setting
from toolchain.errors import UnreadableError, UsageError

VERSION = 1
LOWERINGS = ("optc", "standard")


@dataclass(frozen=True, kw_only=True)
class PassSpec:
    """One pass with the options that were given, not yet typed."""

    name: str
    options: Mapping[str, Setting]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a transform does, besides the model and the data.

    Attributes:
        passes: in the order they run.
        seed: of everything random.
        include: node-name globs; only matching layers are candidates.
        exclude: node-name globs that are left alone.
        lower: "optc" keeps the operators of the optc domain, "standard" replaces them.
    """

    passes: tuple[PassSpec, ...]
    seed: int = 0
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    lower: Literal["optc", "standard"] = "optc"

    def to_json(self) -> dict[str, Any]:
        """The content of a recipe file; `parse_recipe` reads it back."""
        return {
            "version": VERSION,
            "seed": self.seed,
            "passes": [{spec.name: dict(spec.options)} for spec in self.passes],
            "include": list(self.include),
            "exclude": list(self.exclude),
            "lower": self.lower,
        }

    def with_options(self, **options: Any) -> "Recipe":
        """The same passes with other values of the fields named."""
        return dataclasses.replace(self, **options)


def parse_pass(text: str) -> PassSpec:
    """Parses ``NAME[:key=value,...]``.

    Raises:
        UsageError: unknown pass, or an option that is not ``key=value``.
    """
    name, _, rest = text.partition(":")
    _check_pass(name)
    options: dict[str, Setting] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--pass {text}: '{part}' is not key=value")
        options[key.strip()] = value.strip()
    return PassSpec(name=name, options=options)


def load_recipe(path: Path) -> Recipe:
    """Reads a YAML or TOML recipe.

    Raises:
        UnreadableError: the file is missing or not YAML/TOML.
        UsageError: a key, pass or value is unknown.
    """
    return parse_recipe(read_document(path), str(path))


def read_document(path: Path, what: str = "recipe") -> Any:
    """Reads a YAML or TOML file.

    Args:
        path: of the file.
        what: it is, for messages.

    Raises:
        UnreadableError: the file is missing or not YAML/TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # ValueError: not UTF-8, TOML or a date; RecursionError: too many brackets
        reason = " ".join(str(error).split())
        raise UnreadableError(f"{what} {path}: {reason}") from error


def parse_recipe(data: Any, where: str) -> Recipe:
    """Checks the content of a recipe file.

    Raises:
        UsageError: what is wrong, naming `where` and the nearest known key.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{where}: a recipe is a mapping with the keys version and passes")
    known = [field.name for field in dataclasses.fields(Recipe)]
    check_keys(data, ["version", *known], where)
    if data.get("version") != VERSION:
        raise UsageError(f"{where}: version is {data.get('version')!r}, this optc reads {VERSION}")
    if not data.get("passes"):
        raise UsageError(f"{where}: no passes")
    if not isinstance(data["passes"], list):
        raise UsageError(f"{where}: passes is a list, each entry 'name' or 'name: {{key: value}}'")
    lower = data.get("lower", "optc")
    if lower not in LOWERINGS:
        raise UsageError(f"{where}: lower is {lower!r}, expected one of {', '.join(LOWERINGS)}")
    seed = data.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise UsageError(f"{where}: seed is {seed!r}, expected an integer of at least 0")
    return Recipe(
        passes=tuple(_parse_spec(entry, where) for entry in data["passes"]),
        seed=seed,
        include=_globs(data.get("include", ["*"]), where),
        exclude=_globs(data.get("exclude", []), where),
        lower=lower,
    )


def load_plans(path: Path) -> tuple[Plan, ...]:
    """Reads the plans in a ``report.json``, or in what ``--dry-run --json`` printed.

    Raises:
        UnreadableError: the file is missing or holds no plans.
        UsageError: a plan is of an unknown pass.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        plans = tuple(Plan.from_json(plan) for plan in document["plans"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableError(f"plan {path}: {' '.join(str(reason).split())}") from error
    if not plans:
        raise UnreadableError(f"plan {path}: no plans in it")
    for plan in plans:
        _check_pass(plan.pass_name)
    return plans


def plan_recipe(plans: Sequence[Plan]) -> Recipe:
    """The recipe that plans were made with, as far as they tell."""
    specs = (PassSpec(name=plan.pass_name, options=plan.config) for plan in plans)
    return Recipe(passes=tuple(specs))


def build_pass(spec: PassSpec, context: Context) -> CompressionPass:
    """Makes the pass with its typed, validated configuration.

    Raises:
        UsageError: an option is unknown or has a value of the wrong type or range.
    """
    pass_type = PASSES[spec.name]
    hints = typing.get_type_hints(pass_type.config_type)
    where = f"pass {spec.name}"
    check_keys(spec.options, list(hints), where)
    values = {
        key: typed_value(value, hints[key], f"{where}: {key}")
        for key, value in spec.options.items()
    }
    try:
        return pass_type(pass_type.config_type(**values), context)
    except ConfigError as error:
        raise UsageError(f"{where}: {error}") from error


def _parse_spec(entry: Any, where: str) -> PassSpec:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UsageError(f"{where}: each entry of passes is 'name' or 'name: {{key: value}}'")
    [(name, options)] = entry.items()
    _check_pass(name)
    if not isinstance(options or {}, dict):
        raise UsageError(f"{where}: options of {name} are not a mapping")
    return PassSpec(name=name, options=options or {})


def _globs(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(glob, str) for glob in value):
        raise UsageError(f"{where}: include and exclude are lists of node-name globs")
    return tuple(value)


def _check_pass(name: Any) -> None:
    if name not in PASSES:
        raise UsageError(f"unknown pass '{name}'{did_you_mean(str(name), PASSES)}")


def check_keys(given: Iterable[str], known: list[str], where: str) -> None:
    """Refuses a key that is not known, naming the nearest one.

    Raises:
        UsageError: there is such a key.
    """
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: unknown option '{key}'{did_you_mean(str(key), known)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: the nearest known ones, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean '{near[0]}'?" if near else f" (known: {', '.join(known)})"


def typed_value(value: Setting, hint: Any, where: str) -> Setting:
    """Converts an option to the type its configuration field declares.

    Raises:
        UsageError: it has no such value; the message begins with `where`.
    """
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        alternatives = typing.get_args(hint)
        if value is None or str(value).lower() == "none":
            return None
        [hint] = [alternative for alternative in alternatives if alternative is not type(None)]
    if typing.get_origin(hint) is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise UsageError(f"{where} is '{value}', expected one of {', '.join(allowed)}")
        return value
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise UsageError(f"{where} is '{value}', expected true or false")
        return words[str(value).lower()]
    try:
        typed: Setting = hint(value)
        if isinstance(value, bool) or (not isinstance(value, str) and typed != value):
            raise ValueError(f"{value!r} is no {hint.__name__}")
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{where} is '{value}', expected {hint.__name__}") from error
    return typed
