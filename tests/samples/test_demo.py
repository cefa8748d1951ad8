"""Tests of the table that `make demo` ends with."""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from samples import demo

MODEL = Path(demo.__file__).parent / "models" / "resnet20_cifar10.onnx"

ROWS = [
    demo.Row(path=Path("a.onnx"), nbytes=1_000_000, top1=0.921, milliseconds=1.0),
    demo.Row(path=Path("b.onnx"), nbytes=250_000, top1=0.9, milliseconds=2.0),
]


def test_table_is_aligned_and_has_ratios_to_the_first_model() -> None:
    lines = demo.table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    first, second = (" ".join(line.split()) for line in lines[2:])
    assert first == "a.onnx 1,000 kB 1.00× 92.1% 1.000 ms 1.00×"
    assert second == "b.onnx 250 kB 4.00× 90.0% 2.000 ms 0.50×"


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


def test_the_rival_stands_in_the_second_line(fake_optc, tmp_path) -> None:
    calib, small = tmp_path / "calib.npz", tmp_path / "small.onnx"
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    np.savez(calib, input=images)
    small.write_bytes(MODEL.read_bytes())
    outputs = '{"outputs": [{"name": "logits", "sqnr_db": 20.0, "cosine": 0.99}]}'
    times = ", ".join(['{"median_ms": 1.0}'] * 3)
    fake_optc(
        f"""case $1 in
compare) echo '{outputs}';;
eval) echo '{{"top1": 0.9}}';;
bench) echo '{{"models": [{times}]}}';;
esac"""
    )
    arguments = [str(each) for each in (MODEL, small, "--data", calib, "--calib", calib)]
    done = CliRunner().invoke(demo.main, arguments)
    assert done.exit_code == 0, done.output
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("×")]
    assert rows == [MODEL.name, f"{MODEL.stem}_onnxruntime_int8.onnx", small.name]
    int8 = tmp_path / rows[1]
    assert int8.stat().st_size < MODEL.stat().st_size / 3
