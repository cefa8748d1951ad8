import json

import pytest
from torch import nn

from passes.framework import ConfigError
from tests.toolchain.training import tiny
from toolchain.training.hooks import Penalty
from toolchain.training.pruning import PruneConfig
from toolchain.training.stages import RESULT, PruneStage, Run, TrainStage, run_stages, seeded
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


def test_models_follow_from_their_seed() -> None:
    first, again, other = (seeded(lambda: nn.Linear(3, 2), seed).weight for seed in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_distillation_and_alternation_need_decomposed_layers() -> None:
    config = TrainConfig(epochs=1)
    for options in ({"alternate": 1}, {"distill": 0.5}):
        with pytest.raises(ConfigError, match="decompose first"):
            run_stages(
                Run(model=tiny.network(), data=tiny.dataset()),
                [TrainStage(config=config, **options)],
            )


@pytest.mark.parametrize("options", [{"batch": 0}, {"alternate": -1}, {"distill": 2}])
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainStage(config=TrainConfig(epochs=1), **options)
