import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from passes.framework import ConfigError
from tests.toolchain.training import tiny
from toolchain.training.hooks import Penalty
from toolchain.training.pruning import Masks, PruneConfig, keep_mask, prune, report_sparsity
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

WEIGHT = torch.tensor([[1.0, -0.1, 0.4], [0.05, 2.0, 0.0]])


def test_thresholds_are_absolute_or_in_deviations() -> None:
    fixed = keep_mask(WEIGHT, PruneConfig(rule="threshold", value=0.4))
    assert fixed.tolist() == [[True, False, True], [False, True, False]]
    deviation = keep_mask(WEIGHT, PruneConfig(rule="deviation", value=1.0))
    limit = np.std(WEIGHT.numpy(), ddof=1)
    assert deviation.tolist() == (np.abs(WEIGHT.numpy()) >= limit).tolist()


@given(
    st.integers(0, 2**32 - 1), st.floats(0, 0.99), st.sampled_from(["element", "output", "pair"])
)
def test_sparsity_drops_exactly_a_share_of_the_groups(seed, share, groups) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 3, 2, 2)))
    kept = keep_mask(weight, PruneConfig(rule="sparsity", value=share, groups=(groups,)))
    count = {"element": 48, "output": 4, "pair": 12}[groups]
    assert (~kept).sum() == round(share * count) * 48 // count


def test_a_share_of_what_is_left_counts_no_zeros() -> None:
    weight = torch.arange(1.0, 11)[None, :, None] * torch.tensor([0.0, 1.0])  # (1, 10, 2)
    config = PruneConfig(rule="remaining", value=0.3)
    assert keep_mask(weight, config).sum() == 7
    assert torch.equal(keep_mask(weight, config)[0, :, 1], torch.arange(10) >= 3)
    pairs = PruneConfig(rule="remaining", value=0.5, groups=("pair",))
    assert keep_mask(weight[..., None], pairs)[0, :, 1, 0].sum() == 5


def test_groups_go_by_their_root_mean_square() -> None:
    weight = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.6, 1.6, 1.6, 1.6]])
    config = PruneConfig(rule="threshold", value=1.55, groups=("output",))
    assert keep_mask(weight, config).any(1).tolist() == [False, False, True]


def test_groupings_follow_one_another() -> None:
    weight = torch.ones(4, 4)
    weight[:, 0] = 0.1
    weight[0] = 0.2
    config = PruneConfig(rule="threshold", value=0.5, groups=("input", "output"))
    kept = keep_mask(weight, config)
    assert kept.sum() == 9 and not kept[0].any() and not kept[:, 0].any()


def test_biases_stay_unless_they_are_asked_for() -> None:
    for biases in (False, True):
        model = tiny.network()
        prune(model, PruneConfig(rule="threshold", value=10, biases=biases))
        assert not model[9].weight.any()
        assert model[9].bias.any() == (not biases)


def test_a_single_string_is_a_list_of_one() -> None:
    config = PruneConfig(rule="sparsity", value=0.5, groups="output", parameters="9.*")
    assert (config.groups, config.parameters) == (("output",), ("9.*",))
    assert list(prune(tiny.network(), config).kept) == ["9.weight"]


def test_a_tensor_of_one_element_has_no_deviation_and_stays() -> None:
    assert keep_mask(torch.ones(1, 1), PruneConfig(rule="deviation", value=1.0)).all()


def test_zeros_stay_while_training_goes_on() -> None:
    model = tiny.network()
    masks = prune(model, PruneConfig(rule="sparsity", value=0.8))
    zeros = {name: ~kept for name, kept in masks.kept.items()}
    start = model[3].weight.detach().clone()
    config = TrainConfig(epochs=2, lr=0.05, weight_decay=1e-3)
    Trainer(model, tiny.data(), config, hooks=(masks,)).run()
    parameters = dict(model.named_parameters())
    assert all(not parameters[name][dropped].any() for name, dropped in zeros.items())
    assert not torch.equal(start, model[3].weight)
    assert report_sparsity(model).sparsity == pytest.approx(0.8, abs=0.01)


def test_without_masks_zeros_would_not_stay() -> None:
    model = tiny.network()
    prune(model, PruneConfig(rule="sparsity", value=0.8))
    Trainer(model, tiny.data(), TrainConfig(epochs=1)).run()
    assert report_sparsity(model).sparsity < 0.1


def test_masks_can_be_taken_from_the_zeros_of_a_model() -> None:
    model = tiny.network()
    pruned = prune(model, PruneConfig(rule="deviation", value=0.7))
    found = Masks.of_nonzeros(model)
    assert found.kept.keys() == pruned.kept.keys()
    assert all(torch.equal(found.kept[name], kept) for name, kept in pruned.kept.items())


def test_report_counts_what_is_left() -> None:
    model = nn.Linear(3, 2)
    model.weight.data = WEIGHT * torch.tensor([[1.0], [0.0]])
    report = report_sparsity(model)
    [tensor] = report.tensors
    assert (tensor.name, tensor.nonzero, tensor.size) == ("weight", 3, 6)
    assert (tensor.outputs, tensor.inputs) == (1, 3)
    assert report.compression == 2 and report.sparsity == 0.5
    model.weight.data.zero_()
    assert report_sparsity(model).compression == float("inf")


def test_hoyer_square_separates_weights_that_l2_does_not() -> None:
    """The mechanism of the paper: small weights are pulled to zero, large ones are not."""
    small = {}
    for strength in (0.0, 2e-3):
        model = tiny.network()
        hook = Penalty(regularizer="hoyer-square", strength=strength, parameters=("*.weight",))
        config = TrainConfig(epochs=15, optimizer="adam", lr=5e-3)
        Trainer(model, tiny.data(256), config, hooks=(hook,)).run()
        weight = model[3].weight.detach().abs()
        small[strength] = (weight < 0.1 * weight.max()).float().mean().item()
    assert small[2e-3] > 2 * small[0.0]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rule": "threshold", "value": -1}, "expected 0 or more"),
        ({"rule": "sparsity", "value": 1}, "below 1"),
        ({"rule": "remaining", "value": 1}, "below 1"),
        ({"rule": "threshold", "value": 1, "groups": ()}, "groups is empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, what) -> None:
    with pytest.raises(ConfigError, match=what):
        PruneConfig(**options)
