"""A trained ResNet-20 after `escalate`: native kernels and function bodies see the same classes."""

import os
from pathlib import Path

import numpy as np
import pytest

from runtimes import ort
from samples.benchmarks.results import make_data
from tests.runtimes.native.layers import library
from toolchain import cli

SOURCE = os.environ.get("OPTC_DATA")
SUBSET = 5000
BATCH = 100

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCE, reason="OPTC_DATA names no folder with CIFAR-10"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data, and the decomposed network."""
    out = tmp_path_factory.mktemp("escalate")
    make_data(Path(str(SOURCE)), out)
    model = Path(str(SOURCE), "models", "resnet20_cifar10.onnx")
    transform(model, "penni:params=0.3", out / "penni.onnx")
    return out


def transform(model: Path, option: str, target: Path) -> None:
    calibration = ("--calib", target.parent / "calib.npz")
    arguments = ("transform", model, "--pass", option, *calibration, "-o", target, "--no-native")
    assert cli.run([*map(str, arguments)]) == 0


def classes(path: Path, images: np.ndarray, native: Path | None) -> np.ndarray:
    opened = ort.session(path, native=native)
    [name] = [value.name for value in opened.get_inputs()]
    batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
    return np.concatenate([ort.run(opened, {name: batch})[0].argmax(axis=1) for batch in batches])


@pytest.mark.parametrize("bits", [8, 2])
def test_native_kernels_see_the_same_classes_as_stock_onnxruntime(folder, bits) -> None:
    path = folder / f"bits{bits}.onnx"
    transform(folder / "penni.onnx", f"escalate:bits={bits}", path)
    images = np.load(folder / "eval_full.npz")["input"][:SUBSET]
    assert len(images) == SUBSET
    stock, native = (classes(path, images, each) for each in (None, library()))
    agreement = float((stock == native).mean())
    print(f"{bits} bits: same top-1 for {agreement:.2%} of {len(images)} images")
    assert agreement >= 0.999
    assert len(np.unique(stock)) == 10
