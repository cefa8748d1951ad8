"""`optc inspect`: what is in a model file."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir

from passes.cost import layer_name, layer_table, with_sample_shapes
from passes.framework import Cost
from toolchain.commands.inspect_groups import show_groups
from toolchain.commands.options import MODEL, OpenedModel, json_option, open_model
from toolchain.console import (
    UNKNOWN,
    format_bytes,
    format_count,
    format_share,
    print_json,
    print_table,
    say,
)
from toolchain.inputs import InputSpec, value_spec

SCHEMA = "optc-inspect/1"

_WEIGHT_INPUT = {"QLinearConv": 3, "QLinearMatMul": 3}
"""Which input is the weight, where it is not the second."""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer; shapes are of one sample, None where unknown."""

    name: str
    op_type: str
    weight: tuple[int | str | None, ...] | None
    output: tuple[int | str | None, ...] | None
    cost: Cost


@click.command()
@click.argument("model", type=MODEL)
@click.option("--groups", is_flag=True, help="Show instead which lines of weights go together.")
@json_option
def command(model: Path, groups: bool, as_json: bool) -> None:
    """Show inputs, outputs and what each layer of MODEL costs.

    Parameters are nonzero weights; MACs are multiply-accumulates of one sample.
    """
    opened = open_model(model)
    if groups:
        show_groups(opened, as_json)
        return
    layers = layer_rows(opened.model)
    if as_json:
        print_json(_document(opened, layers))
        return
    _print_overview(opened)
    say()
    _print_layers(opened, layers)


def layer_rows(model: ir.Model) -> list[LayerRow]:
    """All layers of the main graph, in graph order."""
    shaped, _ = with_sample_shapes(model)
    shapes = {value.name: _shape(value) for node in shaped.graph for value in node.outputs}
    return [
        LayerRow(
            name=layer_name(node),
            op_type=node.op_type,
            weight=_shape(node.inputs[_WEIGHT_INPUT.get(node.op_type, 1)]),
            output=shapes[node.outputs[0].name],
            cost=cost,
        )
        for node, cost in layer_table(model)
    ]


def _shape(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    return None if value is None or value.shape is None else value_spec(value).shape


def _document(opened: OpenedModel, layers: list[LayerRow]) -> dict[str, Any]:
    graph = opened.model.graph
    return {
        "schema": SCHEMA,
        "model": opened.to_json(),
        "ir_version": opened.model.ir_version,
        "opsets": dict(graph.opset_imports),
        "inputs": [_value_json(spec) for spec in opened.inputs],
        "outputs": [_value_json(value_spec(value)) for value in graph.outputs],
        "operators": dict(_operators(graph)),
        "layers": [asdict(layer) for layer in layers],
    }


def _value_json(spec: InputSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": str(spec.dtype), "shape": list(spec.shape)}


def _operators(graph: ir.Graph) -> Counter[str]:
    names = (f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph)
    return Counter(dict(Counter(names).most_common()))


def _print_overview(opened: OpenedModel) -> None:
    graph, summary = opened.model.graph, opened.summary
    say(str(opened.path), bold=True)
    opsets = ", ".join(
        f"{domain or 'onnx'} {version}" for domain, version in graph.opset_imports.items()
    )
    lines = [
        ("size", format_bytes(summary.nbytes)),
        ("parameters", f"{format_count(summary.parameters)} nonzero"),
        ("MACs", f"{format_count(summary.macs)} a sample"),
        ("opset", f"{opsets} (IR {opened.model.ir_version})"),
    ]
    lines += [("input", f"{spec.name}: {spec.describe()}") for spec in opened.inputs]
    outputs = [value_spec(value) for value in graph.outputs]
    lines += [("output", f"{spec.name}: {spec.describe()}") for spec in outputs]
    counts = [f"{name} {count}" for name, count in _operators(graph).items()]
    lines.append(("operators", ", ".join(counts)))
    for key, text in lines:
        say(f"  {key:<11}{text}")


def _print_layers(opened: OpenedModel, layers: list[LayerRow]) -> None:
    total = opened.summary.macs
    rows = []
    for layer in layers:
        macs = layer.cost.macs
        share = macs / total if macs is not None and total else None
        rows.append(
            [
                layer.name,
                layer.op_type,
                _sizes(layer.weight),
                _sizes(layer.output),
                format_count(layer.cost.parameters),
                format_bytes(layer.cost.nbytes),
                format_count(macs),
                format_share(share, 1),
            ]
        )
    headers = ("layer", "operator", "weight", "output", "params", "bytes", "MACs", "share")
    print_table(headers, rows, text=(0, 1))


def _sizes(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return UNKNOWN
    return "×".join("?" if size is None else str(size) for size in shape) or "scalar"
