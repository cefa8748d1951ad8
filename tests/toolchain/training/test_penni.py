import itertools

import pytest
import torch
from torch import nn

from passes.framework import ConfigError
from tests.toolchain.training import tiny
from toolchain.training.decomposed_conv import DecomposeConfig, decompose
from toolchain.training.hooks import Penalty
from toolchain.training.penni import Alternation, BalancedFactors
from toolchain.training.pruning import PruneConfig, prune
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer


@pytest.fixture
def model() -> nn.Sequential:
    model = tiny.network()
    decompose(model, DecomposeConfig(rank=4))
    return model


def test_factors_are_trained_in_turn(model) -> None:
    changes = []

    class Observer(Alternation):
        def before_epoch(self, model: nn.Module, epoch: int) -> None:
            changes.append([model[3].coefficients.clone(), model[3].basis.clone()])
            super().before_epoch(model, epoch)

    Trainer(model, tiny.data(), TrainConfig(epochs=7), hooks=[Observer(interval=2)]).run()
    moved = [
        [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in itertools.pairwise(changes)
    ]
    coefficients, basis = [True, False], [False, True]
    assert moved == [coefficients, coefficients, basis, basis, coefficients, coefficients]
    assert model[3].basis.requires_grad and model[3].coefficients.requires_grad


def test_balancing_changes_factors_but_not_the_layer(model) -> None:
    with torch.no_grad():
        model[3].basis.mul_(torch.tensor([0.5, 2.0, 3.0, 0.0])[:, None, None])
    before = model[3].weight.detach().clone()
    BalancedFactors().before_epoch(model, 0)
    torch.testing.assert_close(model[3].weight, before)
    lengths = model[3].basis.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_hoyer_on_pairs_empties_whole_pairs(model) -> None:
    penalty = Penalty(
        regularizer="hoyer-square", strength=3e-3, groups=("pair",), parameters=("*.coefficients",)
    )
    config = TrainConfig(epochs=15, optimizer="adam", lr=5e-3)
    Trainer(model, tiny.data(256), config, hooks=[penalty]).run()
    rule = PruneConfig(
        rule="deviation", value=0.3, groups=("pair",), parameters=("*.coefficients",)
    )
    prune(model, rule)
    pairs = (model[3].coefficients != 0).sum(2)
    assert set(pairs.unique().tolist()) == {0, 4}
    assert (pairs == 0).float().mean() > 0.3


def test_alternation_of_no_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match="alternate is 0"):
        Alternation(interval=0)
