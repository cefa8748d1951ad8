import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from passes.framework import ConfigError
from tests.toolchain.training import killed_run, tiny
from toolchain.errors import UnreadableError, UsageError
from toolchain.training.batches import TensorBatches
from toolchain.training.hooks import Hook, Penalty
from toolchain.training.objectives import top1
from toolchain.training.pruning import Masks
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import CHECKPOINT, LOG, Trainer

EPOCHS = 12
ROOT = Path(__file__).parents[3]


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, killed_run.__file__, folder, str(EPOCHS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)


def finish(folder: Path) -> str:
    with start(folder) as process:
        assert process.stdout is not None
        process.stdout.read()
    assert process.returncode == 0
    return (folder / "final.json").read_text()


def test_a_killed_run_resumes_to_the_same_metrics_and_weights(tmp_path) -> None:
    expected = finish(tmp_path / "whole")
    moment = random.randint(1, 3 * EPOCHS - 1)  # steps; the seed is in pytest's header
    with start(tmp_path / "killed") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= moment:
                process.kill()
                break
    assert process.returncode == -9
    assert not (tmp_path / "killed" / "final.json").exists()
    assert finish(tmp_path / "killed") == expected


def test_a_network_learns() -> None:
    model, test = tiny.network(), tiny.data(200, seed=1, shuffle=False)
    config = TrainConfig(epochs=10, lr=0.05)
    history = Trainer(model, tiny.data(256), config, evaluate=lambda m: top1(m, test)).run()
    assert history[-1]["top1"] > 80 and history[-1]["loss"] < history[0]["loss"] / 2
    assert [record["epoch"] for record in history] == list(range(1, 11))


def test_the_log_is_the_history(tmp_path) -> None:
    test = tiny.data(shuffle=False)
    config = TrainConfig(epochs=3, evaluate_every=2)
    evaluate = lambda m: top1(m, test)  # noqa: E731
    history = Trainer(tiny.network(), tiny.data(), config, evaluate=evaluate, folder=tmp_path).run()
    with (tmp_path / LOG).open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in history]
    assert [row["top1"] != "" for row in rows] == [False, True, True]
    assert [record["penalty"] for record in history] == [0, 0, 0]


def test_another_configuration_does_not_continue_a_run(tmp_path) -> None:
    Trainer(tiny.network(), tiny.data(), TrainConfig(epochs=1), folder=tmp_path).run()
    with pytest.raises(UsageError, match="another configuration"):
        Trainer(tiny.network(), tiny.data(), TrainConfig(epochs=2), folder=tmp_path).run()


def test_a_checkpoint_goes_on_after_an_update_that_brings_options(tmp_path) -> None:
    config = TrainConfig(epochs=1)
    Trainer(tiny.network(), tiny.data(), config, folder=tmp_path).run()
    state = torch.load(tmp_path / CHECKPOINT)
    del state["config"]["cycles"]
    torch.save(state, tmp_path / CHECKPOINT)
    assert len(Trainer(tiny.network(), tiny.data(), config, folder=tmp_path).run()) == 1
    with pytest.raises(UsageError, match="another configuration"):
        other = TrainConfig(epochs=1, cycles=2)
        Trainer(tiny.network(), tiny.data(), other, folder=tmp_path).run()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, content) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(UnreadableError, match="not a readable checkpoint"):
        Trainer(tiny.network(), tiny.data(), TrainConfig(epochs=1), folder=tmp_path).run()


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.tensor])
def test_metrics_of_any_number_type_are_in_a_checkpoint_that_can_be_read(tmp_path, kind) -> None:
    for _ in range(2):
        [record] = Trainer(
            tiny.network(),
            tiny.data(),
            TrainConfig(epochs=1),
            evaluate=lambda model: {"accuracy": kind(0.5)},
            folder=tmp_path,
        ).run()
        assert type(record["accuracy"]) is float and record["accuracy"] == 0.5


@pytest.mark.parametrize("name", ["epoch", "lr", "loss", "penalty", "seconds"])
def test_metrics_do_not_take_the_place_of_what_is_recorded(name) -> None:
    trainer = Trainer(
        tiny.network(), tiny.data(), TrainConfig(epochs=1), evaluate=lambda model: {name: 1.0}
    )
    with pytest.raises(ConfigError, match=f"a metric is named '{name}'"):
        trainer.run()


def test_a_log_that_a_kill_has_left_behind_is_written_again(tmp_path) -> None:
    for _ in range(2):
        Trainer(tiny.network(), tiny.data(), TrainConfig(epochs=1), folder=tmp_path).run()
        rows = (tmp_path / LOG).read_text().splitlines()
        assert len(rows) == 2
        (tmp_path / LOG).write_text(rows[0])


def test_a_checkpoint_of_another_model_is_one_clear_error(tmp_path) -> None:
    config = TrainConfig(epochs=1)
    Trainer(tiny.network(), tiny.data(), config, folder=tmp_path).run()
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(UsageError, match="a run of another model"):
        Trainer(other, tiny.data(), config, folder=tmp_path).run()
    torch.save({"config": {}, "model": {}}, tmp_path / CHECKPOINT)
    with pytest.raises(UnreadableError, match="has no history, mean, optimizer"):
        Trainer(other, tiny.data(), config, folder=tmp_path).run()


@pytest.mark.parametrize("slope", [0.0, 1000.0])
def test_gradients_of_dropped_weights_do_not_count_in_the_norm(slope) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[0.0, 1.0]])
    slopes = torch.tensor([[slope, 1.0]])
    Trainer(
        model,
        TensorBatches(tensors=(torch.zeros(1, 2), torch.zeros(1)), size=1),
        TrainConfig(epochs=1, lr=0.1, momentum=0, clip=1.0, schedule="constant"),
        loss=lambda model, batch: (model[0].weight * slopes).sum(),
        hooks=[Masks.of_nonzeros(model)],
    ).run()
    torch.testing.assert_close(model[0].weight.detach(), torch.tensor([[0.0, 0.9]]))


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    class Explosive(Hook):
        def penalty(self, model: nn.Module) -> torch.Tensor:
            return torch.tensor(float("inf"))

    trainer = Trainer(tiny.network(), tiny.data(), TrainConfig(epochs=1), hooks=[Explosive()])
    with pytest.raises(UsageError, match="epoch 1: the loss is not finite"):
        trainer.run()


def test_hooks_are_called_in_their_places() -> None:
    calls: list[str] = []

    class Recorder(Hook):
        def before_epoch(self, model: nn.Module, epoch: int) -> None:
            calls.append(f"epoch {epoch}")

        def penalty(self, model: nn.Module) -> None:
            calls.append("penalty")

        def before_clip(self, model: nn.Module) -> None:
            calls.append("clip")

        def after_step(self, model: nn.Module) -> None:
            calls.append("step")

    batches = tiny.data(64)
    for clip, step in ((0.0, ["penalty", "step"]), (1.0, ["penalty", "clip", "step"])):
        calls.clear()
        Trainer(tiny.network(), batches, TrainConfig(epochs=2, clip=clip), hooks=[Recorder()]).run()
        assert calls == ["epoch 0", *step, *step, "epoch 1", *step, *step]


def test_data_loaders_of_torch_serve_as_well() -> None:
    batches = tiny.data()
    loader = DataLoader(TensorDataset(*batches.tensors), batch_size=32, shuffle=True)
    results = [
        Trainer(tiny.network(), loader, TrainConfig(epochs=2, seed=seed)).run()[-1]["loss"]
        for seed in (1, 1, 2)
    ]
    assert results[0] == results[1] != results[2]


def test_half_precision_and_layout_change_little() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(epochs=3, precision=precision, channels_last=precision == "bfloat16")
        hook = Penalty(regularizer="hoyer-square", strength=1e-4)
        losses[precision] = Trainer(tiny.network(), tiny.data(), config, hooks=[hook]).run()[-1]
    assert losses["bfloat16"]["loss"] == pytest.approx(losses["float32"]["loss"], rel=0.1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 1, 1]), ("cosine", [1, 0.5, 0]), ("step", [1, 0.1, 0.01])],
)
def test_learning_rates(schedule, expected) -> None:
    config = TrainConfig(epochs=1, lr=1, schedule=schedule)
    rates = [config.learning_rate(progress) for progress in (0, 0.5, 1)]
    assert rates == pytest.approx(expected)


def test_cycles_start_from_the_top() -> None:
    config = TrainConfig(epochs=1, lr=0.4, cycles=2)
    rates = [config.learning_rate(progress) for progress in (0, 0.25, 0.4999, 0.5, 0.75, 1)]
    assert rates == pytest.approx([0.4, 0.2, 0, 0.4, 0.2, 0], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"lr": 0}, {"momentum": 1}, {"weight_decay": -1}, {"milestones": (0.5, 1.5)}],
)
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainConfig(**{"epochs": 1, **options})
