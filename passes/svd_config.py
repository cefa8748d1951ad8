"""Options of the pass `svd`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from passes.framework import ConfigError

BUDGETS = ("params", "macs", "latency")

DEFAULT_MACS = 0.75
"""Budget where nothing is asked for. With calibration data it costs ResNet-20 0.1 points and makes
it 1.28 times as fast on one thread; without data a split is plain SVD and costs far more."""

MULTIPLE = 16
"""Ranks are multiples of this. Measured with onnxruntime 1.32 on AVX-512: a convolution of 17 to 32
channels takes the time of 32, and a product of 128 rows becomes 7 % slower from rank 128 to 129."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class SvdConfig:
    """Options of the pass."""

    rank: int | None = _option(None, "rank of every layer")
    energy: float | None = _option(
        None,
        "instead of rank: share of the outputs' energy to keep (of the weights', without data)",
    )
    params: float | None = _option(None, "budget: share of the model's parameters that may be left")
    macs: float | None = _option(
        None,
        "budget: share of the model's MACs that may be left; "
        f"{DEFAULT_MACS:g} if nothing else is asked for",
    )
    latency: float | None = _option(
        None, "budget: share of the model's measured time; needs --optimize-for latency"
    )
    form: Literal["auto", "channel", "spatial"] = _option(
        "auto", "convolutions as k×k and 1×1 (channel), as k×1 and 1×k (spatial), or the better"
    )
    multiple: int = _option(MULTIPLE, "ranks are multiples of this, as kernels like them; 1: any")
    refit: bool = _option(True, "fit each layer to the inputs that the layers before it leave")

    def __post_init__(self) -> None:
        """Checks ranges and combinations.

        Raises:
            ConfigError: an option makes no sense, alone or with the others.
        """
        for name in ("rank", "multiple"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more")
        for name in ("energy", *BUDGETS):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name} is {value:g}, expected a share above 0 and up to 1")
        given = [key for key in ("rank", "energy", *BUDGETS) if getattr(self, key) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} cannot be given together")

    @property
    def budget(self) -> tuple[str, float] | None:
        """Name and share of the budget, None where ranks are given otherwise."""
        if self.rank is not None or self.energy is not None:
            return None
        for key in BUDGETS:
            if (share := getattr(self, key)) is not None:
                return key, share
        return "macs", DEFAULT_MACS
