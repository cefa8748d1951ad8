"""Compares two models layer by layer: values that have the same name in both.

Passes keep the name of a layer's output, so an original and its compressed form can be followed
side by side. The values are made outputs of both models, some at a time to bound memory.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from passes.cost import is_layer, layer_name, with_sample_shapes
from passes.framework import Progress
from toolchain.data import Batch
from toolchain.fidelity import compare_outputs
from toolchain.results import OutputFidelity
from toolchain.runner import Runner

MEMORY_LIMIT = 2**28
"""Bytes of layer values, a model, that one run may return."""

_ELEMENT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LayerFidelity:
    """One value that both models have.

    Attributes:
        layer: the node that makes it in the second model.
        op_type: its operator there.
        fidelity: how close the two are.
    """

    layer: str
    op_type: str
    fidelity: OutputFidelity


def compare_layers(
    first: tuple[Path, ir.Model],
    second: tuple[Path, ir.Model],
    batches: Callable[[], Iterable[Batch]],
    *,
    batch_size: int,
    progress: Progress = lambda done, total, label: None,
) -> tuple[LayerFidelity, ...]:
    """Compares what layers of two models compute.

    Args:
        first: the reference, its path for messages.
        second: the candidate.
        batches: starts the data from the beginning; read once per group of layers.
        batch_size: samples a batch, to bound memory.
        progress: called after every group of layers.

    Returns:
        One entry for every value made by a layer in either model, in order of the second.

    Raises:
        UnreadableError: a value differs in shape, or onnxruntime refuses a model.
    """
    nodes = _common_layers(first[1], second[1])
    groups = list(_groups(second[1], list(nodes), batch_size))
    results = []
    for index, names in enumerate(groups):
        reference, candidate = _runner_of(*first, names), _runner_of(*second, names)
        for fidelity in compare_outputs(reference, candidate, batches()):
            node = nodes[fidelity.name]
            results.append(
                LayerFidelity(layer=layer_name(node), op_type=node.op_type, fidelity=fidelity)
            )
        progress(index + 1, len(groups), "layers")
    return tuple(results)


def _common_layers(first: ir.Model, second: ir.Model) -> dict[str, ir.Node]:
    """Nodes of the second model by the name of their output, where the first has it as well."""
    makers = {value.name: node for node in first.graph for value in node.outputs}
    found = {}
    for node in second.graph:
        name = node.outputs[0].name
        maker = makers.get(name)
        if name and maker is not None and (is_layer(maker) or is_layer(node)):
            found[name] = node
    return found


def _groups(model: ir.Model, names: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    """Cuts the values into groups whose float arrays stay below the memory limit."""
    shaped, samples = with_sample_shapes(model)
    sizes = {}
    for node in shaped.graph:
        shape = node.outputs[0].shape
        dims = [None] if shape is None else [d if isinstance(d, int) else None for d in shape]
        known = [dim for dim in dims if dim is not None]
        elements = math.prod(known) // samples * batch_size if len(known) == len(dims) else 0
        # A value of unknown size is taken to be a sixteenth of what is allowed.
        sizes[node.outputs[0].name] = elements * _ELEMENT_BYTES or MEMORY_LIMIT // 16
    group: list[str] = []
    total = 0
    for name in names:
        if group and total + sizes[name] > MEMORY_LIMIT:
            yield group
            group, total = [], 0
        group.append(name)
        total += sizes[name]
    if group:
        yield group


def _runner_of(path: Path, model: ir.Model, names: Sequence[str]) -> Runner:
    """The model with the named values as its only outputs."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    return Runner(path, copy)
