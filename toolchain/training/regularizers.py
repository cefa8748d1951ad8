"""Sparsity-inducing regularisers of tensors, one family over groups of elements.

With n_g = ‖x_g‖₂ the norm of group g:

    lasso            Σ n_g                      L1 where every element is a group
    transformed L1   Σ 2·n_g / (1 + n_g)
    Hoyer            Σ n_g / √Σ n_g²            in [1, √G]
    Hoyer-Square     (Σ n_g)² / Σ n_g²          in [1, G]; the count of groups if all are equal

Sources: DeepHoyer (Yang et al., ICLR 2020, arXiv 1908.09979) for Hoyer-Square and its group form,
TPrune (Mao et al., 2021) for lines inside blocks. The last two do not change with the scale of x,
so they do not shrink all weights alike: ∂H_S/∂n_j = 2·S/Q²·(Q − n_j·S) with S = Σ n_g, Q = Σ n_g²
pulls norms below Q/S down and pushes those above up.

All are zero with zero gradient for a tensor of zeros, and a group of zeros gets no gradient.
Half-precision tensors are computed in float32, also under autocast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

GroupName = Literal["element", "output", "input", "pair", "row", "column"]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Tiles of a matrix as groups; tiles at the end are smaller where they do not fit.

    A line inside a block of R×C is a tile as well: ``Blocks(rows=1, columns=C)`` are its rows.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ValueError: a side is below 1.
        """
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"blocks of {self.rows}×{self.columns}: expected 1×1 or more")


Groups = GroupName | Blocks | tuple[int, ...]
"""Which elements belong together.

element: every one on its own. output, input: channels of a weight (K, C, ...), axes 0 and 1.
pair: an (output, input) pair of (K, C, ...), its kernel or its coefficients. row, column: lines of
matrices (..., R, C). A tuple: the axes that a group extends over.
"""

LEAST_AXES: Mapping[GroupName, int] = {
    "element": 0,
    "output": 2,
    "input": 2,
    "pair": 3,
    "row": 2,
    "column": 2,
}
"""Axes that a tensor must have."""

Regularizer = Callable[[Tensor, Groups], Tensor]


def hoyer_square(x: Tensor, groups: Groups = "element") -> Tensor:
    """Hoyer-Square (Σ n_g)² / Σ n_g², a scalar.

    Args:
        x: real tensor of any shape that has the groups.
        groups: see `Groups`.

    Raises:
        ValueError: x has too few axes for the groups.
    """
    norms = group_norms(_unit_scaled(x), groups)
    return _ratio(norms.sum().square(), norms.square().sum())


def hoyer(x: Tensor, groups: Groups = "element") -> Tensor:
    """Hoyer regulariser Σ n_g / √Σ n_g², a scalar; arguments as for `hoyer_square`."""
    norms = group_norms(_unit_scaled(x), groups)
    return _ratio(norms.sum(), safe_sqrt(norms.square().sum()))


def lasso(x: Tensor, groups: Groups = "element") -> Tensor:
    """L1, or group lasso: Σ n_g, a scalar; arguments as for `hoyer_square`."""
    return group_norms(x, groups).sum()


def transformed_l1(x: Tensor, groups: Groups = "element") -> Tensor:
    """Transformed L1, Σ 2·n_g / (1 + n_g), a scalar; arguments as for `hoyer_square`."""
    norms = group_norms(x, groups)
    return (2 * norms / (1 + norms)).sum()


REGULARIZERS: Mapping[str, Regularizer] = {
    "l1": lasso,
    "group-lasso": lasso,
    "transformed-l1": transformed_l1,
    "hoyer": hoyer,
    "hoyer-square": hoyer_square,
}
"""By the name that recipes use."""


def group_norms(x: Tensor, groups: Groups) -> Tensor:
    """‖x_g‖₂ of every group, of any shape; at least float32.

    Raises:
        ValueError: x has too few axes for the groups.
    """
    x = full_precision(x)
    if groups == "element":
        return x.abs()
    if isinstance(groups, Blocks):
        return safe_sqrt(_block_sums(x.square(), groups))
    return safe_sqrt(x.square().sum(dim=group_axes(x.shape, groups)))


def safe_sqrt(x: Tensor) -> Tensor:
    """√x for x ≥ 0 with gradient zero instead of infinite at x = 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).sqrt(), 0)


def group_axes(shape: Sequence[int], groups: GroupName | tuple[int, ...]) -> tuple[int, ...]:
    """Axes of a tensor that a group extends over; none for elements.

    Raises:
        ValueError: the tensor has too few axes, or the name is unknown.
    """
    if isinstance(groups, tuple):
        return groups
    if groups not in LEAST_AXES:
        raise ValueError(f"unknown groups '{groups}', known are {', '.join(LEAST_AXES)}")
    if len(shape) < LEAST_AXES[groups]:
        raise ValueError(
            f"groups '{groups}' need {LEAST_AXES[groups]} axes or more, the tensor is "
            f"{tuple(shape)}"
        )
    return {
        "element": (),
        "output": tuple(range(1, len(shape))),
        "input": (0, *range(2, len(shape))),
        "pair": tuple(range(2, len(shape))),
        "row": (-1,),
        "column": (-2,),
    }[groups]


def _block_sums(squares: Tensor, blocks: Blocks) -> Tensor:
    """Sums over tiles of (..., R, C), (..., ⌈R/rows⌉, ⌈C/columns⌉)."""
    if squares.ndim < 2:
        raise ValueError(f"blocks need a matrix, the tensor is {tuple(squares.shape)}")
    *leading, R, C = squares.shape
    height, width = -(-R // blocks.rows), -(-C // blocks.columns)
    missing = (0, width * blocks.columns - C, 0, height * blocks.rows - R)
    padded = torch.nn.functional.pad(squares, missing)
    tiles = padded.reshape(*leading, height, blocks.rows, width, blocks.columns)
    return tiles.sum(dim=(-3, -1))


def full_precision(x: Tensor) -> Tensor:
    """The tensor with at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _unit_scaled(x: Tensor) -> Tensor:
    """Scales x by its largest magnitude, so that squares neither vanish nor overflow.

    The factor counts as a constant. That leaves every derivative of a scale-invariant function
    exact: f(x/c) = f(x) for each c. Below √tiny the tensor counts as zero.
    """
    x = full_precision(x)
    if not x.numel():
        return x
    largest = x.detach().abs().amax()
    is_zero = largest <= torch.finfo(x.dtype).tiny ** 0.5
    return x / torch.where(is_zero, torch.inf, largest)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, or zero without gradient for 0/0."""
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1), 0)
