"""Measures one session in a process of its own: ``python -m toolchain.memory_probe``.

Arguments: model file, ``.npz`` with its inputs, threads, native library if any. Prints JSON with
`peak_bytes`, by which the resident set grew beyond that of an interpreter with onnxruntime
imported, at its highest while loading and running the model, and `create_seconds`, the time to
create the session.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from runtimes import ort

RUNS = 3


def main(model: str, inputs: str, threads: str, native: str | None = None) -> None:
    """Prints the measurement of one model."""
    with np.load(inputs, allow_pickle=True) as file:
        feeds = {name: file[name] for name in file.files}
    before = peak_rss()
    start = time.perf_counter()
    library = Path(native) if native is not None else None
    session = ort.session(Path(model), threads=int(threads), native=library)
    seconds = time.perf_counter() - start
    for _ in range(RUNS):
        ort.run(session, feeds)
    print(json.dumps({"peak_bytes": peak_rss() - before, "create_seconds": seconds}))


def peak_rss() -> int:
    """High-water mark of this process's resident set, in bytes.

    Linux's ``ru_maxrss`` also counts the process that started this one, so /proc comes first.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(*sys.argv[1:])
