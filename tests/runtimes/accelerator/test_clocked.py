"""Whole layers: engines against loops over the clocked reference, tile by tile."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.accelerator import escalate, reference, scnn, sparten
from runtimes.accelerator.architecture_file import load_shipped, override
from runtimes.accelerator.escalate_work import unfolded
from runtimes.accelerator.schedule import least_cycles, total_cycles
from runtimes.accelerator.tiles import Plans, TilePlan
from runtimes.accelerator.workload import Layer, tap_counts, taps
from tests.runtimes.accelerator.random_layers import random_layer

SMALL = {
    "array.blocks": 4,
    "array.multipliers_per_block": 2,
    "array.combine_width": 3,
    "array.look_ahead": 3,
    "array.scan_bits": 8,
    "array.fifo_depth": 2,
    "array.tile_positions": 5,
}
Clock = Callable[[int, range], int]
"""Cycles of one block for a channel and a tile of positions."""


def coefficients_first(layer: Layer, array: Any) -> Clock:
    assert layer.factors is not None
    ce, x = layer.factors.coefficients != 0, (layer.x != 0).reshape(layer.channels, -1)
    _, C, M = ce.shape
    use = tap_counts(layer).ravel()

    @cache
    def clock(k: int, tile: range) -> int:
        first, second = [], []
        for p in tile:
            for m in range(M):
                lives = bool(ce[k, :, m].any()) and use[p] > 0
                cycles = reference.window_cycles(
                    ce[k, :, m], x[:, p], array.combine_width, array.window
                )
                matched = bool((ce[k, :, m] & x[:, p]).any())
                first.append(max(cycles, -(-C // array.scan_bits)) if lives else 0)
                multiplications = -(-int(use[p]) // array.multipliers_per_block)
                second.append(multiplications if lives and matched else 0)
        return reference.pipeline_cycles(first, second, array.fifo_depth)

    return clock


def basis_first(layer: Layer, array: Any) -> Clock:
    """The second stage; the first is clocked by `all_responses`."""
    assert layer.factors is not None
    K, C, M = layer.factors.coefficients.shape
    ce = (layer.factors.coefficients != 0).reshape(K, C * M)
    responses = np.repeat(patches(layer).any(axis=0), M, axis=0)  # (C·M, P)

    @cache
    def clock(k: int, tile: range) -> int:
        cycles = [
            reference.window_cycles(ce[k], responses[:, p], array.combine_width, array.window)
            for p in tile
        ]
        scan = -(-C * M // array.scan_bits)
        return sum(max(each, scan) for each in cycles) if bool(ce[k].any()) else 0

    return clock


def patches(layer: Layer) -> Any:
    """What the kernel covers, (R·S, C, P)."""
    views = [view.reshape(layer.channels, -1) for *_, view in taps(layer.x != 0, layer)]
    return np.stack(views)


def all_responses(layer: Layer, array: Any, positions: range) -> int:
    """Cycles of all blocks for the first stage at some positions."""
    assert layer.factors is not None
    ce, covered = layer.factors.coefficients != 0, patches(layer)
    cycles = 0
    for p in positions:
        for c in range(layer.channels):
            for m in range(ce.shape[2]):
                if ce[:, c, m].any():
                    cycles += -(-int(covered[:, c, p].sum()) // array.multipliers_per_block)
    return -(-cycles // array.blocks)


def undecomposed(layer: Layer, array: Any) -> Clock:
    w, x = unfolded(layer)
    width = array.window * array.combine_width

    @cache
    def clock(k: int, tile: range) -> int:
        return sum(
            reference.dot_cycles(w[k], x[:, p], width, array.multipliers_per_block, array.scan_bits)
            for p in tile
        )

    return clock


def packed_bytes(layer: Layer) -> list[int]:
    """Mask, packed values and scales of every channel; the basis with the first."""
    if layer.factors is None:
        return [-(-(w.size + 8 * np.count_nonzero(w)) // 8) for w in layer.weight]
    ce = layer.factors.coefficients
    sizes = [-(-(c.size + np.count_nonzero(c) + 8 * c.shape[1]) // 8) for c in ce]
    sizes[0] += layer.factors.basis.size
    return sizes


def clocked(clock: Clock, sizes: list[int], way: escalate.Way, P: int) -> list[list[int]]:
    """Cycles of every round and group of channels."""
    table: list[list[int]] = []
    tiles = [range(start, min(start + way.size, P)) for start in range(0, P, way.size)]
    for start in range(0, len(tiles), way.across):
        table.append([])
        for first in range(0, len(sizes), way.channels):
            group = range(first, min(first + way.channels, len(sizes)))
            owner, loads = {}, [0] * way.side
            for k in sorted(group, key=lambda k: -sizes[k]):
                owner[k] = min(range(way.side), key=lambda block: (loads[block], block))
                loads[owner[k]] += sizes[k]
            busy = [
                sum(clock(k, tile) for k in group if owner[k] == block)
                for tile in tiles[start : start + way.across]
                for block in range(way.side)
            ]
            table[-1].append(max(busy))
    return table


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", ["coefficients-first", "undecomposed"])
def test_escalate_is_cycle_exact_on_layers(kind: str, part: int) -> None:
    """200 layers of both kinds, in every way to run them."""
    architecture = override(load_shipped("escalate"), SMALL)
    array: Any = architecture.array
    for seed in range(50 * part, 50 * part + 50):
        layer = random_layer(seed, decomposed=kind != "undecomposed")
        plans = escalate.plans(layer, architecture)
        work = escalate.layer_work(layer, architecture)
        clock = (undecomposed if layer.factors is None else coefficients_first)(layer, array)
        ways = escalate.ways(work, architecture)
        assert len(plans) == 2 * len(ways)
        for way in ways:
            table = np.array(
                clocked(clock, packed_bytes(layer), way, work.first.shape[2])
            )  # (rounds, groups)
            for order, expected in (("positions", table), ("channels", table.T)):
                plan = plans[f"{way.name}, {order} outer"]
                assert plan.compute.tolist() == expected.ravel().tolist(), (seed, way)


@pytest.mark.parametrize("part", range(4))
def test_the_other_stage_order_is_cycle_exact_on_layers(part: int) -> None:
    architecture = override(load_shipped("escalate"), {**SMALL, "array.stage_order": "basis-first"})
    array: Any = architecture.array
    for seed in range(50 * part, 50 * part + 50):
        layer = random_layer(seed, decomposed=True)
        plans = escalate.plans(layer, architecture)
        P = layer.positions
        work = escalate.layer_work(layer, architecture)
        clock = basis_first(layer, array)
        for way in escalate.ways(work, architecture):
            table = clocked(clock, packed_bytes(layer), way, work.first.shape[2])
            at_once = way.size * way.across
            first, second = [], []
            for round_, cycles in enumerate(table):
                positions = range(round_ * at_once, min((round_ + 1) * at_once, P))
                first += [all_responses(layer, array, positions)] + [0] * (len(cycles) - 1)
                second += cycles
            plan = plans[f"{way.name}, positions outer"]
            for n in range(1, len(second) + 1):  # tile by tile
                expected = reference.pipeline_cycles(first[:n], second[:n], 1)
                assert int(plan.compute[:n].sum()) == expected, (seed, way)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_waiting_for_memory_is_cycle_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = int(rng.integers(1, 8))
    loads = rng.integers(0, 40, (tiles, 2)) * (rng.random((tiles, 2)) < 0.7)
    compute, stores = rng.integers(0, 30, tiles), rng.integers(0, 40, tiles) * (rng.random() < 0.7)
    spills = rng.integers(0, 40, tiles) * (rng.random(tiles) < rng.choice([0, 0.5, 1]))
    spills[-1] = 0
    bandwidth = float(rng.choice([0.7, 1, 2.5, 8]))
    plan = TilePlan(
        compute=compute,
        loads={"input": loads[:, 0], "weight": loads[:, 1]},
        stores=stores,
        spills=spills,
        counts={},
        macs=0,
        stored_weight_bytes=0,
        stored_input_bytes=0,
    )
    expected = reference.layer_cycles(
        loads.tolist(), compute.tolist(), stores.tolist(), spills.tolist(), bandwidth
    )
    assert total_cycles(plan, bandwidth) == expected
    assert least_cycles(plan, bandwidth) <= expected


def only(plans: Plans) -> TilePlan:
    [plan] = plans.values()
    return plan


def reached_outputs(layer: Layer, height: int, width: int) -> int:
    """The most outputs on a plane without borders that inputs of a part go into, one by one."""
    (R, S), stride = layer.kernel, layer.geometry.strides[0]

    def reached(size: int, taps: int, start: int) -> int:
        sources = range(start, start + size)
        return len({i - r for i in sources for r in range(taps) if (i - r) % stride == 0})

    return max(reached(height, R, start) for start in range(stride)) * max(
        reached(width, S, start) for start in range(stride)
    )


def test_scnn_is_cycle_exact_on_layers() -> None:
    architecture = override(load_shipped("scnn"), {"array.grid": 2, "array.accumulators": 60})
    for seed in range(50):
        layer = random_layer(seed, decomposed=False)
        x, w = layer.x != 0, layer.weight != 0
        height, width = (-(-n // 2) for n in x.shape[1:])
        group = max(1, min(layer.filters, 60 // reached_outputs(layer, height, width)))
        total = 0
        for start in range(0, layer.filters, group):
            weights = w[start : start + group].swapaxes(0, 1).reshape(layer.channels, -1)
            parts = [
                x[:, i : i + height, j : j + width].reshape(layer.channels, -1)
                for i in (0, height)
                for j in (0, width)
            ]
            total += max(reference.scnn_cycles(part, weights, 4, 4) for part in parts)
        assert int(only(scnn.plans(layer, architecture)).compute.sum()) == total, seed


def test_sparten_is_cycle_exact_on_layers() -> None:
    settings = {"array.clusters": 2, "array.units": 2, "array.chunk": 16}
    architecture = override(load_shipped("sparten"), settings)
    for seed in range(50):
        layer = random_layer(seed, decomposed=False)
        w, x = unfolded(layer)
        units = sparten.units_of(layer.weight != 0, 2)
        share, total = -(-layer.positions // 2), 0
        for start in range(0, len(units), 2):
            filters = [[w[k] for k in unit if k >= 0] for unit in units[start : start + 2]]
            total += max(
                sum(
                    reference.sparten_cycles(filters, x[:, p], 16)
                    for p in range(first, min(first + share, layer.positions))
                )
                for first in range(0, layer.positions, share)
            )
        assert int(only(sparten.plans(layer, architecture)).compute.sum()) == total, seed
