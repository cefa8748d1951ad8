"""Finds the native operator library, and builds it where it is missing.

A build is cached in ``~/.cache/optc`` (or ``$OPTC_CACHE``) under a hash of the sources, the
compiler and its flags. ``$OPTC_LIBRARY`` names a library built elsewhere, for machines without a
compiler.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from runtimes.native.compile import COMPILER_FLAGS, FOLDER, LINKER_FLAGS, NAME

FILE_NAME = f"lib{NAME}.so"
CACHE_VARIABLE = "OPTC_CACHE"
LIBRARY_VARIABLE = "OPTC_LIBRARY"


class NativeError(RuntimeError):
    """The library cannot be had; the message says in one line what is missing."""


def library_path(report: Callable[[str], None] = lambda line: None) -> Path:
    """The library, built first if need be.

    Args:
        report: called with a line before a build starts.

    Raises:
        NativeError: it is not there and cannot be built.
    """
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        if not _is_there(Path(given)):
            raise NativeError(f"{LIBRARY_VARIABLE} names {given}, which does not exist")
        return Path(given)
    path = cache_folder() / cache_key(compiler()) / FILE_NAME
    if not _is_there(path):
        report("building the native operators, once for this machine …")
        _build(path)
    return path


def cache_folder() -> Path:
    """Where builds are kept.

    Raises:
        NativeError: this user has no home.
    """
    given = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(given) if given else Path.home() / ".cache" / "optc"
    except RuntimeError as error:
        raise NativeError(f"no home folder to keep builds in: set {CACHE_VARIABLE}") from error


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        why = f"{error.strerror}; set {CACHE_VARIABLE} or {LIBRARY_VARIABLE} to what can be read"
        raise NativeError(f"cannot read {path}: {why}") from error


def compiler() -> str:
    """Path of the C++ compiler: ``$CXX``, else ``c++``.

    Raises:
        NativeError: there is none.
    """
    name = os.environ.get("CXX") or "c++"
    found = shutil.which(name)
    if found is None:
        raise NativeError(f"no C++ compiler '{name}': install g++ or name one with CXX")
    return found


def cache_key(compiler_path: str) -> str:
    """Hash of everything that a build depends on."""
    version = subprocess.run(
        [compiler_path, "--version"], capture_output=True, text=True, check=False
    ).stdout
    digest = hashlib.sha256()
    for text in (platform.machine(), compiler_path, version, *COMPILER_FLAGS, *LINKER_FLAGS):
        digest.update(text.encode() + b"\0")
    for source in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def instruction_set(library: Path) -> str:
    """The float kernels that a library chooses on this processor: avx512, avx2 or portable.

    Raises:
        NativeError: the file is not our library.
    """
    return _chosen(library, "OptcInstructionSet")


def hybrid_instruction_set(library: Path) -> str:
    """The 8-bit kernels that it chooses: avx512, avx512vnni (no VBMI), avxvnni, avx2 or portable.

    Raises:
        NativeError: the file is not our library.
    """
    return _chosen(library, "OptcHybridInstructionSet")


def _chosen(library: Path, function: str) -> str:
    try:
        name = getattr(ctypes.CDLL(str(library)), function)
    except (OSError, AttributeError) as error:
        raise NativeError(f"{library} is not a library of optc operators") from error
    name.restype = ctypes.c_char_p
    chosen: bytes | None = name()
    return chosen.decode() if chosen is not None else "none"


def _build(path: Path) -> None:
    """Builds in a folder of its own, then moves: two processes may build at once."""
    for package in ("torch", "ninja"):
        if importlib.util.find_spec(package) is None:
            raise NativeError(
                f"building the native operators needs {package}: pip install 'optc[torch]'"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as folder:
            _compile(folder)
            os.replace(Path(folder, f"{NAME}.so"), path)
    except OSError as error:
        raise NativeError(f"cannot write the native operators to {path.parent}: {error}") from error


def _compile(folder: str) -> None:
    tools = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]  # ninja is beside python
    done = subprocess.run(
        [sys.executable, "-m", "runtimes.native.compile", folder],
        env={
            **os.environ,
            "CXX": compiler(),
            "PATH": os.pathsep.join(tools),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        why = next((line for line in lines if "error:" in line), lines[-1])
        raise NativeError(f"compiling the native operators failed: {why.strip()}")
