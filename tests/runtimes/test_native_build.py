from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtimes import native_build, ort
from tests.helpers import classifier
from tests.runtimes.native.layers import library
from toolchain import cli


def test_build_is_cached_and_two_at_once_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library()  # skips where none can be built
    monkeypatch.setenv(native_build.CACHE_VARIABLE, str(tmp_path))
    lines: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: native_build.library_path(lines.append), range(2))
    assert first == second
    assert len(lines) == 2
    assert [path for path in first.parent.iterdir()] == [first]  # no leftovers
    assert native_build.library_path(lines.append) == first
    assert len(lines) == 2


def test_key_depends_on_the_compiler(tmp_path: Path) -> None:
    other = tmp_path / "c++"
    other.write_text("#!/bin/sh\necho other compiler\n", encoding="utf-8")
    other.chmod(0o755)
    assert native_build.cache_key(str(other)) != native_build.cache_key("/bin/true")


def test_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv(native_build.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(native_build.NativeError, match="install g"):
        native_build.library_path()


def test_missing_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_build.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(native_build, "compiler", lambda: "/bin/true")
    with pytest.raises(native_build.NativeError, match=r"needs torch: pip install 'optc\[torch\]'"):
        native_build.library_path()


def test_a_cache_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Callable[..., bool]:
        def method(*arguments: object) -> bool:
            raise error

        return method

    monkeypatch.delenv(native_build.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(native_build, "compiler", lambda: "/bin/true")
    monkeypatch.setattr(Path, "is_file", fail(PermissionError(13, "Permission denied")))
    with pytest.raises(native_build.NativeError, match=r"cannot read .*: Permission denied; set"):
        native_build.library_path()
    monkeypatch.setattr(Path, "home", fail(RuntimeError("no home")))
    with pytest.raises(native_build.NativeError, match=r"no home folder .*: set OPTC_CACHE"):
        native_build.library_path()


def test_failing_compilation_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library()
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv(native_build.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(native_build.NativeError, match=r"compiling .* failed: ") as caught:
        native_build.library_path()
    assert "\n" not in str(caught.value)


def test_library_built_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "ops.so"
    monkeypatch.setenv(native_build.LIBRARY_VARIABLE, str(given))
    with pytest.raises(native_build.NativeError, match="does not exist"):
        native_build.library_path()
    given.touch()
    assert native_build.library_path() == given
    with pytest.raises(native_build.NativeError, match="is not a library of optc operators"):
        native_build.instruction_set(given)
    with pytest.raises(ort.SessionError, match="cannot load"):
        ort.session(classifier().SerializeToString(), native=given)


def test_library_needs_no_torch() -> None:
    data = library().read_bytes()
    assert b"libtorch" not in data
    assert b"libc10" not in data


def test_command_copies_the_library(tmp_path: Path) -> None:
    library()
    result = CliRunner().invoke(cli.cli, ["build-ops", "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    native_build.instruction_set(tmp_path / "new" / native_build.FILE_NAME)


def test_command_without_compiler_exits_with_7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv(native_build.CACHE_VARIABLE, str(tmp_path))
    assert cli.run(["build-ops"]) == 7
    assert "no C++ compiler" in capsys.readouterr().err
