import importlib.metadata
import platform
from pathlib import Path

import pytest

import toolchain.environment
from toolchain.environment import environment, package_version

X86 = """processor\t: 0
model name\t: Some CPU @ 2.0GHz
flags\t\t: fpu avx2 avx512f avx512_vnni sse4_2

processor\t: 1
model name\t: Some CPU @ 2.0GHz
flags\t\t: fpu avx2 avx512f avx512_vnni sse4_2
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm\n"


def test_versions_are_those_installed() -> None:
    known = environment()
    assert known["python"] == platform.python_version()
    for name in ("onnx", "onnxruntime", "numpy"):
        assert known[name] == importlib.metadata.version(name)
    assert "threads" not in known


@pytest.mark.parametrize(("threads", "expected"), [(0, "all"), (3, "3")])
def test_threads_are_named_where_they_matter(threads: int, expected: str) -> None:
    assert environment(threads)["threads"] == expected


@pytest.mark.parametrize(
    ("text", "isa"), [(X86, "avx2 avx512f avx512_vnni"), (ARM, "asimddp i8mm"), ("", "unknown")]
)
def test_instruction_sets_are_read_from_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, isa: str
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(toolchain.environment, "_CPU_INFO", tmp_path / "cpuinfo")
    known = environment()
    assert known["isa"] == isa
    assert known["cpu"] == "Some CPU @ 2.0GHz" if text is X86 else known["cpu"]


def test_processors_without_a_number_are_told_by_their_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("cpu family\t: 26\nmodel name\t: AMD EPYC\nflags\t: avx2\n")
    monkeypatch.setattr(toolchain.environment, "_CPU_INFO", tmp_path / "cpuinfo")
    assert environment()["cpu"] == "AMD EPYC, family 26"


def test_systems_without_processor_list_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain.environment, "_CPU_INFO", tmp_path / "none")
    known = environment()
    assert known["isa"] == "unknown"
    assert known["cpu"]


def test_a_package_that_is_not_installed_is_unknown() -> None:
    assert package_version("no-such-distribution") == "unknown"
