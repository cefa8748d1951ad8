import io
import json
import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.console import (
    format_bytes,
    format_count,
    format_ms,
    format_seconds,
    format_share,
    note,
    print_json,
    print_table,
    progress,
)

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def significant_digits(number: str) -> int:
    return len(number.replace(".", "").lstrip("0"))


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12345, "12.3 kB"), (999_600, "1.00 MB")],
)
def test_sizes(number: int, expected: str) -> None:
    assert format_bytes(number) == expected


@given(st.integers(1, 10**15))
def test_sizes_are_right_to_three_digits(number: int) -> None:
    value, unit = format_bytes(number).split()
    assert float(value) * UNITS[unit] == pytest.approx(number, rel=0.0051)
    assert significant_digits(value) <= (3 if number < 999e12 else 4)


def test_counts_and_shares_that_are_not_known_are_dashes() -> None:
    assert (format_count(None), format_share(None)) == ("–", "–")
    assert (format_count(40_600_000), format_count(7)) == ("40.6 M", "7")
    assert (format_share(0.91734), format_share(1, 1)) == ("91.73 %", "100.0 %")


@given(st.floats(0.011, 99.9))
def test_milliseconds_have_three_significant_digits(milliseconds: float) -> None:
    text = format_ms(milliseconds)
    assert float(text) == pytest.approx(milliseconds, rel=0.0051)
    assert significant_digits(text) == 3


def test_large_times_are_whole_numbers() -> None:
    assert (format_ms(99.96), format_ms(12345.6)) == ("100", "12346")
    assert [format_seconds(s) for s in (0.4, 59.4, 59.6, 200)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "3 min 20 s",
    ]


def test_tables_are_aligned_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("layer", "params", "note"), [["a", "1", "x"], ["long", "100", "yy"]], text=(0, 2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "layer  params  note",
        "a           1  x",
        "long      100  yy",
    ]


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("layer", "params"), [])
    assert capsys.readouterr().err == "layer  params\n"


def test_json_is_standard_and_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"bad": [math.nan, math.inf], "nested": {"x": (-math.inf, 1.5)}, "text": "–"}
    print_json(document)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.isascii()  # whatever the encoding of stdout is
    parsed = json.loads(captured.out, parse_constant=pytest.fail)
    assert parsed == {"bad": [None, None], "nested": {"x": [None, 1.5]}, "text": "–"}


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("random inputs")
    assert capsys.readouterr() == ("", "note: random inputs\n")


@pytest.mark.parametrize(("total", "lines"), [(3, 3), (10, 10), (1000, 10), (25, 10)])
def test_progress_without_a_terminal_is_a_few_lines_that_end_with_the_total(
    total: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(total, "bench") as report:
        for done in range(1, total + 1):
            report(done, total, "rounds")
    captured = capsys.readouterr()
    assert captured.out == ""
    printed = captured.err.splitlines()
    assert len(printed) == lines
    assert printed[-1] == f"bench {total}/{total} rounds"


def test_progress_on_a_terminal_is_one_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(RuntimeError), progress(4, "eval") as report:
        report(2, 4, "batches")
        raise RuntimeError
    drawn = re.split(r"\r(?:\x1b\[K)?", terminal.getvalue())
    assert "\n" not in terminal.getvalue()
    assert drawn[-1] == ""
    half = drawn[-2]
    assert half.count("█") == half.count("░") == 12
    assert "2/4 batches" in half and "left" in half
