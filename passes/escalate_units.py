"""Convolutions that become int8 in the kernel of the hybrid layers: they are decomposed first.

    W[k, c] = Σ_t W[k, c, t]·B[t],     B[t] one at tap t and zero elsewhere

is exact. As a decomposed convolution such a layer takes in the residual Add and the activation
behind it, and between two others of the kind nothing but uint8 is handed on.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes.conv import replace_node
from passes.escalate_layers import DecomposedLayer, DenseLayer, Layer
from passes.fuse import FusePass
from runtimes.operators.decomposed_conv import DecomposedWeights, make_node

UNIT_CHANNELS = 4
UNIT_TAPS = 9
"""Up to which the hybrid kernel was measured to be faster than onnxruntime's int8. With one tap it
is for any number of channels, as onnxruntime would bring the channels of each pixel together."""


def _find_units(layers: Mapping[str, Layer]) -> tuple[str, ...]:
    """First convolutions and those of 1×1, where any layer is decomposed."""
    if not any(isinstance(layer, DecomposedLayer) for layer in layers.values()):
        return ()
    return tuple(name for name, layer in layers.items() if _is_unit(layer))


def _is_unit(layer: Layer) -> bool:
    if not isinstance(layer, DenseLayer) or layer.weight.ndim < 3 or layer.geometry.group > 1:
        return False
    C, taps = layer.weight.shape[1], layer.weight[0, 0].size
    fits = taps == 1 or (C <= UNIT_CHANNELS and taps <= UNIT_TAPS)
    return fits and not layer.node.outputs[0].is_graph_output()


def decompose_units(model: ir.Model, layers: Mapping[str, Layer]) -> bool:
    """Decomposes some layers of a model, and lets them take in what follows.

    Args:
        model: changed in place.
        layers: that may be decomposed, with nodes of the model.

    Returns:
        Whether the model has changed.
    """
    names = _find_units(layers)
    if not names:
        return False
    for layer in (layers[name] for name in names):
        assert isinstance(layer, DenseLayer)
        K, C, *kernel = layer.weight.shape
        taps = int(np.prod(kernel))
        weights = DecomposedWeights(
            basis=np.eye(taps, dtype=np.float32).reshape(taps, *kernel),
            coefficients=layer.weight.reshape(K, C, taps),
            bias=layer.bias,
        )
        [x] = [value for value in layer.node.inputs[:1] if value is not None]
        node, own = make_node(x, weights, layer.geometry, name=layer.node.name or "")
        replace_node(layer.node, [node], own)
    fuse = FusePass()  # stores the bodies of the operators too
    plan = fuse.analyse(model)
    fused = tuple(each for each in plan.layers if each.layer in names)
    fuse.apply(model, replace(plan, layers=fused))
    return True
