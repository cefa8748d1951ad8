import numpy as np
import pytest
import torch
from torch import nn

from passes.framework import ConfigError
from samples.networks.resnet import resnet18
from tests.toolchain.training import tiny
from toolchain.training.decomposed_conv import (
    DecomposeConfig,
    best_decomposition,
    decompose,
    decomposed_convs,
    dense_copy,
)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}])
def test_full_rank_is_the_convolution_itself(options) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, **options).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(best_decomposition(conv, 9)(x), conv(x))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_lower_ranks_lose_what_eckart_and_young_say(rank) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3).double()
    kernels = conv.weight.detach().reshape(24, 9).numpy()
    lost = np.linalg.svd(kernels, compute_uv=False)[rank:]
    error = (best_decomposition(conv, rank).weight - conv.weight).norm()
    assert error.item() == pytest.approx(np.linalg.norm(lost))


def test_gradients_reach_both_factors() -> None:
    conv = best_decomposition(nn.Conv2d(2, 3, 3).double(), 4)
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda B, Ce: torch.func.functional_call(conv, {"basis": B, "coefficients": Ce}, (x,)),
        (conv.basis, conv.coefficients),
    )


def test_every_convolution_gets_a_decision() -> None:
    model = resnet18()
    decisions = decompose(model, DecomposeConfig(rank=5, exclude=("conv1",)))
    reasons = {each.layer: each.reason for each in decisions}
    assert len(decisions) == 20
    assert reasons["conv1"] == "matched by exclude conv1"
    assert reasons["layer2.0.shortcut.0"].startswith("1×1")
    applied = {each.layer for each in decisions if each.applied}
    assert applied == set(decomposed_convs(model)) and len(applied) == 16


def test_parameters_are_the_factors_only_and_copies_are_independent() -> None:
    model = tiny.network()
    decompose(model, DecomposeConfig(rank=5))
    names = {name for name, _ in model.named_parameters()}
    assert {"0.basis", "0.coefficients", "0.bias"} <= names
    assert not any(name.startswith("0.weight") or "_conv" in name for name in names)
    assert [name for name, _ in model[0].named_modules()] == [""]
    dense = dense_copy(model)
    with torch.no_grad():
        model[0].coefficients.zero_()
        model[0].bias.zero_()
    assert isinstance(dense[0], nn.Conv2d)
    assert dense[0].weight.any() and dense[0].bias.any()


def test_what_is_decomposed_already_stays() -> None:
    model = tiny.network()
    decompose(model, DecomposeConfig(rank=5, include="3"))
    first, second = decompose(model, DecomposeConfig(rank=4, exclude=("[1-9]",)))
    assert (first.layer, first.applied) == ("0", True)
    assert (second.layer, second.reason) == ("3", "decomposed already")
    assert len(model[3].basis) == 5
    with pytest.raises(ConfigError, match="nothing to decompose: 0: decomposed already; 3: dec"):
        decompose(model, DecomposeConfig(rank=4))


def test_the_dense_copy_computes_the_same() -> None:
    model = tiny.network().eval()
    decompose(model, DecomposeConfig(rank=4))
    x = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(dense_copy(model)(x), model(x))


def test_state_can_be_saved_and_loaded() -> None:
    first, second = tiny.network(0), tiny.network(1)
    for model in (first, second):
        decompose(model, DecomposeConfig(rank=4))
    second.load_state_dict(first.state_dict())
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "has no Conv2d"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), "4 groups"),
        (nn.Conv2d(1, 2, 3), "single layer"),
    ],
)
def test_models_without_candidates_are_refused_with_reasons(model, what) -> None:
    with pytest.raises(ConfigError, match=what):
        decompose(model, DecomposeConfig())


def test_ranks_are_checked() -> None:
    with pytest.raises(ConfigError, match="rank is 0"):
        DecomposeConfig(rank=0)
    with pytest.raises(ConfigError, match="rank 10 of 9 saves nothing"):
        decompose(tiny.network(), DecomposeConfig(rank=10))
