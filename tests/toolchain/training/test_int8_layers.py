"""Constants of int8 layers as modules, against what onnxruntime makes of them."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from runtimes import ort
from toolchain.training.int8_layers import int8_constant

SCALES = np.array([0.5, 0.01, 2.0], np.float32)


def dequantized(codes, zero=None, scales=SCALES):
    """A model of one DequantizeLinear, with a scale for each row or one for all."""
    names, arrays = ["codes", "scale"], [codes, scales]
    if zero is not None:
        names, arrays = [*names, "zero"], [*arrays, np.full(scales.shape, zero, codes.dtype)]
    axis = {"axis": 0} if scales.size > 1 else {}
    node = helper.make_node("DequantizeLinear", names, ["y"], **axis)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, codes.shape)
    pairs = zip(names, arrays, strict=True)
    constants = [numpy_helper.from_array(array, name) for name, array in pairs]
    graph = helper.make_graph([node], "g", [], [output], constants)
    opset = helper.make_opsetid("", 21)
    return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=10))


def module_of(model):
    return int8_constant(model.graph[0])


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("zero", [None, 0])
@pytest.mark.parametrize("scales", [SCALES, SCALES[1]])
def test_before_training_it_is_what_onnxruntime_computes(dtype, zero, scales) -> None:
    shape = (3, 2, 2) if dtype == np.int8 else (3,)
    codes = np.random.default_rng(0).integers(-127, 128, shape).astype(dtype)
    model = dequantized(codes, zero, np.asarray(scales))
    constant = module_of(model)
    [expected] = ort.run(ort.session_of(model), {})
    np.testing.assert_allclose(constant().detach().numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(constant.codes(), codes)
    assert constant.codes().dtype == dtype


def test_a_bias_keeps_all_its_digits_and_its_range() -> None:
    codes = np.array([2**24 + 1, -5, 2**31 - 1], np.int32)
    constant = module_of(dequantized(codes))
    np.testing.assert_array_equal(constant.codes(), codes)
    with torch.no_grad():
        constant.value.fill_(1.0)
    np.testing.assert_array_equal(constant.codes()[1:], [int(constant.unit) - 5, 2**31 - 1])


def test_a_weight_moves_with_the_gradient_through_the_rounding() -> None:
    constant = module_of(dequantized(np.array([[3], [-127], [50]], np.int8)))
    constant().sum().backward()
    expected = constant.unit * torch.from_numpy(SCALES)
    torch.testing.assert_close(constant.value.grad[:, 0], expected)
    with torch.no_grad():
        constant.value.add_(70 / constant.unit)
    np.testing.assert_array_equal(constant.codes()[:, 0], [73, -57, 120])
    with torch.no_grad():
        constant.value.add_(70 / constant.unit)
    constant.bound()
    np.testing.assert_array_equal(constant.codes()[:, 0], [127, 13, 127])
    torch.testing.assert_close(constant.value[0, 0] * constant.unit, torch.tensor(127.0))


def test_other_constants_are_left_as_they_are() -> None:
    codes = np.array([[3], [1], [50]], np.int8)
    assert module_of(dequantized(codes, zero=4)) is None
    assert module_of(dequantized(codes.astype(np.uint8))) is None
