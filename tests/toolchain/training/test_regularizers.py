import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolchain.training.regularizers import (
    REGULARIZERS,
    Blocks,
    group_norms,
    hoyer,
    hoyer_square,
    lasso,
    transformed_l1,
)

GROUPS = ["element", "output", "input", "pair", "row", "column", (0, 2), Blocks(rows=2, columns=3)]
SCALE_INVARIANT = [hoyer, hoyer_square]


def numpy_norms(x, groups) -> np.ndarray:
    """The definition, element by element: every index belongs to the group of its key."""
    squares: dict[tuple[int, ...], float] = {}
    for index in np.ndindex(x.shape):
        key = {
            "element": index,
            "output": index[:1],
            "input": index[1:2],
            "pair": index[:2],
            "row": index[:-1],
            "column": (*index[:-2], index[-1]),
        }.get(groups if isinstance(groups, str) else "")
        if isinstance(groups, tuple):
            key = tuple(i for axis, i in enumerate(index) if axis not in groups)
        if isinstance(groups, Blocks):
            key = (*index[:-2], index[-2] // groups.rows, index[-1] // groups.columns)
        squares[key] = squares.get(key, 0.0) + float(x[index]) ** 2
    return np.sqrt(list(squares.values()))


@pytest.fixture
def weight():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 5, 4)))


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_every_form_is_its_formula(weight, groups) -> None:
    n = numpy_norms(weight.numpy(), groups)
    assert sorted(group_norms(weight, groups).flatten().tolist()) == pytest.approx(sorted(n))
    assert lasso(weight, groups).item() == pytest.approx(n.sum())
    assert transformed_l1(weight, groups).item() == pytest.approx((2 * n / (1 + n)).sum())
    assert hoyer(weight, groups).item() == pytest.approx(n.sum() / np.linalg.norm(n))
    assert hoyer_square(weight, groups).item() == pytest.approx(n.sum() ** 2 / (n**2).sum())


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_gradients_are_exact(weight, name, groups) -> None:
    x = weight.clone().requires_grad_()
    function = REGULARIZERS[name]
    assert torch.autograd.gradcheck(lambda x: function(x, groups), x)
    if groups in ("element", "input"):
        assert torch.autograd.gradgradcheck(lambda x: function(x, groups), x)


def test_gradient_of_hoyer_square_is_the_formula_of_the_paper(weight) -> None:
    x = weight.clone().requires_grad_()
    hoyer_square(x).backward()
    S, Q = x.abs().sum(), x.square().sum()
    expected = 2 * x.sign() * S / Q**2 * (Q - x.abs() * S)
    torch.testing.assert_close(x.grad, expected.detach())


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_tensors_have_zero_value_and_gradient(name, groups, dtype) -> None:
    x = torch.zeros(3, 2, 5, 4, dtype=dtype, requires_grad=True)
    value = REGULARIZERS[name](x, groups)
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_zero_groups_get_no_gradient(weight, name) -> None:
    x = weight.clone()
    x[1] = 0
    x.requires_grad_()
    REGULARIZERS[name](x, "output").backward()
    assert torch.equal(x.grad[1], torch.zeros_like(x[1]))
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("regularizer", SCALE_INVARIANT)
@pytest.mark.parametrize("scale", [1e-15, 1e-4, 1.0, 1e4, 1e18])
def test_scale_does_not_matter(weight, regularizer, scale) -> None:
    x = (scale * weight).float().requires_grad_()
    value = regularizer(x, "pair")
    value.backward()
    assert value.item() == pytest.approx(regularizer(weight, "pair").item(), rel=1e-5)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(weight, name, dtype) -> None:
    x = weight.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = REGULARIZERS[name](x, "input")
    expected = REGULARIZERS[name](x.detach().float(), "input")
    assert value.dtype == torch.float32
    assert value.item() == expected.item()
    value.backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


@given(st.integers(1, 40), st.integers(0, 40), st.floats(1e-3, 1e3))
def test_hoyer_square_counts_equal_magnitudes(nonzero, zeros, magnitude) -> None:
    x = torch.tensor([magnitude, -magnitude] * nonzero + [0.0] * zeros, dtype=torch.float64)
    assert hoyer_square(x).item() == pytest.approx(2 * nonzero)
    assert hoyer(x).item() == pytest.approx(math.sqrt(2 * nonzero))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30))
def test_hoyer_square_lies_between_one_and_the_count(values) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    nonzero = int((x != 0).sum())
    if x.abs().max() > 1e-30:
        assert 1 - 1e-9 <= hoyer_square(x).item() <= nonzero + 1e-9


def test_rows_inside_blocks_are_tiles(weight) -> None:
    matrix = weight[0, 0]  # (5, 4)
    lines = group_norms(matrix, Blocks(rows=1, columns=2))
    assert lines.shape == (5, 2)
    assert lines[3, 1].item() == pytest.approx(matrix[3, 2:].norm().item())


@pytest.mark.parametrize(
    ("groups", "shape"),
    [("pair", (3, 4)), ("input", (5,)), ("row", (5,)), (Blocks(rows=1, columns=2), (5,))],
    ids=str,
)
def test_too_few_axes_are_refused(groups, shape) -> None:
    with pytest.raises(ValueError, match="the tensor is"):
        hoyer_square(torch.ones(shape), groups)


def test_unknown_groups_and_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown groups 'rows'"):
        lasso(torch.ones(2, 2), "rows")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 1×1"):
        Blocks(rows=0, columns=4)
