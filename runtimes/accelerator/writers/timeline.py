"""``timeline.json`` for Perfetto: a slice for every transfer and tile, a cycle shown as 1 µs."""

import json
from typing import Any

from runtimes.accelerator.results import NetworkResult

THREADS = {("dram", 0): 1, ("array", 0): 2, ("array", 1): 3}
NAMES = {1: "DRAM", 2: "array, half 0 of the buffers", 3: "array, half 1 of the buffers"}
LIMIT = 100_000


def timeline(result: NetworkResult) -> str:
    """Chrome trace events; where there are too many, one slice a layer."""
    records = [record for each in result.layers for record in each.records]
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for tid, name in NAMES.items()
    ]
    if len(records) <= LIMIT:
        for record in records:
            if record.end > record.start:
                half = record.tile % 2 if record.unit == "array" else 0
                what = f"{record.op} {record.tensor}".strip()
                events.append(
                    {
                        "ph": "X",
                        "pid": 1,
                        "tid": THREADS[record.unit, half],
                        "name": f"{record.layer} {what}",
                        "cat": record.op,
                        "ts": record.start,
                        "dur": record.end - record.start,
                        "args": {"tile": record.tile, "bytes": record.nbytes},
                    }
                )
    else:
        begin = 0
        for each in result.layers:
            event = {"ph": "X", "pid": 1, "tid": 2, "name": each.layer.name, "cat": "layer"}
            events.append({**event, "ts": begin, "dur": each.total_cycles, "args": {}})
            begin += each.total_cycles
    document = {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {"clock_hz": result.architecture.clock_hz, "unit": "1 us is 1 cycle"},
    }
    return json.dumps(document) + "\n"
