"""More memory, bandwidth or look-ahead never costs cycles, on any accelerator."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runtimes.accelerator import simulator
from runtimes.accelerator.architecture import TileError
from runtimes.accelerator.architecture_file import load_shipped, override, shipped_names
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.tiles import Plans
from runtimes.accelerator.workload import Workload
from tests.runtimes.accelerator.random_layers import random_layer
from tests.runtimes.accelerator.test_clocked import SMALL

SYSTOLIC = {"array.height": 4, "array.width": 3}
ARRAYS: Mapping[str, Mapping[str, Any]] = {
    "escalate": SMALL,
    "dense-ws": SYSTOLIC,
    "dense-os": SYSTOLIC,
    "dense-is": SYSTOLIC,
    "scnn": {"array.grid": 2, "array.accumulators": 60},
    "sparten": {"array.clusters": 2, "array.units": 2, "array.chunk": 4},
}
BUFFERS = ("buffers.input_bytes", "buffers.weight_bytes", "buffers.output_bytes")
MORE = {"escalate": ("array.fifo_depth", "array.look_ahead", "array.multipliers_per_block")}


def resources(name: str, rng: np.random.Generator) -> dict[str, Any]:
    sizes: dict[str, Any] = {buffer: int(2 ** rng.uniform(6, 11)) for buffer in BUFFERS}
    sizes["dram.bytes_per_second"] = float(10 ** rng.uniform(8, 11))
    return sizes | {each: int(rng.integers(1, 5)) for each in MORE.get(name, ())}


def cycles(name: str, workload: Workload, sizes: Mapping[str, Any]) -> int:
    try:
        architecture = override(load_shipped(name), {**ARRAYS[name], **sizes})
        return simulate(workload, architecture).cycles
    except TileError:
        return 2**62


def workload_of(rng: np.random.Generator) -> Workload:
    decomposed, group = bool(rng.random() < 0.6), int(rng.integers(1, 3))
    layer = random_layer(int(rng.integers(2**31)), decomposed=decomposed, group=group)
    if rng.random() < 0.5:
        layer = replace(layer, residual=rng.random(layer.stored.shape) < 0.5)
    return Workload(layers=(layer,), host=(), outputs={})


@pytest.mark.parametrize("name", shipped_names())
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_more_never_costs_cycles(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    workload, less = workload_of(rng), resources(name, rng)
    if name == "escalate" and workload.layers[0].factors is None:
        less.pop("array.look_ahead")  # the window of a plain layer is cut at other places
    more = {key: type(value)(value * rng.choice([1, 1, 2, 3])) for key, value in less.items()}
    before = cycles(name, workload, less)
    assume(before < 2**62)
    assert cycles(name, workload, more) <= before


def test_the_largest_tiling_alone_would_cost_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why every way is tried: tiles as large as the buffer allows wait longer for their weights."""

    def largest(layer: Any, architecture: Any) -> Plans:
        found = plans(layer, architecture)
        side = max(found, key=lambda way: int(way.split("x")[0])).split("x")[0]
        own = [way for way in found if way.startswith(f"{side}x") and "channels outer" in way]
        last = max(own, key=lambda way: int(way.split(", ")[2].split()[0]))
        return {last: found[last]}

    plans = simulator.ENGINES[type(load_shipped("escalate").array)]
    layer = random_layer(5, decomposed=True)
    rng = np.random.default_rng(0)
    weights = np.sign(rng.standard_normal((32, 12, 4)))
    assert layer.factors is not None
    layer = replace(
        layer,
        x=np.ones((12, 6, 6)),
        factors=replace(layer.factors, coefficients=weights, basis=np.ones((4, 3, 3))),
        weight=np.ones((32, 12, 3, 3)),
        geometry=replace(layer.geometry, strides=(1, 1), pads=(1, 1, 1, 1)),
        output_size=(6, 6),
        stored=np.ones((32, 6, 6), np.bool_),
    )
    workload = Workload(layers=(layer,), host=(), outputs={})
    sizes = [
        {"dram.bytes_per_second": 1e9, "buffers.weight_bytes": nbytes} for nbytes in (512, 65536)
    ]
    less, more = (cycles("escalate", workload, size) for size in sizes)
    assert more <= less
    monkeypatch.setattr(
        simulator, "ENGINES", {**simulator.ENGINES, type(load_shipped("escalate").array): largest}
    )
    less, more = (cycles("escalate", workload, size) for size in sizes)
    assert more > less
