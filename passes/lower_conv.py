"""`DecomposedConv` as standard nodes, in one of the forms of `passes.lower`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.conv import replace_node
from runtimes.operators.decomposed_conv import BASE_NAME, INPUTS, read_geometry, read_weights


@dataclass
class _Replacement:
    """Nodes in execution order, and their initializers."""

    nodes: list[ir.Node]
    initializers: list[ir.Value]

    def add(self, op: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> None:
        """Appends a standard node; the graph names its output."""
        attrs = ir.convenience.convert_attributes(attributes)
        self.nodes.append(ir.Node("", op, inputs, attrs, name=name))

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Appends an initializer."""
        tensor = ir.tensor(np.asarray(array, np.float32, order="C"), name=name)
        value = ir.Value(
            name=name,
            const_value=tensor,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(array.shape),
        )
        self.initializers.append(value)
        return value

    @property
    def output(self) -> ir.Value:
        """What the last node computes."""
        return self.nodes[-1].outputs[0]


def lower_node(node: ir.Node, form: str) -> None:
    """Replaces one `DecomposedConv` by standard nodes, in its graph."""
    weights, geometry, name = read_weights(node), read_geometry(node), node.name or ""
    new = _Replacement([], [])
    x, bias = node.inputs[0], node.inputs[INPUTS.index("bias")]
    sliding = {
        "strides": geometry.strides,
        "pads": geometry.pads,
        "dilations": geometry.dilations,
    }
    if form == "dense":
        kernel = new.constant(f"{name}.weight", weights.dense())
        new.add("Conv", [x, kernel, bias], name, group=geometry.group, **sliding)
    elif form == "coefficients-first":
        K, C_group, n_basis = weights.coefficients.shape
        ones = (1,) * (weights.basis.ndim - 1)
        mixed = weights.coefficients.transpose(0, 2, 1).reshape(K * n_basis, C_group, *ones)
        mixing = new.constant(f"{name}.coefficients", mixed)  # k-major, m-minor
        new.add("Conv", [x, mixing], f"{name}.combined", group=geometry.group)
        tiled = np.concatenate([weights.basis[None]] * K)  # (K, M, *kernel)
        basis = new.constant(f"{name}.basis", tiled)
        new.add("Conv", [new.output, basis, bias], name, group=K, **sliding)
    else:
        K, C_group, n_basis = weights.coefficients.shape
        channels = C_group * geometry.group
        tiled = np.concatenate([weights.basis[:, None]] * channels)  # (C·M, 1, *kernel)
        basis = new.constant(f"{name}.responses.weight", tiled)
        new.add("Conv", [x, basis], f"{name}.responses", group=channels, **sliding)
        ones = (1,) * (weights.basis.ndim - 1)
        pointwise = weights.coefficients.reshape(K, C_group * n_basis, *ones)
        mixing = new.constant(f"{name}.coefficients", pointwise)
        new.add("Conv", [new.output, mixing, bias], name, group=geometry.group)
    _add_epilogue(node, new)
    replace_node(node, new.nodes, new.initializers)


def _add_epilogue(node: ir.Node, new: _Replacement) -> None:
    """Adds the residual and the activation that the operator had fused."""
    suffix = node.op_type.removeprefix(BASE_NAME)
    name = node.name or ""
    if suffix.startswith("Add"):
        new.add("Add", [new.output, node.inputs[-1]], f"{name}.add")
        suffix = suffix.removeprefix("Add")
    if suffix == "Relu":
        new.add("Relu", [new.output], f"{name}.relu")
    elif suffix == "Clip":
        bounds = [
            new.constant(f"{name}.{key}", np.array(node.attributes[key].as_float()))
            for key in ("lower", "upper")
        ]
        new.add("Clip", [new.output, *bounds], f"{name}.clip")
