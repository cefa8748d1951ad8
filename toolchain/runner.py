"""A model opened in onnxruntime, for the commands that run one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from runtimes import ort
from toolchain.errors import UnreadableError

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class Runner:
    """Runs one model; what onnxruntime refuses is an `UnreadableError` that names the file."""

    def __init__(
        self,
        path: Path,
        model: ir.Model | None = None,
        *,
        threads: int = 1,
        profile_prefix: Path | None = None,
        native: Path | None = None,
    ) -> None:
        """Opens a model.

        Args:
            path: of the file.
            model: in memory, to be run instead of the file.
            threads: of onnxruntime; 0 for all cores.
            profile_prefix: of a profile file, see `profile`.
            native: library of operators, see `runtimes.ort.session_options`.

        Raises:
            UnreadableError: onnxruntime refuses the model.
        """
        self.path = path
        try:
            if model is not None:
                self.session = ort.session_of(model, threads=threads, native=native)
            else:
                self.session = ort.session(
                    path, threads=threads, profile_prefix=profile_prefix, native=native
                )
        except ort.SessionError as error:
            raise UnreadableError(f"{path}: {error}") from error
        self.outputs = tuple(output.name for output in self.session.get_outputs())

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Output arrays by name.

        Raises:
            UnreadableError: the run fails.
        """
        try:
            arrays = ort.run(self.session, feeds)
        except ort.SessionError as error:
            raise UnreadableError(f"{self.path}: {error}") from error
        return dict(zip(self.outputs, arrays, strict=True))
