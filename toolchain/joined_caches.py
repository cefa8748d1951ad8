"""What the second part of a joined model starts from: caches of zeros (`toolchain.joined`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LENGTHS = "lengths"
"""Input of a joined model: its shape is that of the free axes of the first cache."""
Dims = list[int | str | None]


def dims_of(value: ir.Value) -> Dims:
    """Sizes; a symbol's name, or None, where dynamic."""
    return [d.value if isinstance(d, ir.SymbolicDim) else d for d in value.shape or ()]


def named(values: Iterable[ir.Value]) -> dict[str, ir.Value]:
    """Values by name."""
    return {value.name or "": value for value in values}


def feed(graph: ir.Graph, given: Mapping[str, ir.Value]) -> None:
    """Replaces inputs by values of another graph."""
    for value in [value for value in graph.inputs if value.name in given]:
        ir.convenience.replace_all_uses_with(value, given[value.name or ""])
        graph.inputs.remove(value)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the first run starts from.

    Attributes:
        lengths: graph input (N, ...) with an axis for every free size of a cache; only its shape
            matters.
        constants: initializers.
        nodes: that make the caches.
    """

    lengths: ir.Value
    constants: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]


def zero_caches(graph: ir.Graph, names: Iterable[str], prefix: str) -> Start:
    """Feeds caches of zeros to a part; their free sizes stay free, so that nothing is folded.

    Args:
        graph: of the part; loses these inputs.
        names: of the inputs.
        prefix: of the names of all that is added.
    """
    caches = [value for value in graph.inputs if value.name in set(names)]
    free = list(dict.fromkeys(d for v in caches for d in dims_of(v)[1:] if not isinstance(d, int)))
    lengths = _value(LENGTHS, ir.DataType.INT64, ("N", *(str(dim) for dim in free)))
    nodes, constants, sizes = [], [], []
    for axis in range(len(free) + 1):
        size = _value(f"{LENGTHS}.{axis}", ir.DataType.INT64, (1,))
        bounds = {"start": axis, "end": axis + 1}
        nodes.append(ir.node("Shape", [lengths], bounds, outputs=[size], name=size.name))
        sizes.append(size)
    known = dict(zip(free, sizes[1:], strict=True))
    for cache in caches:
        found = [known[dim] for dim in dims_of(cache)[1:] if not isinstance(dim, int)]
        made = _zeros(cache, [sizes[0], *found], prefix)
        nodes += made.nodes
        constants += made.constants
        feed(graph, {cache.name or "": made.value})
    return Start(lengths=lengths, constants=tuple(constants), nodes=tuple(nodes))


@dataclass(frozen=True, kw_only=True)
class _Zeros:
    value: ir.Value
    constants: list[ir.Value]
    nodes: list[ir.Node]


def _zeros(cache: ir.Value, free: Sequence[ir.Value], prefix: str) -> _Zeros:
    """Zeros of a cache's shape, made of one for all its fixed axes together.

    So heads and features of a cache are divided as those of a projection are, and can be removed
    with them.

    Args:
        cache: the input, (N, ...).
        free: sizes of its free axes, N first, (1,) each.
        prefix: of all names.
    """
    name, dims = f"{prefix}{cache.name}", dims_of(cache)
    fixed = [axis for axis, dim in enumerate(dims) if axis and isinstance(dim, int)]
    order = [0, *(axis for axis in range(1, len(dims)) if axis not in fixed), *fixed]
    widths = np.array([dims[axis] for axis in fixed], np.int64)
    dtype = cache.dtype or ir.DataType.FLOAT
    flat = (1,) * len(free) + (int(widths.prod()),)
    constants = [
        _constant(f"{name}.zeros", np.zeros(flat, dtype.numpy())),
        _constant(f"{name}.one", np.ones(1, np.int64)),
        _constant(f"{name}.widths", widths),
    ]
    zeros, one, divided = constants
    shapes = [_value(f"{name}.shape{n}", ir.DataType.INT64, None) for n in (1, 2)]
    wide, split = (_value(f"{name}.{what}", dtype, None) for what in ("expanded", "divided"))
    value = _value(cache.name or "", dtype, ["N", *(d or "?" for d in dims[1:])])
    nodes = [
        ir.node("Concat", [*free, one], {"axis": 0}, outputs=[shapes[0]], name=f"{name}.shape"),
        ir.node("Expand", [zeros, shapes[0]], outputs=[wide], name=f"{name}.expand"),
        ir.node("Concat", [*free, divided], {"axis": 0}, outputs=[shapes[1]], name=f"{name}.sizes"),
        ir.node("Reshape", [wide, shapes[1]], outputs=[split], name=f"{name}.divide"),
        ir.node(
            "Transpose",
            [split],
            {"perm": [order.index(axis) for axis in range(len(order))]},
            outputs=[value],
            name=f"{name}.order",
        ),
    ]
    return _Zeros(value=value, constants=constants, nodes=nodes)


def _value(name: str, dtype: ir.DataType, shape: Sequence[int | str] | None) -> ir.Value:
    known = None if shape is None else ir.Shape(shape)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=known)


def _constant(name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape)
    )
