"""Dense modes against SCALE-Sim 3.0.0: stored results, and SCALE-Sim itself where it is at hand.

OPTC_SCALESIM names a Python that has scalesim==3.0.0 and numpy<2.4.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from runtimes.accelerator.arrays import SystolicArray
from runtimes.accelerator.systolic import fold_grid

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "scalesim.json").read_text())


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


@pytest.mark.slow
@pytest.mark.skipif("OPTC_SCALESIM" not in os.environ, reason="OPTC_SCALESIM names no Python")
def test_scalesim_still_gives_the_stored_results(tmp_path: Path) -> None:
    command = [os.environ["OPTC_SCALESIM"], str(HERE / "scalesim_golden.py")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == GOLDEN
