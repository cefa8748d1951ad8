"""Runs SCALE-Sim 3.0.0 on small layers; prints cycles, accesses, and digests of traces as JSON.

    python tests/runtimes/accelerator/scalesim_golden.py > tests/runtimes/accelerator/scalesim.json

Needs an environment of its own: scalesim==3.0.0 and numpy<2.4.
"""

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path

from scalesim.scale_sim import scalesim

LAYERS = [  # padded height, width, kernel, channels, filters, stride
    (18, 18, 3, 3, 16, 32, 1),
    (10, 10, 3, 3, 5, 7, 1),
    (17, 17, 3, 3, 8, 20, 2),
    (8, 8, 1, 1, 33, 17, 1),
    (12, 9, 5, 3, 4, 10, 1),
    (1, 1, 1, 1, 64, 10, 1),
]
ARRAYS = [(16, 16), (12, 14)]
TRACED = [(5, 4, 2, 2, 3, 5, 1), (7, 7, 3, 3, 2, 4, 2)]
TRACED_ARRAY = (4, 3)
CONFIG = """[general]
run_name = golden
[architecture_presets]
ArrayHeight: {height}
ArrayWidth: {width}
IfmapSramSzkB: 512
FilterSramSzkB: 512
OfmapSramSzkB: 512
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 64
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def run(
    layers: list[tuple[int, ...]], height: int, width: int, dataflow: str, folder: Path
) -> Path:
    """Simulates layers; returns the folder of the reports."""
    rows = "".join(f"layer{i},{','.join(map(str, layer))},\n" for i, layer in enumerate(layers))
    (folder / "topology.csv").write_text(
        "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels,"
        f" Num Filter, Strides,\n{rows}"
    )
    ones = ",".join(["1"] * 15)
    (folder / "layout.csv").write_text(
        "name" + ", x" * 15 + ",\n" + "".join(f"layer{i},{ones},\n" for i in range(len(layers)))
    )
    (folder / "array.cfg").write_text(CONFIG.format(height=height, width=width, dataflow=dataflow))
    with contextlib.redirect_stdout(None):
        simulation = scalesim(
            save_disk_space=layers is not TRACED,
            verbose=False,
            config=str(folder / "array.cfg"),
            topology=str(folder / "topology.csv"),
            layout=str(folder / "layout.csv"),
        )
        simulation.run_scale(top_path=str(folder))
    return folder / "golden"


def report(path: Path) -> list[list[str]]:
    """Cells of a report, without its head."""
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def cycles(folder: Path) -> list[dict[str, float]]:
    """Cycles and utilisation of every layer."""
    return [
        {"total_cycles": float(r[2]), "stall_cycles": float(r[3]), "mapping_percent": float(r[5])}
        for r in report(folder / "COMPUTE_REPORT.csv")
    ]


def accesses(folder: Path) -> list[dict[str, object]]:
    """Start, stop and count of SRAM accesses of every layer, and digests of the SRAM traces."""
    names = ("IFMAP", "FILTER", "OFMAP")
    return [
        {
            "sram": [float(cell) for cell in row[1:10]],
            "sha256": {
                name: hashlib.sha256(
                    (folder / f"layer{i}" / f"{name}_SRAM_TRACE.csv").read_bytes()
                ).hexdigest()
                for name in names
            },
        }
        for i, row in enumerate(report(folder / "DETAILED_ACCESS_REPORT.csv"))
    ]


def main() -> None:
    """Prints all runs."""
    runs, traced = [], {}
    with tempfile.TemporaryDirectory() as name:
        for dataflow in ("ws", "os", "is"):
            for height, width in ARRAYS:
                layers = cycles(run(LAYERS, height, width, dataflow, Path(name)))
                runs.append(
                    {"height": height, "width": width, "dataflow": dataflow, "layers": layers}
                )
            traced[dataflow] = accesses(run(TRACED, *TRACED_ARRAY, dataflow, Path(name)))
    document = {"scalesim": "3.0.0", "shapes": LAYERS, "runs": runs}
    document |= {"traced_shapes": TRACED, "traced_array": TRACED_ARRAY, "traced": traced}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
