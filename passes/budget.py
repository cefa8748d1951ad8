"""A budget that is given as a share of the model, turned into a share of some of its layers."""

from passes.framework import ConfigError


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
