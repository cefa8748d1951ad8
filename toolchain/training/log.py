"""The history of a run as CSV, and documents as JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.console import finite
from toolchain.errors import UnreadableError

Record = dict[str, float]
"""What is known of one epoch: number, loss, penalty, learning rate, metrics, seconds."""


def write_csv(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes one row an epoch; columns are all keys in the order in which they appear."""
    columns = list(dict.fromkeys(key for record in history for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    _replace(path, text.getvalue())


def write_json(path: Path, document: Any) -> None:
    """Writes a document; infinities and NaNs become null."""
    _replace(path, json.dumps(finite(document), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a document.

    Raises:
        UnreadableError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path}: {' '.join(str(error).split())}") from error


def json_form(document: Any) -> Any:
    """What `read_json` returns after `write_json` of a document."""
    return json.loads(json.dumps(finite(document)))


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
