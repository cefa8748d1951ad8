"""Scores of channels, and weights that make up for removed ones, for the pass `tprune`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.layout import Mask
from passes.channels.records import Mixing
from passes.framework import Context
from passes.layerwise import LayerwiseWalk
from passes.mathematics.line_scores import input_damage, line_energy, refit
from passes.mathematics.moments import Moments, moments

Array = NDArray[np.float64]
Score = Literal["magnitude", "activation", "second-order"]
MAX_ROWS = 16384
HELD_OUT = 5
"""One row in so many judges whether a fit is better than the plain weights."""


def channel_scores(model: ir.Model, graph: ChannelGraph, score: Score, context: Context) -> Array:
    """How much every class of channels matters, (ids in all,) by root; higher is kept."""
    roots = graph.roots()
    total = np.zeros(len(roots))
    measured: set[tuple[ir.Value, int]] = set()
    if score != "magnitude" and context.calibration is not None:
        matrices = [m for m in graph.mixings if matrix_layer(m)]
        walk = context.calibration.walk(model, [m.node.name or "" for m in matrices])
        for mixing in matrices:
            X = _rows(walk.maps(mixing.node.name or "").inputs, context.seed)
            H = (X.T @ X).astype(np.float64) / len(X)
            np.add.at(total, roots[mixing.reads], input_damage(read_matrix(mixing), H, score))
            value = mixing.node.inputs[1]
            assert value is not None
            measured.add((value, read_axis(mixing)))
    for (value, axis), ids in graph.slices.items():
        if value.const_value is None or (value, axis) in measured or value.const_value.size < 2:
            continue
        if score != "magnitude" and len(value.const_value.shape) < 2:
            continue
        share = 1.0 if score == "magnitude" else 1e-3  # it only breaks ties of what is measured
        weight = np.asarray(value.const_value.numpy(), np.float64)
        np.add.at(total, roots[ids], share * line_energy(weight, axis))
    for product in graph.products:
        for part in product.parts:
            np.add.at(total, roots[part], total[roots[product.whole]])
    return total


def matrix_layer(mixing: Mixing) -> bool:
    """Whether a layer is a MatMul or Gemm with its own constant matrix on the right."""
    node = mixing.node
    value = node.inputs[1] if len(node.inputs) > 1 else None
    return (
        node.op_type in ("MatMul", "Gemm")
        and value is not None
        and value.const_value is not None
        and len(value.uses()) == 1
        and value.const_value.dtype == ir.DataType.FLOAT
    )


def read_matrix(mixing: Mixing) -> Array:
    """The weight of a matrix layer as (K, C)."""
    value = mixing.node.inputs[1]
    assert value is not None and value.const_value is not None
    matrix = np.asarray(value.const_value.numpy(), np.float64)
    return matrix if read_axis(mixing) == 1 else matrix.T


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """A layer after the fit.

    Attributes:
        weight: (K, C), zero in removed lines; None where the plain weights are as good.
        error: relative error of the output, ‖Δy‖ / ‖y‖, with all errors before it.
        reason: what was done.
    """

    weight: Array | None
    error: float
    reason: str


def repair(
    original: ir.Model, masked: Mapping[str, Array], layers: Sequence[Mixing], kept: Mask,
    context: Context,
) -> dict[str, Repaired]:  # fmt: skip
    """Fits the layers that read removed channels, in graph order.

    Args:
        original: the model before anything was removed.
        masked: weights (K, C) with zero lines, by layer.
        layers: matrix layers that lose lines, in graph order.
        kept: (ids in all,).
        context: has calibration data.
    """
    assert context.calibration is not None
    names = [mixing.node.name or "" for mixing in layers]
    walk = context.calibration.walk(original, names)
    results = {}
    for done, (name, mixing) in enumerate(zip(names, layers, strict=True), start=1):
        result = _repair_layer(walk, name, mixing, masked[name], kept, context.seed)
        weight = masked[name] if result.weight is None else result.weight
        walk.commit(name, weight.astype(np.float32), None)
        results[name] = result
        context.progress(done, len(layers), f"fit {name}")
    return results


def _repair_layer(
    walk: LayerwiseWalk, name: str, mixing: Mixing, weight: Array, kept: Mask, seed: int
) -> Repaired:
    maps = walk.maps(name)
    X, T = _rows(maps.inputs, seed), _rows(maps.targets, seed)
    outputs, inputs = kept[mixing.writes], kept[mixing.reads]
    bias = _constant_part(mixing, T.shape[1])
    T = T - bias
    test = np.arange(len(X)) % HELD_OUT == 0
    plain = _error(weight, X[test], T[test], outputs)
    if inputs.all():
        return Repaired(weight=None, error=plain, reason="no removed inputs")
    if (~test).sum() < 2 * inputs.sum():
        return Repaired(
            weight=None, error=plain, reason=f"not fitted: {len(X)} rows for {inputs.sum()} inputs"
        )
    around_zero = _uncentred(X[~test], T[~test])
    fitted = refit(around_zero, weight, inputs) * outputs[:, None]
    error = _error(fitted, X[test], T[test], outputs)
    if error >= plain:
        return Repaired(weight=None, error=plain, reason="not fitted: no gain on held-out data")
    return Repaired(weight=fitted, error=error, reason=f"fitted: error {plain:.3f} to {error:.3f}")


def _uncentred(X: NDArray[np.float32], T: NDArray[np.float32]) -> Moments:
    """Second moments about zero: the layer's bias stays as it is."""
    central = moments(X, T)
    return Moments(
        H=central.H + np.outer(central.x_mean, central.x_mean),
        G=central.G + np.outer(central.x_mean, central.t_mean),
        x_mean=central.x_mean,
        t_mean=central.t_mean,
        t_power=central.t_power + float(central.t_mean @ central.t_mean),
    )


def _error(W: Array, X: NDArray[np.float32], T: NDArray[np.float32], outputs: Mask) -> float:
    """‖X·Wᵀ − T‖ / ‖T‖ over the outputs that remain."""
    wanted = T[:, outputs]
    difference = X @ W[outputs].T.astype(np.float32) - wanted
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(wanted)), 1e-30))


def _constant_part(mixing: Mixing, K: int) -> NDArray[np.float32]:
    """The bias of a Gemm (K,), zeros for a MatMul."""
    node = mixing.node
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        tensor = node.inputs[2].const_value
        if tensor is not None:
            return np.broadcast_to(np.asarray(tensor.numpy(), np.float32), (1, K)).reshape(K)
    return np.zeros(K, np.float32)


def read_axis(mixing: Mixing) -> int:
    """Axis of the weight that meets the input."""
    transposed = bool(mixing.node.attributes.get_int("transB", 0))
    return 1 if transposed else 0


def _rows(batches: Sequence[NDArray[np.float32]], seed: int) -> NDArray[np.float32]:
    """All positions of all samples, (rows, C), or a random part of them."""
    rows = np.concatenate([batch.reshape(-1, batch.shape[-1]) for batch in batches])
    if len(rows) <= MAX_ROWS:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), MAX_ROWS, replace=False)]
