import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimes.accelerator.sweep import Measures
from runtimes.accelerator.workload import Workload
from tests.helpers import classifier, save
from toolchain.cli import run
from toolchain.commands import simulate_sweep
from toolchain.commands.sweep_journal import append, read_journal
from toolchain.errors import UnreadableError

COSTS = [field.name for field in fields(Measures)]
PARAMETERS = {"array.height": [8, 32], "dram.bytes_per_second": [1e9, 25.6e9]}


def write_sweep(folder: Path, parameters: dict[str, Any]) -> str:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "parameters": parameters}, sort_keys=False))
    return str(path)


def arguments(folder: Path, *, jobs: int = 1) -> list[str]:
    model = save(classifier(), folder / "m.onnx")
    file = write_sweep(folder, PARAMETERS)
    return [
        *("simulate", str(model), "--sweep", file, "--arch", "dense-ws"),
        *("--out", str(folder / "out"), "--jobs", str(jobs), "--json"),
    ]


def costs(document: dict[str, Any]) -> list[tuple[int, float, int]]:
    return [(each["cycles"], each["energy_pj"], each["dram_bytes"]) for each in document["points"]]


def test_points_equal_single_simulations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(tmp_path)) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["points"]) == 4
    shipped = Path("runtimes/accelerator/architectures/dense-ws.yaml")
    for point in document["points"]:
        data = yaml.safe_load(shipped.read_text())
        data["array"]["height"] = point["settings"]["array.height"]
        data["dram"]["bytes_per_second"] = point["settings"]["dram.bytes_per_second"]
        own = tmp_path / "own.yaml"
        own.write_text(yaml.safe_dump(data))
        model = str(tmp_path / "m.onnx")
        assert run(["simulate", model, "--arch-file", str(own), "--json"]) == 0
        [single] = json.loads(capsys.readouterr().out)["architectures"]
        for key in ("cycles", "seconds", "energy_pj", "dram_bytes"):
            assert point[key] == single[key]
        assert point["area_mm2"] == sum(single["area_mm2"].values())
        assert point["functional_error"] < 1e-6
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert page.count("<svg") == 2 and page.count("<tr>") == 5
    assert "1: " + str(tmp_path / "m.onnx") + ", dense-ws, array.height=8" in page


def test_processes_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        assert run(arguments(folder, jobs=jobs)) == 0
        results.append(costs(json.loads(capsys.readouterr().out)))
    assert results[0] == results[1]


def test_a_sweep_that_was_cut_off_is_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(tmp_path)
    assert run(command) == 0
    first = json.loads(capsys.readouterr().out)
    journal = tmp_path / "out" / "sweep.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:30])  # killed while the third was written
    measured = []

    def count(workload: Workload, architecture: Any) -> Any:
        measured.append(architecture)
        return original(workload, architecture)

    original = simulate_sweep.measure
    monkeypatch.setattr(simulate_sweep, "measure", count)
    assert run(command) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == first
    assert len(measured) == 2
    assert "2 of 4 points were finished before" in captured.err
    assert journal.read_text() == "".join(lines)
    assert run(command) == 0
    assert len(measured) == 2
    save(classifier(seed=1), tmp_path / "m.onnx")  # another model of that name
    assert run(command) == 0
    assert len(measured) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="looks for child processes in /proc")
def test_an_interrupted_sweep_says_so_in_one_line(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("optc")
    command = [program, *arguments(tmp_path, jobs=2)]
    write_sweep(tmp_path, {"array.height": [*range(8, 40)], "array.width": [*range(8, 40)]})
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stderr=pipe, text=True, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and len(children.read_text().split()) < 3:
            time.sleep(0.01)
        time.sleep(0.2)  # the workers, and what cleans up behind them, are importing
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
        try:
            _, stderr = process.communicate(timeout=300)
        finally:
            with suppress(ProcessLookupError):  # as it should be
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in stderr
    assert stderr.rstrip().endswith("optc: error: interrupted")


def test_models_and_machines_share_a_table_and_refusals_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(save(classifier(seed=n), tmp_path / f"{n}.onnx")) for n in range(2)]
    file = write_sweep(tmp_path, {"buffers.weight_bytes": [64, 262144]})
    options = ["--sweep", file, "--arch", "escalate", "--arch", "sparten", "--jobs", "1"]
    assert run(["simulate", *models, *options]) == 0
    err = capsys.readouterr().err
    rows = [line for line in err.splitlines() if "262144" in line and "note" not in line]
    assert len(rows) == 4 and any("*" in row for row in rows)
    refused = [line for line in err.splitlines() if line.startswith("note: refused: ")]
    assert len(refused) == 4 and all("buffers.weight_bytes is too small" in r for r in refused)


@pytest.mark.parametrize(
    ("parameters", "extra", "code", "message"),
    [
        ({"array.blokcs": [1]}, [], 2, "did you mean 'blocks'?"),
        ({"buffers.input_bytes": [64]}, [], 2, "no point can be simulated; the first: escalate: "),
        ({"energy_table": ["none"]}, [], 2, "unknown energy table 'none'"),
        ({"area_table": ["none"]}, [], 2, "unknown area table 'none'"),
        ({"array.blocks": [4]}, ["--ablate"], 2, "--ablate does not go with --sweep"),
        ({"array.blocks": [4]}, ["--sweep", "none.yaml"], 3, "sweep none.yaml: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parameters: dict[str, Any],
    extra: list[str],
    code: int,
    message: str,
) -> None:
    model, file = save(classifier(), tmp_path / "m.onnx"), write_sweep(tmp_path, parameters)
    assert run(["simulate", str(model), "--sweep", file, "--jobs", "1", *extra]) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("optc: error: ") and message in last


def test_a_line_may_be_cut_off_within_a_character(tmp_path: Path) -> None:
    journal = tmp_path / "sweep.jsonl"
    entries = [{"key": str(n), "refused": name} for n, name in enumerate(("mod\x85le", "modèle"))]
    for entry in entries:
        append(journal, entry)
    content = journal.read_bytes()
    journal.write_bytes(content[: content.index("è".encode()) + 1])
    assert read_journal(journal) == {"0": entries[0]}
    assert journal.read_bytes() == content[: content.index(b"\n") + 1]


def test_a_file_that_is_no_journal_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(tmp_path)
    (tmp_path / "out").mkdir()
    journal = tmp_path / "out" / "sweep.jsonl"
    journal.write_text("hello\n")
    assert run(command) == 3
    assert "line 1 is not a point; remove it" in capsys.readouterr().err
    assert journal.read_text() == "hello\n"


@pytest.mark.parametrize("name", ["key", "functional_error", "cycles", "area_mm2"])
@pytest.mark.parametrize("value", [None, [1]])
def test_a_line_without_what_was_measured_is_no_point(
    tmp_path: Path, name: str, value: object
) -> None:
    whole = {"key": "1", "functional_error": 0.0, **dict.fromkeys(COSTS, 1)}
    append(tmp_path / "good.jsonl", whole)
    assert read_journal(tmp_path / "good.jsonl") == {"1": whole}
    append(tmp_path / "bad.jsonl", {**whole, name: value})
    with pytest.raises(UnreadableError, match="line 1 is not a point"):
        read_journal(tmp_path / "bad.jsonl")


def test_several_models_need_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(save(classifier(), tmp_path / "m.onnx"))
    assert run(["simulate", model, model]) == 2
    assert "several models and --jobs need --sweep" in capsys.readouterr().err


def test_a_layer_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(save(classifier(), tmp_path / "m.onnx"))
    data = yaml.safe_load(Path("runtimes/accelerator/architectures/scnn.yaml").read_text())
    data["array"]["accumulators"] = 1
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(data))
    assert run(["simulate", model, "--arch-file", str(own), "--out", str(tmp_path / "o")]) == 2
    assert "scnn, layer 'conv': array.accumulators is too small" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
