"""Reads architecture files: strict YAML in which every parameter names its source.

    version: 1
    name: my-array
    kind: systolic
    summary: one line
    energy_table: horowitz-45nm
    clock_hz: {value: 1000000000, source: assumed}
    array:
      height: {value: 32, source: assumed}
      ...
    assumptions:
      - {what: no halo traffic, source: assumed}

A plain value in the place of ``{value, source}`` is accepted in a user's own file, and an
``area_table`` like the energy table.
"""

import difflib
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from runtimes.accelerator.architecture import (
    Architecture,
    ArchitectureError,
    Buffers,
    Dram,
    Host,
    Words,
)
from runtimes.accelerator.arrays import KINDS

VERSION = 1
NO_SOURCE = "as given by the user"
LARGEST = 2**53
"""Of whole numbers: the models compute with some in floating point."""
_FOLDER = "runtimes.accelerator.architectures"
_SECTIONS: Mapping[str, type[Any]] = {
    "buffers": Buffers,
    "dram": Dram,
    "words": Words,
    "host": Host,
}
_TABLES = ("energy_table", "area_table")
_KEYS = ("version", "name", "kind", "summary", "energy_table", "clock_hz", "array")


def shipped_names() -> list[str]:
    """Names of the architectures that come with optc, ours first."""
    files = (entry.name for entry in resources.files(_FOLDER).iterdir())
    names = sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))
    return sorted(names, key=lambda name: name != "escalate")


def load_shipped(name: str) -> Architecture:
    """Reads an architecture that comes with optc.

    Raises:
        ArchitectureError: there is none of that name.
    """
    if name not in shipped_names():
        raise ArchitectureError(f"unknown architecture '{name}'{_hint(name, shipped_names())}")
    text = resources.files(_FOLDER).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_architecture(yaml.safe_load(text), f"{name}.yaml")


def load_file(path: Path) -> Architecture:
    """Reads a user's architecture file.

    Raises:
        OSError: the file cannot be read.
        ArchitectureError: it is not YAML, or a key or value is wrong.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8
        raise ArchitectureError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return parse_architecture(data, str(path))


def parse_architecture(data: Any, where: str) -> Architecture:
    """Checks the content of an architecture file.

    Raises:
        ArchitectureError: what is wrong, naming `where` and the nearest known key.
    """
    check_keys(data, [*_KEYS, *_SECTIONS, "area_table", "assumptions"], where)
    for key in (*_KEYS, *_SECTIONS):
        if key not in data:
            raise ArchitectureError(f"{where}: '{key}' is missing")
    if data["version"] != VERSION:
        raise ArchitectureError(f"{where}: version is {data['version']!r}, this optc reads 1")
    kind = data["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ArchitectureError(f"{where}: unknown kind '{kind}'{_hint(str(kind), KINDS)}")
    sources: dict[str, str] = {}
    sections = {
        name: _section(section, data[name], f"{where}: {name}", name, sources)
        for name, section in {"array": KINDS[kind], **_SECTIONS}.items()
    }
    clock, sources["clock_hz"] = _with_source(data["clock_hz"], f"{where}: clock_hz")
    try:
        return Architecture(
            name=str(data["name"]),
            summary=str(data["summary"]),
            energy_table=str(data["energy_table"]),
            area_table=str(data.get("area_table", Architecture.area_table)),
            clock_hz=_typed(clock, int, f"{where}: clock_hz"),
            **sections,
            assumptions=_assumptions(data.get("assumptions", []), where),
            sources=sources,
        )
    except ArchitectureError as error:
        text = str(error)
        raise type(error)(text if text.startswith(where) else f"{where}: {text}") from error


def override(architecture: Architecture, settings: Mapping[str, Any]) -> Architecture:
    """The same accelerator with other parameters.

    Args:
        architecture: to start from; it stays as it is.
        settings: values by dotted name, e.g. ``{"array.blocks": 128}``.

    Raises:
        ArchitectureError: a name is unknown or a value is of the wrong type or range.
        TileError: a buffer cannot hold one tile.
    """
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        head, _, tail = name.partition(".")
        if not tail:
            check_keys({name: value}, [*_TABLES, "clock_hz"], architecture.name)
            changed[name] = _typed(value, int if name == "clock_hz" else str, name)
            continue
        check_keys({head: value}, ["array", *_SECTIONS], architecture.name)
        part = changed.get(head, getattr(architecture, head))
        hints = typing.get_type_hints(type(part))
        check_keys({tail: value}, list(hints), f"{architecture.name}: {head}")
        changed[head] = replace(part, **{tail: _typed(value, hints[tail], name)})
    # All at once: the parts are checked against each other.
    sources = {**architecture.sources, **dict.fromkeys(settings, NO_SOURCE)}
    return replace(architecture, **changed, sources=sources)


def to_json(architecture: Architecture) -> dict[str, Any]:
    """Every parameter with its source, and the assumptions; for manifests and reports."""
    parameters: dict[str, Any] = {"clock_hz": architecture.clock_hz}
    for head in ("array", *_SECTIONS):
        part = getattr(architecture, head)
        assert is_dataclass(part)
        for each in fields(part):
            parameters[f"{head}.{each.name}"] = getattr(part, each.name)
    return {
        "name": architecture.name,
        "summary": architecture.summary,
        **{name: getattr(architecture, name) for name in _TABLES},
        "parameters": {
            name: {"value": value, "source": architecture.sources.get(name, NO_SOURCE)}
            for name, value in parameters.items()
        },
        "assumptions": [
            {"what": what, "source": source} for what, source in architecture.assumptions
        ],
    }


def _section(section: type[Any], data: Any, where: str, name: str, sources: dict[str, str]) -> Any:
    hints = typing.get_type_hints(section)
    check_keys(data, list(hints), where)
    values = {}
    for key, hint in hints.items():
        if key not in data:
            raise ArchitectureError(f"{where}: '{key}' is missing")
        value, sources[f"{name}.{key}"] = _with_source(data[key], f"{where}.{key}")
        values[key] = _typed(value, hint, f"{where}.{key}")
    return section(**values)


def _with_source(data: Any, where: str) -> tuple[Any, str]:
    if not isinstance(data, dict):
        return data, NO_SOURCE
    check_keys(data, ["value", "source"], where)
    if "value" not in data or "source" not in data:
        raise ArchitectureError(f"{where}: expected a value and its source")
    return data["value"], str(data["source"])


def _assumptions(data: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(data, list):
        raise ArchitectureError(f"{where}: assumptions is a list of {{what, source}}")
    for entry in data:
        check_keys(entry, ["what", "source"], f"{where}: assumptions")
        if len(entry) != 2:
            raise ArchitectureError(f"{where}: assumptions is a list of {{what, source}}")
    return tuple((str(entry["what"]), str(entry["source"])) for entry in data)


def _typed(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ArchitectureError(f"{where} is '{value}', expected one of {', '.join(allowed)}")
        return value
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    numeric = numeric and abs(value) <= sys.float_info.max
    fits = {bool: isinstance(value, bool), str: isinstance(value, str), float: numeric}
    fits[int] = numeric and value == int(value)
    if not fits[hint]:
        raise ArchitectureError(f"{where} is {value!r}, expected {hint.__name__}")
    if hint is int and value > LARGEST:
        raise ArchitectureError(f"{where} is {value:g}, expected at most {LARGEST}")
    return hint(value)


def check_keys(data: Any, known: Iterable[str], where: str) -> None:
    """Refuses what is no mapping or has other keys.

    Raises:
        ArchitectureError: naming `where` and the nearest known key.
    """
    if not isinstance(data, dict):
        raise ArchitectureError(f"{where}: expected a mapping with the keys {', '.join(known)}")
    for key in data:
        if key not in known:
            raise ArchitectureError(f"{where}: unknown key '{key}'{_hint(str(key), known)}")


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean '{near[0]}'?" if near else f" (known: {', '.join(known)})"
