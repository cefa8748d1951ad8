"""Models that every pass must treat correctly, by what is special about them."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]


class Builder:
    """Adds nodes and seeded weights to a graph."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def array(self, name: str, *shape: int, dtype: type = np.float32) -> str:
        values = self._rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        self.weights.append(numpy_helper.from_array(values.astype(dtype), name))
        return name

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        node_name = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], node_name, **attributes))
        return output

    def conv(self, x: str, C: int, K: int, size: tuple[int, ...] = (3, 3), **kw: object) -> str:
        name = f"conv{len(self.nodes)}"
        group = int(str(kw.get("group", 1)))
        weight = self.array(f"{name}.w", K, C // group, *size)
        return self.op("Conv", x, weight, self.array(f"{name}.b", K), name=name, **kw)

    def model(
        self,
        *outputs: str,
        shape: tuple[int | str, ...] = ("N", 3, 9, 7),
        opset: int = 17,
        ir_version: int = 8,
        dtype: int = TensorProto.FLOAT,
        fed: tuple[str, ...] = (),
    ) -> onnx.ModelProto:
        """`fed` names weights that are graph inputs as well."""
        inputs = [helper.make_tensor_value_info("x", dtype, shape)]
        inputs += [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in self.weights
            if tensor.name in fed
        ]
        made = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", inputs, made, self.weights)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        return onnx.shape_inference.infer_shapes(model)


def chain(**options: object) -> onnx.ModelProto:
    """Two convolutions, odd sizes, strides, asymmetric pads."""
    net = Builder()
    x = net.op("Relu", net.conv("x", 3, 12, strides=[2, 1], pads=[1, 0, 0, 1]))
    x = net.op("Relu", net.conv(x, 12, 10, pads=[1, 1, 1, 1]))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("Gemm", x, net.array("fc.w", 10, 5), net.array("fc.b", 5))
    return net.model(x, **options)  # type: ignore[arg-type]


def residual() -> onnx.ModelProto:
    net = Builder(1)
    stem = net.op("Relu", net.conv("x", 3, 10, pads=[1] * 4))
    x = net.op("Relu", net.conv(stem, 10, 10, pads=[1] * 4))
    x = net.op("Relu", net.op("Add", net.conv(x, 10, 10, pads=[1] * 4), stem))
    return net.model(net.op("GlobalAveragePool", x))


def shared_weight() -> onnx.ModelProto:
    net = Builder(2)
    stem = net.conv("x", 3, 8, pads=[1] * 4)
    weight, bias = net.array("w", 8, 8, 3, 3), net.array("b", 8)
    one = net.op("Conv", stem, weight, bias, pads=[1] * 4)
    two = net.op("Conv", net.op("Relu", one), weight, bias, pads=[1] * 4)
    return net.model(net.op("Add", one, two))


def shared_weight_of_other_uses() -> onnx.ModelProto:
    """A convolution's weight that is used as a value elsewhere."""
    net = Builder(3)
    x = net.op("Conv", "x", net.array("w", 6, 3, 3, 3))
    return net.model(net.op("Add", x, net.op("ReduceMean", "w", keepdims=0)))


def groups() -> onnx.ModelProto:
    net = Builder(4)
    x = net.op("Relu", net.conv("x", 3, 8))
    x = net.conv(x, 8, 8, group=2)
    x = net.conv(net.op("Relu", x), 8, 16, group=8)
    return net.model(net.conv(net.op("Relu", x), 16, 4, (1, 1)))


def dilation() -> onnx.ModelProto:
    net = Builder(5)
    x = net.conv("x", 3, 8, dilations=[2, 1], pads=[2, 1, 2, 1])
    return net.model(net.conv(net.op("Relu", x), 8, 6, (1, 3), dilations=[1, 2]))


def one_dimensional() -> onnx.ModelProto:
    net = Builder(6)
    x = net.op("Relu", net.conv("x", 3, 8, (5,), strides=[2], pads=[2, 1]))
    return net.model(net.conv(x, 8, 8, (3,)), shape=("N", 3, 21))


def same_padding() -> onnx.ModelProto:
    net = Builder(7)
    x = net.conv("x", 3, 8, auto_pad="SAME_UPPER", strides=[2, 2])
    return net.model(net.conv(x, 8, 8, auto_pad="SAME_LOWER", strides=[2, 2]))


def same_padding_of_unknown_size() -> onnx.ModelProto:
    net = Builder(8)
    return net.model(net.conv("x", 3, 8, auto_pad="SAME_UPPER"), shape=("N", 3, "H", "W"))


def fixed_batch() -> onnx.ModelProto:
    return chain(shape=(2, 3, 9, 7))


def dynamic_size() -> onnx.ModelProto:
    return chain(shape=("N", 3, "H", "W"))


def graph_input_weight() -> onnx.ModelProto:
    """The first convolution's weight may be fed at run time."""
    return chain(fed=("conv0.w",))


def no_bias_no_names() -> onnx.ModelProto:
    net = Builder(9)
    x = net.op("Conv", "x", net.array("w1", 8, 3, 3, 3))
    x = net.op("Conv", net.op("Relu", x), net.array("w2", 8, 8, 3, 3))
    for node in net.nodes:
        node.name = ""
    return net.model(x)


def batch_normalization() -> onnx.ModelProto:
    net = Builder(10)
    x = net.conv("x", 3, 8)
    statistics = [net.array(f"bn.{key}", 8) for key in ("scale", "shift", "mean")]
    net.weights.append(numpy_helper.from_array(np.full(8, 2, np.float32), "bn.var"))
    x = net.op("BatchNormalization", x, *statistics, "bn.var")
    return net.model(net.conv(net.op("Relu", x), 8, 4))


def half_precision() -> onnx.ModelProto:
    net = Builder(11)
    weight = net.array("w", 8, 3, 3, 3, dtype=np.float16)
    x = net.op("Conv", "x", weight, name="conv")
    return net.model(x, dtype=TensorProto.FLOAT16)


def weight_made_at_run_time() -> onnx.ModelProto:
    net = Builder(12)
    kernel = net.op("Mul", net.array("w", 8, 3, 3, 3), net.op("ReduceMean", "x", keepdims=0))
    return net.model(net.op("Conv", "x", kernel))


def two_outputs_of_one_layer() -> onnx.ModelProto:
    """A convolution's result is a graph output and used on."""
    net = Builder(13)
    x = net.conv("x", 3, 8)
    return net.model(net.op("Relu", net.conv(net.op("Relu", x), 8, 6)), x)


def zero_weights() -> onnx.ModelProto:
    """A layer that is zero, and one with zero channels."""
    model = chain()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "conv2.w":
            array[:] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        elif tensor.name in ("conv0.w", "conv0.b"):
            array[:4] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def no_layers() -> onnx.ModelProto:
    net = Builder()
    return net.model(net.op("Relu", "x"))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    each.__name__: each
    for each in (
        chain,
        residual,
        shared_weight,
        shared_weight_of_other_uses,
        groups,
        dilation,
        one_dimensional,
        same_padding,
        same_padding_of_unknown_size,
        fixed_batch,
        dynamic_size,
        graph_input_weight,
        no_bias_no_names,
        batch_normalization,
        half_precision,
        weight_made_at_run_time,
        two_outputs_of_one_layer,
        zero_weights,
        no_layers,
    )
}
MODELS |= {f"opset_{n}": (lambda n=n: chain(opset=n)) for n in (11, 13, 15, 18, 21, 23)}
