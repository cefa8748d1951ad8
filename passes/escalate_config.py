"""Options of the pass `escalate`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from passes.framework import ConfigError
from passes.mathematics.hybrid_fit import LARGEST
from passes.penni_config import PenniConfig


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class EscalateConfig:
    """Options of the pass."""

    bits: int | None = _option(
        None, "of a coefficient: 8, 4 or 2 (ternary); 8 if nothing else is asked for"
    )
    size: float | None = _option(
        None, "budget instead of bits: bytes of the file as a share of its fp32 weights"
    )
    scales: Literal["basis", "output"] = _option(
        "basis", "one scale for each (output, basis kernel), or for each output"
    )
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = _option(
        "mse", "how the range of an activation is chosen"
    )
    dense: Literal["int8", "keep"] = _option(
        "int8", "what to do with first, 1×1 and fully connected layers"
    )
    rank: int | None = _option(None, "of `penni`, which runs first if nothing is decomposed yet")
    density: float | None = _option(None, "of `penni` likewise")
    granularity: Literal["element", "pair"] = _option("element", "of `penni` likewise")
    params: float | None = _option(None, "of `penni` likewise")
    macs: float | None = _option(None, "of `penni` likewise")

    def __post_init__(self) -> None:
        """Checks ranges and combinations.

        Raises:
            ConfigError: an option makes no sense, alone or with the others.
        """
        if self.bits is not None and self.bits not in LARGEST:
            raise ConfigError(f"bits is {self.bits}, expected 8, 4 or 2 (ternary)")
        if self.size is not None and not 0 < self.size < 1:
            raise ConfigError(f"size is {self.size:g}, expected a share above 0 and below 1")
        if self.bits is not None and self.size is not None:
            raise ConfigError("bits and size cannot be given together")
        _ = self.penni  # its options are checked with it

    @property
    def penni(self) -> PenniConfig:
        """Options of the decomposition that comes before."""
        keys = ("rank", "density", "granularity", "params", "macs")
        return PenniConfig(**{key: getattr(self, key) for key in keys})

    @property
    def choices(self) -> tuple[int, ...]:
        """Bits that a layer's coefficients may have."""
        return tuple(LARGEST) if self.size is not None else (self.bits or 8,)
