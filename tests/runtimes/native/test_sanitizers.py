"""The kernel under AddressSanitizer, UBSan and ThreadSanitizer, over random and damaged layers."""

import shutil
import subprocess
from pathlib import Path

import pytest

from runtimes.native.compile import COMPILER_FLAGS, FOLDER

DRIVERS = tuple(
    Path(__file__).with_name(name) for name in ("fuzz.cpp", "hybrid_fuzz.cpp", "max_pool_fuzz.cpp")
)
KERNEL = sorted(path for path in FOLDER.glob("*.cpp") if path.name != "library.cpp")


def build_drivers(folder: Path, sanitizers: str) -> list[Path]:
    """Builds the fuzz drivers; skips where the compiler or a sanitizer is missing."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = [*COMPILER_FLAGS, "-O1", "-g", "-pthread", f"-I{FOLDER}"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    compile_all([compiler, *flags, "-c", *map(str, KERNEL)], folder, sanitizers)
    objects = [f"{path.stem}.o" for path in KERNEL]
    for source in DRIVERS:
        command = [compiler, *flags, str(source), *objects, "-o", source.stem]
        compile_all(command, folder, sanitizers)
    return [folder / source.stem for source in DRIVERS]


def compile_all(command: list[str], folder: Path, sanitizers: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if "cannot find -l" in done.stderr or "cannot find /" in done.stderr:
        pytest.skip(f"the compiler has no {sanitizers} sanitizer")
    assert done.returncode == 0, done.stderr


def fuzz(driver: Path, seconds: float, seed: int = 0) -> None:
    done = subprocess.run(
        [str(driver), str(seconds), str(seed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_fuzz_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    for driver in build_drivers(tmp_path, "address,undefined"):
        fuzz(driver, seconds=2)


@pytest.mark.slow
def test_long_fuzz_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    for driver in build_drivers(tmp_path, "address,undefined"):
        for seed in range(1, 11):
            fuzz(driver, seconds=60, seed=seed)


@pytest.mark.slow
def test_fuzz_under_the_thread_sanitizer(tmp_path: Path) -> None:
    for driver in build_drivers(tmp_path, "thread"):
        fuzz(driver, seconds=30)
