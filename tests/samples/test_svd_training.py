"""The benchmark of SVD training, on a few random images: what is shared, kept and written."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from samples.benchmarks import svd_training  # noqa: E402
from samples.benchmarks.svd_training_methods import METHODS, Settings  # noqa: E402
from toolchain.training.batches import Dataset, TensorBatches  # noqa: E402

SAMPLES = Path(__file__).parents[2] / "samples"


def few_images(source: str, images: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    tensors = (
        torch.randn(images, 3, 32, 32, generator=generator),
        torch.randint(10, (images,), generator=generator),
    )
    return Dataset(
        train=lambda size: TensorBatches(tensors=tensors, size=size, shuffle=True),
        test=lambda size: TensorBatches(tensors=tensors, size=size),
    )


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(svd_training.main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_runs_share_their_phase_at_full_rank_and_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(svd_training, "cifar10", few_images)
    work, out = tmp_path / "work", tmp_path / "out"
    command = ["train", "--source", SAMPLES, "--work", work, "--images", 50, "--epochs", 2]
    command += ["--method", "Hoyer-Square"]
    invoke(*command, "--macs", 0.5)
    shared = work / "resnet20-spatial-Hoyer-Square-full" / "checkpoint.pt"
    before = shared.read_bytes()
    invoke(*command, "--macs", 0.5, "--macs", 0.4)
    assert shared.read_bytes() == before
    invoke("table", "--work", work, "--out", out)
    rows = json.loads((out / "svd_training.json").read_text())["rows"]
    assert [row["share"] for row in rows] == [0.5, 0.4]
    for row in rows:
        assert row["macs"] == pytest.approx(row["share"], abs=0.01) and row["macs"] <= row["share"]
        assert row["exported"] == pytest.approx(row["top1"], abs=2)  # one of 50 images
        assert 0 < row["energy"] < 1 and row["residual"] < 1e-3
    assert "Hoyer-Square" in (out / "svd_training_resnet20_spatial.svg").read_text()


def test_what_the_pass_has_split_is_fine_tuned(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(svd_training, "cifar10", few_images)
    images = np.random.default_rng(0).standard_normal((64, 3, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "calib.npz", input=images)
    command = ["train", "--source", SAMPLES, "--work", tmp_path, "--images", 50, "--epochs", 2]
    invoke(*command, "--method", "optc svd", "--macs", 0.6)
    row = json.loads((tmp_path / "resnet20-spatial-optc-svd-0.6" / "row.json").read_text())
    assert 0.55 < row["macs"] <= 0.6
    assert row["exported"] == pytest.approx(row["top1"], abs=2)


def test_a_folder_holds_runs_of_the_same_settings(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(svd_training, "cifar10", few_images)
    svd_training.claim(tmp_path, Settings(epochs=2))
    arguments = ["train", "--source", str(SAMPLES), "--work", str(tmp_path), "--epochs", "4"]
    result = CliRunner().invoke(svd_training.main, arguments)
    assert result.exit_code == 2
    assert "runs of other settings" in result.output


def test_all_methods_train_as_long() -> None:
    settings = Settings(epochs=6)
    assert sum(phase.epochs for phase in settings.phases) == 6
    once = {name for name, method in METHODS.items() if method.start != "full"}
    assert once == {"plain SVD", "optc svd"}
