"""SVD training: factored layers against the dense ones, the paper's rules, and the export."""

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from passes.cleanup import prepare
from passes.cost import model_cost
from passes.framework import ConfigError
from runtimes import ort
from toolchain.torch_export import InputShape, export
from toolchain.training.hooks import Penalty
from toolchain.training.low_rank import (
    SIGMA,
    LowRank,
    LowRankConfig,
    Orthogonality,
    factorize,
    low_rank_layers,
    to_plain,
)
from toolchain.training.low_rank_pruning import (
    drop_energy,
    energy_for_macs,
    kept_ranks,
    report_ranks,
)

SAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(16 * 4 * 8, 10),
    )


def images(samples=4):
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_full_rank_computes_what_the_dense_layers_do(form) -> None:
    model, x = network().eval(), images()
    expected = model(x)
    factorize(model, LowRankConfig(form=form))
    assert [name for name, _ in low_rank_layers(model)] == ["0", "3", "7"]  # not the grouped one
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)  # as two layers
    for _, layer in low_rank_layers(model):
        assert layer.orthogonality() < 1e-8
        layer.training = True
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)  # as one
    torch.testing.assert_close(to_plain(model)(x), expected, rtol=1e-4, atol=1e-4)


def test_orthogonality_is_the_formula_of_the_paper() -> None:
    layer = LowRank(nn.Linear(6, 4), "channel")
    with torch.no_grad():
        layer.U.mul_(2)
    # ‖4·I − I‖² / r² for U, 0 for V
    assert layer.orthogonality().item() == pytest.approx(9 * 4 / 16, rel=1e-4)
    model = nn.Sequential(layer)
    assert Orthogonality(strength=2.0).penalty(model).item() == pytest.approx(4.5, rel=1e-4)


def test_both_factors_carry_the_root_of_sigma() -> None:
    layer = LowRank(nn.Linear(6, 4), "channel")
    first, second = layer.factors()
    norms = layer.sigma.abs().sqrt()
    torch.testing.assert_close(first.norm(dim=1), norms)
    torch.testing.assert_close(second.norm(dim=0), norms)


def test_energy_rule_keeps_the_shortest_prefix() -> None:
    sigma = torch.tensor([1.0, -3.0, 0.0, 2.0])  # energies 9, 4, 1, 0 of 14
    expected = {0.0: [1, 3, 0], 1 / 14: [1, 3], 0.1: [1, 3], 5 / 14: [1], 0.9: [1]}
    for energy, kept in expected.items():
        assert kept_ranks(sigma, energy).tolist() == kept
    assert kept_ranks(torch.zeros(3), 0.5).tolist() == [0]


def test_random_start_forgets_the_weights() -> None:
    model, x = network().eval(), images()
    expected = model(x)
    factorize(model, LowRankConfig(start="random"))
    assert (model(x) - expected).abs().max() > 0.1
    assert all(layer.orthogonality() < 1e-8 for _, layer in low_rank_layers(model))


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_share_of_macs_is_met_and_counted_like_in_onnx(form) -> None:
    model = factorize(network(), LowRankConfig(form=form))
    dense = report_ranks(model, SAMPLE).dense_macs
    assert dense == 3 * 12 * 9 * 64 + 12 * 16 * 15 * 32 + 4 * 16 * 9 * 32 + 512 * 10
    report = drop_energy(model, energy_for_macs(model, 0.5, SAMPLE), SAMPLE)
    assert report.dense_macs == dense and 0.4 * dense < report.macs <= 0.5 * dense
    model.eval()
    exported = export(to_plain(model), [InputShape(name="x", sizes=(3, 8, 8))])
    assert model_cost(prepare(exported)).macs == report.macs


def test_layers_that_do_not_pay_become_dense_again() -> None:
    model = factorize(network())
    report = drop_energy(model, 0.0, SAMPLE)
    assert report.layers == () and not list(low_rank_layers(model))
    assert report.macs == report.dense_macs


def test_export_has_exactly_the_split_layers() -> None:
    model = factorize(network(), LowRankConfig(form="spatial", layers=("0", "3")))
    for _, layer in low_rank_layers(model):
        layer.keep(kept_ranks(layer.sigma, 0.3))
    ranks = [layer.rank for _, layer in low_rank_layers(model)]
    model.eval()
    expected = model(images(5)).detach().numpy()
    exported = export(to_plain(model), [InputShape(name="x", sizes=(3, 8, 8))])
    session = ort.session_of(exported)
    ours = ort.run(session, {"x": images(5).numpy()})[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
    convs = [node for node in prepare(exported).graph if node.op_type == "Conv"]
    shapes = [list(ir.convenience.get_const_tensor(node.inputs[1]).shape) for node in convs]
    one, two = ranks
    expected_shapes = [[one, 3, 3, 1], [12, one, 1, 3], [two, 12, 3, 1], [16, two, 1, 5]]
    assert shapes == [*expected_shapes, [16, 4, 3, 3]]


def test_a_loop_of_ones_own_needs_few_lines() -> None:
    """The example of the README."""
    model, criterion = network(), nn.CrossEntropyLoss()
    data = [(images(16), torch.arange(16) % 10)] * 3
    factorize(model, LowRankConfig(form="channel"))
    sigma = Penalty(regularizer="hoyer-square", strength=0.01, parameters=(SIGMA,))
    penalties = [Orthogonality(strength=1.0), sigma]
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = copy.deepcopy(model)
    for x, y in data:
        loss = criterion(model(x), y) + sum(each.penalty(model) for each in penalties)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    report = drop_energy(model, 0.4, SAMPLE)
    assert report.macs < report.dense_macs
    assert sigma.penalty(model) < sigma.penalty(before)


@pytest.mark.parametrize("training", [False, True])
def test_layers_of_a_transformer_are_factored_but_the_output_of_attention(training) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).train(training)
    model, x = nn.Sequential(layer), torch.randn(2, 3, 16)
    with torch.no_grad():  # without gradients torch reads weights instead of calling layers
        expected = model(x)
        factorize(model, LowRankConfig(layers="*"))
        assert [name for name, _ in low_rank_layers(model)] == ["0.linear1", "0.linear2"]
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_a_single_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="single layer"):
        factorize(nn.Linear(4, 4))


@pytest.mark.parametrize("factored", [False, True])
def test_macs_of_linear_layers_count_all_positions(factored) -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    if factored:
        factorize(model)
    assert report_ranks(model, torch.zeros(1, 5, 7, 8)).dense_macs == 5 * 7 * 8 * 4


def test_regulariser_lowers_the_effective_rank() -> None:
    ranks = []
    for strength in (0.0, 0.2):
        torch.manual_seed(0)
        layer = LowRank(nn.Linear(20, 20, bias=False), "channel")
        model = nn.Sequential(layer)
        x = torch.randn(256, 20)
        target = x @ (torch.randn(20, 3) @ torch.randn(3, 20))
        sigma = Penalty(regularizer="hoyer-square", strength=strength, parameters=(SIGMA,))
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(600):
            loss = (model(x) - target).square().mean()
            loss = loss + Orthogonality().penalty(model) + sigma.penalty(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert (model(x) - target).square().mean() < 0.01  # both fit; rank 3 is enough
        ranks.append(len(kept_ranks(layer.sigma, 1e-3)))
    assert ranks[1] <= 10 < ranks[0]


def test_nothing_to_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer that can be factored"):
        factorize(nn.Sequential(nn.ReLU()))
    model = factorize(network())
    with pytest.raises(ConfigError, match="energy is 1"):
        drop_energy(model, 1.0, SAMPLE)
    with pytest.raises(ConfigError, match="rank 1 in every layer"):
        energy_for_macs(model, 0.01, SAMPLE)
