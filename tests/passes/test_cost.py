from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cost import layer_costs, layer_table, model_cost, with_sample_shapes
from passes.framework import Cost
from runtimes.operators.decomposed_conv import (
    DecomposedWeights,
    encode_coefficients,
)
from tests.helpers import classifier, parse_ir
from tests.passes.channel_models import Net


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


CASES = {
    "conv with stride and groups": (
        """g (float[N, 4, 9, 9] x) => (float[N, 6, 4, 4] y)
        { [layer] y = Conv <strides = [2, 2], group = 2> (x, w, b) }""",
        {"w": ones(6, 2, 3, 3), "b": ones(6)},
        Cost(parameters=108, macs=6 * 4 * 4 * 2 * 9, nbytes=4 * (108 + 6)),
    ),
    "transposed conv": (
        """g (float[N, 4, 5, 5] x) => (float[N, 6, H, W] y)
        { [layer] y = ConvTranspose <strides = [2, 2], group = 2> (x, w) }""",
        {"w": ones(4, 3, 2, 2)},
        Cost(parameters=48, macs=5 * 5 * 4 * 3 * 4, nbytes=4 * 48),
    ),
    "gemm": (
        """g (float[N, 7] x) => (float[N, 3] y)
        { [layer] y = Gemm <transB = 1> (x, w, b) }""",
        {"w": ones(3, 7), "b": ones(3)},
        Cost(parameters=21, macs=21, nbytes=4 * 24),
    ),
    "gemm with transposed input": (
        """g (float[7, 5] x) => (float[5, 3] y)
        { [layer] y = Gemm <transA = 1> (x, w) }""",
        {"w": ones(7, 3)},
        # The first axis of the first input counts samples: here 7 of them.
        Cost(parameters=21, macs=5 * 3 * 7 // 7, nbytes=4 * 21),
    ),
    "batched matmul": (
        """g (float[N, 6, 7] x) => (float[N, 6, 3] y)
        { [layer] y = MatMul (x, w) }""",
        {"w": ones(7, 3)},
        Cost(parameters=21, macs=6 * 7 * 3, nbytes=4 * 21),
    ),
    "matmul of two activations": (
        """g (float[N, 2, 6, 7] x, float[N, 2, 7, 5] z) => (float[N, 2, 6, 5] y)
        { [layer] y = MatMul (x, z) }""",
        {},
        Cost(parameters=0, macs=2 * 6 * 7 * 5, nbytes=0),
    ),
    "fixed batch": (
        """g (float[8, 3, 4, 4] x) => (float[8, 2, 4, 4] y)
        { [layer] y = Conv (x, w) }""",
        {"w": ones(2, 3, 1, 1)},
        Cost(parameters=6, macs=2 * 16 * 3, nbytes=24),
    ),
    "work that all samples share": (
        """g (float[70, 8] t, float[1, 7] x) => (float[1, 3] y)
        { [layer] y = Gemm (x, w) }""",
        {"w": ones(7, 3)},
        Cost(parameters=21, macs=1, nbytes=4 * 21),
    ),
    "unknown image size": (
        """g (float[N, 3, H, W] x) => (float[N, 2, H, W] y)
        { [layer] y = Conv (x, w) }""",
        {"w": ones(2, 3, 1, 1)},
        Cost(parameters=6, macs=None, nbytes=24),
    ),
    "samples folded into another axis": (
        """g (float[N, 5, 7] x) => (float[M, 3] y)
        { flat = Reshape (x, shape) [layer] y = MatMul (flat, w) }""",
        {"w": ones(7, 3), "shape": np.array([-1, 7])},
        Cost(parameters=21, macs=5 * 21, nbytes=84),
    ),
    "dequantised weight": (
        """g (float[N, 7] x) => (float[N, 3] y)
        { w = DequantizeLinear (q, scale, zero) [layer] y = MatMul (x, w) }""",
        {"q": np.ones((7, 3), np.int8), "scale": np.float32(0.1), "zero": np.int8(0)},
        Cost(parameters=21, macs=21, nbytes=21),
    ),
    "weight in a Constant node": (
        """g (float[N, 2] x) => (float[N, 1] y)
        { w = Constant <value = float[2, 1] {1, 2}> () [layer] y = MatMul (x, w) }""",
        {},
        Cost(parameters=2, macs=2, nbytes=8),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layer_cost_is_that_counted_by_hand(case: str) -> None:
    graph, weights, expected = CASES[case]
    weights = {name: np.asarray(array) for name, array in weights.items()}
    assert layer_costs(parse_ir(graph, weights)) == {"layer": expected}


def test_zeros_are_not_parameters_but_are_stored() -> None:
    weight = np.zeros((7, 3), np.float32)
    weight[2, 1] = 1
    model = parse_ir(
        "g (float[N, 7] x) => (float[N, 3] y) { [m] y = MatMul (x, w) }", {"w": weight}
    )
    assert layer_costs(model)["m"] == Cost(parameters=1, macs=21, nbytes=84)


def test_shared_weight_is_stored_once_and_works_twice() -> None:
    model = parse_ir(
        """g (float[N, 7] x) => (float[N, 7] y)
        { [first] z = MatMul (x, w) [second] y = MatMul (z, w) }""",
        {"w": ones(7, 7)},
    )
    costs = layer_costs(model)
    assert costs["first"] == Cost(parameters=49, macs=49, nbytes=196)
    assert costs["second"] == Cost(parameters=0, macs=49, nbytes=0)
    assert model_cost(model) == Cost(parameters=49, macs=98, nbytes=196)


@pytest.mark.parametrize("group", [1, 2])
def test_decomposed_conv(group: int) -> None:
    rng = np.random.default_rng(0)
    coefficients = rng.standard_normal((6, 4 // group, 3)).astype(np.float32)
    coefficients[rng.random(coefficients.shape) < 0.7] = 0
    weights = DecomposedWeights(basis=ones(3, 3, 3), coefficients=coefficients, bias=ones(6))
    net = Net()
    y = net.decomposed(net.input("N", 4, 8, 8), weights, "layer", group=group)
    model = net.model(y)
    nnz = int(np.count_nonzero(coefficients))
    assert layer_costs(model)["layer"] == Cost(
        parameters=27 + nnz,
        macs=64 * (4 * 3 * 9 + nnz),
        nbytes=4 * 27 + encode_coefficients(coefficients).nbytes + 4 * 6,
    )


def test_model_cost_adds_biases_to_the_layers() -> None:
    model = ir.from_proto(classifier())
    layers = layer_costs(model)
    total = model_cost(model)
    assert list(layers) == ["conv", "fc"]
    assert total.macs == 8 * 8 * 4 * 27 + 40
    assert total.parameters == 4 * 27 + 40 + 10
    assert total.nbytes == sum(cost.nbytes for cost in layers.values())


def test_layers_in_a_subgraph_make_the_work_unknown() -> None:
    model = parse_ir(
        """g (bool[1] c, float[N, 2] x) => (float[N, 2] y) {
            y = If (c) <
                then_branch = a () => (float[N, 2] p) { p = MatMul (x, w) },
                else_branch = b () => (float[N, 2] q) { q = Identity (x) }
            >
        }""",
        {"w": ones(2, 2)},
    )
    assert model_cost(model) == Cost(parameters=4, macs=None, nbytes=16)


def test_unnamed_layer_is_called_by_its_output() -> None:
    model = parse_ir(
        "g (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, w) }", {"w": ones(2, 2)}
    )
    assert list(layer_costs(model)) == ["y"]


def test_model_stays_as_it_is() -> None:
    model = ir.from_proto(classifier())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    layer_table(model)
    model_cost(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_sample_shapes_fix_the_batch() -> None:
    shaped, samples = with_sample_shapes(ir.from_proto(classifier()))
    assert samples == 1
    assert list(shaped.graph.outputs[0].shape or []) == [1, 10]


def test_external_integers_are_read_for_shapes(tmp_path: Path) -> None:
    graph, weights, expected = CASES["samples folded into another axis"]
    model = ir.to_proto(parse_ir(graph, {k: np.asarray(v) for k, v in weights.items()}))
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="d", size_threshold=0
    )
    assert layer_costs(ir.load(tmp_path / "m.onnx")) == {"layer": expected}
