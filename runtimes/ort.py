"""Opens and runs models in onnxruntime, on the CPU; every failure is one line.

Models are opened by path, so external data and files above 2 GB work. `session_of` takes a model
in memory, by way of a temporary file.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from runtimes.external_data import initializers, load_external

Array = NDArray[Any]
Feeds = Mapping[str, Array]

_ERROR_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_PLACE = re.compile(r"/\S+\.(?:cc|h):\d+ .*?\)(?: const)? ")
LONGEST_REASON = 240

FATAL_ONLY = 4
"""Log severity: what goes wrong is raised, onnxruntime need not print it as well."""

SPIN_MICROSECONDS = "1000"
"""How long threads wait awake for the next run; onnxruntime's 40 ms keep a core from other models.
Before onnxruntime knew this option, they take those."""

MAX_MESSAGE_BYTES = 2**31 - 2**20
"""Weights above this do not fit into one protobuf message and go to external data."""

SMALL_BYTES = 256
"""Tensors up to this size stay in the model file even so."""


class SessionError(ValueError):
    """onnxruntime cannot open or run a model; the message is its reason, in one line."""


def session_options(
    *,
    threads: int = 1,
    disable_optimisation: bool = False,
    profile_prefix: Path | None = None,
    native: Path | None = None,
) -> onnxruntime.SessionOptions:
    """Makes the options of every session.

    Args:
        threads: of one run; 0 for all cores.
        disable_optimisation: run the graph exactly as it is stored.
        profile_prefix: writes a profile to a file of this prefix when the session ends it.
        native: library of operators that replace the function bodies stored in the model; see
            `runtimes.native_build.library_path`.

    Raises:
        SessionError: the native library cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    if disable_optimisation:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if native is not None:
        try:
            options.register_custom_ops_library(str(native))
        except Exception as error:  # onnxruntime's errors have no common base class
            raise SessionError(f"onnxruntime cannot load {native}: {reason(error)}") from error
    return options


def session(
    model: Path | str | bytes,
    *,
    threads: int = 1,
    disable_optimisation: bool = False,
    profile_prefix: Path | None = None,
    native: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Opens a model file, or a small serialised model; arguments as of `session_options`.

    Raises:
        SessionError: onnxruntime refuses the model.
    """
    options = session_options(
        threads=threads,
        disable_optimisation=disable_optimisation,
        profile_prefix=profile_prefix,
        native=native,
    )
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise SessionError(f"onnxruntime cannot open it: {reason(error)}") from error


def session_of(
    model: ir.Model, *, threads: int = 1, native: Path | None = None
) -> onnxruntime.InferenceSession:
    """Opens a model in memory; it stays as it is. Arguments as of `session_options`.

    Raises:
        SessionError: onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        path = Path(folder, "model.onnx")
        save(model, path)
        return session(path, threads=threads, native=native)


def save(model: ir.Model, path: Path) -> None:
    """Writes a model, and its weights beside it if `external_data_name` says so.

    Types and shapes of initializers are left to their tensors, which have them anyway.
    """
    copy = load_external(model.clone(), SMALL_BYTES)
    for value in initializers(copy):
        if not value.is_graph_input():
            value.type = value.shape = None
    data = external_data_name(model, path)
    ir.save(copy, path, external_data=data, size_threshold_bytes=SMALL_BYTES)


def external_data_name(model: ir.Model, path: Path) -> str | None:
    """Where the weights of a model saved at `path` go, or None for the file itself."""
    constants = (value.const_value for value in initializers(model))
    tensors = [tensor for tensor in constants if tensor is not None]
    too_big = sum(tensor.nbytes for tensor in tensors) > MAX_MESSAGE_BYTES
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return f"{path.name}.data" if too_big or external else None


def run(
    opened: onnxruntime.InferenceSession, feeds: Feeds, names: Sequence[str] | None = None
) -> list[Array]:
    """Runs a model once.

    Args:
        opened: the session.
        feeds: arrays by input name.
        names: outputs to return; None for all.

    Raises:
        SessionError: the run fails, or an output is not a tensor.
    """
    try:
        outputs = opened.run(names, dict(feeds))
    except Exception as error:
        raise SessionError(f"onnxruntime cannot run it: {reason(error)}") from error
    if not all(isinstance(output, np.ndarray) for output in outputs):
        raise SessionError("an output is a sequence or map; optc compares tensors only")
    return list(outputs)


def reason(error: Exception) -> str:
    """An onnxruntime message in one line, without its error code and place in the source."""
    text = _SOURCE_PLACE.sub("", _ERROR_CODE.sub("", " ".join(str(error).split())))
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " …"
