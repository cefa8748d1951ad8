"""Which form a layer gets, by times that the test makes up."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.cleanup import finish, prepare
from passes.framework import ConfigError, Context, PlanError
from passes.fuse import FusePass
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from passes.select import FORMS, SelectConfig, SelectPass
from runtimes import ort
from runtimes.operators import DOMAIN, PORTABLE_DOMAIN
from tests.passes.contract_models import Builder

FASTEST = SelectConfig(form="fastest")
FAST = {
    "native": {"native": 1.0, "portable": 2.0, "two-stage": 3.0},
    "portable": {"native": 2.0, "portable": 1.0, "two-stage": 3.0},
    "two-stage": {"native": 3.0, "portable": 2.0, "two-stage": 1.0},
    "nearly portable": {"native": 1.0, "portable": 0.97, "two-stage": 3.0},
}


def decomposed(shape=("N", 3, 9, 7)):
    net = Builder()
    x = net.op("Relu", net.conv("x", 3, 8, pads=[1] * 4))
    y = net.op("Add", net.conv(net.op("Tanh", x), 8, 8, pads=[1] * 4), x)
    model = prepare(ir.from_proto(net.model(net.op("Relu", y), shape=shape)))
    step = PenniPass(PenniConfig(rank=3, min_weights=0))
    step.apply(model, step.analyse(model))
    FusePass()(model)
    return model


def run(model):
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    return ort.run(ort.session_of(model), {"x": x})[0]


@pytest.mark.parametrize("case", FAST)
def test_the_fastest_form_is_taken_if_it_wins_clearly(case) -> None:
    model = decomposed()
    before = run(model)
    step = SelectPass(FASTEST, Context(timer=lambda forms: FAST[case]))
    plan = step.analyse(model)
    step.apply(model, plan)
    domains = {node.domain for node in finish(model).graph if "Decomposed" in node.op_type}
    expected = {"portable": {PORTABLE_DOMAIN}, "two-stage": set()}.get(case, {DOMAIN})
    assert domains == expected
    imported = {key for key in model.graph.opset_imports if key}
    assert imported == (expected | {PORTABLE_DOMAIN} if expected else set())
    assert all(f"native {FAST[case]['native']:.3g} ms" in layer.reason for layer in plan.layers)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-6)


def test_forms_that_are_timed_compute_the_layer() -> None:
    model = decomposed()
    seen = []

    def timer(forms):
        rng = np.random.default_rng(1)
        [first, *_] = forms.values()
        feeds = {
            value.name: rng.standard_normal([int(str(d)) for d in value.shape]).astype(np.float32)
            for value in first.graph.inputs
        }
        outputs = [ort.run(ort.session_of(form), feeds)[0] for form in forms.values()]
        for other in outputs[1:]:
            np.testing.assert_allclose(other, outputs[0], rtol=1e-4, atol=1e-5)
        seen.append((set(forms), len(feeds)))
        return FAST["native"]

    SelectPass(FASTEST, Context(timer=timer)).analyse(model)
    assert seen == [(set(FORMS), 1), (set(FORMS), 2)]  # the second has a residual input


def test_layers_of_unknown_size_stay() -> None:
    model = decomposed(("N", 3, "H", "W"))
    context = Context(timer=lambda forms: FAST["portable"])
    plan = SelectPass(FASTEST, context).analyse(model)
    assert not plan.applied and "unknown" in plan.layers[0].reason


def test_without_measurements_the_fastest_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match="--optimize-for latency"):
        SelectPass(FASTEST).analyse(decomposed())
    with pytest.raises(ConfigError, match="margin"):
        SelectConfig(margin=1.0)


def test_a_plan_for_another_model_is_refused() -> None:
    step = SelectPass(SelectConfig(form="portable"))
    plan = step.analyse(decomposed())
    other = decomposed()
    SelectPass(SelectConfig(form="two-stage"))(other)
    with pytest.raises(PlanError, match="no form 'portable'"):
        step.apply(other, plan)


@pytest.mark.parametrize(("density", "form"), [(0.9, "portable"), (0.05, "native")])
def test_the_number_of_macs_decides_without_measurements(density, form) -> None:
    net = Builder()
    x = net.conv("x", 3, 32, pads=[1] * 4)
    model = prepare(ir.from_proto(net.model(net.conv(x, 32, 64, pads=[1] * 4))))
    step = PenniPass(PenniConfig(rank=6, density=density))
    step.apply(model, step.analyse(model))
    [layer] = SelectPass().analyse(model).layers
    share = (32 * 6 * 9 + density * 64 * 32 * 6) / (64 * 32 * 9)
    assert layer.settings["form"] == form and f"{share:.2f} of the dense" in layer.reason
