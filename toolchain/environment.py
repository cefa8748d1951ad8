"""What a measurement depends on besides the model: versions, processor, threads."""

import importlib.metadata
import platform
from pathlib import Path

ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""Instruction sets that decide how fast kernels are, as Linux names them."""

_PACKAGES = ("optc", "onnx", "onnxruntime", "numpy")
_CPU_INFO = Path("/proc/cpuinfo")


def environment(threads: int | None = None) -> dict[str, str]:
    """Versions, processor and its instruction sets, by name.

    Args:
        threads: of onnxruntime, where it matters; 0 for all cores.
    """
    known = {"python": platform.python_version()}
    known.update({name: package_version(name) for name in _PACKAGES})
    cpu, flags = _processor()
    known.update(cpu=cpu, isa=" ".join(flag for flag in ISA_FLAGS if flag in flags) or "unknown")
    if threads is not None:
        known["threads"] = str(threads) if threads else "all"
    return known


def package_version(name: str) -> str:
    """The installed version of a distribution, or "unknown" in a bare checkout."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> tuple[str, set[str]]:
    """Model name and instruction-set flags; no flags where the system does not list them."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = fields.get("model name") or platform.processor() or platform.machine()
    if not any(letter.isdigit() for letter in name) and "cpu family" in fields:
        name += f", family {fields['cpu family']}"  # hypervisors hide what the name would say
    return name, set((fields.get("flags") or fields.get("Features") or "").split())
