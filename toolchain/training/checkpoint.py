"""Files that hold the state of a training run and are complete whenever they exist."""

import os
from pathlib import Path
from typing import Any

import torch

from toolchain.errors import UnreadableError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values; a kill at any moment leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads what `save_state` wrote; runs no code that the file may contain.

    Raises:
        UnreadableError: the file is missing, damaged or holds something else.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own
        reason = " ".join(str(error).split())[:120]
        raise UnreadableError(f"{path}: not a readable checkpoint: {reason}") from error
    if not isinstance(state, dict):
        raise UnreadableError(f"{path}: not a checkpoint of optc")
    return state
