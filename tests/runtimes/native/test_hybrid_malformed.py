"""A malformed hybrid node is an error at session creation, with a reason, never a crash."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from runtimes import ort
from tests.runtimes.native.hybrid_layers import HybridLayer, random_hybrid_layer
from tests.runtimes.native.layers import library
from tests.runtimes.native.test_malformed import Damage, attribute, initializer, poison


def scalar(name: str, value: float) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        [tensor] = [each for each in model.graph.initializer if each.name == name]
        tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))

    return damage


def layer() -> HybridLayer:
    return random_hybrid_layer(0, shape=(6, 4, 3), density=0.5, residual=True)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "position outside": (initializer("positions", np.zeros_like), "values of|lies outside"),
    "too few positions": (initializer("positions", lambda a: a[:1]), "values of"),
    "too few values": (initializer("values", lambda a: a[:-1]), "bytes for"),
    "too many values": (initializer("values", lambda a: np.append(a, a)), "bytes for"),
    "basis of other kernels": (initializer("basis", lambda a: a[:-1]), "does not have the 3"),
    "basis of three axes": (initializer("basis", lambda a: a[..., None]), "one or two axes"),
    "basis of -128": (initializer("basis", poison(-128)), "basis holds -128"),
    "large offset": (attribute("offset", 129), "offset is 129"),
    "large shift": (initializer("shift", poison(23)), "shift is above 22"),
    "shift too short": (initializer("shift", lambda a: a[:-1]), "shift .2. is not"),
    "level 0": (initializer("levels", poison(0)), "level is below 1"),
    "negative level": (initializer("levels", poison(-3)), "level is below 1"),
    "large level": (initializer("levels", lambda a: np.full_like(a, 127)), "out of range"),
    "levels of another shape": (initializer("levels", lambda a: a.T), "levels .* are not"),
    "NaN in scale": (initializer("scale", poison(np.nan)), "scale holds NaN"),
    "scale 0": (initializer("scale", poison(0)), "scale is not positive"),
    "scale too large": (initializer("scale", poison(1e35)), "too large for y_scale"),
    "scale too short": (initializer("scale", lambda a: a[:-1]), "scale .5. is not"),
    "NaN in the bias": (initializer("bias", poison(np.nan)), "bias holds NaN"),
    "bias too short": (initializer("bias", lambda a: a[:-1]), "bias .5. is not"),
    "x_scale 0": (scalar("x_scale", 0), "x_scale is not positive"),
    "y_scale NaN": (scalar("y_scale", np.nan), "y_scale is not positive"),
    "residual scale infinite": (scalar("r_scale", np.inf), "residual_scale is not positive"),
    "width 0": (attribute("position_bits", 0), "position_bits is 0"),
    "symbols of 3 bits": (attribute("value_bits", 3), "value_bits is 3"),
    "block of 2": (attribute("block", 2), "block is 2"),
    "bounds the wrong way": (attribute("lower", 256), "lower and upper"),
    "negative bound": (attribute("lower", -1), "lower and upper"),
    "group does not divide": (attribute("group", 4), "group 4 does not divide"),
    "stride 0": (attribute("strides", [0, 1]), "strides .* out of range"),
    "huge dilation": (attribute("dilations", [1, 2**40]), "dilations .* out of range"),
    "huge shape": (attribute("coefficient_shape", [2**40, 2**40, 3]), "out of range"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_malformed_model_is_refused_with_a_reason(damage: Damage, reason: str) -> None:
    model = layer().model()
    damage(model)
    del model.functions[:]  # or the checks of its body may come first
    with pytest.raises(ort.SessionError, match=f"HybridDecomposedConvAdd: .*({reason})"):
        ort.session(model.SerializeToString(), native=library())


def test_undamaged_model_is_accepted() -> None:
    ort.session(layer().model().SerializeToString(), native=library())


def test_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = library()
    monkeypatch.setenv("OPTC_ISA", "abacus")
    with pytest.raises(ort.SessionError, match="OPTC_ISA"):
        ort.session(layer().model().SerializeToString(), native=path)
