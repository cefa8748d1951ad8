"""Our declaration of onnxruntime's ABI against the installed onnxruntime.

The slots that need a session are used by every test of the kernel.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from runtimes import ort
from runtimes.native.compile import FOLDER


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The check library after onnxruntime has loaded it and given it its table."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("abi") / "abi_check.so"
    source = Path(__file__).with_name("abi_check.cpp")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}", str(source)]
    subprocess.run([*command, "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    ort.session_options(native=library)
    return loaded


def test_version_string(checked: ctypes.CDLL) -> None:
    version = ctypes.c_char_p.in_dll(checked, "version").value
    assert version is not None
    assert version.decode() == onnxruntime.__version__


def test_slots_do_what_their_names_say(checked: ctypes.CDLL) -> None:
    assert ctypes.c_int.in_dll(checked, "wrong_step").value == 0
