"""The kernel under AddressSanitizer, UBSan and ThreadSanitizer, over random and damaged layers."""

import shutil
import subprocess
from pathlib import Path

import pytest

from runtimes.native.compile import COMPILER_FLAGS, FOLDER

DRIVER = Path(__file__).with_name("fuzz.cpp")
KERNEL = sorted(path for path in FOLDER.glob("*.cpp") if path.name != "library.cpp")


def build_driver(folder: Path, sanitizers: str) -> Path:
    """Builds the fuzz driver; skips where the compiler or a sanitizer is missing."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    driver = folder / "fuzz"
    flags = [*COMPILER_FLAGS, "-O1", "-g", "-pthread", f"-I{FOLDER}"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    done = subprocess.run(
        [compiler, *flags, str(DRIVER), *map(str, KERNEL), "-o", str(driver)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find -l" in done.stderr or "cannot find /" in done.stderr:
        pytest.skip(f"the compiler has no {sanitizers} sanitizer")
    assert done.returncode == 0, done.stderr
    return driver


def fuzz(driver: Path, seconds: float, seed: int = 0) -> None:
    done = subprocess.run(
        [str(driver), str(seconds), str(seed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_fuzz_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    fuzz(build_driver(tmp_path, "address,undefined"), seconds=3)


@pytest.mark.slow
def test_long_fuzz_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    driver = build_driver(tmp_path, "address,undefined")
    for seed in range(1, 11):
        fuzz(driver, seconds=60, seed=seed)


@pytest.mark.slow
def test_fuzz_under_the_thread_sanitizer(tmp_path: Path) -> None:
    fuzz(build_driver(tmp_path, "thread"), seconds=30)
