"""Tests of the table that `make demo` ends with."""

import stat
import sys
from pathlib import Path

import pytest

from samples import demo

ROWS = [
    demo.Row(path=Path("a.onnx"), nbytes=1_000_000, top1=0.921, milliseconds=1.0),
    demo.Row(path=Path("b.onnx"), nbytes=250_000, top1=0.9, milliseconds=2.0),
]


def test_table_is_aligned_and_says_which_way_a_ratio_goes() -> None:
    lines = demo.table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["a.onnx", "1,000", "kB", "92.1%", "1.000", "ms"]
    assert "4.00× smaller" in lines[-1]
    assert "-2.1 points" in lines[-1]
    assert "2.00× slower" in lines[-1]


@pytest.fixture
def fake_optc(tmp_path, monkeypatch):
    """Puts a program named optc where the demo looks for it."""

    def install(body: str) -> None:
        program = tmp_path / "optc"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    return install


def test_json_of_a_command_is_returned(fake_optc, capsys) -> None:
    fake_optc('echo "{\\"arguments\\": \\"$*\\"}"')
    assert demo.optc("eval", Path("a.onnx")) == {"arguments": "eval a.onnx --json"}
    assert "$ optc eval a.onnx" in capsys.readouterr().err


def test_a_failed_command_keeps_its_exit_code(fake_optc) -> None:
    fake_optc("exit 3")
    with pytest.raises(demo.CommandFailedError, match="optc eval failed") as caught:
        demo.optc("eval", "a.onnx")
    assert caught.value.exit_code == 3
