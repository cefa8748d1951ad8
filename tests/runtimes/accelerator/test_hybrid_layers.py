"""Integer layers: what is read, and the output against onnxruntime."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from runtimes import ort
from runtimes.accelerator.architecture_file import load_shipped
from runtimes.accelerator.network import run_network
from runtimes.accelerator.simulator import simulate
from runtimes.accelerator.workload import SimulationError
from runtimes.operators.decomposed_conv import ConvGeometry
from runtimes.operators.hybrid_conv import unit_basis
from tests.helpers import parse
from tests.runtimes.operators.test_hybrid_conv import build_model, random_hybrid

GEOMETRY = ConvGeometry(strides=(2, 1), pads=(1, 1, 0, 1), dilations=(1, 2), group=2)
X_ZERO, Y_ZERO, R_ZERO = 3, 7, 120


@pytest.mark.parametrize(("bits", "is_ternary"), [(1, True), (4, False), (8, False)])
def test_integers_are_read_and_the_output_is_onnxruntime_s(bits: int, is_ternary: bool) -> None:
    rng = np.random.default_rng(bits)
    weights = random_hybrid(rng, (6, 5, 3), (3, 3), bits=bits)
    proto = build_model(
        weights, GEOMETRY, [1, 10, 9, 8], x=(0.05, X_ZERO), y=(0.1, Y_ZERO), residual=(0.2, R_ZERO)
    )
    size = [GEOMETRY.output_size(n, 3, axis) for axis, n in enumerate((9, 8))]
    feeds = {
        "x": rng.integers(X_ZERO - 2, X_ZERO + 3, (1, 10, 9, 8)).astype(np.uint8),
        "r": rng.integers(R_ZERO - 2, R_ZERO + 3, (1, 6, *size)).astype(np.uint8),
    }
    workload = run_network(ir.from_proto(proto), feeds)
    [y] = ort.run(ort.session(proto.SerializeToString()), feeds, ["y"])
    np.testing.assert_array_equal(workload.outputs["y"], y)
    assert workload.outputs["y"].dtype == np.uint8
    [layer] = workload.layers
    assert layer.factors is not None and layer.factors.is_ternary == is_ternary
    np.testing.assert_array_equal(
        layer.factors.coefficients, weights.levels[:, None].astype(int) * weights.symbols
    )
    np.testing.assert_array_equal(layer.factors.basis, weights.basis)
    np.testing.assert_array_equal(layer.x, feeds["x"][0].astype(int) - X_ZERO)
    np.testing.assert_array_equal(layer.stored, y[0] != Y_ZERO)
    assert layer.residual is not None
    np.testing.assert_array_equal(layer.residual, feeds["r"][0] != R_ZERO)


def test_an_ordinary_convolution_is_read_as_one() -> None:
    rng = np.random.default_rng(0)
    geometry = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    basis, shift = unit_basis((3, 3))
    weights = replace(random_hybrid(rng, (8, 3, 9), (3, 3), bits=8), basis=basis, shift=shift)
    model = ir.from_proto(build_model(weights, geometry, [1, 3, 8, 8], x=(0.05, 128)))
    feeds = {"x": rng.integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)}
    [layer] = run_network(model, feeds).layers
    assert layer.factors is None
    real = weights.coefficients.reshape(8, 3, 3, 3) * weights.scale[:, None, None, None] / 0.05
    np.testing.assert_allclose(layer.weight, real, rtol=1e-5)


def test_coefficients_cost_the_bits_of_their_operator() -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.integers(0, 256, (1, 64, 8, 8)).astype(np.uint8)}
    geometry = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    results = []
    for bits in (1, 4, 8):
        weights = random_hybrid(np.random.default_rng(1), (64, 64, 3), (3, 3), bits=bits)
        model = ir.from_proto(build_model(weights, geometry, [1, 64, 8, 8]))
        [layer] = simulate(run_network(model, feeds), load_shipped("escalate")).layers
        results.append(layer)
        mask, packed = 64 * 3, bits * np.count_nonzero(weights.symbols, axis=(1, 2))
        scales = 8 * 3 if bits < 8 else 0  # the levels, one a basis kernel
        expected = int((-(-(mask + packed + scales) // 8)).sum()) + 3 * 9
        assert layer.stored_weight_bytes == layer.dram_bytes["weight"] == expected
        # Bit-serial adders take as many cycles as there are bits.
        assert layer.counts["combine_adder", "compute"] == layer.adds * bits
    assert len({each.adds for each in results}) == 1  # the same positions
    cycles = [each.compute_cycles for each in results]
    assert cycles == sorted(cycles) and cycles[0] < cycles[1] < cycles[2]


def test_a_quantised_plain_layer_has_the_zeros_of_its_codes() -> None:
    rng = np.random.default_rng(2)
    model = parse(
        """g (float[1, 4, 6, 6] x) => (float[1, 3, 6, 6] y) {
            [quantise] q = QuantizeLinear (x, scale, zero)
            [real] r = DequantizeLinear (q, scale, zero)
            [weight] w = DequantizeLinear (codes, scale)
            [conv] a = Conv <pads = [1, 1, 1, 1]> (r, w)
            [relu] b = Relu (a)
            [out] c = QuantizeLinear (b, scale, offset)
            [back] y = DequantizeLinear (c, scale, offset)
        }""",
        {
            "scale": np.array(0.5, np.float32),
            "zero": np.array(128, np.uint8),
            "offset": np.array(9, np.uint8),
            "codes": rng.integers(-2, 3, (3, 4, 3, 3)).astype(np.int8),
        },
    )
    feeds = {"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)}
    workload = run_network(ir.from_proto(model), feeds)
    [y] = ort.run(ort.session(model.SerializeToString()), feeds, ["y"])
    np.testing.assert_array_equal(workload.outputs["y"], y)
    [layer] = workload.layers
    assert layer.factors is None
    assert layer.fused == ("Relu", "QuantizeLinear", "DequantizeLinear")
    np.testing.assert_array_equal(layer.x != 0, np.rint(feeds["x"][0] / 0.5) != 0)
    np.testing.assert_array_equal(layer.stored, y[0] != 0)
    assert 0 < np.count_nonzero(layer.stored) < layer.stored.size
    assert [each.name for each in workload.host] == ["quantise"]


def test_codes_that_leave_the_last_operator_are_compared_with_its_zero_point() -> None:
    model = parse(
        """g (float[1, 1, 2, 2] x) => (uint8[1, 1, 2, 2] y) {
            [conv] a = Conv (x, w)
            [out] y = QuantizeLinear (a, scale, offset)
        }""",
        {
            "scale": np.array(1, np.float32),
            "offset": np.array(9, np.uint8),
            "w": np.ones((1, 1, 1, 1), np.float32),
        },
    )
    x = np.array([[0, 1], [-9, 0]], np.float32)[None, None]
    [layer] = run_network(ir.from_proto(model), {"x": x}).layers
    np.testing.assert_array_equal(layer.stored[0], [[False, True], [True, False]])


def test_what_cannot_be_simulated_is_said() -> None:
    weights = random_hybrid(np.random.default_rng(3), (4, 4, 2), (3,))
    line = ConvGeometry(strides=(1,), pads=(1, 1), dilations=(1,))
    model = ir.from_proto(build_model(weights, line, [1, 4, 8]))
    [operation] = run_network(model, {"x": np.zeros((1, 4, 8), np.uint8)}).host
    assert operation.reason == "a convolution over 1 axes"
    with pytest.raises(SimulationError, match="a batch of 2 samples"):
        weights = random_hybrid(np.random.default_rng(3), (4, 4, 2), (3, 3))
        plane = ConvGeometry(strides=(1, 1), pads=(1,) * 4, dilations=(1, 1))
        model = ir.from_proto(build_model(weights, plane, ["N", 4, 8, 8]))
        run_network(model, {"x": np.zeros((2, 4, 8, 8), np.uint8)})


def test_malformed_nodes_are_refused_in_one_line() -> None:
    weights = random_hybrid(np.random.default_rng(3), (4, 4, 2), (3, 3))
    plane = ConvGeometry(strides=(1, 1), pads=(1,) * 4, dilations=(1, 1))
    model = ir.from_proto(build_model(weights, plane, [1, 4, 8, 8]))
    node = next(iter(model.graph))
    node.attributes["value_bits"] = ir.AttrInt64("value_bits", 3)
    with pytest.raises(SimulationError, match="value_bits is 3"):
        run_network(model, {"x": np.zeros((1, 4, 8, 8), np.uint8)})
