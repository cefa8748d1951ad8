"""What commands check of folders before they do any work."""

import os
from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import UsageError
from toolchain.model_io import ensure_writable


def ensure_folder_writable(folder: Path, names: Sequence[str]) -> None:
    """Finds out that files cannot be written to a folder, which is made later if need be.

    Args:
        folder: of the files.
        names: of the files in it.

    Raises:
        UsageError: it is a file, or it, its parent or a file in it cannot be written to.
    """
    try:
        _check_folder(folder)
    except OSError as error:  # its name is too long
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error
    if folder.is_dir():
        for name in names:
            ensure_writable(folder / name)


def _check_folder(folder: Path) -> None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"report directory {folder}: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"report directory {folder}: permission denied")
