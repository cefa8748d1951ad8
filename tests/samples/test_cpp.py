"""The C++ example runs a compressed model with the native operators."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from runtimes import ort
from runtimes.operators import DOMAIN
from tests.runtimes.native.layers import library

ROOT = Path(__file__).parents[2]
SHAPE = (2, 3, 32, 32)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    capi = Path(onnxruntime.__file__).parent / "capi"
    shared = sorted(capi.glob("libonnxruntime.so.*"))
    if not shared:
        pytest.skip("this onnxruntime comes without libonnxruntime.so")
    folder = tmp_path_factory.mktemp("cpp")
    # The loader looks for the name that the library gives itself, its major version.
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(shared[0])
    output = folder / "run_model"
    source = ROOT / "samples" / "cpp" / "run_model.cpp"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", str(output)]
    link = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime"]
    subprocess.run([*command, str(source), *link], check=True)
    return output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample network, so sparse that native kernels pay."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    command = [sys.executable, "-m", "toolchain.cli", "transform", "-o", str(path)]
    source = ROOT / "samples" / "models" / "resnet20_cifar10.onnx"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["--pass", "penni:params=0.1"]
    subprocess.run(
        [*command, str(source), *options], env=environment, check=True, capture_output=True
    )
    assert any(node.domain == DOMAIN for node in onnx.load(path).graph.node)
    return path


def run(program: Path, model: Path, x: np.ndarray, *, isa: str = "") -> subprocess.CompletedProcess:
    given = program.with_name("input.f32")
    x.tofile(given)
    return subprocess.run(
        [program, model, library(), given, *map(str, SHAPE)],
        env={**os.environ, "OPTC_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def test_prints_what_python_computes(program: Path, model: Path) -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    done = run(program, model, x)
    assert done.returncode == 0, done.stderr
    [expected] = ort.run(ort.session(model, native=library()), {"input": x})
    printed = np.array(done.stdout.split(), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(printed, expected, rtol=1e-6, atol=1e-6)


def test_the_native_kernels_are_what_runs(program: Path, model: Path) -> None:
    done = run(program, model, np.zeros(SHAPE, np.float32), isa="abacus")
    assert done.returncode == 1
    assert "OPTC_ISA" in done.stderr


def test_input_of_another_size_is_an_error(program: Path, model: Path) -> None:
    done = run(program, model, np.zeros(7, np.float32))
    assert done.returncode == 1
    assert "shape" in done.stderr
