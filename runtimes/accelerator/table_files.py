"""Sourced tables that come with optc, one YAML file each, and values between their sizes."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import yaml

from runtimes.accelerator.architecture import ArchitectureError


def read_table(kind: str, name: str) -> dict[str, Any]:
    """The content of a table.

    Args:
        kind: "energy" or "area".
        name: of the file, without its ending.

    Raises:
        ArchitectureError: there is none of that name.
    """
    folder = resources.files(f"runtimes.accelerator.{kind}_tables")
    file = folder.joinpath(f"{name}.yaml")
    if not file.is_file():
        files = sorted(each.name for each in folder.iterdir())
        known = ", ".join(each.removesuffix(".yaml") for each in files if each.endswith(".yaml"))
        raise ArchitectureError(f"unknown {kind} table '{name}' (known: {known})")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def at_size(values: Mapping[int, float], nbytes: int) -> float:
    """Value of a memory between two sizes of a table, on straight lines of the logarithms."""
    sizes = np.log(list(values))
    return float(np.exp(np.interp(np.log(nbytes), sizes, np.log([*values.values()]))))
