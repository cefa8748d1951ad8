import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toolchain.training.distillation import distillation_loss, mixed
from toolchain.training.objectives import classification_loss


class Rounded(nn.Module):
    """Gives out in bfloat16 what a layer computes from its inputs in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            y: torch.Tensor = self.layer(x.float()).bfloat16()
        return y


def test_distillation_is_the_formula_of_hinton() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(5, 3), nn.Linear(5, 3)
    x, y = torch.randn(7, 5), torch.randint(3, (7,))
    p = torch.softmax(teacher(x) / 2, 1)
    q = torch.softmax(student(x) / 2, 1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.3 * classification_loss(student, (x, y)) + 0.7 * 4 * divergence
    loss = distillation_loss(teacher, 0.7, 2.0)(student, (x, y))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert teacher.weight.grad is None and student.weight.grad is not None


def test_small_differences_count_in_mixed_precision_as_well() -> None:
    """Of 8 bits of mantissa little would be left of a difference of log-probabilities."""
    torch.manual_seed(0)
    target = 3 * torch.randn(128, 10)
    student, teacher = nn.Linear(10, 10), nn.Linear(10, 10)
    for linear in (student, teacher):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    with torch.no_grad():
        student.weight += 0.01 * torch.randn(10, 10)
    found = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            x = target.bfloat16() if enabled else target.bfloat16().float()
            loss = distillation_loss(Rounded(teacher), 1.0, 4.0)
            found.append(loss(Rounded(student), (x, torch.zeros(128, dtype=torch.int64))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)


@given(st.floats(0.05, 5), st.integers(1, 9))
def test_mixed_samples_lie_between_two_of_the_batch(alpha: float, samples: int) -> None:
    x = torch.randn(samples, 2, 3)
    result, order, first = mixed(x, alpha)
    assert sorted(order.tolist()) == list(range(samples))
    assert ((first >= 0) & (first <= 1)).all()
    shares = first[:, None, None]
    torch.testing.assert_close(result, shares * x + (1 - shares) * x[order])


def test_samples_may_stay_as_they_are_and_then_nothing_is_drawn() -> None:
    x = torch.randn(5, 2)
    state = torch.get_rng_state()
    result, order, first = mixed(x, 0)
    assert result is x and order.tolist() == [0, 1, 2, 3, 4] and first.tolist() == [1] * 5
    assert torch.equal(torch.get_rng_state(), state)


def test_shares_of_a_mix_follow_the_beta_distribution() -> None:
    """Var λ = 1 / (4·(2α + 1)), from 1/4 where one sample is all of it to 0 for even mixes."""
    torch.manual_seed(0)
    for alpha in (0.2, 1.0, 4.0):
        first = mixed(torch.zeros(200_000, 1), alpha)[2]
        assert first.mean().item() == pytest.approx(0.5, abs=0.005)
        assert first.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.02)


def test_both_models_see_mixed_inputs_and_labels_count_by_their_share() -> None:
    student, teacher = nn.Linear(5, 3), nn.Linear(5, 3)
    x, y = torch.randn(7, 5), torch.randint(3, (7,))
    torch.manual_seed(1)
    loss = distillation_loss(teacher, 0.7, 2.0, mixup=1.0)(student, (x, y))
    torch.manual_seed(1)
    inputs, order, first = mixed(x, 1.0)
    z, t = student(inputs).double(), teacher(inputs).double()
    labels = nn.functional.one_hot(y, 3)
    targets = first[:, None] * labels + (1 - first[:, None]) * labels[order]
    p, q = torch.softmax(t / 2, 1), torch.softmax(z / 2, 1)
    cross_entropy = -(targets * torch.log_softmax(z, 1)).sum(1).mean()
    divergence = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss.double(), 0.3 * cross_entropy + 0.7 * 4 * divergence)
