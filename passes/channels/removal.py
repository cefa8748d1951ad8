"""What layers lose, channels and basis kernels, as indices into the layers as they were."""

from dataclasses import dataclass, replace

import numpy as np

from passes.channels.layout import Ids, Mask
from passes.channels.records import Mixing
from runtimes.operators.decomposed_conv import DecomposedWeights, is_decomposed_conv, read_weights

Indices = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What one layer loses, as indices into the layer as it was.

    Attributes:
        outputs: of its K output channels.
        inputs: of its C input channels.
        basis: of its M basis kernels, where it is a `DecomposedConv`.
    """

    outputs: Indices = ()
    inputs: Indices = ()
    basis: Indices = ()

    @property
    def empty(self) -> bool:
        """Whether the layer stays as it is."""
        return not (self.outputs or self.inputs or self.basis)


def lost_channels(mixing: Mixing, kept: Mask) -> Removal:
    """What a layer loses when only the ids in `kept` (ids in all,) stay."""
    return Removal(outputs=_missing(mixing.writes, kept), inputs=_missing(mixing.reads, kept))


def find_removal(mixing: Mixing, kept: Mask, *, basis: bool) -> Removal:
    """What a layer loses, with basis kernels or without."""
    return replace(lost_channels(mixing, kept), basis=dead_basis(mixing, kept) if basis else ())


def describe_removal(mixing: Mixing, removal: Removal) -> str:
    """One line for a person, such as "dead: 12 of 64 output channels, 1 of 5 basis kernels"."""
    n_basis = read_weights(mixing.node).basis.shape[0] if removal.basis else 0
    parts = (
        (removal.outputs, len(mixing.writes), "output channels"),
        (removal.inputs, len(mixing.reads), "input channels"),
        (removal.basis, n_basis, "basis kernels"),
    )
    return "dead: " + ", ".join(f"{len(lost)} of {n} {what}" for lost, n, what in parts if lost)


def dead_basis(mixing: Mixing, kept: Mask) -> Indices:
    """Basis kernels of a layer that are zero or not used by what is kept; never all of them."""
    if not is_decomposed_conv(mixing.node):
        return ()
    weights = kept_weights(mixing, kept)
    kernels = weights.basis.reshape(len(weights.basis), -1)  # (M, kernel size)
    used = np.any(weights.coefficients != 0, axis=(0, 1)) & np.any(kernels != 0, axis=1)
    if not used.any():
        used[0] = True
    return tuple(np.flatnonzero(~used).tolist())


def format_indices(indices: Indices) -> str:
    """Sorted indices as text, runs shortened: (1, 4, 5, 6) is "1,4-6"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def parse_indices(text: str) -> Indices:
    """Inverse of `format_indices`.

    Raises:
        ValueError: the text has another form.
    """
    indices: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)


def _missing(ids: Ids, kept: Mask) -> Indices:
    return tuple(np.flatnonzero(~kept[ids]).tolist())


def kept_weights(mixing: Mixing, kept: Mask) -> DecomposedWeights:
    """Factors of a `DecomposedConv` without the channels that go, but with all basis kernels."""
    weights = read_weights(mixing.node)
    outputs = kept[mixing.writes]
    coefficients = weights.coefficients[outputs]  # (K', C/group, M)
    if not mixing.depthwise:
        columns = kept[mixing.reads[: coefficients.shape[1]]]  # the same in every group
        coefficients = coefficients[:, columns]
    bias = None if weights.bias is None else weights.bias[outputs]
    return DecomposedWeights(basis=weights.basis, coefficients=coefficients, bias=bias)
