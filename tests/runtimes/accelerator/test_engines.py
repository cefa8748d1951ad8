"""Whole layers: arithmetic, conservation, tables and traces."""

import dataclasses
import importlib
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from runtimes.accelerator.architecture_file import load_shipped, override, shipped_names
from runtimes.accelerator.conservation import ConservationError, check
from runtimes.accelerator.functional import convolve
from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import Factors, Layer, Workload
from runtimes.accelerator.writers import FILES
from runtimes.accelerator.writers.dram import bursts
from runtimes.accelerator.writers.scalesim import topology
from runtimes.operators.decomposed_conv import ConvGeometry
from tests.runtimes.accelerator.random_layers import random_layer


def network(layers: list[Layer], name: str, **settings: object) -> NetworkResult:
    workload = Workload(layers=tuple(layers), host=(), outputs={})
    return simulate(workload, override(load_shipped(name), settings))


@pytest.mark.parametrize("name", shipped_names())
def test_every_layer_is_conserved_on_every_machine(name: str) -> None:
    layers = [random_layer(s, decomposed=bool(s % 2), group=1 + s % 3) for s in range(30)]
    result = network(layers, name)  # `simulate` checks each
    begin = 0
    for each in result.layers:
        assert min(record.start for record in each.records) >= begin
        begin += each.total_cycles
        assert max(record.end for record in each.records) == begin
    assert begin == result.cycles


def test_the_checks_can_fail() -> None:
    result = network([random_layer(3, decomposed=True)], "escalate").layers[0]
    architecture = load_shipped("escalate")
    check(result, architecture)
    for change in (
        {"compute_cycles": result.compute_cycles + 1},
        {"macs": result.macs + 1},
        {"adds": result.adds + 1},
        {"dram_bytes": {**result.dram_bytes, "input": 1}},
        {"records": result.records[1:]},
        {"total_cycles": 1},
    ):
        with pytest.raises(ConservationError):
            check(dataclasses.replace(result, **change), architecture)


def test_dense_coefficients_on_an_identity_basis_do_the_dense_work() -> None:
    layer = random_layer(11, decomposed=False)
    rng = np.random.default_rng(0)
    K, C, R, S = 3, 4, 3, 3
    ce = np.sign(rng.standard_normal((K, C, R * S)))
    factors = Factors(basis=np.eye(R * S).reshape(R * S, R, S), coefficients=ce)
    x = np.ones((C, 5, 5), np.float32)
    layer = dataclasses.replace(
        layer,
        x=x,
        factors=factors,
        weight=np.tensordot(ce, factors.basis, axes=1),
        geometry=ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1)),
        output_size=(5, 5),
        stored=np.ones((K, 5, 5), np.bool_),
    )
    result = network([layer], "escalate").layers[0]
    assert result.adds == layer.dense_macs and result.adds_skipped == 0


@pytest.mark.parametrize("decomposed", [False, True])
def test_arithmetic_equals_a_direct_convolution(decomposed: bool) -> None:
    for seed in range(20):
        layer = random_layer(seed, decomposed=decomposed, group=1 + seed % 2)
        top, left, bottom, right = layer.geometry.pads
        x = np.pad(layer.x, ((0, 0), (top, bottom), (left, right)))
        x = x.reshape(layer.geometry.group, -1, *x.shape[1:])
        stride, (R, S) = layer.geometry.strides[0], layer.kernel
        per_group = layer.filters // layer.geometry.group
        expected = np.array(
            [
                [
                    [
                        np.sum(
                            layer.weight[k]
                            * x[k // per_group, :, i * stride :, j * stride :][:, :R, :S]
                        )
                        for j in range(layer.output_size[1])
                    ]
                    for i in range(layer.output_size[0])
                ]
                for k in range(layer.filters)
            ]
        )
        np.testing.assert_allclose(convolve(layer), expected, rtol=1e-4, atol=1e-4)


def test_skipping_and_concentration_never_cost_cycles() -> None:
    layers = [random_layer(seed, decomposed=True) for seed in range(20)]
    best = network(layers, "escalate")
    for setting in ("array.concentration", "array.skip_activations", "array.skip_coefficients"):
        worse = network(layers, "escalate", **{setting: False})
        pairs = zip(best.layers, worse.layers, strict=True)
        assert all(a.compute_cycles <= b.compute_cycles for a, b in pairs), setting


@pytest.fixture(scope="module", params=["escalate", "dense-ws"])
def written(request: pytest.FixtureRequest) -> tuple[NetworkResult, dict[str, str]]:
    result = network([random_layer(s, decomposed=bool(s % 2)) for s in range(4)], request.param)
    return result, {name: render(result) for name, render in FILES.items()}


def test_tables_agree_with_each_other(written: tuple[NetworkResult, dict[str, str]]) -> None:
    result, files = written
    layers = [line.split(",") for line in files["layers.csv"].splitlines()]
    assert layers[0][:4] == ["layer", "compute_cycles", "total_cycles", "macs"]
    topology = files["topology.csv"].splitlines()
    assert all(line.endswith(",") and line.count(",") == 8 for line in topology)
    assert [line.split(",")[0] for line in topology[1:]] == [row[0] for row in layers[1:]]
    assert sum(int(row[2]) for row in layers[1:]) == result.cycles
    energy = [float(line.split(",")[-1]) for line in files["activity.csv"].splitlines()[1:]]
    assert sum(energy) == pytest.approx(result.energy_pj, rel=1e-3)
    report = files["COMPUTE_REPORT.csv"].splitlines()
    assert all(line.endswith(",") and line.count(",") == 7 for line in report)


def test_dram_traces_move_all_bytes_in_order(
    written: tuple[NetworkResult, dict[str, str]],
) -> None:
    result, files = written
    text = files["dram.dramsim3.trace"]
    assert text.endswith("\n")
    lines = [line.split(" ") for line in text.splitlines()]
    assert all(re.fullmatch("0x[0-9a-f]+", line[0]) for line in lines)
    assert {line[1] for line in lines} == {"READ", "WRITE"}
    cycles = [int(line[2]) for line in lines]
    assert cycles == sorted(cycles)
    transfers = [r for each in result.layers for r in each.records if r.unit == "dram"]
    assert result.dram_bytes <= 64 * len(lines) <= result.dram_bytes + 2 * 64 * len(transfers)
    simple = [line.split(" ") for line in files["dram.ramulator2.trace"].splitlines()]
    assert [line[1] for line in simple] == [line[0] for line in lines]
    assert {line[0] for line in simple} == {"LD", "ST"}


def test_what_is_read_again_has_the_same_addresses() -> None:
    layers = [random_layer(s, decomposed=False) for s in range(20)]
    small = {"array.height": 2, "array.width": 2, "buffers.input_bytes": 16}
    result = network(layers, "dense-ws", **small, **{"dram.burst_bytes": 1})
    assert any(each.dram_bytes["input"] > each.regions["input"] for each in result.layers)
    reads = {burst.address for burst in bursts(result)}
    expected = sum(sum(each.regions.values()) for each in result.layers)
    empty = sum(nbytes == 0 for each in result.layers for nbytes in each.regions.values())
    assert len(reads) == expected and max(reads) < expected + empty
    for each in result.layers:
        passes = each.dram_bytes["input"] / each.regions["input"]
        assert passes == int(passes)


@pytest.mark.parametrize("name", ["dense-ws", "dense-is"])
def test_partial_sums_come_back_from_where_they_were_left(name: str) -> None:
    layers = [random_layer(s, decomposed=False) for s in range(20)]
    small = {"array.height": 4, "array.width": 2, "buffers.output_bytes": 16}
    result = network(layers, name, **small)
    spilled = 0
    for each in result.layers:
        sums = [record for record in each.records if record.tensor == "partial"]
        for left, back in zip(sums[::2], sums[1::2], strict=True):
            assert (left.op, back.op, back.tile) == ("store", "load", left.tile + 1)
            assert (left.offset, left.nbytes) == (back.offset, back.nbytes)
            assert left.end <= back.start
            computed = [r for r in each.records if r.op == "compute"]
            assert computed[left.tile].end <= left.start
            assert back.end <= computed[back.tile].start
            spilled += left.nbytes
        results = sum(r.nbytes for r in each.records if r.tensor == "output")
        assert results == each.regions["output"] == each.dram_bytes["output"]
        assert each.regions.get("partial", 0) <= 4 * each.layer.stored.size
    assert spilled > 0


@pytest.mark.parametrize("name", ["escalate", "dense-ws", "scnn", "sparten"])
def test_layers_of_zeros_are_written(name: str) -> None:
    layer = random_layer(3, decomposed=False)
    zeros = replace(layer, x=np.zeros_like(layer.x), weight=np.zeros_like(layer.weight))
    result = network([zeros], name)
    assert all(render(result) for render in FILES.values())


def test_topologies_have_the_outputs_of_layers_with_two_strides() -> None:
    layer = random_layer(0, decomposed=False)
    geometry = replace(layer.geometry, strides=(2, 1), pads=(0, 0, 0, 0))
    K, taps = len(layer.weight), layer.kernel[0]
    size = (9, 9)
    x = np.ones((layer.channels, 16 + taps, 8 + taps), np.float32)
    stored = np.ones((K, *size), np.bool_)
    unequal = replace(layer, x=x, geometry=geometry, output_size=size, stored=stored)
    row = topology(network([unequal], "dense-ws")).splitlines()[1].split(",")
    height, width, R, S, *_, stride = (int(cell) for cell in row[1:-1])
    assert ((height - R) // stride + 1, (width - S) // stride + 1) == size


def test_timeline_slices_do_not_overlap(written: tuple[NetworkResult, dict[str, str]]) -> None:
    result, files = written
    events = json.loads(files["timeline.json"])["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert max(event["ts"] + event["dur"] for event in slices) == result.cycles
    for tid in {event["tid"] for event in slices}:
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if e["tid"] == tid)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(own))


SLICE = {"ph": str, "pid": int, "tid": int, "name": str, "cat": str, "ts": int, "dur": int}
META = {"ph": str, "pid": int, "tid": int, "name": str}


def test_timelines_have_the_form_that_perfetto_reads(
    written: tuple[NetworkResult, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace event format: complete events with whole times, and names of threads."""
    result, files = written
    module = importlib.import_module("runtimes.accelerator.writers.timeline")
    monkeypatch.setattr(module, "LIMIT", 3)
    for text in (files["timeline.json"], module.timeline(result)):  # of tiles, and of layers
        document = json.loads(text)
        assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
        assert document["displayTimeUnit"] == "ns"
        named = set()
        for event in document["traceEvents"]:
            assert event["ph"] in ("X", "M")
            for key, kind in (SLICE if event["ph"] == "X" else META).items():
                assert type(event[key]) is kind
            assert isinstance(event["args"], dict)
            if event["ph"] == "M":
                assert event["name"] == "thread_name" and isinstance(event["args"]["name"], str)
                named.add(event["tid"])
            else:
                assert event["ts"] >= 0 and event["dur"] > 0 and event["tid"] in named
        slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
        assert max(each["ts"] + each["dur"] for each in slices) == result.cycles
    assert len(slices) == len(result.layers)


def test_values_of_one_magnitude_are_ternary() -> None:
    ce = np.array([[[1.0, 0.5]], [[-1.0, 0.0]]]).transpose(1, 0, 2)
    assert Factors(basis=np.ones((2, 3, 3)), coefficients=ce).is_ternary
    assert not Factors(basis=np.ones((2, 3, 3)), coefficients=ce * [[[1], [2]]]).is_ternary
