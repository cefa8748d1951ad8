import pytest
import torch
from torch import nn

from passes.framework import ConfigError
from tests.toolchain.training import tiny
from toolchain.training.hooks import Hook, Penalty, matching_parameters
from toolchain.training.regularizers import hoyer_square, lasso


def test_penalty_adds_one_term_for_each_tensor_and_grouping() -> None:
    model = tiny.network()
    penalty = Penalty(regularizer="hoyer-square", strength=0.1, groups=("input", "output"))
    weights = [model[0].weight, model[3].weight, model[9].weight]
    expected = 0.1 * sum(hoyer_square(w, "input") + hoyer_square(w, "output") for w in weights)
    assert penalty.penalty(model).item() == pytest.approx(expected.item())


def test_globs_choose_parameters_and_elements_include_biases() -> None:
    model = tiny.network()
    penalty = Penalty(regularizer="l1", strength=2, parameters=("0.*",))
    expected = 2 * (lasso(model[0].weight) + lasso(model[0].bias))
    assert penalty.penalty(model).item() == pytest.approx(expected.item())


def test_a_single_string_is_a_list_of_one() -> None:
    model = tiny.network()
    single = Penalty(regularizer="l1", strength=1, groups="pair", parameters="3.weight")
    listed = Penalty(regularizer="l1", strength=1, groups=["pair"], parameters=["3.weight"])
    assert (single.groups, single.parameters) == (("pair",), ("3.weight",))
    assert (listed.groups, listed.parameters) == (["pair"], ["3.weight"])
    assert single.penalty(model) == listed.penalty(model) == lasso(model[3].weight, "pair")
    assert [name for name, _ in matching_parameters(model, "3.*")] == ["3.weight"]


def test_frozen_parameters_have_no_term() -> None:
    model = nn.Linear(3, 2, bias=False)
    model.weight.requires_grad_(False)
    assert Penalty(regularizer="l1", strength=1).penalty(model).item() == 0


def test_unmatched_globs_and_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter is named like conv"):
        Penalty(regularizer="l1", strength=1, parameters=("conv*",)).penalty(tiny.network())
    with pytest.raises(ConfigError, match="'l2', known are l1"):
        Penalty(regularizer="l2", strength=1)
    with pytest.raises(ConfigError, match="strength"):
        Penalty(regularizer="l1", strength=float("nan"))
    with pytest.raises(ConfigError, match="groups is empty"):
        Penalty(regularizer="l1", strength=1, groups=())


def test_a_loop_of_ones_own_needs_no_trainer() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1, bias=False)
    x = torch.randn(64, 8)
    y = x[:, :2].sum(1, keepdim=True)  # two of eight inputs matter
    penalty = Penalty(regularizer="hoyer-square", strength=0.05)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(300):
        loss = nn.functional.mse_loss(model(x), y) + penalty.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = model.weight.detach()[0]
    assert weight[:2].min() > 0.8 and weight[2:].abs().max() < 0.05


def test_hooks_do_nothing_by_default() -> None:
    hook, model = Hook(), tiny.network()
    hook.before_epoch(model, 0)
    hook.before_clip(model)
    hook.after_step(model)
    assert hook.penalty(model) is None
