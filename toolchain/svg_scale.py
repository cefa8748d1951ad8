"""Scales of charts: where a value lies, which ticks to draw, how to write a number briefly."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
LABEL_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps values from `minimum` to `maximum` onto coordinates from `low` to `high`.

    Attributes:
        minimum: value at `low`; above zero on a logarithmic axis.
        maximum: value at `high`, above `minimum`.
        low: coordinate.
        high: coordinate; below `low` where coordinates grow downwards.
        logarithmic: whether equal distances are equal ratios.
    """

    minimum: float
    maximum: float
    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def from_zero(cls, values: Iterable[float], low: float, high: float) -> "Axis":
        """A linear axis that starts at zero."""
        maximum = max(values, default=0.0)
        return cls(minimum=0, maximum=maximum if maximum > 0 else 1, low=low, high=high)

    @classmethod
    def span(cls, values: Iterable[float], low: float, high: float) -> "Axis":
        """A linear axis that holds all values, with a margin of 8 % at both ends."""
        values = list(values) or [0.0]
        margin = 0.08 * (max(values) - min(values)) or 0.5
        return cls(minimum=min(values) - margin, maximum=max(values) + margin, low=low, high=high)

    @classmethod
    def log(cls, values: Iterable[float], low: float, high: float) -> "Axis":
        """A logarithmic axis between round values; zeros and negative values do not count."""
        positive = [value for value in values if value > 0] or [0.1, 10.0]
        # The margins keep marks off the ends and the ends apart.
        minimum = max(
            value for value in _round_values(min(positive)) if value <= 0.9 * min(positive)
        )
        maximum = min(
            value for value in _round_values(max(positive)) if value >= 1.1 * max(positive)
        )
        return cls(minimum=minimum, maximum=maximum, low=low, high=high, logarithmic=True)

    def position(self, value: float) -> float:
        """The coordinate of a value; values outside lie on the nearer end."""
        value = min(max(value, self.minimum), self.maximum)
        if self.logarithmic:
            share = math.log(value / self.minimum) / math.log(self.maximum / self.minimum)
        else:
            share = (value - self.minimum) / (self.maximum - self.minimum)
        return self.low + share * (self.high - self.low)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Coordinates and texts of about four round values."""
        for value in self._decades() if self.logarithmic else self._steps():
            yield self.position(value), compact(value)

    def _decades(self) -> list[float]:
        first = math.floor(math.log10(self.minimum))
        last = math.ceil(math.log10(self.maximum))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        step = max(1, math.ceil((last - first) / 6))
        values = [
            factor * 10.0**exponent
            for exponent in range(first, last + 1, step)
            for factor in factors
        ]
        return [
            value
            for value in values
            if value / self.minimum > 0.999 and value / self.maximum < 1.001
        ]

    def _steps(self) -> list[float]:
        rough = (self.maximum - self.minimum) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)
        first, last = math.ceil(self.minimum / step), math.floor(self.maximum / step)
        return [count * step for count in range(first, last + 1)]


def compact(value: float) -> str:
    """Three significant digits with a decimal prefix: ``1.23 M``, ``0.05``, ``1e-06``."""
    for size, prefix in PREFIXES:
        # 999.5 would round to 1000, so it already takes the next prefix.
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)} {prefix}"
    return _three(value)


def short_labels(labels: Sequence[str]) -> list[str]:
    """Labels without the path that all of them share at either end, cut to fit.

    The end of a name tells layers apart, so the beginning is cut.
    """
    if len(labels) > 1:
        paths = [label.split("/") for label in labels]
        head, tail = _shared(paths), _shared([path[::-1] for path in paths])
        labels = ["/".join(path[head : len(path) - tail]) or "/".join(path) for path in paths]
    return [
        label if len(label) <= LABEL_LENGTH else "…" + label[1 - LABEL_LENGTH :] for label in labels
    ]


def _round_values(value: float) -> list[float]:
    """Values of the form 1, 2 or 5 times a power of ten on both sides of `value`."""
    middle = math.floor(math.log10(value))
    return [
        factor * 10.0**exponent
        for exponent in range(middle - 1, middle + 3)
        for factor in (1, 2, 5)
    ]


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many components all paths begin with."""
    levels = zip(*paths, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))


def _three(value: float) -> str:
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else text
