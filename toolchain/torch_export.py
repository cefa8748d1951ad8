"""A torch module as an ONNX file, checked in onnxruntime against torch.

The module goes through torch's dynamo exporter with the first axis of every input left open, and
those that have a name instead of a size.
"""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from passes.cleanup import finish
from toolchain.data_sources import user_code
from toolchain.errors import UnreadableError, UsageError
from toolchain.runner import Runner

OPSET = 18
BATCHES = (1, 3)
"""Sizes that the result is checked at; it is exported at another one."""
EXPORTED_BATCH = 2
FREE = (5, 9, 7, 11, 6)
"""Sizes of named axes in examples, one after the other; larger by the batch, so that they vary."""
TOLERANCE = 1e-4
"""Largest ‖Δy‖ / ‖y‖ of an output."""


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """An input of the module.

    Attributes:
        name: in the ONNX file.
        sizes: of one sample; a name where the size is left open.
        dtype: of its elements.
    """

    name: str
    sizes: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32

    def example(self, batch: int, free: Mapping[str, int], seed: int = 0) -> Tensor:
        """Random numbers, or zeros and ones where elements are whole numbers.

        Raises:
            UsageError: torch cannot make this many elements, or any of this type.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, *(size if isinstance(size, int) else free[size] for size in self.sizes))
        try:
            if self.dtype.is_floating_point:
                return torch.randn(shape, generator=generator).to(self.dtype)
            return torch.randint(2, shape, generator=generator).to(self.dtype)
        except (RuntimeError, TypeError) as error:  # TypeError: more than 64 bits
            sizes = ", ".join(map(str, shape))
            raise UsageError(
                f"--input {self.name}: torch cannot make {self.dtype} of size ({sizes}); give "
                "another type or smaller sizes"
            ) from error


def parse_input(text: str, position: int) -> InputShape:
    """Parses ``[NAME=]SIZE,SIZE,...[:DTYPE]``; the batch is not among the sizes.

    A size is a number, or a name: inputs that share it have the same size there.

    Raises:
        UsageError: it is not of that form.
    """
    rest, _, kind = text.partition(":")
    name, equals, sizes = rest.rpartition("=")
    dtype = getattr(torch, kind or "float32", None)
    parts = [part for part in sizes.split(",") if part]
    if not isinstance(dtype, torch.dtype) or (equals and not name):
        raise UsageError(f"--input {text}: expected [NAME=]SIZE,SIZE,...[:DTYPE]")
    if not all(part.isidentifier() or (part.isdecimal() and int(part) > 0) for part in parts):
        raise UsageError(f"--input {text}: sizes are positive numbers or names, without the batch")
    default = "input" if position == 0 else f"input{position + 1}"
    return InputShape(name=name or default, sizes=tuple(map(_size, parts)), dtype=dtype)


def _size(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def build_module(source: str, factory: Callable[..., Any], state: Path | None) -> nn.Module:
    """The module in evaluation mode, with the parameters of a state dictionary if one is given.

    Args:
        source: where the factory comes from, for messages.
        factory: a module, or a function without arguments that makes one.
        state: a file saved with `torch.save`: a state dictionary, or one under the key
            ``state_dict`` or ``model``.

    Raises:
        UnreadableError: the factory fails or makes something else, or the state does not fit.
    """
    module: Any = factory
    if not isinstance(module, nn.Module):
        with user_code(f"{source}: failed with"):
            module = factory()
    if not isinstance(module, nn.Module):
        raise UnreadableError(
            f"{source}: gives {type(module).__name__}, expected a torch.nn.Module"
        )
    if state is not None:
        _load(module, state)
    return module.eval()


def export(
    module: nn.Module, inputs: Sequence[InputShape], outputs: Sequence[str] = ()
) -> ir.Model:
    """What torch's exporter makes of a module.

    Args:
        module: to be exported.
        inputs: what it is called with, in order.
        outputs: their names in the file; () leaves them to torch.

    Raises:
        UnreadableError: it cannot export the module.
    """
    free = free_sizes(inputs, EXPORTED_BATCH)
    examples = tuple(each.example(EXPORTED_BATCH, free) for each in inputs)
    try:
        with silent_torch():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[each.name for each in inputs],
                output_names=list(outputs) or None,
                dynamic_shapes=_dynamic_shapes(module, inputs),
            )
    except (Exception, SystemExit) as error:  # torch.export raises what the module runs into
        raise UnreadableError(
            f"torch cannot export the module with a free batch: {_reason(error.__cause__ or error)}"
        ) from error
    assert program is not None
    return finish(program.model)


@contextlib.contextmanager
def silent_torch() -> Iterator[None]:
    """Keeps what torch says about itself, and about errors that it raises as well, to itself."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def free_sizes(inputs: Sequence[InputShape], batch: int) -> dict[str, int]:
    """Sizes of named axes for examples."""
    names = dict.fromkeys(size for each in inputs for size in each.sizes if isinstance(size, str))
    return {name: FREE[i % len(FREE)] + batch for i, name in enumerate(names)}


def _dynamic_shapes(module: nn.Module, inputs: Sequence[InputShape]) -> tuple[Any, ...]:
    """The form that torch wants: what ``*args`` takes is a tuple of its own."""
    dims = {name: torch.export.Dim(name) for name in free_sizes(inputs, EXPORTED_BATCH)}
    batch = torch.export.Dim("N")
    shapes = tuple(
        {0: batch, **{i: dims[s] for i, s in enumerate(each.sizes, 1) if isinstance(s, str)}}
        for each in inputs
    )
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:first], shapes[first:])


def deviation(module: nn.Module, path: Path, inputs: Sequence[InputShape]) -> float:
    """Largest ‖Δy‖ / ‖y‖ of any output against torch, over all sizes of the batch.

    Raises:
        UnreadableError: onnxruntime cannot run the file, or torch the module.
    """
    runner, worst = Runner(path), 0.0
    for batch in BATCHES:
        free = free_sizes(inputs, batch)
        examples = [each.example(batch, free, seed=batch) for each in inputs]
        feeds = {each.name: x.numpy() for each, x in zip(inputs, examples, strict=True)}
        with torch.no_grad(), user_code(f"the module fails at batch {batch}:"):
            expected = _flat(module(*examples))
        for ours, theirs in zip(runner(feeds).values(), expected, strict=True):
            worst = max(worst, _difference(ours, theirs.numpy()))
    return worst


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    norm = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / (norm or 1.0)


def _flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if output is None:  # the exporter leaves it out
        return []
    values = output.values() if isinstance(output, Mapping) else output
    return [tensor for value in values for tensor in _flat(value)]


def _load(module: nn.Module, path: Path) -> None:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: no such file") from error
    except Exception as error:  # a damaged file raises anything, such as struct.error
        raise UnreadableError(
            f"{path}: not a state dictionary; save it with torch.save(model.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise UnreadableError(f"{path}: holds {type(loaded).__name__}, not a state dictionary")
    try:
        module.load_state_dict(loaded)
    except Exception as error:  # AttributeError: keys that are no names
        raise UnreadableError(f"{path}: does not fit the module: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
