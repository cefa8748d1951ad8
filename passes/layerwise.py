"""What a pass may ask of the running network: activations and times, layer by layer.

`toolchain.layerwise` and `toolchain.layer_timing` implement these with onnxruntime; passes see
only the protocols.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Substitute:
    """What runs in the place of a layer's node.

    Attributes:
        nodes: in execution order; they read activations of the model and write the output of
            the node, by name.
        constants: initializers that they use and the model does not have.
    """

    nodes: Sequence[ir.Node]
    constants: Sequence[ir.Value]


@dataclass(frozen=True, kw_only=True)
class LayerMaps:
    """Activations around one layer, as lists of batches.

    Those of Gemm and MatMul have their features last: (N, ..., D) and (N, ..., K).

    Attributes:
        inputs: (N, C, *spatial) inputs of the layer in the compressed network.
        targets: (N, K, *out) values of the original network at the point of comparison: behind
            the residual Add where the layer feeds one, else the layer's output. A
            `DecomposedConv` has Add and activation inside.
        shortcut: (N, K, *out) other operand of that Add in the compressed network, or None.
        relu: the point of comparison feeds a Relu and nothing else, or lies behind one.
    """

    inputs: Sequence[Array]
    targets: Sequence[Array]
    shortcut: Sequence[Array] | None
    relu: bool


class LayerwiseWalk(Protocol):
    """One walk through a network, original and compressed side by side."""

    def maps(self, layer: str) -> LayerMaps:
        """Activations around a layer; layers are asked for in graph order."""

    def commit(self, layer: str, weight: Array, bias: Array | None) -> None:
        """Uses a new dense weight and bias from here on.

        Args:
            layer: node name.
            weight: (K, C, *kernel) of a Conv, (K, D) of Gemm and MatMul.
            bias: (K,); of a MatMul, what is added to its product. None: the node stays as it is
                but for the weight.
        """

    def substitute(self, layer: str, substitute: Substitute) -> None:
        """Runs other nodes in the place of a layer from here on."""

    def probe_substitute(self, layer: str, substitute: Substitute, limit: int) -> Sequence[Array]:
        """As `probe`, for other nodes in the place of the layer."""

    def probe(self, layer: str, weight: Array, bias: Array, limit: int) -> Sequence[Array]:
        """First graph output of the compressed network if this layer were replaced.

        Nothing is committed; `layer` is the one whose `maps` were asked for last.

        Args:
            layer: node name.
            weight: as in `commit`, like `bias`.
            bias: see above.
            limit: use whole batches until this many samples are reached.
        """

    def outputs(self) -> Sequence[tuple[Array, Array]]:
        """First graph output of every batch, original and compressed, after the last layer."""


class LayerwiseCalibration(Protocol):
    """Calibration data that can be walked through any model of the same inputs."""

    samples: int

    def walk(
        self, model: ir.Model, layers: Sequence[str], limit: int | None = None
    ) -> LayerwiseWalk:
        """Starts at the inputs; `layers` are the nodes that will be asked for.

        Args:
            model: prepared model.
            layers: names of Conv, Gemm or MatMul nodes in graph order.
            limit: use at most this many samples.
        """


class LayerTimer(Protocol):
    """Times several forms of one layer."""

    def __call__(self, forms: Mapping[str, ir.Model]) -> Mapping[str, float]:
        """Milliseconds of one run of each form, measured in turns."""
