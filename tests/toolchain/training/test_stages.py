import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from passes.framework import ConfigError
from tests.toolchain.training import tiny
from toolchain.training.decomposed_conv import DecomposeConfig
from toolchain.training.hooks import Penalty
from toolchain.training.line_pruning import LinePruneConfig
from toolchain.training.line_stages import PruneLinesStage
from toolchain.training.penni_stages import DecomposeStage
from toolchain.training.pruning import PruneConfig
from toolchain.training.run import Run, Stage
from toolchain.training.stages import (
    RESULT,
    Outcome,
    PruneStage,
    TrainStage,
    run_stages,
    seeded,
)
from toolchain.training.train_config import TrainConfig


def stages(epochs: int = 8) -> list:
    penalty = Penalty(regularizer="hoyer-square", strength=1e-3, parameters=("*.weight",))
    config = TrainConfig(epochs=epochs, optimizer="adam", lr=1e-2)
    return [
        TrainStage(config=config, batch=32, penalties=(penalty,)),
        PruneStage(config=PruneConfig(rule="sparsity", value=0.7)),
        TrainStage(config=TrainConfig(epochs=3, optimizer="adam", lr=3e-3), batch=32),
    ]


def test_train_prune_finetune_keeps_accuracy_and_zeros(tmp_path) -> None:
    run = Run(model=tiny.network(), data=tiny.dataset(), folder=tmp_path)
    outcome = run_stages(run, stages())
    trained, pruned, tuned = (stage["top1"] for stage in outcome.stages)
    assert tuned >= trained - 5 and tuned >= pruned
    assert outcome.nonzero == outcome.stages[1]["nonzero"]
    assert outcome.stages[1]["compression"] == pytest.approx(1 / 0.3, rel=0.02)
    assert outcome.seconds > 0
    stored = json.loads((tmp_path / RESULT).read_text())
    assert stored["stages"][2]["top1"] == tuned
    assert (tmp_path / "3-train" / "log.csv").exists()


def test_finished_stages_are_passed_over(tmp_path) -> None:
    outcomes, steps = [], []
    for _ in range(2):
        count: list[int] = []
        run = Run(
            model=tiny.network(),
            data=tiny.dataset(),
            folder=tmp_path,
            progress=lambda done, total, label, count=count: count.append(done),
        )
        outcomes.append(run_stages(run, stages(epochs=2)))
        steps.append(len(count))
    assert steps == [8 * 2 + 8 * 3, 0]
    assert outcomes[0] == outcomes[1]


def test_all_zeros_are_held_those_of_biases_as_well() -> None:
    run = Run(model=tiny.network(), data=tiny.dataset())
    rule = PruneConfig(rule="sparsity", value=0.5, biases=True, parameters=("9.*",))
    with torch.no_grad():
        run.model[3].weight[0] = 0  # zeros from elsewhere
    train = TrainStage(config=TrainConfig(epochs=1, lr=0.1), batch=32)
    run_stages(run, [PruneStage(config=rule), train])
    assert int((run.model[9].bias == 0).sum()) == 2
    assert not run.model[3].weight[0].any()


@pytest.mark.parametrize(
    "again",
    [
        PruneLinesStage(config=LinePruneConfig(threshold=0.01, multiple=1)),
        PruneStage(config=PruneConfig(rule="remaining", value=0.1)),
    ],
)
def test_a_second_pruning_holds_the_zeros_of_the_first(again) -> None:
    run = Run(model=tiny.network(), data=tiny.dataset())
    rule = PruneConfig(rule="sparsity", value=0.5, biases=True)
    run_stages(run, [PruneStage(config=rule)])
    dropped = {name: p == 0 for name, p in run.model.named_parameters()}
    run_stages(run, [again, TrainStage(config=TrainConfig(epochs=1, lr=0.1), batch=32)])
    assert dropped["0.bias"].any() and dropped["3.weight"].any()
    for name, parameter in run.model.named_parameters():
        assert not parameter[dropped[name]].any(), name


def test_a_run_that_stops_anywhere_ends_as_if_it_had_not(tmp_path) -> None:
    """Alternation, mixed inputs and masks continue as well; the seed is in pytest's header."""

    def penni_run(folder: Path, stop: int | None = None) -> Outcome:
        left = iter(range(stop or 10**9))

        def count(done: int, total: int, label: str) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        run = Run(model=tiny.network(), data=tiny.dataset(), folder=folder, progress=count)
        return run_stages(run, penni_stages())

    def without_time(outcome: Outcome) -> list:
        return [{k: v for k, v in each.items() if k != "seconds"} for each in outcome.stages]

    expected = penni_run(tmp_path / "whole")
    stop = random.randint(1, 8 * 4 + 8 * 2 - 1)  # steps of both trainings
    with pytest.raises(KeyboardInterrupt):
        penni_run(tmp_path / "stopped", stop)
    resumed = penni_run(tmp_path / "stopped")
    assert without_time(resumed) == without_time(expected)
    assert resumed.sparsity == expected.sparsity


def penni_stages() -> list[Stage]:
    coefficients = ("*.coefficients",)
    penalty = Penalty(regularizer="l1", strength=1e-3, parameters=coefficients)
    train = TrainStage(
        config=TrainConfig(epochs=4, lr=0.02),
        batch=32,
        penalties=(penalty,),
        alternate=1,
        distill=0.3,
        mixup=0.5,
    )
    rule = PruneConfig(rule="deviation", value=0.8, parameters=coefficients)
    return [
        DecomposeStage(config=DecomposeConfig(rank=4)),
        train,
        PruneStage(config=rule),
        TrainStage(config=TrainConfig(epochs=2, lr=0.01), batch=32),
    ]


def test_models_follow_from_their_seed() -> None:
    first, again, other = (seeded(lambda: nn.Linear(3, 2), seed).weight for seed in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_initial_weights_from_numpy_follow_from_the_seed_as_well() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(1, 1)
        layer.weight.data.fill_(np.random.rand() + random.random())
        return layer

    assert seeded(build, 2**40).weight == seeded(build, 2**40).weight


def test_metrics_are_plain_numbers() -> None:
    data = replace(tiny.dataset(), measure=lambda model, batches: {"top1": np.float64(50)})
    metrics = Run(model=tiny.network(), data=data).measure(tiny.network())
    assert metrics == {"top1": 50} and type(metrics["top1"]) is float


def test_zeros_are_held_through_a_decomposition() -> None:
    run = Run(model=tiny.network(), data=tiny.dataset())
    pairs = PruneConfig(rule="sparsity", value=0.5, groups=("pair",))
    train = TrainStage(config=TrainConfig(epochs=1, lr=0.1), batch=32)
    decompose = DecomposeStage(config=DecomposeConfig(rank=4))
    outcome = run_stages(run, [PruneStage(config=pairs), decompose, train])
    assert torch.equal((run.model[3].coefficients != 0).any(2).sum(), torch.tensor(32))
    assert outcome.nonzero == outcome.stages[1]["nonzero"]


def test_a_second_decomposition_is_refused_in_words() -> None:
    decompose = DecomposeStage(config=DecomposeConfig(rank=4))
    with pytest.raises(ConfigError, match="stage 2, decompose: nothing to decompose: 0: decomp"):
        run_stages(Run(model=tiny.network(), data=tiny.dataset()), [decompose, decompose])


def test_distillation_does_not_replace_a_loss_of_the_data() -> None:
    data = replace(tiny.dataset(), loss=lambda model, batch: model(batch[0]).mean())
    run = Run(model=tiny.network(), data=data, teacher=tiny.network())
    with pytest.raises(ConfigError, match="the data has a loss of its own"):
        run_stages(run, [TrainStage(config=TrainConfig(epochs=1), distill=0.1)])


def test_a_given_teacher_stays_and_needs_no_decomposition() -> None:
    teacher = seeded(tiny.network, 7)
    run = Run(model=seeded(tiny.network, 8), data=tiny.dataset(), teacher=teacher)
    train = TrainStage(config=TrainConfig(epochs=1), batch=32, distill=1)
    run_stages(run, [train, DecomposeStage(config=DecomposeConfig(rank=4)), train])
    assert run.teacher is teacher


def test_distillation_and_alternation_need_decomposed_layers() -> None:
    config = TrainConfig(epochs=1)
    for options in ({"alternate": 1}, {"distill": 0.5}):
        with pytest.raises(ConfigError, match="decompose first"):
            run_stages(
                Run(model=tiny.network(), data=tiny.dataset()),
                [TrainStage(config=config, **options)],
            )


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"alternate": -1}, {"distill": 2}, {"mixup": 1}, {"mixup": -1, "distill": 1}],
)
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainStage(config=TrainConfig(epochs=1), **options)
