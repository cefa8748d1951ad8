"""Where data comes from: a ``.npz`` file, a folder of them, or ``module:function``."""

import hashlib
import importlib
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UnreadableError

Chunks = Iterator[tuple[str, Mapping[str, NDArray[Any]]]]
"""Arrays by name, each with the place they come from."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_READ_BYTES = 2**20


def open_source(source: str) -> Callable[[], Chunks]:
    """A function that starts reading `source` from its beginning.

    Raises:
        UnreadableError: there is no such file, folder or function.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise UnreadableError(f"{source}: no .npz files in this folder")
        return lambda: (chunk for file in files for chunk in _read_npz(file))
    if path.is_file():
        return lambda: _read_npz(path)
    if _FUNCTION.fullmatch(source):
        function = find_function(source)
        return lambda: _call(source, function)
    raise UnreadableError(
        f"{source}: no such file; give a .npz file, a folder of them, or module:function"
    )


def source_sha256(source: str) -> str | None:
    """Hash of the file, or of the files of the folder in name order; None for a function."""
    path = Path(source)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not all(file.is_file() for file in files):
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _read_npz(path: Path) -> Chunks:
    try:
        with path.open("rb") as stream:  # np.load leaks a file that it cannot read
            loaded = np.load(stream)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise UnreadableError(
                    f"{path}: is a single array; save it with np.savez(path, input_name=array)"
                )
            with loaded as file:
                arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UnreadableError(
            f"{path}: not a readable .npz file, or cut off; save it with np.savez"
        ) from error
    if not arrays:
        raise UnreadableError(f"{path}: has no arrays; save them named like the model's inputs")
    yield str(path), arrays


def find_function(source: str) -> Callable[..., Any]:
    """The function of a ``module:function``; modules of the current folder are found as well.

    Raises:
        UnreadableError: the module cannot be imported or has no such function.
    """
    module_name, _, name = source.partition(":")
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise UnreadableError(f"{source}: cannot import '{module_name}': {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UnreadableError(f"{source}: '{module_name}' has no function '{name}'")
    return function  # type: ignore[no-any-return]


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """A console script, unlike ``python -m``, does not import from the current folder."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _call(source: str, function: Callable[[], Any]) -> Chunks:
    try:
        for index, feeds in enumerate(function()):
            if not isinstance(feeds, Mapping):
                raise UnreadableError(
                    f"{source}: yields {type(feeds).__name__}, expected a dict of input name to "
                    "array"
                )
            yield f"{source}, item {index}", feeds
    except UnreadableError:
        raise
    except Exception as error:  # a user's function may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableError(f"{source}: failed with {reason}") from error
