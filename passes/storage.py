"""Where the bytes of a model file go, and how few could hold the same.

The bound is what an ideal code needs: for values their empirical entropy, for positions n·H(ρ) of
the share ρ that is stored; everything else counts as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.cost import layer_table
from runtimes.operators import decomposed_conv, hybrid_conv
from runtimes.operators.positions import entropy_bits

PARTS = {
    "values": "coefficients",
    "positions": "positions of coefficients",
    "basis": "basis",
    "shift": "basis",
    "levels": "scales",
    "scale": "scales",
    "bias": "biases",
}
"""Part of the file by input of an `optc` operator."""
DENSE, OTHER, GRAPH = "other weights", "other constants", "graph"


@dataclass(frozen=True, kw_only=True)
class StoragePart:
    """A part of a model file.

    Attributes:
        part: what it is.
        nbytes: bytes in the file.
        bound: bytes that an ideal code of the same content needs.
    """

    part: str
    nbytes: int
    bound: int


def storage(model: ir.Model, file_bytes: int) -> tuple[StoragePart, ...]:
    """Accounts for every byte of a model file.

    Args:
        model: as read from the file.
        file_bytes: of the file and its external data.
    """
    parts: dict[str, list[tuple[float, float]]] = {}
    seen: set[str | None] = set()
    for node in model.graph:
        for part, value, bound in _stored_by(node):
            if value.const_value is not None and value.name not in seen:
                seen.add(value.name)
                parts.setdefault(part, []).append((value.const_value.nbytes, bound))
    weights = _weights(model)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.name not in seen:
            nbytes = value.const_value.nbytes
            part = DENSE if value.name in weights else OTHER
            parts.setdefault(part, []).append((nbytes, nbytes))
    table = [
        StoragePart(
            part=part,
            nbytes=int(sum(nbytes for nbytes, _ in entries)),
            bound=round(sum(bound for _, bound in entries)),
        )
        for part, entries in parts.items()
    ]
    rest = file_bytes - sum(entry.nbytes for entry in table)
    return (*table, StoragePart(part=GRAPH, nbytes=rest, bound=rest))


def int8_bytes(model: ir.Model, file_bytes: int) -> int:
    """Bytes of an fp32 model file with a byte for each weight instead of four."""
    weights = _weights(model)
    count = sum(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.name in weights
        and value.const_value.dtype == ir.DataType.FLOAT
    )
    return file_bytes - 3 * count


def _stored_by(node: ir.Node) -> Iterable[tuple[str, ir.Value, float]]:
    """Part, value and bound of what an `optc` node stores."""
    if hybrid_conv.is_hybrid_conv(node):
        packed, weights = hybrid_conv.read_packed(node), hybrid_conv.read_weights(node)
        bounds = _bounds(weights.symbols, packed.block)
        keys: tuple[str, ...] = hybrid_conv.INPUTS
    elif decomposed_conv.is_decomposed_conv(node):
        factors = decomposed_conv.read_weights(node)
        values = node.inputs[2]
        assert values is not None and values.const_value is not None
        block = int(values.const_value.numpy().shape[1])
        bounds = {**_bounds(factors.coefficients, block), "values": values.const_value.nbytes}
        keys = decomposed_conv.INPUTS
    else:
        return
    for key, value in zip(keys, node.inputs, strict=False):
        if key in PARTS and value is not None and value.const_value is not None:
            yield PARTS[key], value, bounds.get(key, float(value.const_value.nbytes))


def _bounds(coefficients: NDArray[np.generic], block: int) -> dict[str, float]:
    """Bytes that stored blocks of coefficients and their positions need at least."""
    blocks = coefficients.reshape(-1, block)
    stored = blocks[np.any(blocks != 0, axis=1)]
    _, counts = np.unique(stored, return_counts=True)
    shares = counts / max(stored.size, 1)
    bits = -float(stored.size * (shares @ np.log2(shares))) if stored.size else 0.0
    return {"values": bits / 8, "positions": entropy_bits(len(stored), len(blocks)) / 8}


def _weights(model: ir.Model) -> set[str]:
    """Names of stored weights of ordinary layers, directly or dequantised."""
    names = set()
    for node, _ in layer_table(model):
        for value in node.inputs[1:]:
            producer = None if value is None else value.producer()
            if producer is not None and producer.op_type == "DequantizeLinear":
                value = producer.inputs[0]
            tensor = None if value is None else value.const_value
            if tensor is not None and value is not None and len(tensor.shape) > 1:
                names.add(value.name or "")
    return names
