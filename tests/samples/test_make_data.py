"""Tests of the committed sample data and of the script that unpacks it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "samples" / "make_data.py"
TOP1 = 0.921
"""Of ResNet-20 on the 1,000 committed images."""


def make_data(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data")
    done = make_data("--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def source() -> Path:
    folder = Path(os.environ.get("OPTC_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
    if not (folder / "test.webp").exists():
        pytest.skip("needs the CIFAR-10 sheets: set OPTC_DATA, see samples/README.md")
    return folder


def images(path: Path) -> np.ndarray:
    """The bytes of normalised images again, (N, 32, 32, 3)."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = np.load(path)["input"].transpose(0, 2, 3, 1) * std + mean
    return np.rint(scaled * 255).astype(np.uint8)


def sheet(path: Path) -> np.ndarray:
    tiles = np.asarray(Image.open(path).convert("RGB")).reshape(100, 32, 100, 32, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


def test_shapes_and_classes(unpacked) -> None:
    evaluation, calibration = np.load(unpacked / "eval.npz"), np.load(unpacked / "calib.npz")
    assert evaluation["input"].shape == (1000, 3, 32, 32)
    assert evaluation["input"].dtype == calibration["input"].dtype == np.float32
    assert np.bincount(evaluation["labels"]).tolist() == [100] * 10
    assert calibration["input"].shape == (512, 3, 32, 32)
    assert calibration.files == ["input"]


def test_same_bytes_each_time(unpacked, tmp_path) -> None:
    make_data("--out", tmp_path)
    for name in ("eval.npz", "calib.npz"):
        assert (tmp_path / name).read_bytes() == (unpacked / name).read_bytes()


def test_stated_accuracy(unpacked) -> None:
    model = ROOT / "samples" / "models" / "resnet20_cifar10.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    data = np.load(unpacked / "eval.npz")
    [logits] = session.run(None, {"input": data["input"]})
    # One image of 1,000 may lie so close to the border that another CPU decides otherwise.
    assert np.mean(logits.argmax(1) == data["labels"]) == pytest.approx(TOP1, abs=0.0011)


def test_committed_images_are_the_exact_test_images(unpacked, source) -> None:
    labels = np.load(source / "test_labels.npy")
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == each)[:100] for each in range(10)]))
    np.testing.assert_array_equal(
        images(unpacked / "eval.npz"), sheet(source / "test.webp")[chosen]
    )
    np.testing.assert_array_equal(np.load(unpacked / "eval.npz")["labels"], labels[chosen])


def test_full_source(source, unpacked, tmp_path) -> None:
    done = make_data("--source", source, "--out", tmp_path, "--calib-samples", "16")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "eval_full.npz")["input"].shape == (10_000, 3, 32, 32)
    # The committed calibration images are the first of the same choice, recoded.
    difference = images(tmp_path / "calib.npz") - images(unpacked / "calib.npz")[:16].astype(float)
    assert np.sqrt(np.mean(difference**2)) < 3


@pytest.mark.parametrize("content", [None, b"", b"RIFF not a picture"])
def test_missing_or_damaged_source_is_one_line_and_exit_code_3(content, tmp_path) -> None:
    if content is not None:
        (tmp_path / "test.webp").write_bytes(content)
    done = make_data("--source", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "test.webp" in done.stderr


def test_a_sheet_of_another_size_is_refused(tmp_path) -> None:
    Image.new("RGB", (64, 40)).save(tmp_path / "test.webp")
    done = make_data("--source", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "64×40 pixels" in done.stderr
