"""What holds of every pass on every model."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from passes import PASSES
from passes.cleanup import finish, prepare
from passes.framework import Context, Plan
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from passes.select import SelectConfig
from passes.svd_config import SvdConfig
from passes.tprune_config import TpruneConfig
from runtimes.operators.schemas import register_schemas
from tests.passes.contract_models import MODELS
from toolchain.layerwise import ArrayCalibration

PENNI = PenniConfig(rank=4, density=0.5, min_weights=0, pointwise="sparsify")
SVD = SvdConfig(rank=2)
TPRUNE = TpruneConfig(density=0.5, multiple=1)
CONFIGS = {
    "penni": [PENNI],
    "svd": [SVD],
    "select": [SelectConfig(form="portable")],
    "tprune": [TPRUNE],
}
CASES = [(name, config) for name in PASSES for config in CONFIGS.get(name, [None])]
EXACT = 1e-5
DECOMPOSED = ("escalate", "fuse", "select", "lower")
"""Passes on models that are decomposed already."""

NEEDS_DATA = ("escalate",)
"""Passes that leave a model alone without calibration data."""

pytestmark = [
    pytest.mark.parametrize("model_name", MODELS),
    pytest.mark.parametrize(("pass_name", "config"), CASES, ids=[name for name, _ in CASES]),
]


@pytest.fixture
def prepared(model_name, pass_name):
    model = prepare(ir.from_proto(MODELS[model_name]()))
    if pass_name in DECOMPOSED:  # there is something to lower
        PenniPass(PENNI)(model)
    return model


def make(pass_name, config, model):
    """The pass, with calibration data where it needs them."""
    calibration = None
    if pass_name in NEEDS_DATA:
        calibration = ArrayCalibration([feeds(model, 4), feeds(model, 3)], threads=1)
    return PASSES[pass_name](config, Context(calibration=calibration))


def content(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


def feeds(model, samples):
    shape = [3, 9, 7] if len(model.graph.inputs[0].shape) == 4 else [3, 21]
    batch = model.graph.inputs[0].shape[0]
    samples = batch if isinstance(batch, int) else samples
    kind = np.float16 if model.graph.inputs[0].dtype == ir.DataType.FLOAT16 else np.float32
    return {"x": np.random.default_rng(samples).standard_normal((samples, *shape)).astype(kind)}


def run(model, samples):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content(model), options)
    return session.run(None, feeds(model, samples))


def signature(model):
    values = [*model.graph.inputs, *model.graph.outputs]
    return [(value.name, value.dtype, str(value.shape)) for value in values]


def test_result_is_valid_runs_at_any_batch_and_keeps_its_interface(prepared, pass_name, config):
    before = prepared.clone()
    step = make(pass_name, config, prepared)
    result = step(prepared)
    model = finish(result.model)
    register_schemas()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert signature(model) == signature(before)
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    for samples in (1, 3):
        for old, new in zip(run(before, samples), run(model, samples), strict=True):
            assert old.shape == new.shape and np.isfinite(new).all()
            if step.exact:
                difference = np.linalg.norm((old - new).astype(np.float64).ravel())
                assert difference <= EXACT * np.linalg.norm(old.astype(np.float64).ravel())


def test_calibration_works_wherever_the_weights_alone_do(prepared, pass_name, config):
    blind = PASSES[pass_name](config).analyse(prepared)
    calibration = ArrayCalibration([feeds(prepared, 4), feeds(prepared, 3)], threads=1)
    step = PASSES[pass_name](config, Context(calibration=calibration))
    plan = step.analyse(prepared)
    if pass_name in NEEDS_DATA:
        assert not blind.applied
    else:
        assert [layer.applies for layer in plan.layers] == [each.applies for each in blind.layers]
    before = prepared.clone()
    measured = step.apply(prepared, plan)
    assert all(np.isfinite(layer.measured_error or 0) for layer in measured.applied)
    for old, new in zip(run(before, 2), run(finish(prepared), 2), strict=True):
        assert old.shape == new.shape and np.isfinite(new).all()


def test_modified_is_truthful(prepared, pass_name, config):
    before = content(prepared)
    result = make(pass_name, config, prepared)(prepared)
    assert result.modified == (content(result.model) != before)


def test_analysis_decides_about_every_layer_and_changes_nothing(prepared, pass_name, config):
    before = content(prepared)
    plan = make(pass_name, config, prepared).analyse(prepared)
    assert content(prepared) == before
    assert all(layer.reason for layer in plan.layers)
    named = [layer.layer for layer in plan.layers]
    assert len(set(named)) == len(named)
    convs = {node.name for node in prepared.graph if "Conv" in node.op_type}
    assert pass_name in DECOMPOSED or convs <= set(named)
    assert all(layer.after == layer.before for layer in plan.layers if not layer.applies)


def test_a_second_run_changes_nothing_if_that_is_declared(prepared, pass_name, config):
    step = make(pass_name, config, prepared)
    once = finish(step(prepared).model)
    again = make(pass_name, config, once)(once)
    assert not (step.idempotent and again.modified)


def test_a_plan_from_a_file_does_the_same(prepared, pass_name, config):
    other = prepared.clone()
    step = make(pass_name, config, prepared)
    plan = step.analyse(prepared)
    step.apply(prepared, plan)
    stored = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    make(pass_name, config, other).apply(other, stored)
    assert content(other) == content(prepared)


def test_functional_use_leaves_the_input_alone(prepared, pass_name, config):
    before = content(prepared)
    functional = ir.passes.functionalize(make(pass_name, config, prepared))
    result = functional(prepared)
    assert content(prepared) == before
    assert result.modified == (content(result.model) != before)


def test_what_the_globs_leave_out_stays(prepared, pass_name, config):
    before = content(prepared)
    step = PASSES[pass_name](config, Context(exclude=("*",)))
    assert not step(prepared).modified
    assert content(prepared) == before
