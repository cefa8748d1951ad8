"""How much the network's output suffers from an error of one layer, by forward runs.

A layer that hardly matters while its error is small may matter much once it is large: of the last
block of a ResNet-20 ten times the error did 170 times the damage. So damage is measured at several
errors, over the range that a budget chooses from.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.layerwise import LayerwiseWalk, Substitute

Array = NDArray[np.float32]

PROBE_SAMPLES = 64
PROBE_ERRORS = (0.03, 0.1, 0.3, 0.6)
"""Relative squared errors of a layer at which its damage is measured, about."""
FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Relative squared error of the output, as a function of that of one layer.

    Attributes:
        errors: of the layer, rising, above 0.
        damages: measured there, rising, above 0.
    """

    errors: tuple[float, ...] = (1.0,)
    damages: tuple[float, ...] = (1.0,)

    def at(self, error: float) -> float:
        """Linear between logarithms of what was measured, in proportion beyond."""
        if error <= 0:
            return 0.0
        x, wanted = np.log(self.errors), np.log(error)
        inside = np.clip(wanted, x[0], x[-1])
        return float(np.exp(np.interp(inside, x, np.log(self.damages)) + wanted - inside))


PROPORTIONAL = Damage()
"""Where nothing is measured, damage is the error itself."""


def measured_damage(points: Iterable[tuple[float, float]]) -> Damage:
    """A curve through pairs of error and damage, which noise must not let fall.

    Pairs without error say nothing and are left out.
    """
    known = sorted(point for point in points if point[0] > 0)
    if not known:
        return PROPORTIONAL
    damages = np.maximum.accumulate([max(damage, FLOOR) for _, damage in known])
    return Damage(errors=tuple(error for error, _ in known), damages=tuple(damages.tolist()))


def probes(errors: Sequence[float]) -> list[int]:
    """Which of the options, by their errors, are the ones to measure."""
    known = np.asarray(errors)
    return sorted({int(np.abs(known - wanted).argmin()) for wanted in PROBE_ERRORS})


class Sensitivity:
    """Relative squared error of the output for other weights of a layer, on one walk."""

    def __init__(self, walk: LayerwiseWalk, samples: int = PROBE_SAMPLES) -> None:
        """Measures on the walk's own original network; see `LayerwiseWalk.probe`."""
        self._walk = walk
        self._samples = samples
        self._reference: Sequence[Array] = ()

    def of(self, layer: str, original: tuple[Array, Array], probe: tuple[Array, Array]) -> float:
        """Relative squared error of the output if a layer had the weights of the probe.

        Args:
            layer: whose `maps` were asked for last.
            original: its weight and bias.
            probe: others.
        """
        if not self._reference:
            self._reference = self._walk.probe(layer, *original, self._samples)
        return relative_error(self._reference, self._walk.probe(layer, *probe, self._samples))

    def curve(
        self,
        layer: str,
        original: tuple[Array, Array],
        errors: Sequence[float],
        option: Callable[[int], tuple[Array, Array]],
    ) -> Damage:
        """Damage of a layer over its error, measured at some of its options.

        Args:
            layer: as for `of`, like `original`.
            original: see above.
            errors: relative squared error of the layer for every option.
            option: weight and bias of one of them, by its place in `errors`.
        """
        return measured_damage(
            (errors[place], self.of(layer, original, option(place))) for place in probes(errors)
        )

    def of_substitute(self, layer: str, original: Substitute, probe: Substitute) -> float:
        """The same, if other nodes ran in the place of the layer."""
        if not self._reference:
            self._reference = self._walk.probe_substitute(layer, original, self._samples)
        other = self._walk.probe_substitute(layer, probe, self._samples)
        return relative_error(self._reference, other)


def relative_error(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Σ‖a − b‖² / Σ‖a‖² over batches; Σ‖b‖² where a is zero throughout."""
    pairs = list(zip(expected, found, strict=True))
    loss = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    power = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    return loss / (power or 1.0)
