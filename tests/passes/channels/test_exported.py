"""Pruning of exported networks to half: valid, exact, and at any batch size and length."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.channels.groups import prunable
from passes.channels.plans import planned_channels, read_settings
from passes.cleanup import finish, prepare
from passes.tprune import TprunePass, mask_lines
from passes.tprune_config import TpruneConfig
from runtimes.operators.schemas import register_schemas
from tests.passes.channel_models import session
from tests.passes.channels.exported import NETWORKS, VOCABULARY, export

QUICK = {"dynamo": ("llama", "vit"), "optimised": ("gpt", "llama", "mobilenet", "resnet")}
CASES = [
    pytest.param(
        name,
        exporter,
        marks=pytest.mark.slow if name not in QUICK.get(exporter, NETWORKS) else (),
        id=f"{name}-{exporter}",
    )
    for name in NETWORKS
    for exporter in ("legacy", "dynamo", "optimised")
]
HALF = TpruneConfig(params=0.5, multiple=4)


def feeds(model: ir.Model, batch: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    result = {}
    for place, value in enumerate(model.graph.inputs):
        shape = [
            size if isinstance(size, int) else batch if size.value == "N" else length + place
            for size in value.shape
        ]
        is_token = value.dtype == ir.DataType.INT64
        result[value.name] = (
            rng.integers(0, VOCABULARY, shape)
            if is_token
            else rng.standard_normal(shape).astype(np.float32)
        )
    return result


def outputs(model: ir.Model, batch: int, length: int) -> list[np.ndarray]:
    return session(model).run(None, feeds(model, batch, length))


def parameters(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.size for tensor in tensors if tensor.dtype.is_floating_point())


def reachable(model: ir.Model) -> float:
    """Share of the parameters of MatMul, Gemm and Conv that have a line which can go."""
    graph = prunable(model)
    roots, frozen = graph.roots(), graph.frozen()
    free = {
        value
        for (value, _), ids in graph.slices.items()
        if any(root not in frozen for root in roots[ids].tolist())
    }
    weights = set()
    for node in model.graph:
        if node.op_type.removeprefix("Fused") in ("MatMul", "Gemm", "Conv"):
            value = graph.views.get(node.inputs[1], (node.inputs[1],))[0]
            if value.const_value is not None:
                weights.add(value)
    total = sum(value.const_value.size for value in weights)
    return sum(value.const_value.size for value in weights & free) / total


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_half_of_an_exported_network(name, exporter):
    model = prepare(export(name, exporter))
    assert reachable(model) >= 0.9
    plan = TprunePass(HALF).analyse(model)
    kept = planned_channels(
        prunable(model), {d.layer: read_settings(d, "tprune") for d in plan.applied}, "tprune"
    )
    masked, pruned = model.clone(), model.clone()
    mask_lines(prunable(masked), kept)
    TprunePass(HALF).apply(pruned, plan)
    finish(pruned)
    register_schemas()
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    assert 0.4 < parameters(pruned) / parameters(model) <= 0.5
    for batch, length in ((1, 5), (3, 9)):
        results = zip(*(outputs(m, batch, length) for m in (model, masked, pruned)), strict=True)
        for before, zeroed, small in results:
            assert small.shape == before.shape and np.isfinite(small).all()
            assert np.abs(small - zeroed).max() <= 1e-5 * max(np.abs(zeroed).max(), 1)
            assert np.abs(small - before).max() > 1e-4  # something was removed
