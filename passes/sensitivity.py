"""How much the network's output suffers from an error of one layer, by forward runs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from passes.layerwise import LayerwiseWalk

Array = NDArray[np.float32]

PROBE_SAMPLES = 64


class Sensitivity:
    """Relative squared error of the output over that of a layer, on one walk."""

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
            self._reference = self._outputs(layer, original)
        pairs = list(zip(self._reference, self._outputs(layer, probe), strict=True))
        loss = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
        power = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
        return loss / (power or 1.0)

    def _outputs(self, layer: str, weights: tuple[Array, Array]) -> Sequence[Array]:
        return self._walk.probe(layer, *weights, self._samples)
