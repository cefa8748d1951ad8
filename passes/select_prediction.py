"""Which form of a decomposed convolution is faster, by the amount of work.

In floats a layer runs natively where the kernel has few enough multiply-accumulates left,

    C·M·RS + nnz(Ce) ≤ NATIVE_PAYS · K·C·RS

and in integers, where an instruction does four products, the same is said of instructions. The
first convolution and those of 1×1, in the hybrid kernel as they are, stay there.
"""

import math
from typing import Literal

import numpy as np
import onnx_ir as ir

from runtimes.operators import hybrid_conv
from runtimes.operators.decomposed_conv import read_geometry, read_weights
from runtimes.operators.hybrid_conv import is_hybrid_conv

Form = Literal["native", "portable", "two-stage", "int8"]

NATIVE_PAYS = 0.5
"""Share of the dense MACs up to which the native kernel is taken to be faster. Measured break-even
on AVX-512 with onnxruntime 1.32: about 0.7 for 16 to 64 channels, and lower for more."""

HYBRID_PAYS = 0.6
"""The same for quantised layers, as a share of instructions. Measured break-even on AVX-512 VNNI:
0.5 to 0.8 for 16 to 256 channels. Up to four basis kernels no layer measured came near it."""

FIRST = "a first convolution, which onnxruntime's int8 runs at half the speed"
"""Measured with 1 to 4 channels, on images of 28×28 to 224×224."""
POINT = "a 1×1 convolution, for which onnxruntime's int8 has to reorder its input and output"
"""Measured with 64 to 2048 channels, on images of 56×56 to 7×7."""

RESPONSE, DENSE_PAIR, FOUR = 0.35, 0.75, 1.4
"""Costs of an instruction of the basis stage, of a pair in the dense form and of four elements, in
those of a stored pair."""


def predict_form(node: ir.Node) -> tuple[Form, str]:
    """The form by the amount of work, and why."""
    if is_hybrid_conv(node):
        hybrid = hybrid_conv.read_weights(node)
        if hybrid.is_ordinary:
            return "native", f"native: {POINT if hybrid.basis[0].size == 1 else FIRST}"
        share = _hybrid_share(hybrid, read_geometry(node).group)
        form: Form = "native" if share <= HYBRID_PAYS else "int8"
        return form, f"{form}: the native kernel has {share:.2f} of the dense int8 work"
    share = _native_share(node)
    form = "native" if share <= NATIVE_PAYS else "portable"
    return form, f"{form}: the native kernel has {share:.2f} of the dense MACs"


def _native_share(node: ir.Node) -> float:
    """MACs of the native kernel over those of the dense convolution."""
    weights, group = read_weights(node), read_geometry(node).group
    K, C_group, _ = weights.coefficients.shape
    responses = C_group * group * weights.basis.size
    dense = K * C_group * weights.basis[0].size
    return float((responses + np.count_nonzero(weights.coefficients)) / dense)


def _hybrid_share(weights: hybrid_conv.HybridWeights, group: int) -> float:
    """Instructions of the native kernel over those of the dense int8 convolution.

    One does four products: of a row of taps, or of four responses to one channel ("a pair"). Pairs
    that are not stored are skipped, or all are done in a dense form, or any four elements of an
    output channel are gathered. Costs are relative to a stored pair, those of
    runtimes/native/hybrid_form.cpp.
    """
    (K, C_group, M), kernel = weights.symbols.shape, weights.basis.shape[1:]
    quads = -(-M // 4)
    taps = math.prod(kernel[:-1]) * -(-kernel[-1] // 4)
    responses = C_group * group * quads * 4 * taps
    stored = weights.symbols != 0  # (K, C/group, M)
    padded = np.pad(stored, ((0, 0), (0, 0), (0, 4 * quads - M)))
    pairs = np.count_nonzero(padded.reshape(K, C_group, quads, 4).any(axis=-1))
    fours = np.ceil(np.count_nonzero(stored, axis=(1, 2)) / 4).sum()
    mixing = min(float(pairs), DENSE_PAIR * K * C_group * quads, FOUR * fours)
    dense = K * C_group * math.prod(kernel) / 4
    return float((RESPONSE * responses + mixing) / dense)
