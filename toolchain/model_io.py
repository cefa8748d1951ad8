"""Reads, checks and writes model files.

`load_model` finds everything that is wrong with a file before any work starts. `save_model`
writes to a temporary folder beside the target and renames, so that the target is always either
the old file or the complete new one.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from passes.cost import is_layer, model_cost
from runtimes import ort
from runtimes.external_data import read_array
from runtimes.operators.schemas import register_schemas
from toolchain.errors import UnreadableError, UsageError
from toolchain.inputs import fixed_batch, format_shape, input_specs
from toolchain.results import ModelSummary

_CHUNK = 2**20
_LONGEST_REASON = 200
_LFS_POINTER = b"version https://git-lfs"


def load_model(path: Path) -> ir.Model:
    """Reads a model and checks it.

    Raises:
        UnreadableError: the file is missing, damaged, not ONNX, invalid, has weights that are
            sparse tensors or not finite, its external data is missing or too short, or it is
            fixed to no samples.
    """
    _check_file(path)
    try:
        model = ir.load(path)
    except DecodeError as error:
        raise UnreadableError(
            f"{path}: not an ONNX file, or cut off; copy or export the model again"
        ) from error
    except Exception as error:  # the reader raises whatever a malformed graph runs into
        raise UnreadableError(f"{path}: malformed ONNX graph: {_one_line(error)}") from error
    if not len(model.graph) and not model.graph.outputs:
        raise UnreadableError(f"{path}: not an ONNX model: it has no graph")
    _check_external_data(path, model)
    _check_valid(path)
    _check_dense(path, model)
    _check_sizes(path, model)
    inputs = input_specs(model)
    if fixed_batch(inputs) == 0:
        raise UnreadableError(
            f"{path}: input '{inputs[0].name}' has the shape {format_shape(inputs[0].shape)}, no "
            "samples; export the model again with a free first axis"
        )
    problem = not_finite(model)
    if problem is not None:
        raise UnreadableError(f"{path}: {problem}; the training or export that made it failed")
    return model


def save_model(model: ir.Model, path: Path) -> None:
    """Writes a model; an existing file is replaced only once the new one is complete.

    Weights go to ``<name>.data`` beside it if they did so before, or do not fit otherwise.

    Raises:
        UsageError: the target cannot be written.
    """
    with staged_model(model, path) as staged:
        publish(staged, path)


@contextmanager
def staged_model(model: ir.Model, path: Path) -> Iterator[Path]:
    """Writes a model to a temporary folder beside its target, under the name it will have.

    Yields:
        The file; `publish` moves it to the target, otherwise it goes away.

    Raises:
        UsageError: the folder cannot be written to.
    """
    ensure_writable(path)
    with ExitStack() as stack:
        try:
            temporary = tempfile.TemporaryDirectory(dir=path.parent, prefix=".optc-")
            staged = Path(stack.enter_context(temporary), path.name)
            ort.save(model, staged)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        yield staged


def publish(staged: Path, path: Path) -> None:
    """Moves a staged model to its target, external data first.

    Raises:
        UsageError: the target cannot be replaced.
    """
    data = staged.with_name(f"{staged.name}.data")
    try:
        if data.exists():
            os.replace(data, path.with_name(data.name))
        os.replace(staged, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def ensure_targets(targets: Sequence[Path], used: Iterable[Path]) -> None:
    """Finds out before any work is done that models cannot be written, or would replace others.

    Args:
        targets: model files to be written; weights may go to ``<name>.data`` beside each.
        used: other files that the command reads or writes.

    Raises:
        UsageError: a target or its weights are among these files, or cannot be written.
    """
    taken = {os.path.realpath(file) for file in used}
    for target in targets:
        for file in (target, target.with_name(f"{target.name}.data")):
            ensure_writable(file)
            place = os.path.realpath(file)
            if place in taken:
                raise UsageError(
                    f"cannot write {file}: it is an input or another output of this command; "
                    "name another output"
                )
            taken.add(place)


def ensure_writable(path: Path) -> None:
    """Finds out before any work is done that an output file cannot be written.

    Raises:
        UsageError: its folder is missing or read-only, or it is a folder or a device itself, or
            its name is too long.
    """
    try:
        _check_writable(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder, name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: no folder {path.parent}, create it first")
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it is not a regular file, name another")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UsageError(f"cannot write {path}: permission denied")


def model_summary(path: Path, model: ir.Model) -> ModelSummary:
    """Size, hash and cost of a model that was read from `path`."""
    files = [path, *external_files(path, model)]
    cost = model_cost(model)
    return ModelSummary(
        path=str(path),
        sha256=_sha256(files),
        nbytes=sum(file.stat().st_size for file in files),
        parameters=cost.parameters,
        macs=cost.macs,
    )


def sha256_of(path: Path) -> str:
    """Hash of a model file followed by its external data files, in path order."""
    return _sha256([path, *external_files(path, ir.load(path))])


def not_finite(model: ir.Model) -> str | None:
    """What weight has NaN anywhere, or infinities in a layer: elsewhere they mask, or mean open."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point() or not tensor.size:
                continue
            array = read_array(tensor)
            with np.errstate(invalid="ignore"):  # ml_dtypes warns where NumPy's own types do not
                low, high = float(array.min()), float(array.max())  # NaN wins in both
            is_weight = any(is_layer(node) for node, _ in value.uses())
            if np.isnan(low) or (is_weight and np.isinf([low, high]).any()):
                return f"weight '{name}' has {'NaN' if np.isnan(low) else 'infinite'} values"
    return None


def external_files(path: Path, model: ir.Model) -> list[Path]:
    """The external data files of a model that was read from `path`, sorted."""
    return sorted({path.parent / tensor.location for _, tensor in _external_tensors(model)})


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _check_file(path: Path) -> None:
    if os.path.isdir(path):  # Path raises where the name is too long
        raise UnreadableError(f"{path}: is a folder, name the .onnx file in it")
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_LFS_POINTER))
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: no such file") from error
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
    if not head:
        raise UnreadableError(f"{path}: the file is empty; copy or export the model again")
    if head == _LFS_POINTER:
        raise UnreadableError(f"{path}: is a Git LFS pointer; run 'git lfs pull'")


def _external_tensors(model: ir.Model) -> Iterator[tuple[str, ir.ExternalTensor]]:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield name, value.const_value


def _check_external_data(path: Path, model: ir.Model) -> None:
    for name, tensor in _external_tensors(model):
        location = Path(tensor.location)
        file = path.parent / location
        if location.is_absolute() or ".." in location.parts:
            raise UnreadableError(
                f"{path}: external data {location} of '{name}' is not in the model's folder; "
                "save the model again with its data beside it"
            )
        if not file.is_file():
            raise UnreadableError(
                f"{path}: external data {file} of '{name}' is missing; copy it beside the model"
            )
        needed, size = (tensor.offset or 0) + tensor.nbytes, file.stat().st_size
        if size < needed:
            raise UnreadableError(
                f"{path}: external data {file} has {size} bytes, '{name}' ends at byte {needed}; "
                "copy it again"
            )


def _check_valid(path: Path) -> None:
    register_schemas()
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the C++ checker raises ValidationError, RuntimeError and others
        raise UnreadableError(f"{path}: not a valid model: {_one_line(error)}") from error


def _check_dense(path: Path, model: ir.Model) -> None:
    """Refuses sparse tensors: the reader leaves them out, and what reads them without a source."""
    for graph in model.graphs():
        read = (value for node in graph for value in node.inputs if value is not None)
        for value in (*read, *graph.outputs):
            if not (value.producer() or value.is_graph_input() or value.is_initializer()):
                raise UnreadableError(
                    f"{path}: weight '{value.name}' is a sparse tensor, which optc does not read; "
                    "export the model again with dense weights"
                )


def _check_sizes(path: Path, model: ir.Model) -> None:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if isinstance(value.const_value, ir.TensorProtoTensor):
                try:
                    value.const_value.numpy()
                except ValueError as error:
                    raise UnreadableError(
                        f"{path}: data of '{name}' does not fit its shape: {_one_line(error)}; "
                        "export the model again"
                    ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " …"
