"""The factored form of a convolution's weight: W[k, c] = Σ_m Ce[k, c, m]·B[m].

Source: PENNI (Li et al., ICML 2020, arXiv 2005.07133), section 3, "filter decomposition".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """Factors of one layer.

    Attributes:
        basis: (M, *kernel).
        coefficients: (K, C, M); pruned ones are exactly zero.
        bias: (K,) or None.
    """

    basis: Array
    coefficients: Array
    bias: Array | None = None

    def __post_init__(self) -> None:
        """Checks that the shapes fit together.

        Raises:
            ValueError: they do not; the message names them.
        """
        shapes = f"basis {self.basis.shape}, coefficients {self.coefficients.shape}"
        if self.coefficients.ndim != 3 or self.coefficients.shape[2] != len(self.basis):
            raise ValueError(f"{shapes}: expected (M, *kernel) and (K, C, M)")
        if self.bias is not None and self.bias.shape != (len(self.coefficients),):
            raise ValueError(f"{shapes}, bias {self.bias.shape}: expected a bias of (K,)")

    @property
    def parameters(self) -> int:
        """Stored numbers: nonzero coefficients and the basis."""
        return int(np.count_nonzero(self.coefficients)) + self.basis.size

    def reconstruct(self) -> Array:
        """The dense weight W, (K, C, *kernel)."""
        return np.tensordot(self.coefficients, self.basis, axes=1)


def relative_error(weight: Array, factors: Factors) -> float:
    """‖W − W'‖ / ‖W‖ in the Frobenius norm; 0 for W = 0. Weight (K, C, *kernel)."""
    norm = float(np.linalg.norm(weight))
    difference = float(np.linalg.norm(weight - factors.reconstruct()))
    return difference / norm if norm else 0.0
