"""Two models that share an interface as one, so that a pass changes both sides of it alike.

A model in parts, such as an encoder and a decoder with a cache of keys and values, has sizes in
its interface that pruning would change; on its own, each file has to keep them. `join` makes one
model of both, in which they are ordinary inner values:

- what the first part gives goes to the inputs of the second that have the same names;
- what the second part carries from one run to the next (``present.*`` → ``past.*``) is written
  out: it runs twice with the same weights, and the run again reads what the run before has left.
  The run before starts from a cache of zeros, as long as an input says.

So everything that relates the parts is in the graph: the analysis of channels sees that a feature
of a cached key is a line of the projections around it, and checks of the result cover the cache.
`split` takes the parts out again, with the names that they had.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from toolchain.errors import UnreadableError, UsageError
from toolchain.joined_caches import Dims, Start, dims_of, feed, named, zero_caches

METADATA = "optc.parts"
FIRST, SECOND, AGAIN = "first/", "second/", "again/"
"""Before the names of inner nodes and values."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Names of a part's inputs, with their sizes, and of its outputs."""

    inputs: dict[str, Dims]
    outputs: list[str]


def join(first: ir.Model, second: ir.Model, carried: Mapping[str, str]) -> ir.Model:
    """One model of both parts, which are not changed.

    Args:
        first: runs once.
        second: runs again and again.
        carried: inputs of the second, by the name of the output that they are in the run before.

    Raises:
        UsageError: the parts share nothing, or not what `carried` says, or their opsets differ.
    """
    parts = [_part(first), _part(second)]
    shared = [name for name in parts[1].inputs if name in parts[0].outputs]
    _check(first, second, parts, shared, carried)
    one, two = first.clone().graph, second.clone().graph
    _rename_inner(one, FIRST)
    _rename_inner(two, SECOND)
    given = {name: named(one.outputs)[name] for name in shared}
    feed(two, given)
    graphs, start, results = [one, two], None, [*two.outputs]
    if carried:
        again = _again(second, two, given, carried)
        start = zero_caches(two, carried.values(), SECOND)
        inner = {*carried, *(f"{AGAIN}{name}" for name in carried)}
        results = [v for v in (*two.outputs, *again.outputs) if v.name not in inner]
        graphs.append(again)
    outputs = [*(v for v in one.outputs if v.name not in shared), *results]
    inputs = [value for graph in graphs for value in graph.inputs]
    inputs += [] if start is None else [start.lengths]
    model = ir.Model(
        _assembled(graphs, start, inputs, outputs),
        ir_version=max(first.ir_version, second.ir_version),
        functions=[*first.functions.values(), *second.functions.values()],
    )
    model.metadata_props[METADATA] = json.dumps([asdict(part) for part in parts])
    return model


def _again(
    second: ir.Model, run: ir.Graph, given: Mapping[str, ir.Value], carried: Mapping[str, str]
) -> ir.Graph:
    """Another run of the second part, with the weights of the first run and what that leaves."""
    again = second.clone().graph
    _rename_inner(again, AGAIN)
    for name, value in again.initializers.items():
        same = run.initializers[SECOND + name.removeprefix(AGAIN)]
        ir.convenience.replace_all_uses_with(value, same)
    again.initializers.clear()
    left = named(run.outputs)
    feed(again, {**given, **{name: left[output] for output, name in carried.items()}})
    for value in (*again.inputs, *again.outputs):
        value.name = f"{AGAIN}{value.name}"
    for value in (value for node in again for value in node.outputs):
        value.shape = _own_sizes(value) if value in again.outputs else None
    return again


def split(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    """The parts of a joined model, which is not changed.

    Raises:
        UnreadableError: it was not joined, or a value between its parts is gone.
    """
    stored = model.metadata_props.get(METADATA)
    if stored is None:
        raise UnreadableError("not a joined model: it does not say what its parts are")
    copy = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    first, second = (_extracted(copy, Part(**part)) for part in json.loads(stored))
    return first, second


def carried_names(second: ir.Model, output: str, name: str) -> dict[str, str]:
    """Inputs by output, where `output` in the name of an output stands for `name` in an input's.

    Raises:
        UsageError: there is no such pair.
    """
    inputs = {value.name for value in second.graph.inputs}
    pairs = {
        value.name: other
        for value in second.graph.outputs
        if value.name and (other := value.name.replace(output, name)) in inputs
        if output in value.name
    }
    if not pairs:
        raise UsageError(f"no output with '{output}' in its name has an input with '{name}' there")
    return pairs


def _part(model: ir.Model) -> Part:
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    return Part(
        inputs={value.name or "": dims_of(value) for value in fed},
        outputs=[value.name or "" for value in model.graph.outputs],
    )


def _check(
    first: ir.Model,
    second: ir.Model,
    parts: list[Part],
    shared: list[str],
    carried: Mapping[str, str],
) -> None:
    if not shared:
        raise UsageError("no input of the second model is named like an output of the first")
    if first.opset_imports != second.opset_imports:
        raise UsageError(f"opsets differ: {first.opset_imports} and {second.opset_imports}")
    twice = set(parts[0].inputs) & set(parts[1].inputs) | (
        set(parts[0].outputs) & set(parts[1].outputs)
    )
    if twice:
        raise UsageError(f"both models have an input or output named '{min(twice)}'; rename one")
    results = named(second.graph.outputs)
    for output, name in carried.items():
        if output not in results or name not in parts[1].inputs:
            raise UsageError(f"the second model has no output '{output}' with an input '{name}'")
        one, other = dims_of(results[output]), parts[1].inputs[name]
        fixed = [(a, b) for a, b in zip(one, other, strict=False) if {type(a), type(b)} == {int}]
        if len(one) != len(other) or any(a != b for a, b in fixed):
            raise UsageError(f"'{output}' {one} cannot be '{name}' {other} in the next run")


def _rename_inner(graph: ir.Graph, prefix: str) -> None:
    """Sets apart the names of all nodes and values that are no inputs or outputs."""
    interface = {*graph.inputs, *graph.outputs}
    for value in list(graph.initializers.values()):
        if value not in interface:
            value.name = f"{prefix}{value.name}"
    for node in graph.all_nodes():
        node.name = f"{prefix}{node.name}"
        for value in node.outputs:
            if value.name and value not in interface:
                value.name = f"{prefix}{value.name}"


def _own_sizes(value: ir.Value) -> ir.Shape:
    """The shape with names of its own: those of the first run have other sizes there."""
    first, *rest = dims_of(value)
    return ir.Shape([first, *(f"{AGAIN}{d}" if isinstance(d, str) else d for d in rest)])


def _assembled(
    graphs: Sequence[ir.Graph],
    start: Start | None,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
) -> ir.Graph:
    """One graph of the nodes and constants of several, the caches after the first part."""
    constants = [] if start is None else [*start.constants]
    nodes: list[ir.Node] = []
    for number, graph in enumerate(graphs):
        own = list(graph)
        constants += graph.initializers.values()
        graph.inputs.clear()
        graph.outputs.clear()
        graph.initializers.clear()
        graph.remove(own)
        nodes += own
        if number == 0 and start is not None:
            nodes += start.nodes
    opsets = graphs[0].opset_imports
    return ir.Graph(
        inputs, outputs, nodes=nodes, initializers=constants, opset_imports=opsets, name="joined"
    )


def _extracted(model: ir.Model, part: Part) -> ir.Model:
    """One part as a model of its own.

    Raises:
        UnreadableError: a value that it begins or ends with is gone.
    """
    try:
        graph = ir.convenience.extract(model.graph, list(part.inputs), part.outputs)
    except ValueError as error:
        raise UnreadableError(f"the parts cannot be told apart any more: {error}") from error
    for value in graph.inputs:
        declared = part.inputs[value.name or ""]
        if declared and value.shape is not None:  # free sizes as they were, others as they are now
            now = dims_of(value)
            value.shape = ir.Shape(
                [a if not isinstance(a, int) else b for a, b in zip(declared, now, strict=True)]
            )
    interface = {*graph.inputs, *graph.outputs}
    for value in list(graph.initializers.values()):
        value.name = _plain(value.name)
    for node in graph.all_nodes():
        node.name = _plain(node.name)
        for value in node.outputs:
            if value not in interface:
                value.name = _plain(value.name)
    return ir.Model(graph, ir_version=model.ir_version, functions=[*model.functions.values()])


def _plain(name: str | None) -> str | None:
    return name and name.removeprefix(FIRST).removeprefix(SECOND)
