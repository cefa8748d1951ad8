"""Dense modes against SCALE-Sim 3.0.0: stored results, and SCALE-Sim itself where it is at hand.

OPTC_SCALESIM names a Python that has scalesim==3.0.0 and numpy<2.4.
"""

import gzip
import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtimes.accelerator.architecture_file import load_shipped, override
from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.systolic import fold_grid
from runtimes.accelerator.workload import Layer, Workload
from runtimes.accelerator.writers.layer_traces import traces, write_layer_traces
from runtimes.accelerator.writers.scalesim import detailed_access_report, topology
from runtimes.operators.decomposed_conv import ConvGeometry
from tests.runtimes.accelerator.random_layers import random_layer

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "scalesim.json").read_text())

ACCESS_HEAD = (
    "LayerID, SRAM IFMAP Start Cycle, SRAM IFMAP Stop Cycle, SRAM IFMAP Reads, "
    "SRAM Filter Start Cycle, SRAM Filter Stop Cycle, SRAM Filter Reads, SRAM OFMAP Start Cycle, "
    "SRAM OFMAP Stop Cycle, SRAM OFMAP Writes, DRAM IFMAP Start Cycle, DRAM IFMAP Stop Cycle, "
    "DRAM IFMAP Reads, DRAM Filter Start Cycle, DRAM Filter Stop Cycle, DRAM Filter Reads, "
    "DRAM OFMAP Start Cycle, DRAM OFMAP Stop Cycle, DRAM OFMAP Writes,"
)


def test_cycles_and_mapping_equal_scalesims() -> None:
    compared = 0
    for run in GOLDEN["runs"]:
        H, W = run["height"], run["width"]
        array = SystolicArray(height=H, width=W, dataflow=run["dataflow"])
        for shape, layer in zip(GOLDEN["shapes"], run["layers"], strict=True):
            height, width, R, S, C, N, stride = shape
            M = ((height - R) // stride + 1) * ((width - S) // stride + 1)
            K = R * S * C
            rows, columns, cycles = fold_grid(array, M, K, N)
            assert layer["stall_cycles"] == 0
            assert rows * columns * cycles == layer["total_cycles"] + 1  # it counts one less
            sides = {"ws": (K, N), "is": (K, M), "os": (M, N)}[run["dataflow"]]
            share = sides[0] * sides[1] / (rows * H * columns * W)
            assert 100 * share == pytest.approx(layer["mapping_percent"], abs=1e-6)
            compared += 1
    assert compared >= 30


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_sram_traces_and_accesses_equal_scalesims(dataflow: str) -> None:
    height, width = GOLDEN["traced_array"]
    settings = {"array.height": height, "array.width": width, "dram.bytes_per_second": 1e30}
    architecture = override(load_shipped(f"dense-{dataflow}"), settings)
    layers = tuple(dense_layer(*shape) for shape in GOLDEN["traced_shapes"])
    result = simulate(Workload(layers=layers, host=(), outputs={}), architecture)
    order = "positions outer" if dataflow == "is" else "channels outer"  # SCALE-Sim's
    own = [replace(each, way=order) for each in result.layers]
    result = replace(result, layers=own)
    for each, golden in zip(own, GOLDEN["traced"][dataflow], strict=True):
        for name, digest in golden["sha256"].items():
            text = "".join(traces(each, result)[f"{name}_SRAM"])
            assert hashlib.sha256(text.encode()).hexdigest() == digest
    report = detailed_access_report(result).splitlines()
    assert report[0] == ACCESS_HEAD and all(line.endswith(",") for line in report)
    for line, golden in zip(report[1:], GOLDEN["traced"][dataflow], strict=True):
        sram = [float(cell) for cell in line.split(",")[1:10]]
        if dataflow == "os":  # SCALE-Sim counts idle lines among the results it writes
            golden["sram"][8] = sram[8]
        assert sram == golden["sram"]


def dense_layer(h: int, w: int, r: int, s: int, c: int, n: int, stride: int) -> Layer:
    geometry = ConvGeometry(strides=(stride, stride), pads=(0,) * 4, dilations=(1, 1))
    size = (geometry.output_size(h, r, 0), geometry.output_size(w, s, 1))
    return Layer(
        name="layer",
        op_type="Conv",
        x=np.ones((c, h, w)),
        weight=np.ones((n, c, r, s)),
        factors=None,
        geometry=geometry,
        output_size=size,
        stored=np.ones((n, *size), np.bool_),
    )


def test_the_topology_has_output_sizes_that_do_not_depend_on_rounding() -> None:
    layers = tuple(random_layer(seed, decomposed=False) for seed in range(50))
    workload = Workload(layers=layers, host=(), outputs={})
    rows = topology(simulate(workload, load_shipped("dense-ws"))).splitlines()[1:]
    for layer, row in zip(layers, rows, strict=True):
        height, width, R, S, _, _, stride = (int(cell) for cell in row.split(",")[1:-1])
        for size, kernel, out in zip((height, width), (R, S), layer.output_size, strict=True):
            assert (size - kernel) % stride == 0 and (size - kernel) // stride + 1 == out


@pytest.mark.parametrize("name", ["escalate", "dense-os", "sparten"])
def test_layer_traces_move_all_words(name: str, tmp_path: Path) -> None:
    layers = tuple(random_layer(seed, decomposed=True, group=1 + seed % 2) for seed in range(4))
    architecture = load_shipped(name)
    result = simulate(Workload(layers=layers, host=(), outputs={}), architecture)
    for file in write_layer_traces(result, tmp_path):
        folder, trace = file.split("/")
        each = result.layers[int(folder.removeprefix("layer"))]
        with gzip.open(tmp_path / file, "rt") as text:
            lines = [[int(cell) for cell in line.split(",")] for line in text]
        cycles = [line[0] for line in lines]
        assert cycles == sorted(cycles)
        words = sum(cell >= 0 for line in lines for cell in line[1:])
        if "DRAM" in trace:
            tensor = {"IFMAP": "input", "FILTER": "weight", "OFMAP": "output"}[trace.split("_")[0]]
            assert words == each.dram_bytes[tensor]  # of 8 bits
            assert all(len(line) - 1 <= 26 for line in lines)  # 25.6 bytes a cycle
        elif trace.startswith("IFMAP"):
            assert words == each.counts["input_sram", "read"] // 8
    assert (tmp_path / "layer0" / "IFMAP_SRAM_TRACE.csv.gz").exists() == (name == "dense-os")


@pytest.mark.slow
@pytest.mark.skipif("OPTC_SCALESIM" not in os.environ, reason="OPTC_SCALESIM names no Python")
def test_scalesim_still_gives_the_stored_results(tmp_path: Path) -> None:
    command = [os.environ["OPTC_SCALESIM"], str(HERE / "scalesim_golden.py")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == GOLDEN
