import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from toolchain.training.memory import keep_freed_memory

def page_faults():
    np.ones(1 << 24)  # 128 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults(), keep_freed_memory(), page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_large_arrays_stay_with_the_process() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    before, told, after = ran.stdout.split()
    assert told == b"True"
    assert int(before) > 4 * 64  # at least one a huge page
    assert int(after) < 64


def test_other_c_libraries_are_left_alone(monkeypatch) -> None:
    from toolchain.training import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()
