"""Plans the splits of a whole network: form and rank of every layer.

Under a budget the plan minimises Σ_l D_l(e_l(form, rank)), where e_l is the relative squared error
of the layer, exact on the calibration rows, and D_l what it does to the network's output, measured
by forward runs (see `passes.sensitivity`); without calibration D_l(e) = e and errors are those of
the weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes import split as splits
from passes.framework import Context
from passes.layerwise import LayerwiseWalk
from passes.linear import LinearLayer, LinearUse
from passes.mathematics import separable
from passes.mathematics.lowrank import principal_outputs, truncate, truncation_errors
from passes.mathematics.moments import Moments, own_moments, pooled, weight_moments
from passes.rows import draw_rows
from passes.sensitivity import PROPORTIONAL, Damage, Sensitivity
from passes.split import Form, Split
from passes.svd_config import SvdConfig
from passes.svd_timing import SplitTimes
from passes.uses import dense, own_bias, uses_in_order

Array = NDArray[np.float64]

ROWS = 65536
RIDGE = 1e-4
"""Of the mean diagonal of H: directions that the calibration data hardly shows are kept as well."""
SPATIAL_RANKS = 8
TIMED_RANKS = 8
FASTER = 0.97
"""A split must take at most this share of the layer's time."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to split a layer.

    Attributes:
        split: form and rank.
        error: relative squared error of the output, of the weight without calibration.
        milliseconds: measured, all uses together; None where nothing was.
    """

    split: Split
    error: float
    milliseconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is known about one layer.

    Attributes:
        options: that pay; empty where none does.
        refusal: why there are none.
        damages: D_l, one for each node that uses the weight.
        milliseconds: of the layer as it is; None where nothing was measured.
    """

    options: tuple[Option, ...]
    refusal: str = ""
    damages: tuple[Damage, ...] = (PROPORTIONAL,)
    milliseconds: float | None = None


def analyse_layers(
    model: ir.Model, layers: Sequence[LinearLayer], config: SvdConfig, context: Context
) -> dict[str, Analysis]:
    """What is known of every layer, by its name."""
    times = None
    if context.timer is not None:
        times = SplitTimes(timer=context.timer, opset=model.graph.opset_imports[""])
    ranks = {
        layer.name: candidate_ranks(layer, config, timed=times is not None) for layer in layers
    }
    found = {}
    todo = []
    for layer in layers:
        if any(ranks[layer.name].values()):
            todo.append(layer)
        else:
            found[layer.name] = Analysis(options=(), refusal=_why_none(layer, config))
    visits = _Visits(model, todo, context, probed=config.budget is not None)
    for done, (layer, W, moments, damages) in enumerate(visits, start=1):
        options = list(_options(layer, W, moments, ranks[layer.name]))
        found[layer.name] = _timed(layer, options, damages, times)
        context.progress(done, len(todo), f"plan {layer.name}")
    return found


def candidate_ranks(
    layer: LinearLayer, config: SvdConfig, *, timed: bool
) -> dict[Form, tuple[int, ...]]:
    """Ranks that pay by their number of MACs and parameters, by form."""
    chosen: dict[Form, tuple[int, ...]] = {}
    for form in splits.forms_of(layer):
        if config.form not in ("auto", form) and layer.is_conv:
            continue
        if config.form == "auto" and config.rank is not None and form == "spatial":
            continue  # one rank means two things; the general form takes it
        limit = min(splits.break_even(layer, form), *splits.dimensions(layer, form))
        if config.rank is not None:
            ranks = [config.rank] if config.rank <= limit else []
        else:
            ranks = list(range(config.multiple, limit + 1, config.multiple))
            if form == "spatial":
                ranks = _spread(ranks, SPATIAL_RANKS)
            if timed:
                ranks = _spread(ranks, TIMED_RANKS)
        chosen[form] = tuple(ranks)
    return chosen


class _Visits:
    """Every layer with its weight, moments and damage; calibrated on one walk."""

    def __init__(
        self, model: ir.Model, layers: Sequence[LinearLayer], context: Context, *, probed: bool
    ) -> None:
        self._layers = layers
        self._rng = np.random.default_rng(context.seed)
        self._uses = uses_in_order(model, layers)
        self._walk: LayerwiseWalk | None = None
        self._probe: Sensitivity | None = None
        if context.calibration is not None and layers:
            self._walk = context.calibration.walk(model, [use.name for use, _ in self._uses])
            self._probe = Sensitivity(self._walk) if probed else None

    def __iter__(
        self,
    ) -> Iterator[tuple[LinearLayer, Array, Moments | None, tuple[Damage, ...]]]:
        """Layers in the order of their last use; without calibration there are no moments."""
        parts: dict[str, list[Moments]] = {}
        damages: dict[str, tuple[Damage, ...]] = {}
        for use, layer in self._uses:
            W = layer.read()
            if self._walk is None:
                if use is layer.uses[-1]:
                    yield layer, W, None, (PROPORTIONAL,)
                continue
            moments = visit(self._walk, use, layer, W, self._rng)
            parts.setdefault(layer.name, []).append(moments)
            damage = self._damage(use, layer, W, moments)
            damages[layer.name] = (*damages.get(layer.name, ()), damage)
            self._walk.commit(use.name, *dense(layer, use, W))
            if use is layer.uses[-1]:
                yield layer, W, pooled(parts.pop(layer.name)), damages[layer.name]

    def _damage(self, use: LinearUse, layer: LinearLayer, W: Array, moments: Moments) -> Damage:
        """What truncations of one use do to the network."""
        if self._probe is None:
            return PROPORTIONAL
        E = principal_outputs(W, moments.with_ridge(RIDGE, W).H)
        errors = truncation_errors(E, W, moments.H)

        def truncated(place: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            U, V = truncate(W, E, place + 1)
            return dense(layer, use, U @ V, moments.bias(U @ V))

        return self._probe.curve(use.name, dense(layer, use, W), errors.tolist(), truncated)


def visit(
    walk: LayerwiseWalk, use: LinearUse, layer: LinearLayer, W: Array, rng: np.random.Generator
) -> Moments:
    """Own moments of a layer at one of its uses."""
    X, _ = draw_rows(walk.maps(use.name), layer.shape[2:], use.geometry, ROWS, rng)
    return own_moments(X, W, own_bias(layer, use), layer.takes_bias)


def _options(
    layer: LinearLayer, W: Array, own: Moments | None, ranks: Mapping[Form, Sequence[int]]
) -> Iterator[Option]:
    for form, listed in ranks.items():
        if form == "spatial":
            K, C, R, S = layer.shape
            moments = weight_moments(W) if own is None else own
            problem = moments.with_ridge(RIDGE, W)
            for rank in listed:
                start = separable.start(W.reshape(K, C, R, S), problem.H, rank)
                fitted = separable.product(*separable.fit(problem, start, (K, C, R, S)))
                yield Option(split=Split(form=form, rank=rank), error=moments.error(fitted))
        elif listed:
            E = principal_outputs(W, None if own is None else own.with_ridge(RIDGE, W).H)
            errors = truncation_errors(E, W, None if own is None else own.H)
            for rank in listed:
                yield Option(split=Split(form=form, rank=rank), error=float(errors[rank - 1]))


def _timed(
    layer: LinearLayer,
    options: Sequence[Option],
    damages: tuple[Damage, ...],
    times: SplitTimes | None,
) -> Analysis:
    """Leaves out what is measured not to be faster."""
    measured = None if times is None else times.of(layer, [option.split for option in options])
    if measured is None:
        return Analysis(options=tuple(options), damages=damages)
    options = [replace(each, milliseconds=measured[each.split]) for each in options]
    own = measured[None]
    faster = tuple(each for each in options if measured[each.split] <= FASTER * own)
    best = min(options, key=lambda each: measured[each.split])
    refusal = (
        f"measured slower: at best {measured[best.split]:.3g} ms ({best.split.form}, rank "
        f"{best.split.rank}) against {own:.3g} ms"
    )
    return Analysis(options=faster, refusal=refusal, damages=damages, milliseconds=own)


def _why_none(layer: LinearLayer, config: SvdConfig) -> str:
    limits = ", ".join(
        f"{splits.break_even(layer, form)} ({form})" for form in splits.forms_of(layer)
    )
    asked = f"rank {config.rank}" if config.rank else f"ranks in multiples of {config.multiple}"
    return f"does not pay: break-even rank is {limits}, asked for {asked}"


def _spread(ranks: list[int], count: int) -> list[int]:
    """At most so many of the ranks, evenly spread, the largest among them."""
    if len(ranks) <= count:
        return ranks
    places = np.linspace(0, len(ranks) - 1, count).round().astype(int)
    return [ranks[place] for place in places]
