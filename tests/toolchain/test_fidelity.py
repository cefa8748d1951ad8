"""Sums over batches against the formulas over whole arrays."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.data import Batch
from toolchain.errors import UnreadableError
from toolchain.fidelity import FidelitySums, compare_outputs
from toolchain.results import OutputFidelity


def fidelity_of(*pairs: tuple[Any, Any]) -> OutputFidelity:
    sums = FidelitySums("y")
    for reference, candidate in pairs:
        y, z = np.asarray(reference), np.asarray(candidate)
        sums.add(y, z, len(y) if y.ndim else 1)
    return sums.fidelity()


@given(st.integers(0, 2**32), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
def test_batches_give_the_numbers_of_the_whole_arrays(
    seed: int, sizes: list[int], deep: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = (sum(sizes), *((3, 5) if deep else (5,)))
    y = rng.standard_normal(shape).astype(np.float32)
    z = (y + 0.3 * rng.standard_normal(shape)).astype(np.float32)
    cuts = np.cumsum(sizes)[:-1]
    result = fidelity_of(*zip(np.split(y, cuts), np.split(z, cuts), strict=True))
    a, b = y.astype(np.float64).ravel(), z.astype(np.float64).ravel()
    relative = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert result.max_abs == np.abs(a - b).max()
    assert result.relative_l2 == pytest.approx(relative, rel=1e-12)
    assert result.sqnr_db == pytest.approx(10 * np.log10((a @ a) / ((a - b) @ (a - b))), rel=1e-9)
    assert result.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    assert result.top1_agreement == np.mean(y.argmax(-1) == z.argmax(-1))
    assert result.samples == len(y)


def test_equal_arrays_have_no_error() -> None:
    y = np.random.default_rng(0).standard_normal((4, 3))
    result = fidelity_of((y, y))
    assert (result.max_abs, result.relative_l2, result.sqnr_db) == (0, 0, None)
    assert result.cosine == pytest.approx(1)
    assert result.top1_agreement == 1


def test_an_error_of_a_tenth_is_twenty_decibels() -> None:
    result = fidelity_of(([[1.0, 2.0]], [[1.1, 2.2]]))
    assert result.relative_l2 == pytest.approx(0.1)
    assert result.sqnr_db == pytest.approx(20)
    assert result.cosine == pytest.approx(1)


def test_opposite_outputs_have_cosine_minus_one() -> None:
    assert fidelity_of(([[1.0, -2.0]], [[-1.0, 2.0]])).cosine == pytest.approx(-1)


def test_zeros_are_equal_to_zeros_and_infinitely_far_from_others() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    same, other = fidelity_of((zeros, zeros)), fidelity_of((zeros, ones))
    assert (same.relative_l2, same.sqnr_db, same.cosine) == (0, None, 1)
    assert (other.relative_l2, other.sqnr_db, other.cosine) == (math.inf, -math.inf, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_in_both_is_equal(value: float) -> None:
    result = fidelity_of(([[value, 1.0]], [[value, 1.0]]))
    assert (result.max_abs, result.relative_l2, result.sqnr_db) == (0, 0, None)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, -math.inf),
        (1.0, math.inf),
        (math.nan, math.inf),
    ],
)
def test_what_is_no_number_in_one_only_is_an_infinite_error(
    reference: float, candidate: float
) -> None:
    result = fidelity_of(([[reference, 1.0]], [[candidate, 1.0]]), ([[1.0, 2.0]], [[1.0, 2.0]]))
    assert result.max_abs == result.relative_l2 == math.inf
    assert result.sqnr_db == -math.inf
    assert 0 < result.cosine <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_without_a_finite_value_is_equal_to_nothing(value: float) -> None:
    y = np.full((2, 3), value)
    result = fidelity_of((y, y))
    assert result.max_abs == result.relative_l2 == math.inf
    assert (result.sqnr_db, result.cosine) == (-math.inf, 0)


def test_outputs_without_elements_are_equal() -> None:
    result = fidelity_of((np.ones((0, 3)), np.ones((0, 3))))
    assert (result.max_abs, result.relative_l2, result.sqnr_db) == (0, 0, None)


@pytest.mark.parametrize("y", [np.ones(3), np.ones((3, 1)), np.float32(1)])
def test_top1_needs_several_classes(y: Any) -> None:
    assert fidelity_of((y, y)).top1_agreement is None


def test_integers_and_booleans_are_compared_as_numbers() -> None:
    large = np.array([[2**31 - 1, 0]], np.int32)
    assert fidelity_of((large, -large)).max_abs == 2 * (2**31 - 1)
    assert fidelity_of((np.array([[True, False]]), np.array([[False, False]]))).max_abs == 1
    assert fidelity_of((np.array([[0]], np.uint8), np.array([[255]], np.uint8))).max_abs == 255


def test_shapes_must_be_equal() -> None:
    with pytest.raises(UnreadableError, match=r"'y' has shape \(2, 3\) .* \(2, 1\) in the second"):
        fidelity_of((np.ones((2, 3)), np.ones((2, 1))))


@pytest.mark.parametrize("swapped", [False, True])
def test_text_cannot_be_compared_and_is_named(swapped: bool) -> None:
    pair = (np.array([["a"]], object), np.ones((1, 1), np.float32))
    with pytest.raises(UnreadableError, match="'y' is object; only numbers"):
        fidelity_of(pair[::-1] if swapped else pair)


def batches(*sizes: int) -> Iterator[Batch]:
    for size in sizes:
        x = np.arange(2.0 * size).reshape(size, 2)
        yield Batch(feeds={"x": x}, labels=None, samples=size)


def test_outputs_are_matched_by_name_whatever_their_order() -> None:
    calls: list[tuple[int, int]] = []
    results = compare_outputs(
        lambda feeds: {"a": feeds["x"], "b": -feeds["x"]},
        lambda feeds: {"b": -feeds["x"], "more": feeds["x"], "a": feeds["x"] + 1},
        batches(2, 3),
        lambda done, total, _what: calls.append((done, total)),
        total=2,
    )
    assert [(each.name, each.max_abs, each.samples) for each in results] == [
        ("a", 1, 5),
        ("b", 0, 5),
    ]
    assert calls == [(1, 2), (2, 2)]


def test_a_missing_output_is_named() -> None:
    with pytest.raises(UnreadableError, match=r"no output 'a' .has: b."):
        compare_outputs(lambda f: {"a": f["x"]}, lambda f: {"b": f["x"]}, batches(1))


def test_without_batches_nothing_is_equal() -> None:
    with pytest.raises(UnreadableError, match="no samples"):
        compare_outputs(lambda f: {"a": f["x"]}, lambda f: {"a": f["x"]}, batches())
