"""Sizes: of all values for one choice of the dynamic ones, and those that are written out."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript import optimizer

from passes.channels.graph import ChannelGraph
from passes.channels.inputs import NotFollowedError, Shape, stored_shape
from passes.channels.layout import Layout
from passes.channels.records import SizeEntry
from passes.channels.stand_ins import use_stand_ins
from runtimes.operators import DOMAINS
from runtimes.operators.schemas import register_schemas

_PRIMES = (
    (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157),
    (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47),
)
_EXTREMES = (
    (1,),
    (2, 4, 6),
    (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091, 10093, 10099, 10103),
)
"""Below and above the bounds that a part of an axis may have; a model need not take them."""
_SHAPE_BYTES = 1000
_FOLDED = 2**18
"""Elements above which a constant is not computed."""
_BATCH = "first axis"


def sample_sizes(model: ir.Model) -> dict[str, Shape]:
    """Sizes of all values, by name, where every dynamic size is a prime number of its own.

    How a Reshape divides axes can then be read from numbers alone. Large primes are taken
    unless a fixed size, such as the length of a table of positions, does not allow them.
    """
    candidates = [_infer(model, _unlike_weights(model, primes)) for primes in _PRIMES]
    return max(candidates, key=lambda sizes: sum(None not in shape for shape in sizes.values()))


def fixed_sizes(model: ir.Model) -> dict[str, Shape]:
    """Sizes of all values, by name, None where they depend on a dynamic one.

    Two choices of primes give the same, and inference finds it while the dynamic sizes are open.
    What it does not find, as the size of a Reshape to -1, no extreme choice may give another: what
    is cut to 5 is 5 long with either prime, and shorter where the dynamic size is.
    """
    one, other = (_infer(model, _unlike_weights(model, primes)) for primes in _PRIMES)
    fixed = {
        name: tuple(a if a == b else None for a, b in zip(shape, other[name], strict=True))
        for name, shape in one.items()
        if name in other and len(shape) == len(other[name])
    }
    found = _infer(model)
    if all(_includes(found.get(name), shape) for name, shape in fixed.items()):
        return fixed
    for extreme in _EXTREMES:
        given = _infer(model, extreme)
        fixed = {
            name: tuple(map(_unless_other, shape, given.get(name, shape)))
            for name, shape in fixed.items()
            if len(given.get(name, shape)) == len(shape)
        }
    return fixed


def _includes(found: Shape | None, shape: Shape) -> bool:
    """Whether all sizes that are known of a shape are found."""
    known = found if found is not None and len(found) == len(shape) else (None,) * len(shape)
    return all(size in (None, other) for size, other in zip(shape, known, strict=True))


def _unless_other(size: int | None, given: int | None) -> int | None:
    """A size, or None where it is given another; none is given by 0 or less, of too small maps."""
    return size if given is None or given < 1 or given == size else None


def _unlike_weights(model: ir.Model, primes: tuple[int, ...]) -> tuple[int, ...]:
    """Those that no axis of a weight has as its size, or all."""
    known = {
        size
        for value in model.graph.initializers.values()
        if value.const_value is not None
        for size in value.const_value.shape
    }
    return tuple(prime for prime in primes if prime not in known) or primes


def renew_shapes(model: ir.Model) -> None:
    """Infers the shapes of all values anew where those of the file are not what its inputs give.

    So it is where the size of an input was changed by hand. Graph outputs, and what operators make
    that inference does not know, keep their shapes.
    """
    if not _has_stale_shapes(model):
        return
    copy, outputs = _without_shapes(model), set(model.graph.outputs)
    _inferred(copy)
    for graph, inferred in zip(model.graphs(), copy.graphs(), strict=True):
        shapes = {value.name: value.shape for node in inferred for value in node.outputs}
        for value in (value for node in graph for value in node.outputs):
            if value not in outputs:
                value.shape = shapes.get(value.name)


def _has_stale_shapes(model: ir.Model) -> bool:
    """Whether a size in the file is not the one that inference finds."""
    stated = {
        value.name: value.shape
        for node in model.graph
        for value in node.outputs
        if _is_known(node) and value.shape is not None and not value.is_graph_output()
    }
    found = _infer(model, _unlike_weights(model, _PRIMES[0])) if stated else {}
    return any(
        len(shape) != len(found.get(name or "", shape))
        or any(
            isinstance(size, int) and other not in (None, size)
            for size, other in zip(shape, found.get(name or "", shape), strict=True)
        )
        for name, shape in stated.items()
    )


def _is_known(node: ir.Node) -> bool:
    """Whether inference knows an operator."""
    return node.domain == "" or node.domain in DOMAINS


def _without_shapes(model: ir.Model) -> ir.Model:
    """A copy that has shapes of inputs and constants, and of what inference does not know."""
    register_schemas()
    copy = model.clone()
    use_stand_ins(copy)
    for node in copy.graph.all_nodes():
        for value in node.outputs:
            if _is_known(node):
                value.shape = None
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:  # a folded constant may still have the open sizes of its node
            value.shape = ir.Shape(stored_shape(value))
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _SHAPE_BYTES:
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    return copy


def _infer(model: ir.Model, choice: tuple[int, ...] = ()) -> dict[str, Shape]:
    """Sizes of all values, by name; dynamic ones stay open, or are those of a choice, in turns."""
    copy = _without_shapes(model)
    if choice:
        _choose(copy, choice)
    sizes = _inferred(copy)
    values = [value.name for node in copy.graph for value in node.outputs]
    if choice and any(None in sizes.get(name or "", (None,)) for name in values):
        optimizer.fold_constants(copy, onnx_shape_inference=True, should_fold=_computes_sizes)
        sizes |= _inferred(copy)
    return sizes


def _choose(model: ir.Model, choice: tuple[int, ...]) -> None:
    """Gives every dynamic size of the inputs one of a choice, and drops those made elsewhere."""
    free = itertools.cycle(choice)
    symbols: dict[str | None, int] = {}
    for value in model.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            batch = [d for d in value.shape[:1] if isinstance(d, ir.SymbolicDim)]
            symbols.update({dim.value: symbols[_BATCH] for dim in batch if _BATCH in symbols})
            value.shape = ir.Shape([_fixed(dim, symbols, free) for dim in value.shape])
            if batch:  # the first axes of all inputs are taken to be the same size
                symbols[_BATCH] = symbols[batch[0].value]
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape is not None:
            dims = [_fixed(dim, symbols, None) for dim in value.shape]
            value.shape = None if None in dims else ir.Shape(dims)


def _computes_sizes(node: ir.Node) -> bool | None:
    """False for nodes that read tables, beyond whose rows the sizes may be, or make large ones."""
    tensors = [None if value is None else value.const_value for value in node.inputs]
    table = any(tensor is not None and tensor.dtype.is_floating_point() for tensor in tensors)
    shapes = (value.shape for value in node.outputs if value.shape is not None)
    elements = (math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)
    return False if table or any(count > _FOLDED for count in elements) else None


def _inferred(model: ir.Model) -> dict[str, Shape]:
    """What shape inference finds, by name; changes the model."""
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {
        value.name: tuple(size if isinstance(size, int) else None for size in value.shape)
        for value in values
        if value.name and value.shape is not None
    }


def _fixed(
    dim: int | ir.SymbolicDim, symbols: dict[str | None, int], free: Iterator[int] | None
) -> int | None:
    if isinstance(dim, int):
        return dim
    if dim.value in symbols and dim.value is not None:
        return symbols[dim.value]
    if free is None:
        return None
    symbols[dim.value] = next(free)
    return symbols[dim.value]


def note_size(
    node: ir.Node, index: int, entry: int, layout: Layout, axis: int, graph: ChannelGraph
) -> None:
    """Notes a written-out size of channels for rewriting; 0, -1 and sizes read at run time adapt.

    Raises:
        NotFollowedError: it is computed at run time in another way.
    """
    place = locate(node, index, entry, graph)
    if place is None:
        raise NotFollowedError("the number of channels is computed at run time")
    if isinstance(place, Reading):
        if not _same_channels(place, layout, axis, graph):
            raise NotFollowedError("its size is that of other channels")
        graph.adapting.add((node, entry))
    elif place.number > 0 and not (place.number == 1 < layout.size(axis)):
        graph.sizes.append(
            SizeEntry(
                node=place.node,
                index=place.index,
                entry=place.entry,
                layout=layout,
                axis=axis,
                reader=node,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Written:
    """A number in a constant."""

    node: ir.Node
    index: int
    entry: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The size of an axis of a value, read at run time."""

    value: ir.Value
    axis: int


def _same_channels(reading: Reading, layout: Layout, axis: int, graph: ChannelGraph) -> bool:
    """Whether the axis that is read loses the same channels."""
    other = graph.tracked.get(reading.value)
    if other is None or reading.axis not in other.axes:
        return False
    one, two = (graph.flat(x, a) for x, a in ((layout, axis), (other, reading.axis)))
    roots = graph.roots()
    return np.array_equal(roots[one], roots[two])


def locate(node: ir.Node, index: int, entry: int, graph: ChannelGraph) -> Written | Reading | None:
    """Where an entry of a list of sizes comes from."""
    value = node.inputs[index]
    if value is None:
        return None
    if value.const_value is not None:
        numbers = value.const_value.numpy().reshape(-1)
        if entry >= len(numbers):  # one factor of several sizes
            return None
        return Written(node=node, index=index, entry=entry, number=int(numbers[entry]))
    producer = value.producer()
    if producer is None:
        return None
    match producer.op_type:
        case "Cast" | "Identity" | "Unsqueeze" | "Reshape" | "Squeeze":
            return locate(producer, 0, entry, graph)
        case "Where":  # torch's Expand: where -1 was given, ones, else the shape
            return locate(producer, 2, entry, graph)
        case "Mul":  # a dynamic size times the number of heads
            constants = [i for i in (0, 1) if producer.inputs[i].const_value is not None]  # type: ignore[union-attr]
            return locate(producer, constants[0], entry, graph) if constants else None
        case "Shape":
            first = producer.attributes.get_int("start", 0)
            source = producer.inputs[0]
            rank = len(graph.shape(source) or ())
            return Reading(value=source, axis=first % rank + entry) if source and rank else None
        case "Slice" | "Gather":
            bounds = producer.inputs[1].const_value  # type: ignore[union-attr]
            if bounds is None:
                return None
            chosen = bounds.numpy().reshape(-1)
            first = int(chosen[entry] if producer.op_type == "Gather" else chosen[0] + entry)
            length = (graph.shape(producer.inputs[0]) or (None,))[0]
            return locate(producer, 0, first % length, graph) if length else None
        case "Concat":
            return _locate_part(producer, entry, graph)
    return None


def _locate_part(concat: ir.Node, entry: int, graph: ChannelGraph) -> Written | Reading | None:
    for place, part in enumerate(concat.inputs):
        shape = graph.shape(part)
        length = 1 if not shape else shape[0]
        if length is None:
            return None
        if entry < length:
            return locate(concat, place, entry, graph)
        entry -= length
    return None
