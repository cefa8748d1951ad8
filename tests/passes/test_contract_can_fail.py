"""The contract of passes notices passes that break it."""

import numpy as np
import onnx_ir as ir
import pytest

from passes import PASSES
from passes.cleanup import prepare
from passes.framework import Plan
from passes.penni import PenniPass
from passes.shrink import ShrinkPass
from tests.passes import test_contract as contract
from tests.passes.contract_models import chain, zero_weights


def scale_a_weight(model):
    value = model.graph.initializers["fc.w"]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name=value.name)


class NotExact(ShrinkPass):
    def apply(self, model, plan):
        scale_a_weight(model)
        return super().apply(model, plan)


class NotTruthful(ShrinkPass):
    def call(self, model):
        super().call(model)
        return ir.passes.PassResult(model, modified=False)


class AnalysisChangesTheModel(ShrinkPass):
    def analyse(self, model):
        scale_a_weight(model)
        return super().analyse(model)


class ForgetsALayer(PenniPass):
    def analyse(self, model):
        plan = super().analyse(model)
        return Plan(pass_name=plan.pass_name, config=plan.config, layers=plan.layers[1:])


class NotIdempotent(ShrinkPass):
    def call(self, model):
        scale_a_weight(model)
        return ir.passes.PassResult(model, modified=True)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (NotExact, "test_result_is_valid_runs_at_any_batch_and_keeps_its_interface"),
        (NotTruthful, "test_modified_is_truthful"),
        (AnalysisChangesTheModel, "test_analysis_decides_about_every_layer_and_changes_nothing"),
        (ForgetsALayer, "test_analysis_decides_about_every_layer_and_changes_nothing"),
        (NotIdempotent, "test_a_second_run_changes_nothing_if_that_is_declared"),
    ],
)
def test_a_broken_pass_is_found(monkeypatch, broken, check) -> None:
    monkeypatch.setitem(PASSES, broken.name, broken)
    model = chain() if broken is ForgetsALayer else zero_weights()
    config = contract.PENNI if broken is ForgetsALayer else None
    with pytest.raises(AssertionError):
        getattr(contract, check)(prepare(ir.from_proto(model)), broken.name, config)
