import numpy as np
import pytest

from toolchain.bench_statistics import latency, random_orders, speedup


def test_latency_of_numbers_counted_by_hand() -> None:
    result = latency(np.arange(11.0).reshape(1, 11)[:, ::-1])
    assert (result.median, result.p10, result.p90, result.mad, result.runs) == (5, 1, 9, 3, 11)


def test_one_slow_run_moves_neither_median_nor_spread() -> None:
    times = np.ones((10, 3))
    times[4, 1] = 1e6
    result = latency(times)
    assert (result.median, result.mad) == (1, 0)


def test_a_model_is_as_fast_as_itself() -> None:
    times = np.random.default_rng(0).uniform(1, 2, (20, 4))
    result = speedup(times, times, seed=0)
    assert (result.ratio, result.low, result.high) == (1, 1, 1)


def test_load_that_slows_down_whole_rounds_cancels() -> None:
    load = np.random.default_rng(0).uniform(1, 10, (40, 1))
    result = speedup(3 * load * np.ones((1, 5)), load * np.ones((1, 2)), seed=0)
    assert result.ratio == pytest.approx(3)
    assert (result.low, result.high) == (pytest.approx(3), pytest.approx(3))


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(30):
        first, other = 2 * rng.lognormal(0, 0.2, (30, 1)), rng.lognormal(0, 0.2, (30, 1))
        result = speedup(first, other, seed)
        assert result.low <= result.ratio <= result.high
        held += result.low <= 2 <= result.high
    assert held >= 24  # 28.5 expected; fewer than 24 has a probability below 0.1 %


def test_equal_seeds_give_equal_intervals() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.uniform(1, 2, (20, 3)), rng.uniform(1, 2, (20, 3))
    assert speedup(first, other, 1) == speedup(first, other, 1)
    assert speedup(first, other, 1) != speedup(first, other, 2)


def test_every_round_has_every_model_once_in_changing_order() -> None:
    orders = random_orders(3, 60, seed=0)
    assert len(orders) == 60
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert {int(order[0]) for order in orders} == {0, 1, 2}
