"""A malformed model is an error at session creation, with a reason, never a crash."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from runtimes import ort
from tests.runtimes.native.layers import Layer, library, random_layer

Damage = Callable[[onnx.ModelProto], None]


def layer() -> Layer:
    return random_layer(0, shape=(6, 4, 3), density=0.5)


def attribute(name: str, value: int | list[int]) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return damage


def initializer(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        [tensor] = [each for each in model.graph.initializer if each.name == f"layer.{name}"]
        array = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return damage


def poison(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[array.size // 2] = value
        return array

    return change


def without_strides(model: onnx.ModelProto) -> None:
    node = model.graph.node[0]
    kept = [each for each in node.attribute if each.name != "strides"]
    del node.attribute[:]
    node.attribute.extend(kept)


def computed_basis(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[1] = "computed"
    model.graph.node.insert(0, helper.make_node("Add", ["layer.basis", "offset"], ["computed"]))
    offset = helper.make_tensor_value_info("offset", onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(offset)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "position outside": (initializer("positions", np.zeros_like), "positions for|lies outside"),
    "far position": (
        lambda model: (
            attribute("position_bits", 8)(model),
            initializer("positions", lambda a: np.full(3, 254, np.uint8))(model),
        )[-1],
        "lies outside 72 blocks",
    ),
    "too few positions": (initializer("positions", lambda a: a[:1]), "positions for"),
    "too few values": (initializer("values", lambda a: a[:-1]), "positions for"),
    "values of another block": (
        initializer("values", lambda a: np.zeros((4, 5), np.float32)),
        "blocks do not divide",
    ),
    "NaN in values": (initializer("values", poison(np.nan)), "values holds NaN"),
    "infinity in the basis": (initializer("basis", poison(np.inf)), "basis holds NaN"),
    "NaN in the bias": (initializer("bias", poison(np.nan)), "bias holds NaN"),
    "bias too short": (initializer("bias", lambda a: a[:-1]), "bias .5. is not"),
    "basis of other kernels": (initializer("basis", lambda a: a[:-1]), "does not have the 3"),
    "basis of three axes": (initializer("basis", lambda a: a[..., None]), "one or two axes"),
    "width 0": (attribute("position_bits", 0), "position_bits is 0"),
    "width 17": (attribute("position_bits", 17), "position_bits is 17"),
    "group does not divide": (attribute("group", 4), "group 4 does not divide"),
    "group 0": (attribute("group", 0), "group 0 does not divide"),
    "stride 0": (attribute("strides", [0, 1]), "strides .* out of range"),
    "negative pad": (attribute("pads", [1, 1, -1, 1]), "pads .* out of range"),
    "huge dilation": (attribute("dilations", [1, 2**40]), "dilations .* out of range"),
    "strides of one axis": (attribute("strides", [1]), "2 axes"),
    "shape of two axes": (attribute("coefficient_shape", [6, 12]), "is not .K, C/group, M."),
    "huge shape": (attribute("coefficient_shape", [2**40, 2**40, 3]), "out of range"),
    "empty shape": (attribute("coefficient_shape", [0, 4, 3]), "out of range"),
    "no strides": (without_strides, "strides: .*attribute"),
    "computed basis": (computed_basis, "basis must be a constant"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_malformed_model_is_refused_with_a_reason(damage: Damage, reason: str) -> None:
    model = layer().model()
    damage(model)
    del model.functions[:]  # or the checks of its body may come first
    with pytest.raises(ort.SessionError, match=f"DecomposedConv: .*({reason})"):
        ort.session(model.SerializeToString(), native=library())


def test_undamaged_model_is_accepted() -> None:
    ort.session(layer().model().SerializeToString(), native=library())


def test_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = library()
    monkeypatch.setenv("OPTC_ISA", "abacus")
    with pytest.raises(ort.SessionError, match="OPTC_ISA"):
        ort.session(layer().model().SerializeToString(), native=path)
