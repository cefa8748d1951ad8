"""Constants of channels where an axis has several dims, or no elements."""

import numpy as np
import pytest

from passes.channels.layout import Dim, Layout, axis_constants, without_dims


def layout(constants: list[list[float]], size: int) -> Layout:
    """Two axes of channels, (size, 2)."""
    return Layout(
        rank=2,
        dims=(Dim(axis=0, size=size), Dim(axis=1, size=2)),
        ids=(np.arange(size)[:, None], np.arange(2)[None] + size),
        constants=np.array(constants, np.float64).reshape(size, 2),
    )


@pytest.mark.parametrize(
    ("constants", "expected"),
    [
        ([[1, 2], [1, 3]], [1, np.nan]),
        ([[np.inf, -np.inf], [np.inf, -np.inf]], [np.inf, -np.inf]),
        ([[np.nan, 0], [0, 0]], [np.nan, 0]),
        ([], [np.nan, np.nan]),
    ],
)
def test_a_constant_is_one_that_is_so_everywhere(
    constants: list[list[float]], expected: list[float]
) -> None:
    both = layout(constants, len(constants))
    np.testing.assert_array_equal(axis_constants(both, 1), expected)
    np.testing.assert_array_equal(without_dims(both, [0], 1).constants.ravel(), expected)
