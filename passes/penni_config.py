"""Options of the pass `penni`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from passes.framework import ConfigError
from passes.penni_plan import Request

DEFAULT_PARAMS = 0.6
"""Budget where nothing is asked for: without data it cost ResNet-20 and -56 under 0.4 points."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class PenniConfig:
    """Options of the pass."""

    rank: int | None = _option(None, "basis kernels of every layer")
    energy: float | None = _option(None, "instead of rank: share of the weights' energy to keep")
    density: float | None = _option(None, "share of coefficients kept in every layer")
    threshold: float | None = _option(None, "instead of density: keep |c| ≥ threshold·std")
    params: float | None = _option(
        None,
        f"budget: share of the model's parameters that may be left; {DEFAULT_PARAMS:g} if "
        "nothing else is asked for",
    )
    macs: float | None = _option(
        None, "budget: share of the model's MACs that may be left; together with params or alone"
    )
    granularity: Literal["element", "pair"] = _option(
        "element", "drop single coefficients, or all those of a channel pair"
    )
    pointwise: Literal["keep", "sparsify"] = _option("keep", "what to do with 1×1 convolutions")
    min_weights: int = _option(1000, "leave layers alone that have fewer weights")
    shrink: bool = _option(True, "remove dead channels and basis kernels afterwards")

    def __post_init__(self) -> None:
        """Checks ranges and combinations.

        Raises:
            ConfigError: an option makes no sense, alone or with the others.
        """
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank is {self.rank}, expected 1 or more")
        for name in ("energy", "density", "params", "macs"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name} is {value:g}, expected a share above 0 and up to 1")
        if self.threshold is not None and not self.threshold > 0:
            raise ConfigError(f"threshold is {self.threshold:g}, expected more than 0")
        for one, other in (
            *(("rank", "energy"), ("density", "threshold")),
            *((budget, key) for budget in ("params", "macs") for key in ("energy", "threshold")),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(f"{one} and {other} cannot be given together")
        if self.threshold is not None and self.granularity == "pair":
            raise ConfigError("threshold drops single coefficients; give density for pairs")
        budget = self.params if self.params is not None else self.macs
        if None not in (budget, self.rank, self.density):
            raise ConfigError("rank, density and a budget leave nothing to choose; give two")

    @property
    def request(self) -> Request:
        """The same for the planner; shares are still those of the model."""
        keys = ("rank", "energy", "density", "threshold", "params", "macs")
        given: dict[str, Any] = {key: getattr(self, key) for key in keys}
        if all(value is None for value in given.values()):
            given["params"] = DEFAULT_PARAMS
        return Request(**given, pair=self.granularity == "pair")
