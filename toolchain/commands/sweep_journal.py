"""Finished points of a sweep: one JSON line each, written when it is finished."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from runtimes.accelerator.sweep import Measures
from toolchain.errors import UnreadableError, UsageError

Entry = dict[str, Any]
_COSTS = ("functional_error", *(field.name for field in fields(Measures)))


def read_journal(path: Path) -> dict[str, Entry]:
    """Finished points by key, none if there is no file; a last line cut off is removed from it.

    Raises:
        UnreadableError: it is not a journal.
        UsageError: it cannot be written.
    """
    if not path.exists():
        return {}
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.decode().split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path}: {error}") from error
    if whole != content:
        write_text(path, whole.decode())
    finished = {}
    for number, line in enumerate(lines, 1):
        entry = _parsed(line)
        if entry is None:
            raise UnreadableError(f"{path}: line {number} is not a point; remove it")
        finished[entry["key"]] = entry
    return finished


def _parsed(line: str) -> Entry | None:
    """An entry with its key, and its costs or why it was refused; None for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        return None
    measured = all(isinstance(entry.get(name), int | float) for name in _COSTS)
    return entry if measured or isinstance(entry.get("refused"), str) else None


def append(path: Path, entry: Entry) -> None:
    """Adds a finished point.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file and the folders it lies in.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
