"""Where data comes from: a ``.npz`` file, a folder of them, or ``module:function``."""

import hashlib
import importlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import OptcError, UnreadableError

Chunks = Iterator[tuple[str, Mapping[str, NDArray[Any]]]]
"""Arrays by name, each with the place they come from."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_READ_BYTES = 2**20
_END = object()
_LONGEST_REASON = 300


def open_source(source: str) -> Callable[[], Chunks]:
    """A function that starts reading `source` from its beginning.

    Raises:
        UnreadableError: there is no such file, folder or function.
    """
    path = Path(source)
    if os.path.isdir(path):  # False where the name is too long for one, Path raises there
        files = sorted(path.glob("*.npz"))
        if not files:
            raise UnreadableError(f"{source}: no .npz files in this folder")
        return lambda: (chunk for file in files for chunk in _read_npz(file))
    if os.path.isfile(path):
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
    files = sorted(path.glob("*.npz")) if os.path.isdir(path) else [path]
    if not all(os.path.isfile(file) for file in files):
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
    except UnreadableError:
        raise
    except Exception as error:  # zipfile and NumPy raise whatever a damaged file runs into
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
    with user_code(f"{source}: cannot import '{module_name}':"), _current_folder_importable():
        module = importlib.import_module(module_name)
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


@contextmanager
def user_code(failure: str) -> Iterator[None]:
    """Runs a user's code: what it prints goes to stderr, stdout is for results.

    Args:
        failure: how the message begins if it fails.

    Raises:
        UnreadableError: it raises anything, or ends the program.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except OptcError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableError(f"{failure} {reason[:_LONGEST_REASON]}") from error


@dataclass(frozen=True)
class _Feeds(Mapping[str, NDArray[Any]]):
    """What a user's function yields, made arrays where they are asked for."""

    where: str
    given: Mapping[str, Any]

    def __getitem__(self, name: str) -> NDArray[Any]:
        value = self.given[name]
        with user_code(f"{self.where}: '{name}' is no array:"):
            return np.asarray(value)

    def __contains__(self, name: object) -> bool:
        return name in self.given

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


def _call(source: str, function: Callable[[], Any]) -> Chunks:
    failure = f"{source}: failed with"
    with user_code(failure):
        items = iter(function())
    for index in itertools.count():
        with user_code(failure):
            feeds = next(items, _END)
        if feeds is _END:
            return
        if not isinstance(feeds, Mapping) or not all(isinstance(name, str) for name in feeds):
            raise UnreadableError(
                f"{source}: yields {type(feeds).__name__}, expected a dict of input name to array"
            )
        where = f"{source}, item {index}"
        yield where, _Feeds(where, feeds)
