"""`optc build-ops`: builds the native operator library, or copies it where it is wanted."""

import shutil
from pathlib import Path

import click

from runtimes import native_build
from toolchain.commands.options import json_option
from toolchain.console import print_json, say
from toolchain.errors import MissingComponentError, UsageError

SCHEMA = "optc-build-ops/1"


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Copy the library into this folder; it needs neither torch nor Python to run.",
)
@json_option
def command(out: Path | None, as_json: bool) -> None:
    """Build the native kernels of optc operators for onnxruntime.

    Commands that run models build them on first use by themselves. Other programs load the
    library with RegisterCustomOpsLibrary.
    """
    try:
        path = native_build.library_path(report=say)
        isa = native_build.instruction_set(path)
    except native_build.NativeError as error:
        raise MissingComponentError(str(error)) from error
    if out is not None:
        path = _copy(path, out)
    if as_json:
        print_json({"schema": SCHEMA, "library": str(path), "instruction_set": isa})
    else:
        say(f"{path}: kernels for {isa} on this processor")


def _copy(library: Path, folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(library, folder / native_build.FILE_NAME))
    except OSError as error:
        raise UsageError(f"--out {folder}: {error}") from error
