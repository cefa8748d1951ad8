"""A graph that is built node by node."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from runtimes.operators import DOMAIN, DOMAIN_VERSION
from runtimes.operators.decomposed_conv import initializer

OPSET = 17
FLOAT = ir.TensorType(ir.DataType.FLOAT)


class GraphBuilder:
    """Nodes and initializers so far.

    Args:
        channels: of the input (N, channels, image, image).
        image: its height and width.
        seed: of random weights.
    """

    def __init__(self, *, channels: int, image: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.input = ir.Value(
            name="input", type=FLOAT, shape=ir.Shape(["N", channels, image, image])
        )

    def finished(
        self,
        output: ir.Value,
        shape: Sequence[int],
        add_functions: Callable[[ir.Model, Sequence[str]], None],
    ) -> ir.Model:
        """The model whose output (N, *shape) is given, with functions of its operators."""
        output.type, output.shape = FLOAT, ir.Shape(["N", *shape])
        graph = ir.Graph(
            [self.input],
            [output],
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": OPSET, DOMAIN: DOMAIN_VERSION},
            name="network",
        )
        model = ir.Model(graph, ir_version=8)
        add_functions(model, [node.op_type for node in self.nodes if node.domain == DOMAIN])
        return model

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, object] | None = None,
    ) -> ir.Value:
        """A standard node of one output."""
        return self.append(ir.node(op_type, inputs, attributes or {}))  # type: ignore[arg-type]

    def append(self, node: ir.Node) -> ir.Value:
        """Adds a node; returns its output."""
        node.outputs[0].name = f"y{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def keep(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Adds an initializer."""
        value = initializer(name, array)
        self.initializers.append(value)
        return value
