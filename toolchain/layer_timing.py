"""Times forms of a model side by side, and remembers times in a file."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from toolchain.bench import BenchConfig, measure
from toolchain.environment import environment
from toolchain.errors import UnreadableError, UsageError
from toolchain.inputs import input_specs, random_feeds
from toolchain.runner import Runner

QUICK = BenchConfig(rounds=10, warmup=0.05)


@dataclass(kw_only=True)
class FormTimer:
    """Implements `passes.layerwise.LayerTimer`.

    Attributes:
        native: library of operators, None for their bodies.
        threads: of onnxruntime.
        known: milliseconds by the hash of a model and all that its time depends on; grows.
    """

    native: Path | None = None
    threads: int = 1
    known: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, forms: Mapping[str, ir.Model], config: BenchConfig = QUICK
    ) -> dict[str, float]:
        """Median milliseconds of one run of each form; see `LayerTimer`."""
        keys = {form: self._key(model) for form, model in forms.items()}
        if not all(key in self.known for key in keys.values()):
            runners = [
                Runner(Path(form), model, threads=self.threads, native=self.native)
                for form, model in forms.items()
            ]
            feeds = [random_feeds(input_specs(model), seed=0) for model in forms.values()]
            config = replace(config, threads=self.threads)
            times = measure(runners, feeds, config, lambda done, total, label: None)
            for form, own in zip(forms, times, strict=True):
                self.known[keys[form]] = float(np.median(own))
        return {form: self.known[key] for form, key in keys.items()}

    def _key(self, model: ir.Model) -> str:
        machine = environment(self.threads)
        digest = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True))
        for part in (machine["cpu"], machine["isa"], machine["onnxruntime"], machine["threads"]):
            digest.update(part.encode() + b"\0")
        if self.native is not None:
            digest.update(self.native.read_bytes())
        return digest.hexdigest()


def load_times(path: Path) -> dict[str, float]:
    """Reads a file of times; none yet is fine.

    Raises:
        UnreadableError: it is something else.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in content["times"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"{path}: not a file of times; name another") from error


def save_times(path: Path, times: Mapping[str, float]) -> None:
    """Writes a file of times.

    Raises:
        UsageError: it cannot be written.
    """
    text = json.dumps({"times": dict(sorted(times.items()))}, indent=2) + "\n"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".optc-") as folder:
            staged = Path(folder, path.name)
            staged.write_text(text, encoding="utf-8")
            os.replace(staged, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
