"""The vectorised engines against their cycle-by-cycle reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.accelerator import reference, scnn, sparten, systolic
from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.matching import match_counts, pipeline_cycles, window_cycles


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_window_is_cycle_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels, width, ahead = (int(n) for n in rng.integers(1, (40, 9, 5)))
    left = rng.random((3, channels)) < rng.random()
    right = rng.random((channels, 4)) < rng.random()
    fast = window_cycles(match_counts(left, right, width), width, ahead)
    for i in range(3):
        for j in range(4):
            assert fast[i, j] == reference.window_cycles(left[i], right[:, j], width, ahead)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pipeline_is_cycle_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, depth = (int(n) for n in rng.integers(1, (40, 9)))
    first, second = rng.integers(0, 6, (2, items, 3))
    fast = pipeline_cycles(first, second, depth)
    for lane in range(3):
        slow = reference.pipeline_cycles(first[:, lane].tolist(), second[:, lane].tolist(), depth)
        assert fast[lane] == slow


def test_a_full_fifo_holds_up_the_first_stage() -> None:
    first, second = np.array([[1], [1], [9]]), np.array([[10], [1], [1]])
    assert pipeline_cycles(first, second, 8)[0] == 13
    assert pipeline_cycles(first, second, 1)[0] == 13
    assert pipeline_cycles(np.ones((4, 1), np.int64), np.full((4, 1), 5), 1)[0] == 21


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scnn_products_are_cycle_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, w = rng.random((6, 7)) < rng.random(), rng.random((6, 9)) < rng.random()
    fast = int((-(-a.sum(axis=1) // 4) * -(-w.sum(axis=1) // 4)).sum())
    assert fast == reference.scnn_cycles(a, w, 4, 4)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sparten_positions_are_cycle_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    length, K = (int(n) for n in rng.integers(1, (50, 12)))
    w, x = rng.random((K, length)) < rng.random(), rng.random((length, 3)) < rng.random()
    units = sparten.units_of(w[:, :, None, None], 2)
    chunks = [(w[:, i : i + 16], x[i : i + 16]) for i in range(0, length, 16)]
    fast = sparten.position_cycles(chunks, units)
    filters = [[w[k] for k in unit if k >= 0] for unit in units]
    for p in range(3):
        assert fast[p] == reference.sparten_cycles(filters, x[:, p], 16)


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 60)] * 3), sides=st.tuples(*[st.integers(1, 9)] * 2))
def test_systolic_folds_are_clocked_and_counted(
    dataflow: str, sizes: tuple[int, int, int], sides: tuple[int, int]
) -> None:
    M, K, N = sizes
    H, W = sides
    array = SystolicArray(height=H, width=W, dataflow=dataflow)
    rows, columns, cycles = systolic.fold_grid(array, M, K, N)
    moving = {"ws": M, "is": N, "os": K}[dataflow]
    assert cycles == reference.systolic_cycles(dataflow, H, W, moving)
    stationary = {"ws": (K, N), "is": (K, M), "os": (M, N)}[dataflow]
    assert (rows - 1) * H < stationary[0] <= rows * H
    assert (columns - 1) * W < stationary[1] <= columns * W


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_run_length_storage_decodes_to_the_same_entries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(200) < rng.random() ** 3
    entries, zeros = 0, 0
    for stored in mask:
        if stored or zeros == 15:  # the longest run ends with an explicit zero
            entries, zeros = entries + 1, 0
        else:
            zeros += 1
    tail = len(mask) - 1 - (int(np.nonzero(mask)[0][-1]) if mask.any() else -1)
    entries -= tail // 16  # nothing need be stored behind the last nonzero
    assert scnn.run_length_bytes(mask, 8, 4) == -(-entries * 12 // 8)
    assert scnn.run_length_bytes(mask, 8, 2**53) == mask.sum() * (8 + 2**53) // 8
