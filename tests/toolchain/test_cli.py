import importlib.util
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.helpers import classifier, save
from toolchain import cli, errors
from toolchain.cli import COMMANDS, run

IMPLEMENTED = [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module)]

Install = Callable[[Callable[[], object]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a function the command "made-up"."""

    def add(function: Callable[[], object]) -> None:
        module = types.ModuleType("made_up_command")
        module.__dict__["command"] = click.command()(function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "made-up", (module.__name__, "Made up."))

    return add


def raising(error: BaseException) -> Callable[[], object]:
    def function() -> object:
        raise error

    return function


@pytest.mark.parametrize(
    ("word", "hint"), [("inspct", "did you mean 'inspect'?"), ("zzz", "known are inspect, passes")]
)
def test_unknown_command_names_the_nearest(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"unknown command '{word}', {hint}" in captured.err
    assert "see 'optc --help'" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect"], "Missing argument 'MODEL'"),
        (["inspect", "a.onnx", "--jsn"], "No such option '--jsn'"),
        (["bench", "a.onnx", "--rounds", "0"], "0 is not in the range x>=1"),
        (["bench", "a.onnx", "--threads", "-1"], "-1 is not in the range"),
        (["bench", "a.onnx", "--seed", "-1"], "-1 is not in the range"),
        (["compare", "a.onnx", "b.onnx", "--max-rel", "x"], "'x' is not a valid float"),
        (["compare", "a.onnx", "b.onnx", "--max-rel", "nan"], "'nan' is not a finite number"),
        (["compare", "a.onnx", "b.onnx", "--max-rel", "inf"], "'inf' is not a finite number"),
        (["eval", "a.onnx", "--data", "d", "--max-drop", "nan"], "'nan' is not a finite number"),
        (["eval", "a.onnx", "--data", "d", "--max-drop", "-1"], "-1.0 is not in the range x>=0"),
        (["compare", "a.onnx", "b.onnx", "--dim", "H=0"], "--dim H=0: expected NAME=SIZE"),
        (["compare", "a.onnx", "b.onnx", "--dim", "H"], "--dim H: expected NAME=SIZE"),
        (["eval", "a.onnx"], "Missing option '--data'"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("optc: error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.UnreadableError, 3),
        (errors.NothingAppliedError, 4),
        (errors.VerificationError, 5),
        (errors.GateError, 6),
        (errors.MissingComponentError, 7),
    ],
)
def test_failures_have_the_documented_exit_codes(
    error: type[errors.OptcError], code: int, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(error("what is\nwrong")))
    assert run(["made-up"]) == code
    assert capsys.readouterr().err == "optc: error: what is wrong\n"


def test_internal_error_shows_no_traceback(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(KeyError("gone")))
    assert run(["made-up"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("optc: error: internal error: KeyError: 'gone'; rerun with --traceback")
    assert "Traceback" not in err


@pytest.mark.parametrize("where", [0, 1])
def test_traceback_is_shown_on_request(
    where: int, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(KeyError("gone")))
    arguments = ["made-up"]
    arguments.insert(where, "--traceback")
    assert run(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "rerun with" not in err


def test_traceback_is_shown_by_environment_variable(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPTC_TRACEBACK", "1")
    install(raising(errors.UnreadableError("no such file")))
    assert run(["made-up"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_interruption_is_one_line_and_has_the_exit_code_of_the_signal(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(KeyboardInterrupt()))
    assert run(["made-up"]) == 130
    assert capsys.readouterr().err.split() == ["optc:", "error:", "interrupted"]


@pytest.mark.parametrize("error", [SystemExit(0), BaseException("odd")])
def test_no_exception_leaves_without_a_line(
    error: BaseException, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(raising(error))
    assert run(["made-up"]) == 1
    assert f"internal error: {type(error).__name__}" in capsys.readouterr().err


STOPPED = """
import sys, tempfile, time, types
import click
from toolchain import cli

@click.command()
@click.argument("folder")
def command(folder):
    with tempfile.TemporaryDirectory(dir=folder):
        click.echo("working")
        time.sleep(60)

sys.modules["made_up"] = types.SimpleNamespace(command=command)
cli.COMMANDS["made-up"] = ("made_up", "Made up.")
cli.main()
"""


def stopped(folder: Path, *numbers: signal.Signals, ignored: bool = False) -> tuple[int, str]:
    """Exit code and stderr of a program that gets signals while it has a temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, "made-up", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if ignored else None,
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        for number in numbers:
            process.send_signal(number)
        return process.wait(), process.communicate()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_stopped_removes_its_temporary_files(
    tmp_path: Path, number: signal.Signals
) -> None:
    assert stopped(tmp_path, number) == (
        128 + number,
        f"optc: error: stopped by {number.name}\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    code, _ = stopped(tmp_path, signal.SIGHUP, signal.SIGTERM, ignored=True)
    assert code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "code"), [(["passes", "--json"], 141), (["--help"], 141), (["inspct"], 2)]
)
def test_output_that_nobody_reads_is_no_internal_error(arguments: list[str], code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "toolchain.cli", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == code


def test_shells_can_ask_for_completions() -> None:
    asked = {"_OPTC_COMPLETE": "bash_complete", "COMP_WORDS": "optc ins", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "toolchain.cli"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"plain,inspect\n")


def test_success_is_zero(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(lambda: None)
    assert run(["made-up"]) == 0
    assert capsys.readouterr().err == ""


def test_no_arguments_show_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    err = capsys.readouterr().err
    assert all(name in err for name in COMMANDS)


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_help_of_every_command_explains_all_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: optc {name}" in capsys.readouterr().out
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [each.opts for each in options if not each.help] == []


def test_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("optc")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspct"]])
def test_heavy_libraries_are_not_imported_for_small_answers(arguments: list[str]) -> None:
    program = (
        "import sys; from toolchain.cli import run; run(sys.argv[1:])\n"
        "heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'onnxscript', 'numpy', 'torch'}\n"
        "sys.exit(' '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_module_can_be_run_as_a_program(tmp_path: Path) -> None:
    model = save(classifier(), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "toolchain.cli", "inspect"]
    done = subprocess.run([*command, str(model)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "conv" in done.stderr
    missing = subprocess.run([*command, "none.onnx"], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == "optc: error: none.onnx: no such file\n"
