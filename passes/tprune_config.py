"""Options of the pass `tprune`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from passes.framework import ConfigError

DEFAULT_PARAMS = 0.7


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class TpruneConfig:
    """Options of the pass."""

    params: float | None = _option(
        None,
        f"budget: share of the model's parameters that may be left; {DEFAULT_PARAMS:g} if nothing "
        "else is asked for",
    )
    macs: float | None = _option(
        None, "instead: share of the multiply-accumulates that may be left; needs known shapes"
    )
    density: float | None = _option(None, "instead: share of the lines kept in every group")
    threshold: float | None = _option(
        None, "instead: remove lines below this share of their group's mean energy"
    )
    score: Literal["auto", "magnitude", "activation", "second-order"] = _option(
        "auto", "which lines go: by weights, by their effect on data, or that after repair"
    )
    heads: Literal["both", "lines", "whole"] = _option(
        "both", "remove features inside of heads, whole heads, or both"
    )
    embeddings: bool = _option(False, "remove features of looked-up tables as well")
    multiple: int = _option(8, "widths that are a multiple of this remain one")
    floor: float = _option(0.1, "share of every group that is always kept")
    repair: bool = _option(True, "fit the weights that read removed lines to calibration data")

    def __post_init__(self) -> None:
        """Checks ranges and combinations.

        Raises:
            ConfigError: an option makes no sense, alone or with the others.
        """
        for name in ("params", "macs", "density"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name} is {value:g}, expected a share above 0 and up to 1")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold:g}, expected a share below 1")
        if not 0 <= self.floor < 1:
            raise ConfigError(f"floor is {self.floor:g}, expected a share below 1")
        if self.multiple < 1:
            raise ConfigError(f"multiple is {self.multiple}, expected 1 or more")
        given = [
            n for n in ("params", "macs", "density", "threshold") if getattr(self, n) is not None
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} cannot be given together")
