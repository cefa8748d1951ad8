"""Standard clean-up around every pass, from onnx_ir and onnxscript parts.

`prepare` brings a model to the form that the passes read: one opset range, constants as
initializers, constant subgraphs folded, BatchNormalization folded into the convolution or Gemm
before it, every node named. `finish` drops what a pass left unused, and fills in the shapes of new
values where the model has shapes at all: in a small file they are a good part of the bytes.
Both keep graph inputs and outputs, symbolic dimensions and the names of values.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from passes.channels.inputs import Shape
from passes.channels.sizes import fixed_sizes, renew_shapes
from passes.conv import free_name
from runtimes.external_data import load_external
from runtimes.operators import MIN_IR_VERSION, MIN_OPSET
from runtimes.operators.schemas import register_schemas

logger = logging.getLogger(__name__)

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes of weights above which a model cannot pass through onnx's C++ functions in memory."""

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
"""Operators that a BatchNormalization is folded into."""

TRACES = ("pkg.torch.", "pkg.onnxscript.", "namespace")
"""How keys of metadata begin that torch's exporter gives to nodes and values."""


class _FoldingRule(RewriteRule):
    """A rule for BatchNormalization, where nothing but the layer knows its weights by name.

    What it makes has the names of the weights before, and that of the weight with `_bias`.
    """

    def __init__(self, rule: RewriteRule) -> None:
        vars(self).update(vars(rule))

    def try_rewrite(
        self,
        model: ir.Model,
        graph_or_function: ir.Graph | ir.Function,
        node: ir.Node,
        **options: Any,
    ) -> Any:
        """Replaces the node and the layer before it where that is safe, else returns None."""
        if not _may_fold(node, graph_or_function):
            return None
        return super().try_rewrite(model, graph_or_function, node, **options)


_FOLD_BATCHNORM = RewriteRuleSet(
    [
        _FoldingRule(fuse_batchnorm_into_conv_rule),
        _FoldingRule(fuse_batchnorm_into_conv_transpose_rule),
        _FoldingRule(fuse_batchnorm_into_gemm_rule),
    ]
)


class OpsetError(ValueError):
    """The model's opset cannot be brought into the supported range."""


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


def prepare(model: ir.Model) -> ir.Model:
    """Returns the model in the form that passes read; the argument may be changed in place.

    Raises:
        OpsetError: the standard opset is older than 13 and cannot be converted.
    """
    register_schemas()
    model = _raise_opset(model)
    if model.ir_version < 4:  # until then every initializer had to be listed as an input
        common.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    names = _names_by_weight(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    renew_shapes(model)
    optimizer.fold_constants(model, onnx_shape_inference=False)
    if write_out_sizes(model):
        optimizer.fold_constants(model, onnx_shape_inference=False)
    _drop_empty_inputs(model)
    if not any(_normalises_by_batch(node) for node in model.graph.all_nodes()):
        _FOLD_BATCHNORM.apply_to_model(model)
    common.RemoveUnusedNodesPass()(model)
    _restore_names(model, names)
    common.NameFixPass()(model)
    return model


def fold_around_weights(model: ir.Model) -> None:
    """Folds constants, as `prepare` does, except what is made of initializers.

    Transposed weights, which `prepare` stores as new ones, remain views of what a network was
    trained as, and keep their names.
    """
    weights = set(model.graph.initializers.values())

    def should_fold(node: ir.Node) -> bool | None:
        return False if weights & set(node.inputs) else None

    common.LiftConstantsToInitializersPass(lift_all_constants=False)(model)
    optimizer.fold_constants(model, onnx_shape_inference=False, should_fold=should_fold)
    if write_out_sizes(model):
        optimizer.fold_constants(model, onnx_shape_inference=False, should_fold=should_fold)


def write_out_sizes(model: ir.Model) -> bool:
    """Makes sizes that are read at run time constants where the axis is not dynamic.

    Exporters read even the width of a layer from its input, for shapes and for the scale of
    attention.

    Returns:
        Whether anything was changed.
    """
    if not any(node.op_type == "Shape" for node in model.graph):
        return False
    shapes, changed = fixed_sizes(model), False
    for node in list(model.graph):
        sizes = _read_sizes(node, shapes)
        if sizes is not None:
            changed |= _replace_by_sizes(model, node, sizes)
    return changed


def _read_sizes(node: ir.Node, shapes: Mapping[str, Shape]) -> NDArray[np.object_] | None:
    """What a node reads of a Shape, None for dynamic entries; None for other nodes."""
    value = node.inputs[0] if node.inputs else None
    if value is None or not all(is_constant(each) for each in node.inputs[1:]):
        return None
    if node.op_type == "Shape" and (value.name or "") in shapes:
        span = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))
        return np.array(shapes[value.name or ""][span], dtype=np.object_)
    source = value.producer()
    if node.op_type not in ("Gather", "Slice") or source is None:
        return None
    sizes = _read_sizes(source, shapes)
    if sizes is None or sizes.ndim != 1:
        return None
    others = [None if v is None else v.const_value.numpy() for v in node.inputs[1:]]  # type: ignore[union-attr]
    if node.op_type == "Gather":
        return np.asarray(sizes[others[0]], dtype=np.object_)
    step = 1 if len(others) < 4 or others[3] is None else int(others[3][0])
    return np.asarray(sizes[slice(int(others[0][0]), int(others[1][0]), step)])  # type: ignore[index]


def _replace_by_sizes(model: ir.Model, node: ir.Node, sizes: NDArray[np.object_]) -> bool:
    """Replaces a node that reads sizes by a constant, where all that it reads are fixed."""
    if any(size is None for size in sizes.reshape(-1)):
        return False
    output = node.outputs[0]
    tensor = ir.tensor(sizes.astype(np.int64), name=f"{output.name}.size")
    value = ir.Value(
        name=free_name(model.graph, tensor.name or ""),
        const_value=tensor,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape(sizes.shape),
    )
    if output.is_graph_output() or not output.uses():
        return False
    model.graph.initializers.add(value)
    ir.convenience.replace_all_uses_with(output, value)
    return True


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is stored in the model and not fed at run time, or not given at all."""
    return value is None or (value.const_value is not None and not value.is_graph_input())


def _drop_empty_inputs(model: ir.Model) -> None:
    """Ends the inputs of layers at the last that is given: an empty bias is none."""
    for node in model.graph.all_nodes():
        while node.op_type in _LAYERS and node.inputs and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)


def _may_fold(node: ir.Node, graph: ir.Graph | ir.Function) -> bool:
    """Whether the layer before a node has weights of its own, of one type with the node's."""
    source = node.inputs[0] if node.inputs else None
    layer = None if source is None else source.producer()
    if node.op_type != "BatchNormalization" or layer is None or layer.op_type not in _LAYERS:
        return False
    weights = [value for value in layer.inputs[1:] if value is not None]
    types = {value.dtype for value in (*weights, *node.inputs[1:]) if value is not None}
    bias = f"{weights[0].name}_bias" if len(weights) == 1 else None
    named = isinstance(graph, ir.Graph) and bias in graph.initializers
    return len(types) == 1 and not named and not any(each.is_graph_output() for each in weights)


def _normalises_by_batch(node: ir.Node) -> bool:
    """A BatchNormalization in training mode; its stored mean and variance are not what it uses."""
    return node.op_type == "BatchNormalization" and bool(
        node.attributes.get_int("training_mode", 0)
    )


def finish(model: ir.Model) -> ir.Model:
    """Removes what is unused, notes of torch's exporter too, and completes shapes, in place."""
    register_schemas()
    outputs = (value for node in model.graph for value in node.outputs)
    has_shapes = any(value.shape is not None and not value.is_graph_output() for value in outputs)
    for cleanup in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
        common.TopologicalSortPass(),
    ):
        cleanup(model)
    _drop_traces(model)
    for function in model.functions.values():  # onnxruntime wants them in the model as well
        for domain, version in function.opset_imports.items():
            model.graph.opset_imports.setdefault(domain, version)
    if has_shapes and weight_bytes(model) < PROTOBUF_LIMIT:
        common.ShapeInferencePass()(model)
    return model


def _drop_traces(model: ir.Model) -> None:
    """Drops what torch's exporter notes about its own program.

    Stack traces, with paths of its machine; and a signature that names what is no longer there,
    a tenth of the bytes of a small network.
    """
    noted: list[ir.Graph | ir.Node | ir.Value] = [model.graph]
    noted += model.graph.initializers.values()
    for node in model.graph.all_nodes():
        noted += [node, *node.outputs]
    for each in noted:
        for key in [key for key in each.metadata_props if key.startswith(TRACES)]:
            del each.metadata_props[key]


def _raise_opset(model: ir.Model) -> ir.Model:
    """Converts to opset 13 where the model is older: our function bodies need it."""
    opset = model.graph.opset_imports.get("", MIN_OPSET)
    if opset >= MIN_OPSET:
        model.graph.opset_imports.setdefault("", MIN_OPSET)
        return model
    if weight_bytes(model) >= PROTOBUF_LIMIT:
        raise OpsetError(
            f"opset {opset} is older than {MIN_OPSET} and models above 2 GB cannot be "
            "converted; export the model again with a newer opset"
        )
    logger.debug("converting from opset %d to %d", opset, MIN_OPSET)
    try:
        whole = ir.to_proto(load_external(model))  # the converter reads no files
        converted = onnx.version_converter.convert_version(whole, MIN_OPSET)
    except Exception as error:  # the C++ converter raises plain RuntimeError and others
        reason = str(error).strip().splitlines()[-1]
        raise OpsetError(
            f"opset {opset} is older than {MIN_OPSET} and conversion failed: {reason}; "
            "export the model again with a newer opset"
        ) from error
    return ir.from_proto(converted)


def _names_by_weight(model: ir.Model) -> dict[str, str]:
    """Node name by the name of its weight: folding keeps the weight's name, not the node's."""
    return {
        node.inputs[1].name: node.name
        for node in model.graph
        if node.name and len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].name
    }


def _restore_names(model: ir.Model, names: dict[str, str]) -> None:
    taken = {node.name for node in model.graph}
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        old = names.get(weight.name or "") if weight is not None else None
        if old and node.name != old and old not in taken:
            node.name = old
            taken.add(old)
        elif not node.name and weight is not None and weight.is_initializer() and weight.name:
            node.name = _unique(weight.name.removesuffix(".weight"), taken)


def _unique(name: str, taken: set[str | None]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
