"""A budget that is given as a share of the model, turned into a share of some of its layers."""

from typing import Literal

import onnx_ir as ir

from passes.cost import model_cost
from passes.framework import ConfigError

UNKNOWN = (
    "a budget of MACs needs known shapes; export the model with fixed sizes apart from the batch, "
    "or give params"
)


def model_amount(model: ir.Model, key: Literal["params", "macs"]) -> int:
    """Parameters or multiply-accumulates of a whole model.

    Raises:
        ConfigError: they are unknown.
    """
    cost = model_cost(model)
    amount = cost.macs if key == "macs" else cost.parameters
    if amount is None:
        raise ConfigError(UNKNOWN)
    return amount


def share_of_layers(key: str, share: float, whole: float, layers: float) -> float:
    """What share of themselves layers may keep, so that the whole model keeps its share.

    Args:
        key: name of the option, for messages.
        share: of the whole model that may be left.
        whole: cost of the model.
        layers: cost of those of its layers that can be changed.

    Raises:
        ConfigError: the other layers alone cost more.
    """
    others = whole - layers
    left = (share * whole - others) / layers
    if left <= 0:
        raise ConfigError(
            f"{key}={share:g} cannot be reached: layers that are not decomposed have "
            f"{others / whole:.3f} of the model's {key}"
        )
    return min(left, 1.0)
