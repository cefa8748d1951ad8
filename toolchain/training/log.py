"""The history of a run as CSV, and documents as JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.console import finite

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


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
