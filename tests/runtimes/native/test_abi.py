"""Our declaration of onnxruntime's ABI against the installed onnxruntime.

The slots that need a session are used by every test of the kernel.
"""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from runtimes import ort
from runtimes.native.compile import FOLDER
from tests.runtimes.native.layers import library


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The check library after onnxruntime has loaded it and given it its table."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("abi") / "abi_check.so"
    source = Path(__file__).with_name("abi_check.cpp")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}", str(source)]
    subprocess.run([*command, "-o", str(path)], check=True)
    loaded = ctypes.CDLL(str(path))
    ort.session_options(native=path)
    return loaded


def test_version_string(checked: ctypes.CDLL) -> None:
    version = ctypes.c_char_p.in_dll(checked, "version").value
    assert version is not None
    assert version.decode() == onnxruntime.__version__


OLD_ONNXRUNTIME = """
import ctypes, sys

create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
text = ctypes.CFUNCTYPE(ctypes.c_char_p)

class Base(ctypes.Structure):
    _fields_ = [("get_api", get), ("version", text)]

def create_status(code, message):
    print(message.decode())
    return 0x1000

slot = create(create_status)
table = (ctypes.c_void_p * 300)(ctypes.cast(slot, ctypes.c_void_p).value)
base = Base(get(lambda v: ctypes.addressof(table) if v <= 19 else 0), text(lambda: b"1.19.2"))
register = ctypes.CDLL(sys.argv[1]).RegisterCustomOps
register.restype = ctypes.c_void_p
print(register(None, ctypes.byref(base)) == 0x1000)
"""


def test_an_onnxruntime_that_is_too_old_is_told() -> None:
    command = [sys.executable, "-c", OLD_ONNXRUNTIME, str(library())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["optc needs onnxruntime 1.20 or later", "True"]


def test_slots_do_what_their_names_say(checked: ctypes.CDLL) -> None:
    assert ctypes.c_int.in_dll(checked, "wrong_step").value == 0
