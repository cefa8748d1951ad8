"""The inputs of a model, and seeded random values for them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]
Feeds = Mapping[str, Array]

DEFAULT_PIXELS = 224
DEFAULT_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: of the graph input.
        shape: sizes; a symbol's name, or None, where dynamic.
        dtype: of its elements.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]

    def describe(self) -> str:
        """``float32 (batch, 3, 32, 32)``."""
        return f"{self.dtype} {format_shape(self.shape)}"


def format_shape(shape: Sequence[int | str | None]) -> str:
    """A shape for people: unknown sizes are question marks."""
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs that must be fed: those without a default value."""
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    return tuple(value_spec(value) for value in fed)


def value_spec(value: ir.Value) -> InputSpec:
    """Name, shape and type of a graph input or output."""
    dims = value.shape if value.shape is not None else ()
    is_string = value.dtype is None or value.dtype.is_string()
    return InputSpec(
        name=value.name or "",
        shape=tuple(dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in dims),
        dtype=np.dtype(object) if is_string or value.dtype is None else value.dtype.numpy(),
    )


def batched_names(inputs: Sequence[InputSpec]) -> frozenset[str]:
    """Inputs whose first axis counts samples: those that share it with the first input."""
    if not inputs or not inputs[0].shape:
        return frozenset()
    batch = inputs[0].shape[0]
    return frozenset(spec.name for spec in inputs if spec.shape and spec.shape[0] == batch)


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """The number of samples a model is fixed to, or None where it is free."""
    size = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return size if isinstance(size, int) else None


def random_feeds(
    inputs: Sequence[InputSpec],
    *,
    seed: int,
    batch: int = 1,
    dims: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Random inputs: floats from N(0, 1), integers and booleans 0 or 1 (valid as any index).

    Args:
        inputs: of the model.
        seed: equal seeds give equal values.
        batch: samples, unless the model fixes them.
        dims: sizes of named symbolic dimensions; others are 224 for the pixels of an image and
            16 else.
    """
    rng = np.random.default_rng(seed)
    batched = batched_names(inputs)
    feeds = {}
    for spec in inputs:
        shape = _random_shape(spec, batch if spec.name in batched else None, dims or {})
        feeds[spec.name] = _random_array(rng, shape, spec.dtype)
    return feeds


def _random_shape(spec: InputSpec, batch: int | None, dims: Mapping[str, int]) -> tuple[int, ...]:
    is_image = len(spec.shape) == 4 and spec.dtype.kind == "f"
    sizes = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif isinstance(size, str) and size in dims:
            sizes.append(dims[size])
        elif axis == 0 and batch is not None:
            sizes.append(batch)
        else:
            sizes.append(DEFAULT_PIXELS if is_image and axis >= 2 else DEFAULT_SIZE)
    return tuple(sizes)


def _random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        return np.full(shape, "", object)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(math.prod(shape)).reshape(shape).astype(dtype)
