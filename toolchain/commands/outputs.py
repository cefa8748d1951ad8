"""What commands check of folders before they do any work."""

from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import UsageError
from toolchain.model_io import ensure_writable
from toolchain.report import ensure_report_writable


def ensure_folder_writable(folder: Path, names: Sequence[str]) -> None:
    """Finds out that files cannot be written to a folder, which is made later if need be.

    Args:
        folder: of the files.
        names: of the files in it.

    Raises:
        UsageError: it is a file, or it or a file in it cannot be written to.
    """
    try:
        ensure_report_writable(folder)
    except OSError as error:  # its name is too long
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error
    if folder.is_dir():
        for name in names:
            ensure_writable(folder / name)
