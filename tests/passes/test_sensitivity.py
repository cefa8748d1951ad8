"""What errors of one layer do to the network: curves through measured points."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.cleanup import prepare
from passes.sensitivity import (
    PROBE_ERRORS,
    PROPORTIONAL,
    Damage,
    Sensitivity,
    measured_damage,
    probes,
)
from runtimes import ort
from tests.passes.contract_models import Builder
from toolchain.layerwise import ArrayCalibration

errors = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)
points = st.lists(st.tuples(errors, st.floats(0, 10)), min_size=1, unique_by=lambda point: point[0])


@given(points, st.floats(1e-6, 2), st.floats(1e-6, 2))
def test_more_error_does_no_less_damage(measured, one, other) -> None:
    curve = measured_damage(measured)
    low, high = sorted((one, other))
    assert curve.at(0) == 0
    assert 0 < curve.at(low) <= curve.at(high) * (1 + 1e-9)


@given(points)
def test_a_curve_passes_through_its_points(measured) -> None:
    curve = measured_damage(measured)
    assert list(curve.errors) == sorted(error for error, _ in measured)
    for error, damage in zip(curve.errors, curve.damages, strict=True):
        assert curve.at(error) == pytest.approx(damage)


def test_between_points_a_power_law_and_beyond_them_in_proportion() -> None:
    curve = Damage(errors=(0.01, 0.1), damages=(0.001, 0.1))  # D = 10·e²
    assert curve.at(0.05) == pytest.approx(10 * 0.05**2)
    assert curve.at(0.001) == pytest.approx(0.0001)
    assert curve.at(0.4) == pytest.approx(0.4)


def test_what_is_exact_says_nothing() -> None:
    assert measured_damage([(0.0, 0.0)]) == PROPORTIONAL
    assert measured_damage([(0.0, 0.0), (0.5, 2.0)]) == Damage(errors=(0.5,), damages=(2.0,))


def test_probes_are_the_options_nearest_to_the_errors() -> None:
    known = [0.9, 0.59, 0.4, 0.31, 0.11, 0.09, 0.03, 0.001]
    assert probes(known) == [1, 3, 4, 6]
    assert probes([1e-9]) == [0]
    assert len(probes(np.geomspace(1e-3, 1, 200).tolist())) == len(PROBE_ERRORS)


def test_damage_is_the_relative_error_of_the_output_in_onnxruntime() -> None:
    net = Builder(0)
    y = net.op("Relu", net.conv("x", 3, 6))
    model = prepare(ir.from_proto(net.model(net.conv(y, 6, 4))))
    first = model.graph[0]
    weight, bias = (value.const_value.numpy() for value in first.inputs[1:])
    batch = np.random.default_rng(0).standard_normal((8, 3, 9, 7)).astype(np.float32)
    expected = ort.run(ort.session_of(model), {"x": batch})[0]
    walk = ArrayCalibration([{"x": batch}], threads=1).walk(model, [first.name])
    walk.maps(first.name)
    damage = Sensitivity(walk).of(first.name, (weight, bias), (0.9 * weight, bias + 0.1))
    first.inputs[1].const_value = ir.tensor(0.9 * weight)
    first.inputs[2].const_value = ir.tensor(bias + 0.1)
    other = ort.run(ort.session_of(model), {"x": batch})[0]
    expected_damage = np.square(other - expected).sum() / np.square(expected).sum()
    assert damage == pytest.approx(float(expected_damage), rel=1e-4)
