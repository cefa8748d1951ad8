"""Finished points of a sweep: one JSON line each, written when it is finished."""

import json
from pathlib import Path
from typing import Any

from toolchain.errors import UnreadableError, UsageError

Entry = dict[str, Any]


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
        try:
            entry = json.loads(line)
            finished[entry["key"]] = entry
        except (ValueError, TypeError, KeyError) as error:
            raise UnreadableError(f"{path}: line {number} is not a point; remove it") from error
    return finished


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
