"""Accuracy on the full test set; needs CIFAR-10 and both ResNets in the folder OPTC_DATA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from samples.benchmarks.penni_accuracy import measure

SOURCE = os.environ.get("OPTC_DATA")
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCE, reason="OPTC_DATA names no folder with CIFAR-10"),
]

REACHED = [
    ("resnet20", "penni:params=0.56,density=1", 91.2),
    ("resnet20", "penni:params=0.3", 90.8),
    ("resnet20", "penni:params=0.18", 88.8),
    ("resnet56", "penni:params=0.56,density=1", 93.0),
    ("resnet56", "penni:params=0.3", 92.6),
    ("resnet56", "penni:params=0.18", 91.5),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("full")
    script = ROOT / "samples" / "make_data.py"
    subprocess.run([sys.executable, script, "--source", SOURCE, "--out", out], check=True)
    return out


@pytest.mark.parametrize(("name", "option", "top1"), REACHED)
def test_accuracy_that_is_published(folder, tmp_path, name, option, top1) -> None:
    model = Path(str(SOURCE), "models", f"{name}_cifar10.onnx")
    row = measure(name, model, ("", option, True), folder, tmp_path)
    assert row.top1 >= top1
    assert row.over_bound <= 1.1
    assert row.size_share < 1
    assert row.peak_mb < 2000
