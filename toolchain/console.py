"""What a person sees on a terminal (stderr), and JSON for machines (stdout)."""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from passes.framework import Progress

UNKNOWN = "–"
BAR_WIDTH = 24
LINES = 10
"""At most about so many lines of progress where there is no terminal."""


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = (0,)
) -> None:
    """Prints aligned columns; those whose index is in `text` to the left, others to the right."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index in text else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    say(line(headers), bold=True)
    for row in rows:
        say(line(row))


def say(message: str = "", **style: Any) -> None:
    """Prints a line to stderr; colours reach a terminal only."""
    click.secho(message, err=True, **style)


def note(message: str) -> None:
    """Prints something a person should know."""
    say(f"note: {message}", fg="yellow")


def print_json(document: Any) -> None:
    """Prints a document to stdout, in ASCII; infinities and NaNs become null, as JSON has none."""
    click.echo(json.dumps(finite(document), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """A JSON-ready value with null for infinities and NaNs."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress(total: int, label: str) -> Iterator[Progress]:
    """A bar with the time left on a terminal, a line every few steps elsewhere."""
    if not sys.stderr.isatty():
        yield _line_progress(label)
        return
    start = time.monotonic()

    def draw(done: int, total: int, what: str) -> None:
        filled = BAR_WIDTH * done // max(total, 1)
        left = (time.monotonic() - start) / done * (total - done) if done else math.nan
        eta = f"{format_seconds(left)} left" if done else ""
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        click.echo(f"\r\x1b[K{label} {bar} {done}/{total} {what} {eta}", err=True, nl=False)

    try:
        draw(0, total, "")
        yield draw
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)


def _line_progress(label: str) -> Progress:
    def print_line(done: int, total: int, what: str) -> None:
        if total <= LINES or done * LINES // total > (done - 1) * LINES // total:
            say(f"{label} {done}/{total} {what}")

    return print_line


def format_bytes(number: int) -> str:
    """``1.10 MB``; powers of 1000."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def format_count(number: int | None) -> str:
    """``40.6 M``, or a dash where unknown."""
    return UNKNOWN if number is None else _scaled(number, ("", "k", "M", "G", "T"))


def _scaled(number: int, units: Sequence[str]) -> str:
    value, index = float(number), 0
    while abs(value) >= 999.5 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    digits = 0 if index == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {units[index]}".rstrip()


def format_ms(milliseconds: float) -> str:
    """Three significant digits, without the unit."""
    limits = (99.95, 9.995, 0.9995, 0.09995)
    digits = next((digits for digits, limit in enumerate(limits) if milliseconds >= limit), 4)
    return f"{milliseconds:.{digits}f}"


def format_seconds(seconds: float) -> str:
    """``45 s`` or ``3 min 20 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def format_share(share: float | None, digits: int = 2) -> str:
    """``91.73 %``, or a dash where unknown."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f} %"
