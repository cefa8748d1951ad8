"""What the other passes make of a quantised model: nothing, and they say why."""

import onnx_ir as ir
import pytest

from passes.cleanup import finish
from passes.escalate import EscalatePass
from passes.fuse import FusePass
from passes.penni import PenniPass
from passes.shrink import ShrinkPass
from passes.tprune import TprunePass
from passes.tprune_config import TpruneConfig
from runtimes.operators.hybrid_conv import is_hybrid_conv
from tests.passes.test_escalate import calibrated, decomposed


@pytest.fixture(scope="module", params=["chain", "residual"])
def quantised(request) -> ir.Model:
    model = decomposed(request.param)
    EscalatePass(context=calibrated())(model)
    return finish(model)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (ShrinkPass(), "frozen: quantised; remove channels before that"),
        (TprunePass(TpruneConfig(density=0.5)), "frozen: quantised; remove channels before that"),
        (FusePass(), "quantised; fuse before that"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_hybrid_layers_stay_and_the_plan_says_why(quantised, step, reason) -> None:
    before = ir.to_proto(quantised).SerializeToString(deterministic=True)
    plan = step.analyse(quantised)
    assert not plan.applied
    nodes = [node.name for node in quantised.graph if is_hybrid_conv(node)]
    reasons = {layer.layer: layer.reason for layer in plan.layers}
    assert nodes
    assert {reasons[name] for name in nodes} == {reason}
    assert not step(quantised).modified
    assert ir.to_proto(quantised).SerializeToString(deterministic=True) == before


def test_int8_layers_are_not_decomposed_again(quantised) -> None:
    plan = PenniPass().analyse(quantised)
    assert not plan.applied
    assert all(layer.reason for layer in plan.layers)
