"""Weights that make up for removed channels, for the pass `tprune`.

Every layer that loses lines is fitted by least squares, in graph order: its inputs are those of the
pruned network so far, its targets those of the original network, behind a residual Add and under a
Relu where there is one. Part of the rows is held out; without a gain there the plain weights stay.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.layout import Mask
from passes.channels.removal import lost_channels
from passes.cost import layer_name
from passes.framework import Context
from passes.layerwise import LayerwiseWalk
from passes.linear import LinearLayer, LinearUse, bias_add, bias_value, read_layers
from passes.mathematics.fit import Samples
from passes.mathematics.line_scores import refit
from passes.mathematics.moments import moments
from passes.rows import draw_rows, samples_at
from passes.uses import dense, own_bias, uses_in_order

Array = NDArray[np.float64]

ROWS = 32768
HELD_OUT = 5
"""One row in so many judges whether a fit is better than the plain weights."""
RELU_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired:
    """A layer that lost lines.

    Attributes:
        weight: (K, D) fitted, zero in removed lines; None where the plain weights stay.
        bias: (K,) fitted; None where it stays.
        error: relative error of the output, ‖Δy‖ / ‖y‖, with all errors before it.
        reason: what was done.
    """

    weight: Array | None = None
    bias: Array | None = None
    error: float
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """A node that loses lines of its weight, W (K, D).

    Attributes:
        use: the node.
        layer: its weight.
        outputs: (K,), which remain.
        columns: (D,), which remain.
        bias: the initializer that is added to its outputs and to nothing else, or None.
    """

    use: LinearUse
    layer: LinearLayer
    outputs: Mask
    columns: Mask
    bias: ir.Value | None

    def weight(self) -> Array:
        """(K, D) with zeros in removed lines."""
        return self.layer.read() * np.outer(self.outputs, self.columns)

    def stored_bias(self) -> Array:
        """The initializer (K,), zeros where there is none."""
        if self.bias is None or self.bias.const_value is None:
            return np.zeros(len(self.outputs))
        return self.bias.const_value.numpy().reshape(-1).astype(np.float64)

    def masked_bias(self) -> Array:
        """What the node has to add (K,) so that removed outputs are zero; see `own_bias`."""
        if self.use.op_type == "MatMul":  # its bias comes after it
            return np.where(self.outputs, 0.0, -self.stored_bias())
        return own_bias(self.layer, self.use) * self.outputs

    def to_store(self, added: Array) -> Array:
        """The initializer (K,) for what the node has to add."""
        return self.stored_bias() + added - own_bias(self.layer, self.use)


def repair(
    model: ir.Model, graph: ChannelGraph, kept: Mask, context: Context
) -> dict[str, Repaired]:
    """Fits the layers that lose lines, in graph order; by name.

    Args:
        model: before anything was removed; not changed.
        graph: of the model.
        kept: (ids in all,).
        context: has calibration data.
    """
    assert context.calibration is not None
    targets = list(_targets(model, graph, kept))
    walk = context.calibration.walk(model, [target.use.name for target in targets])
    rng = np.random.default_rng(context.seed)
    results = {}
    for done, target in enumerate(targets, start=1):
        results[target.use.name] = _repair_layer(walk, target, rng)
        context.progress(done, len(targets), f"fit {target.use.name}")
    return results


def write_repaired(
    model: ir.Model, graph: ChannelGraph, kept: Mask, repaired: Mapping[str, Repaired]
) -> None:
    """Stores fitted weights and biases in their initializers."""
    nodes = {layer_name(node): node for node in model.graph}
    for target in list(_targets(model, graph, kept)):
        result, value = repaired.get(target.use.name), nodes[target.use.name].inputs[1]
        if result is None or result.weight is None or value is None:
            continue
        stored = result.weight / target.layer.scale
        weight = graph.views.get(value, (value,))[0]
        _store(weight, stored.T if target.layer.transposed else stored)
        if result.bias is not None and target.bias is not None:
            _store(target.bias, result.bias)


def _targets(model: ir.Model, graph: ChannelGraph, kept: Mask) -> Iterator[_Target]:
    """Layers that lose lines, in graph order."""
    mixings = {m.node.name: m for m in graph.mixings if not lost_channels(m, kept).empty}
    layers, _ = read_layers(model)
    for use, layer in uses_in_order(model, layers):
        mixing = mixings.get(use.name)
        if mixing is not None:
            d = layer.width // len(mixing.reads)
            yield _Target(
                use=use,
                layer=layer,
                outputs=kept[mixing.writes],
                columns=np.repeat(kept[mixing.reads], d),
                bias=_private_bias(mixing.node, layer.outputs),
            )


def _private_bias(node: ir.Node, K: int) -> ir.Value | None:
    """The initializer (K,) that is the bias of this node alone, unscaled."""
    if node.op_type == "MatMul":
        add = bias_add(node, K)
        value = None if add is None else bias_value(add)
    else:
        value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or value.const_value is None or len(value.uses()) > 1:
        return None
    scaled = node.attributes.get_float("beta", 1.0) != 1
    return None if scaled or value.const_value.size != K or value.is_graph_output() else value


def _repair_layer(walk: LayerwiseWalk, target: _Target, rng: np.random.Generator) -> Repaired:
    """Fits the next layer, and commits it."""
    use, layer, outputs = target.use, target.layer, target.outputs
    maps = walk.maps(use.name)
    X, picks = draw_rows(maps, layer.shape[2:], use.geometry, ROWS, rng)
    samples = samples_at(maps, X, picks, channels_last=use.geometry is None)
    held_out = np.arange(len(X)) % HELD_OUT == 0
    held, train = (_part(samples, rows, target) for rows in (held_out, ~held_out))
    W, bias = target.weight(), target.masked_bias()
    part = np.ix_(outputs, target.columns)
    plain = held.error(W[part], bias[outputs])
    error, reason = plain, _why_not(layer, train)
    fitted = False
    if not reason:
        fit, shift = _fit(train, W[part], bias[outputs], centred=target.bias is not None)
        error = held.error(fit, shift)
        fitted = error < plain
        reason = "not fitted: no gain on held-out data"
    if fitted:
        W[part], bias[outputs] = fit, shift
        reason = f"fitted: error {plain:.3f} to {error:.3f}"
    walk.commit(use.name, *dense(layer, use, W, bias))
    if not fitted:
        return Repaired(error=plain, reason=reason)
    return Repaired(weight=W, bias=target.to_store(bias), error=error, reason=reason)


def _why_not(layer: LinearLayer, train: Samples) -> str:
    """Why a layer is not fitted, or nothing."""
    rows, columns = train.patches.shape
    if len(layer.uses) > 1:
        return f"not fitted: {len(layer.uses)} nodes share the weight"
    return f"not fitted: {rows} rows for {columns} inputs" if rows < 2 * columns else ""


def _fit(samples: Samples, W: Array, bias: Array, *, centred: bool) -> tuple[Array, Array]:
    """The best weight (K, D) and, where it can change, bias (K,), pulled towards W."""
    X, every = samples.patches, np.ones(W.shape[1], bool)
    fixed = np.zeros(len(bias), np.float32) if centred else bias.astype(np.float32)
    raw = moments(X, samples.convolution_targets(W, bias) - fixed, centred)
    fit = refit(raw, W, every)
    for _ in range(RELU_ROUNDS if samples.relu else 0):
        targets = samples.convolution_targets(fit, raw.bias(fit) + fixed) - fixed
        raw = raw.with_targets(X, targets, centred)
        fit = refit(raw, W, every)
    return fit, raw.bias(fit) + fixed


def _part(samples: Samples, rows: Mask, target: _Target) -> Samples:
    """Some rows, without removed lines."""
    shortcut = samples.shortcut
    return Samples(
        patches=samples.patches[np.ix_(rows, target.columns)],
        targets=samples.targets[np.ix_(rows, target.outputs)],
        shortcut=None if shortcut is None else shortcut[np.ix_(rows, target.outputs)],
        relu=samples.relu,
    )


def _store(value: ir.Value, array: Array) -> None:
    """Replaces an initializer by one of the same shape."""
    assert value.const_value is not None
    shaped = array.reshape(value.const_value.shape.numpy()).astype(np.float32)
    value.const_value = ir.tensor(np.ascontiguousarray(shaped), name=value.name)
