"""Eight-bit activations: scale and zero point of a tensor from calibration data.

    q = clamp(rint(x / scale) + zero_point, 0, 255),     x̂ = scale·(q − zero_point)

Zero is always exact, so that zero padding and Relu are. Ranges come from a histogram:

    minmax       all values
    percentile   all but a share of the values at each end
    mse          the range whose Σ (x − x̂)² is least
    entropy      the range whose quantised distribution has the least Kullback–Leibler divergence
                 (Migacz 2017, "8-bit inference with TensorRT")
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Method = Literal["minmax", "percentile", "mse", "entropy"]

LEVELS = 255
BINS = 2048
TAIL = 1e-5
"""Share of the values that `percentile` leaves out at each end."""
SHARES = np.linspace(0.3, 1.0, 57)
"""Parts of the whole range that `mse` and `entropy` try."""


class CalibrationError(ValueError):
    """Activations from which no range can be read; the message says what is wrong with them."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """A uint8 code of real numbers.

    Attributes:
        scale: of one unit, positive, exactly a float32.
        zero_point: the code of zero, 0 to 255.
    """

    scale: float
    zero_point: int

    def quantize(self, x: Array32) -> Array32:
        """Code of x less its zero point: whole numbers, as float32."""
        low, high = -self.zero_point, LEVELS - self.zero_point
        return np.asarray(np.clip(np.rint(x / np.float32(self.scale)), low, high), np.float32)

    def restore(self, x: Array32) -> Array32:
        """What x is after quantisation: x̂."""
        return self.quantize(x) * np.float32(self.scale)

    @classmethod
    def of_range(cls, low: float, high: float) -> "Affine":
        """The code of [low, high] and zero; a range of zero width gets the scale 1."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / LEVELS))
        if scale < np.finfo(np.float32).tiny:
            return cls(scale=1.0, zero_point=0)
        return cls(scale=scale, zero_point=int(np.clip(np.rint(-low / scale), 0, LEVELS)))


def calibrate(batches: Sequence[Array32], method: Method) -> Affine:
    """Chooses scale and zero point.

    Args:
        batches: values of the tensor, of any shape.
        method: see the module docstring.

    Raises:
        CalibrationError: a value is not finite, or there is none.
    """
    filled = [batch for batch in batches if batch.size]
    if not filled:
        raise CalibrationError("there are no values")
    low = min(float(batch.min()) for batch in filled)
    high = max(float(batch.max()) for batch in filled)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise CalibrationError("values are NaN or infinite on the calibration data")
    low, high = min(low, 0.0), max(high, 0.0)
    if method == "minmax" or high == low:
        return Affine.of_range(low, high)
    counts, edges = _histogram(filled, low, high)
    if method == "percentile":
        cumulative = np.cumsum(counts) / counts.sum()
        inside = np.nonzero((cumulative > TAIL) & (cumulative - counts / counts.sum() < 1 - TAIL))
        first, last = int(inside[0][0]), int(inside[0][-1])
        return Affine.of_range(float(edges[first]), float(edges[last + 1]))
    loss: Callable[[Array, Array, Affine], float] = _mse if method == "mse" else _divergence
    centres = (edges[:-1] + edges[1:]) / 2
    candidates = [Affine.of_range(low * share, high * share) for share in SHARES]
    return min(candidates, key=lambda code: loss(counts, centres, code))


def _histogram(batches: Iterable[Array32], low: float, high: float) -> tuple[Array, Array]:
    """Counts of all values but exact zeros, which every code keeps, and edges of the bins."""
    edges = np.linspace(low, high, BINS + 1)
    counts = np.zeros(BINS)
    for batch in batches:
        counts += np.histogram(batch[batch != 0], edges)[0]
    return counts + 1e-12, edges


def _mse(counts: Array, centres: Array, code: Affine) -> float:
    restored = code.restore(centres.astype(np.float32))
    return float(counts @ np.square(centres - restored))


def _divergence(counts: Array, centres: Array, code: Affine) -> float:
    """KL(p ‖ q): p with what lies outside moved to the ends, q constant over each code."""
    codes = code.quantize(centres.astype(np.float32)).astype(np.int64) + code.zero_point
    inside = np.abs(centres - code.restore(centres.astype(np.float32))) <= code.scale
    p = np.where(inside, counts, 0.0)
    members = np.nonzero(inside)[0]
    p[members[0]] += counts[: members[0]].sum()
    p[members[-1]] += counts[members[-1] + 1 :].sum()
    filled = (counts > 1) & inside
    mass = np.bincount(codes[filled], counts[filled], LEVELS + 1)
    width = np.bincount(codes[filled], minlength=LEVELS + 1)
    q = np.where(filled, mass[codes] / np.maximum(width[codes], 1), 0.0)
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    used = (p > 0) & (q > 0)
    missed = float(p[(p > 0) & (q <= 0)].sum())
    return float(np.sum(p[used] * np.log(p[used] / q[used]))) + missed * 10
