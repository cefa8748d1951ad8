"""How much every channel matters, for the pass `tprune`.

With calibration data a channel costs what the layers that read it lose (see
`passes.mathematics.line_scores`), each weighted by what an error of that layer does to the output
of the network. Features of queries and keys are read by no layer, but multiplied: without feature
j of a head its attention scores lose

    E[q_j²]·E[k_j²] / Σ_h,i E[q_hi²]·E[k_hi²]

of their energy. Channels that nothing measured reads, and all without data, go by their weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.layout import Ids, Mask
from passes.channels.records import Contraction, Mixing
from passes.framework import Context
from passes.linear import LinearLayer, LinearUse, read_layers
from passes.mathematics.line_scores import input_damage, line_energy, output_power, refit, weakest
from passes.mathematics.moments import Moments, own_moments
from passes.rows import draw_rows
from passes.sensitivity import Sensitivity
from passes.uses import dense, own_bias, uses_in_order

Array = NDArray[np.float64]
Score = Literal["magnitude", "activation", "second-order"]

ROWS = 16384
PROBE_SHARE = 0.05
"""Share of a layer's lines, by what they are worth, without which the output is measured."""
TIE_BREAK = 1e-9
"""What the weights count where data decide."""


def channel_scores(
    model: ir.Model, graph: ChannelGraph, score: Score, context: Context, *, repaired: bool
) -> Array:
    """How much every class of channels matters, (ids in all,) by root; higher is kept.

    Args:
        model: the model that `graph` describes.
        graph: from `prunable`.
        score: by weights, by their effect on data, or that after the fit of the others.
        context: calibration data, seed, progress.
        repaired: biases will be fitted as well.
    """
    if score == "magnitude" or context.calibration is None:
        return _with_parts(graph, weight_energies(graph))
    measured = _Measurement(model, graph)
    _measure(model, measured, score, context, repaired=repaired)
    energies = _with_parts(graph, weight_energies(graph, smallest_rank=2))
    damage, known = measured.result()
    scale = damage[known].sum() / (energies[known].sum() or 1.0) or 1.0  # of damage to energy
    return np.asarray(damage + np.where(known, TIE_BREAK, 1.0) * scale * energies)


def weight_energies(graph: ChannelGraph, smallest_rank: int = 1) -> Array:
    """Share of the energy of all weights that have a channel, summed; (ids in all,) by root.

    Constants that are infinite somewhere, such as masks, are no measure and left out.
    """
    roots = graph.roots()
    total = np.zeros(len(roots))
    for (value, axis), ids in graph.slices.items():
        tensor = value.const_value
        if tensor is not None and tensor.size > 1 and len(tensor.shape) >= smallest_rank:
            array = np.asarray(tensor.numpy(), np.float64)
            if np.isfinite(array).all():
                np.add.at(total, roots[ids], line_energy(array, axis))
    return total


def _with_parts(graph: ChannelGraph, total: Array) -> Array:
    """Heads and features are worth all that is made of them."""
    roots, total = graph.roots(), total.copy()
    for product in graph.products:
        values = total[roots[product.whole]]
        if values.any():
            for part in product.parts:
                np.add.at(total, roots[part], values)
    return total


@dataclass(frozen=True, kw_only=True)
class _Factor:
    """One of the factors of products over channels: the output of a layer.

    Attributes:
        power: E[y²] by root, where it is not zero.
        sensitivity: relative squared error of the network's output for that of this factor.
    """

    power: dict[int, float]
    sensitivity: float


@dataclass
class _Measurement:
    """What is known of channels so far, by root."""

    model: ir.Model
    graph: ChannelGraph
    factors: list[_Factor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roots = self.graph.roots()
        self.free = ~np.isin(self.roots, list(self.graph.frozen()))  # (ids in all,)
        self.contractions = [
            step for step in self.graph.flow if isinstance(step, Contraction)
            if self.free[step.reads].any()
        ]  # fmt: skip
        self.multiplied = self._multiplied()
        self.damage = np.zeros(len(self.roots))
        self.known = np.zeros(len(self.roots), bool)

    def _multiplied(self) -> Mask:
        """Which roots, or parts of them, are summed over in a product of two values."""
        mask = np.zeros(len(self.roots), bool)
        for step in self.contractions:
            mask[self.roots[step.reads]] = True
        for product in reversed(self.graph.products):
            for part in product.parts:
                mask[self.roots[product.whole[mask[self.roots[part]]]]] = True
        return mask

    def add_reader(self, reads: Ids, damage: Array) -> None:
        """A layer that reads channels (C,), and what it loses with each."""
        np.add.at(self.damage, self.roots[reads], damage)
        self.known[self.roots[reads]] = True

    def add_factor(self, writes: Ids, power: Array, sensitivity: float) -> None:
        """A layer that writes channels (K,) that are multiplied."""
        total = np.zeros(len(self.roots))
        np.add.at(total, self.roots[writes], power)
        total = _with_parts(self.graph, total)
        found = np.flatnonzero(total)
        values = dict(zip(found.tolist(), total[found].tolist(), strict=True))
        self.factors.append(_Factor(power=values, sensitivity=sensitivity))

    def result(self) -> tuple[Array, Mask]:
        """Damage of every root, and where it is known; (ids in all,)."""
        damage = _with_parts(self.graph, self.damage)
        known = _with_parts(self.graph, self.known.astype(np.float64)) > 0
        for step in self.contractions:
            reads = np.unique(self.roots[step.reads])
            factors = [f for f in self.factors if any(int(root) in f.power for root in reads)]
            if not factors:
                continue
            products = np.prod(
                [[f.power.get(int(root), 0.0) for root in reads] for f in factors], axis=0
            )
            sensitivity = float(np.mean([f.sensitivity for f in factors]))
            damage[reads] += sensitivity * products / max(float(products.sum()), 1e-300)
            known[reads] = True
        return damage, known


def _measure(
    model: ir.Model, found: _Measurement, score: Score, context: Context, *, repaired: bool
) -> None:
    """One walk through the layers whose inputs or outputs can go."""
    assert context.calibration is not None and score != "magnitude"
    rng = np.random.default_rng(context.seed)
    todo = list(_layers(model, found))
    walk = context.calibration.walk(model, [use.name for use, _, _ in todo])
    probe = Sensitivity(walk)
    for done, (use, layer, mixing) in enumerate(todo, start=1):
        maps = walk.maps(use.name)
        X, _ = draw_rows(maps, layer.shape[2:], use.geometry, ROWS, rng)
        W = layer.read()
        own = own_moments(X, W, own_bias(layer, use), repaired and layer.takes_bias)
        original = dense(layer, use, W)
        if found.free[mixing.reads].any():
            d = layer.width // len(mixing.reads)
            damage = input_damage(W, own.H, score, d)
            kept = np.repeat(~weakest(damage, PROBE_SHARE), d)
            other = refit(own, W, kept) if score == "second-order" else W * kept
            sensitivity = _sensitivity(probe, use, layer, original, other, own)
            found.add_reader(mixing.reads, sensitivity * damage)
        if found.multiplied[found.roots[mixing.writes]].any():
            power = output_power(W, own)
            other = W * ~weakest(power, PROBE_SHARE)[:, None]
            sensitivity = _sensitivity(probe, use, layer, original, other, own)
            found.add_factor(mixing.writes, power, sensitivity)
        context.progress(done, len(todo), f"score {use.name}")


def _layers(
    model: ir.Model, found: _Measurement
) -> Iterator[tuple[LinearUse, LinearLayer, Mixing]]:
    """Layers that can be measured and have to be, in graph order."""
    mixings = {mixing.node.name: mixing for mixing in found.graph.mixings}
    layers, _ = read_layers(model)
    for use, layer in uses_in_order(model, layers):
        mixing = mixings.get(use.name)
        if mixing is None:
            continue
        if found.free[mixing.reads].any() or found.multiplied[found.roots[mixing.writes]].any():
            yield use, layer, mixing


def _sensitivity(
    probe: Sensitivity,
    use: LinearUse,
    layer: LinearLayer,
    original: tuple[NDArray[np.float32], NDArray[np.float32]],
    other: Array,
    own: Moments,
) -> float:
    """Relative squared error of the network's output for that of a layer; 1 where it has none."""
    error = own.error(other)
    if not error:
        return 1.0
    damage = probe.of(use.name, original, dense(layer, use, other, own.bias(other)))
    return damage / error or 1.0
