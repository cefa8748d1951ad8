import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.accelerator.architecture import ArchitectureError, TileError
from runtimes.accelerator.architecture_file import NO_SOURCE, load_shipped, override, to_json
from runtimes.accelerator.network import run_network
from runtimes.accelerator.sweep import Measures, measure, pareto_front, parse_sweep, points
from tests.passes.channel_models import Net


def content(**parameters: Any) -> dict[str, Any]:
    return {"version": 1, "parameters": parameters}


def test_points_are_all_combinations() -> None:
    data = content(**{"array.blocks": [8, 16], "dram.bytes_per_second": [1e9, 2e9, 4e9]})
    found = list(points(load_shipped("escalate"), parse_sweep(data, "s.yaml")))
    assert len(found) == 6
    assert [settings["array.blocks"] for settings, _ in found] == [8, 8, 8, 16, 16, 16]
    for settings, architecture in found:
        assert not isinstance(architecture, TileError)
        assert architecture.array.multipliers == 4 * settings["array.blocks"]
        assert architecture.dram.bytes_per_second == settings["dram.bytes_per_second"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected a mapping with the keys version, parameters"),
        ({"parameters": {}}, "version is None, this optc reads 1"),
        ({"version": 1, "parameter": {}}, "unknown key 'parameter', did you mean 'parameters'?"),
        ({"version": 1}, "parameters maps dotted names to lists"),
        (content(**{"array.blocks": 8}), "parameters.array.blocks: expected a list of values"),
        (content(**{"array.blocks": []}), "parameters.array.blocks: expected a list of values"),
        (content(**{"array.blocks": [8, 8]}), "parameters.array.blocks: a value occurs twice"),
    ],
)
def test_wrong_files_are_refused_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(message)) as caught:
        parse_sweep(data, "s.yaml")
    assert str(caught.value).startswith("s.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("array.block", 8, "unknown key 'block', did you mean 'blocks'?"),
        ("array.blocks", "many", "array.blocks is 'many', expected int"),
        ("array.blocks", [1], "array.blocks is [1], expected int"),
        ("array.blocks", 0, "array.blocks is 0, expected a positive number"),
    ],
)
def test_wrong_settings_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(message)) as caught:
        list(points(load_shipped("escalate"), {name: [value]}))
    assert not isinstance(caught.value, TileError)


def test_a_point_that_cannot_be_built_says_why() -> None:
    parameters = {"buffers.input_bytes": [64, 393216]}
    (_, refused), (_, built) = points(load_shipped("escalate"), parameters)
    assert isinstance(refused, TileError) and "buffers.input_bytes is too small" in str(refused)
    assert not isinstance(built, TileError)


def test_settings_are_checked_together_and_lose_their_source() -> None:
    old = load_shipped("dense-ws")
    # Either alone is refused: the array does not fit the buffers, in one order or the other.
    small = override(old, {"array.height": 4, "buffers.weight_bytes": 512})
    large = override(small, {"array.height": 32, "buffers.weight_bytes": 2048})
    assert (large.array.multipliers, large.buffers.weight_bytes) == (1024, 2048)
    shown = to_json(large)["parameters"]
    assert shown["array.height"]["source"] == NO_SOURCE != shown["array.width"]["source"]


def network(K: int = 8, C: int = 64, size: int = 16) -> Any:
    net = Net()
    x = net.input(1, C, size, size)
    model = net.model(net.conv(x, C, K, "layer"))
    feeds = {"x": np.random.default_rng(0).standard_normal((1, C, size, size)).astype(np.float32)}
    return run_network(model, feeds)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("escalate", {"buffers.weight_bytes": 1024}, "buffers.weight_bytes is too small: half"),
        ("escalate", {"buffers.input_bytes": 2048}, "buffers.input_bytes is too small: half"),
        ("scnn", {"array.accumulators": 7}, "array.accumulators is too small: 7, one channel"),
    ],
)
def test_a_layer_whose_tile_does_not_fit_is_named(
    name: str, settings: dict[str, int], message: str
) -> None:
    architecture = override(load_shipped(name), settings)  # fits the smallest layer
    refused = measure(network(), architecture)
    assert isinstance(refused, TileError)
    assert str(refused).startswith(f"{name}, layer 'layer': {message}")
    assert "\n" not in str(refused)
    assert isinstance(measure(network(), load_shipped(name)), Measures)


def test_a_buffer_of_exactly_one_tile_is_enough() -> None:
    workload = network()
    # A filter of 64·3·3 weights: a bit each, and 8 for what is not zero, which all are.
    needed = 64 * 9 + 64 * 9 // 8
    for nbytes, is_enough in ((2 * needed, True), (2 * needed - 2, False)):
        architecture = override(load_shipped("escalate"), {"buffers.weight_bytes": nbytes})
        assert isinstance(measure(workload, architecture), Measures) == is_enough


costs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(costs)
def test_the_front_is_what_no_point_beats(points: list[tuple[float, float]]) -> None:
    def is_beaten(p: tuple[float, float]) -> bool:
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    expected = {i for i, p in enumerate(points) if not is_beaten(p)}
    front = pareto_front(points)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i] for i in front] == sorted(points[i] for i in front)
