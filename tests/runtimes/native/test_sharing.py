"""When a layer runs on one thread because handing it over takes too long."""

import shutil
import subprocess
from pathlib import Path

import pytest

from runtimes.native.compile import COMPILER_FLAGS, FOLDER


@pytest.fixture(scope="module")
def decisions(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("sharing") / "check"
    source = Path(__file__).with_name("sharing_check.cpp")
    command = [compiler, *COMPILER_FLAGS, f"-I{FOLDER}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_layers_are_shared_while_other_threads_are_near(decisions: list[str]) -> None:
    assert decisions[0] == "s" * 160


def test_small_layers_run_alone_after_four_late_trials(decisions: list[str]) -> None:
    shared, trials = decisions[1][:49], decisions[1][49:]
    assert shared == "s" * 49
    assert set(trials[:15]) == {"a"}
    assert trials.count("s") == len(trials) // 16  # further trials


def test_one_trial_in_time_brings_them_back(decisions: list[str]) -> None:
    assert decisions[2] == "s" * 160


def test_large_layers_are_shared_all_the_same(decisions: list[str]) -> None:
    assert decisions[3].count("a") == 1  # to see how long it takes
    assert decisions[4].count("s") == 1  # fewer tiles of it are small
