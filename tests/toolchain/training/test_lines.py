"""Lines that go together: found in the graph, penalised, pruned and reported."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from passes.framework import ConfigError
from samples.networks.transformer import Transformer
from tests.toolchain.training import tiny
from toolchain.training.line_pruning import (
    LinePenalty,
    LinePruneConfig,
    PenalisedLines,
    prune_lines,
)
from toolchain.training.line_report import LineReportConfig, report_lines
from toolchain.training.line_stages import PruneLinesStage, ReportLinesStage
from toolchain.training.lines import LineGroup, coupled_lines
from toolchain.training.run import Run
from toolchain.training.stages import TrainStage, run_stages
from toolchain.training.train_config import TrainConfig

HEADS, WIDTH, INNER = 2, 8, 12


def transformer(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    sizes = {"width": WIDTH, "heads": HEADS, "inner": INNER, "encoders": 1, "decoders": 1}
    return Transformer(20, dropout=0.0, **sizes)


@pytest.fixture(scope="module")
def groups() -> tuple[LineGroup, ...]:
    ids = torch.randint(3, 20, (2, 5)), torch.randint(3, 20, (2, 4))
    return coupled_lines(transformer(), ids)


def attention(name: str) -> list[set[tuple[str, int]]]:
    queries = {
        (f"{name}.{what}.{kind}", 0) for what in ("query", "key") for kind in ("weight", "bias")
    }
    values = {(f"{name}.value.weight", 0), (f"{name}.value.bias", 0), (f"{name}.output.weight", 1)}
    return [queries, values]


def feed_forward(name: str) -> set[tuple[str, int]]:
    return {(f"{name}.first.weight", 0), (f"{name}.first.bias", 0), (f"{name}.second.weight", 1)}


def test_queries_go_with_keys_values_with_outputs_and_neurons_with_themselves(groups) -> None:
    expected = [
        *attention("encoder.0.attention"),
        *attention("decoder.0.attention"),
        *attention("decoder.0.cross"),
        feed_forward("encoder.0.feed_forward"),
        feed_forward("decoder.0.feed_forward"),
    ]
    found = [set(group.members) for group in groups]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    for group in groups:
        is_attention = "feed_forward" not in group.name
        assert (len(group), group.heads) == ((WIDTH, HEADS) if is_attention else (INNER, 1))
        for lines in group.members.values():
            assert sorted(lines.tolist()) == list(range(len(group)))


def test_a_line_keeps_its_place_in_every_head(groups) -> None:
    [group] = [each for each in groups if ("encoder.0.attention.query.weight", 0) in each.members]
    for lines in group.members.values():
        assert (lines == next(iter(group.members.values()))).all()
    first = group.members["encoder.0.attention.query.weight", 0]
    assert group.rows[first].tolist() == [0] * 4 + [1] * 4


def test_packed_projections_of_torch_are_taken_apart() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True)
    found = coupled_lines(layer, (torch.randn(2, 5, 16),))
    packed = {("self_attn.in_proj_weight", 0), ("self_attn.in_proj_bias", 0)}
    queries, *others = [group for group in found if set(group.members) == packed]
    assert not others and (len(queries), queries.heads) == (16, 2)
    lines = queries.members["self_attn.in_proj_weight", 0]
    assert (lines[:16] == lines[16:32]).all() and (lines[32:] == 16).all()
    [values] = [g for g in found if set(g.members) == {*packed, ("self_attn.out_proj.weight", 1)}]
    lines = values.members["self_attn.in_proj_weight", 0]
    assert (lines[:32] == 16).all()
    assert (lines[32:] == values.members["self_attn.out_proj.weight", 1]).all()
    prune_lines(layer, found, LinePruneConfig(params=0.5, multiple=1))
    weights = {name for group in found for name, _ in group.members}
    left = sum(int((dict(layer.named_parameters())[name] != 0).sum()) for name in weights)
    assert left <= 0.5 * sum(dict(layer.named_parameters())[name].numel() for name in weights)


def test_channels_of_a_convolution_go_with_what_normalises_and_reads_them() -> None:
    model = tiny.network()
    found = coupled_lines(model, (torch.randn(2, 1, 6, 6),))
    places = [set(group.members) for group in found]
    assert {
        ("0.weight", 0),
        ("0.bias", 0),
        ("1.weight", 0),
        ("1.bias", 0),
        ("3.weight", 1),
    } in places
    assert any({("3.weight", 0), ("4.weight", 0), ("9.weight", 1)} <= each for each in places)
    assert model.training


def test_a_model_without_lines_is_refused() -> None:
    with pytest.raises(ConfigError, match="no lines"):
        coupled_lines(nn.Linear(3, 4), (torch.randn(2, 3),))


def by_hand(model: nn.Module, group: LineGroup) -> np.ndarray:
    """Norms with one loop for each slice."""
    parameters = dict(model.named_parameters())
    energy = np.zeros(len(group) + 1)
    for (name, axis), lines in group.members.items():
        array = np.moveaxis(parameters[name].detach().double().numpy(), axis, 0)
        for line, part in zip(lines.tolist(), array, strict=True):
            energy[line] += np.square(part).sum()
    return np.sqrt(energy[:-1])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(1e-3, 1e3))
def test_structured_hoyer_square_is_its_formula_and_scale_invariant(groups, seed, scale) -> None:
    model = transformer(seed)
    penalty = PenalisedLines(
        options=LinePenalty(regularizer="hoyer-square", strength=0.5), groups=groups
    )
    norms = [by_hand(model, group) for group in groups]
    expected = 0.5 * sum(n.sum() ** 2 / np.square(n).sum() for n in norms)
    assert penalty.penalty(model).item() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    assert penalty.penalty(model).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("regularizer", ["hoyer-square", "group-lasso"])
def test_the_gradient_is_right(groups, regularizer) -> None:
    model = transformer().double()
    options = LinePenalty(regularizer=regularizer, strength=1.0)
    names = [name for name, _ in groups[0].members]
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    class Names(nn.Module):
        def __init__(self, tensors) -> None:
            super().__init__()
            self.tensors = tensors

        def named_parameters(self, *args, **kwargs):
            return {**parameters, **dict(zip(names, self.tensors, strict=True))}.items()

    def value(*tensors):
        return PenalisedLines(options=options, groups=groups).penalty(Names(tensors))

    torch.autograd.gradcheck(value, [parameters[name].requires_grad_() for name in names])


def test_it_pulls_small_lines_down_and_pushes_large_ones_up(groups) -> None:
    """∂S/∂n_j has the sign of Σ n² − n_j·Σ n."""
    model = transformer(1)
    group = groups[-1]
    options = LinePenalty(regularizer="hoyer-square", strength=1.0)
    PenalisedLines(options=options, groups=[group]).penalty(model).backward()
    parameters = dict(model.named_parameters())
    slopes = torch.zeros(len(group))
    for (name, axis), lines in group.members.items():
        weight = parameters[name]
        along = (weight.detach() * weight.grad).transpose(0, axis).reshape(len(lines), -1).sum(1)
        slopes.index_add_(0, lines, along)
    norms = torch.from_numpy(by_hand(model, group)).float()
    expected = norms.square().sum() - norms * norms.sum()
    assert (slopes.sign() == expected.sign()).all() and (slopes > 0).any() and (slopes < 0).any()


@pytest.mark.parametrize(("params", "multiple"), [(0.7, 1), (0.5, 2), (0.4, 1)])
def test_a_budget_is_kept_by_whole_lines_in_all_members(groups, params, multiple) -> None:
    model = transformer(2)
    members = {name for group in groups for name, _ in group.members}
    prune_lines(model, groups, LinePruneConfig(params=params, multiple=multiple))
    parameters = dict(model.named_parameters())
    ones = {name: torch.ones_like(p) for name, p in parameters.items()}
    counts = []
    for group in groups:
        alive = by_hand(model, group) > 0
        per_head = [int(alive[group.rows == head].sum()) for head in range(group.heads)]
        assert len(set(per_head)) == 1 and per_head[0] % multiple == 0 and per_head[0]
        counts.append(alive.mean())
        for (name, axis), lines in group.members.items():
            shape = [-1 if other == axis else 1 for other in range(parameters[name].ndim)]
            ones[name] = ones[name] * torch.tensor(alive)[lines].reshape(shape)
    for name in members - {name for name in members if name.endswith("bias")}:
        assert ((parameters[name] != 0) == (ones[name] != 0)).all()
    left = sum(float(ones[name].sum()) for name in members)
    assert left / sum(ones[name].numel() for name in members) <= params
    assert min(counts) < 1


def test_zeros_are_held_and_the_outputs_of_a_removed_line_are_nowhere(groups) -> None:
    model = transformer(3)
    masks = prune_lines(model, groups, LinePruneConfig(threshold=0.9, multiple=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    masks.after_step(model)
    for name, kept in masks.kept.items():
        assert (dict(model.named_parameters())[name][~kept] == 0).all()


def test_other_zeros_of_weights_are_held_as_well_but_biases_that_start_at_zero_are_not(
    groups,
) -> None:
    model = transformer(3)
    parameters = dict(model.named_parameters())
    weight, bias = (f"encoder.0.feed_forward.first.{kind}" for kind in ("weight", "bias"))
    with torch.no_grad():
        parameters[weight][:, 0] = 0
        parameters[bias].zero_()
    kept = prune_lines(model, groups, LinePruneConfig(threshold=0.5, multiple=1)).kept
    assert not kept[weight][:, 0].any()
    assert torch.equal(kept[bias], kept[weight].any(1)) and kept[bias].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of them"),
        ({"params": 0.5, "threshold": 0.1}, "one of them"),
        ({"params": 0.0}, "params is 0"),
        ({"threshold": 1.0}, "threshold is 1"),
        ({"params": 0.5, "multiple": 0}, "multiple is 0"),
    ],
)
def test_options_that_make_no_sense(given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        LinePruneConfig(**given)


def test_a_budget_below_the_floor_is_refused(groups) -> None:
    with pytest.raises(ConfigError, match="cannot be reached"):
        prune_lines(transformer(), groups, LinePruneConfig(params=0.05, multiple=4))


def test_the_report_finds_the_direction_that_is_sparse(groups) -> None:
    model = transformer(4)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        parameters["encoder.0.feed_forward.first.weight"][:9] *= 1e-3  # outputs
        parameters["encoder.0.feed_forward.second.weight"][:, :9] *= 1e-3  # inputs
        for name in ("query", "key"):
            parameters[f"decoder.0.cross.{name}.weight"][:, :6] *= 1e-3  # not its lines
    report = report_lines(model, groups, LineReportConfig(block=4))
    first = report.weights["encoder.0.feed_forward.first.weight"]
    assert (first.direction, first.outputs) == ("outputs", pytest.approx(9 / 12, abs=0.05))
    assert report.weights["encoder.0.feed_forward.second.weight"].direction == "inputs"
    assert report.weights["decoder.0.cross.query.weight"].direction == "inputs"
    chosen = {place for group in report.chosen for place in group.members}
    assert ("encoder.0.feed_forward.first.weight", 0) in chosen
    assert ("decoder.0.cross.query.weight", 0) not in chosen
    assert ("decoder.0.cross.value.weight", 0) in chosen


def test_stages_penalise_report_and_prune(tmp_path) -> None:
    config = TrainConfig(epochs=2, optimizer="adam", lr=1e-2)
    lasso = LinePenalty(regularizer="group-lasso", strength=1e-3)
    stages = [
        TrainStage(config=config, batch=64, lines=(lasso,)),
        ReportLinesStage(config=LineReportConfig(block=4)),
        PruneLinesStage(config=LinePruneConfig(params=0.8, multiple=1)),
        TrainStage(config=config, batch=64),
    ]
    run = Run(model=tiny.network(), data=tiny.dataset(), folder=tmp_path)
    outcome = run_stages(run, stages)
    trained, report, pruned, tuned = outcome.stages
    assert trained["penalty"] > 0
    assert report["chosen"] and report["weights"]["9.weight"]["direction"] in ("inputs", "outputs")
    assert outcome.nonzero == pruned["nonzero"] < sum(p.numel() for p in run.model.parameters())
    assert tuned["top1"] > 50
