"""Chooses one option a layer: the same rule for all, or what a shared budget buys most with."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from passes import split as splits
from passes.budget import UNKNOWN, model_amount, share_of_layers
from passes.framework import ConfigError
from passes.layerwise import LayerTimer
from passes.linear import LinearLayer
from passes.mathematics.allocation import BudgetError, Choice, allocate
from passes.split import Split
from passes.svd_config import SvdConfig
from passes.svd_plan import Analysis, Option

WHOLE_MODEL = "model"


def choose(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    found: Mapping[str, Analysis],
    config: SvdConfig,
    timer: LayerTimer | None,
) -> dict[str, Option]:
    """The split of every layer that gets one, by its name.

    Raises:
        ConfigError: the budget cannot be reached, or what it counts is unknown.
    """
    candidates = [layer for layer in layers if found[layer.name].options]
    if config.budget is None:
        chosen = {layer.name: _of_rule(layer, found[layer.name], config) for layer in candidates}
        return {name: option for name, option in chosen.items() if option is not None}
    key, share = config.budget
    if key == "latency" and timer is None:
        raise ConfigError("latency needs measurements: use --optimize-for latency")
    if not candidates:
        return {}
    choices = [_choices(layer, found[layer.name], key) for layer in candidates]
    dense = sum(own[-1].cost for own in choices)
    left = share_of_layers(key, share, _whole(model, key, timer), dense)
    try:
        picked = allocate(choices, left * dense)
    except BudgetError as error:
        raise ConfigError(
            f"{key}={share:g} cannot be reached: {error} (in {key} of the layers that can be "
            "split); raise it, or lower multiple"
        ) from error
    return {
        layer.name: found[layer.name].options[index]
        for layer, own, index in zip(candidates, choices, picked, strict=True)
        if index < len(own) - 1
    }


def _choices(layer: LinearLayer, analysis: Analysis, key: str) -> list[Choice]:
    """Every option, and last the layer as it is."""
    options = [
        Choice(
            cost=_cost(layer, each, key),
            damage=sum(damage.at(each.error) for damage in analysis.damages),
        )
        for each in analysis.options
    ]
    own = analysis.milliseconds if key == "latency" else _amount(layer, None, key)
    if own is None:
        raise ConfigError(UNKNOWN)
    return [*options, Choice(cost=float(own), damage=0.0)]


def _cost(layer: LinearLayer, option: Option, key: str) -> float:
    amount = option.milliseconds if key == "latency" else _amount(layer, option.split, key)
    return float("inf") if amount is None else float(amount)


def _amount(layer: LinearLayer, split: Split | None, key: str) -> int | None:
    """Parameters or MACs of a layer, as it is (None) or split."""
    if key == "macs":
        return splits.macs(layer, split)
    return layer.outputs * layer.width if split is None else splits.parameters(layer, split)


def _whole(model: ir.Model, key: str, timer: LayerTimer | None) -> float:
    """Cost of the whole model."""
    if key == "latency":
        assert timer is not None
        return timer({WHOLE_MODEL: model})[WHOLE_MODEL]
    return float(model_amount(model, "macs" if key == "macs" else "params"))


def _of_rule(layer: LinearLayer, analysis: Analysis, config: SvdConfig) -> Option | None:
    """The option that `rank` or `energy` asks for: of two forms the one of less work.

    None where only more than pays would keep the energy.
    """
    enough = [
        option
        for option in analysis.options
        if config.energy is None or option.error <= 1 - config.energy + 1e-12
    ]
    key = "params" if splits.macs(layer) is None else "macs"
    return min(enough, key=lambda option: _cost(layer, option, key), default=None)
