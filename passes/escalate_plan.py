"""Chooses form and bits of every layer for `escalate`, on the network as it is.

Under a budget of bytes the plan minimises Σ_l D_l(bits), where D_l is the relative squared error of
the network's output when only layer l is quantised, measured by forward runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.escalate_config import EscalateConfig
from passes.escalate_fit import quantise_layer
from passes.escalate_graph import Codes
from passes.escalate_layers import DecomposedLayer, DenseLayer, Layer
from passes.escalate_nodes import Quantised
from passes.framework import Context
from passes.layerwise import LayerwiseCalibration, Substitute
from passes.mathematics.allocation import Choice, allocate
from passes.mathematics.hybrid_fit import Effort
from passes.mathematics.quantization import CalibrationError
from passes.sensitivity import Sensitivity
from runtimes.operators.hybrid_conv import is_hybrid_conv, read_weights

PLAN_ROWS = 4096
PLAN_SAMPLES = 128
QUICK = Effort(relu_rounds=0, scale_rounds=2)
NAMES = {8: "8-bit", 4: "4-bit", 2: "ternary"}


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """How a layer is quantised.

    Attributes:
        form: "hybrid" or "int8".
        bits: of a coefficient or weight.
        scales: what has a scale of its own.
        reason: for a person.
        parameters: predicted number that are not zero.
        nbytes: predicted bytes.
        error: predicted ‖Δy‖ / ‖y‖.
    """

    form: str
    bits: int
    scales: str
    reason: str
    parameters: int
    nbytes: int
    error: float


def plan_layers(
    model: ir.Model,
    layers: Mapping[str, Layer],
    calibration: LayerwiseCalibration,
    config: EscalateConfig,
    context: Context,
) -> dict[str, LayerChoice]:
    """Choices by name.

    Args:
        model: with the functions of the hybrid operators; not changed.
        layers: to be quantised, with nodes of the model.
        calibration: samples.
        config: of the pass.
        context: of the pass.

    Raises:
        BudgetError: the budget is below the least size.
        CalibrationError: activations are not finite; the message names the layer.
    """
    walk = calibration.walk(model, list(layers), PLAN_SAMPLES)
    codes, rng = Codes(model.graph), np.random.default_rng(context.seed)
    probe = Sensitivity(walk) if config.size is not None else None
    options: list[list[LayerChoice]] = []
    damages: list[list[float]] = []
    for done, (name, layer) in enumerate(layers.items(), start=1):
        maps = walk.maps(name)
        bits = (8,) if _is_int8(layer) else config.choices
        try:
            tried = {
                each: quantise_layer(
                    layer, maps, codes, config, each, rows=PLAN_ROWS, effort=QUICK, rng=rng
                )
                for each in bits
            }
        except CalibrationError as error:
            raise CalibrationError(f"'{name}': {error}") from error
        damages.append(_damages(probe, layer, list(tried.values())))
        walk.substitute(name, _unchanged(layer))
        options.append([_choice(layer, each, tried[each], config) for each in bits])
        context.progress(done, len(layers), f"plan {name}")
    chosen = [0] * len(options)
    if config.size is not None:
        chosen = _within(options, damages, config.size, model, layers)
    return {
        name: tried_[index] for name, tried_, index in zip(layers, options, chosen, strict=True)
    }


def _within(
    options: Sequence[Sequence[LayerChoice]],
    damages: Sequence[Sequence[float]],
    share: float,
    model: ir.Model,
    layers: Mapping[str, Layer],
) -> list[int]:
    """Allocates share · (bytes of the model with dense fp32 weights)."""
    stored = sum(_stored(layer) for layer in layers.values())
    dense = sum(_dense(layer) for layer in layers.values())
    used = (value for value in model.graph.initializers.values() if value.uses())
    others = sum(v.const_value.nbytes for v in used if v.const_value is not None) - stored
    choices = [
        [Choice(cost=o.nbytes, damage=damage) for o, damage in zip(layer, own, strict=True)]
        for layer, own in zip(options, damages, strict=True)
    ]
    return allocate(choices, share * (others + dense) - others)


def _stored(layer: Layer) -> int:
    tensors = (v.const_value for v in layer.node.inputs if v is not None)
    return int(sum(tensor.nbytes for tensor in tensors if tensor is not None))


def _dense(layer: Layer) -> int:
    if not isinstance(layer, DecomposedLayer):
        return _stored(layer)
    K, C, _ = layer.weights.coefficients.shape
    return int(4 * (K * C * layer.weights.basis[0].size + K))


def _damages(probe: Sensitivity | None, layer: Layer, tried: Sequence[Quantised]) -> list[float]:
    """Of every way to quantise a layer; a single one is not worth measuring."""
    if probe is None or len(tried) == 1:
        return [0.0] * len(tried)
    name = layer.node.name or ""
    return [probe.of_substitute(name, _unchanged(layer), each.substitute) for each in tried]


def _unchanged(layer: Layer) -> Substitute:
    return Substitute(nodes=[layer.node], constants=[])


def _is_int8(layer: Layer) -> bool:
    return isinstance(layer, DenseLayer) or layer.unit


def _kind(layer: Layer) -> str:
    if isinstance(layer, DecomposedLayer):
        point = len(layer.weights.basis) == 1
        return ("1×1" if point else "few channels") + ", in the hybrid kernel"
    if layer.weight.ndim == 2:
        return "fully connected"
    return "1×1" if layer.weight[0, 0].size == 1 else "not decomposed"


def _choice(layer: Layer, bits: int, quantised: Quantised, config: EscalateConfig) -> LayerChoice:
    if _is_int8(layer):
        weight = layer.weight if isinstance(layer, DenseLayer) else layer.weights.coefficients
        return LayerChoice(
            form="int8",
            bits=8,
            scales="output",
            reason=f"int8 weights, a scale for each output: {_kind(layer)}",
            parameters=int(np.count_nonzero(weight)),
            nbytes=quantised.nbytes,
            error=quantised.error,
        )
    [node] = [node for node in quantised.substitute.nodes if is_hybrid_conv(node)]
    weights = read_weights(node)
    symbols = weights.symbols
    scales = config.scales if bits < 8 else "output"
    of = "(output, basis kernel)" if scales == "basis" else "output"
    nonzero = int(np.count_nonzero(symbols))
    return LayerChoice(
        form="hybrid",
        bits=bits,
        scales=scales,
        reason=f"{len(weights.basis)} basis kernels of 8 bits, {NAMES[bits]} coefficients, "
        f"{nonzero / symbols.size:.1%} not zero, a scale for each {of}",
        parameters=nonzero + weights.basis.size,
        nbytes=quantised.nbytes,
        error=quantised.error,
    )
