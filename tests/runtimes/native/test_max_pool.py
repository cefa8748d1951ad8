"""The native kernel of QuantizedMaxPool, byte for byte onnxruntime's MaxPool of floats."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from runtimes import ort
from runtimes.operators.max_pool import PoolGeometry
from tests.runtimes.native.layers import library
from tests.runtimes.native.pools import (
    UInt8,
    draw_bytes,
    expected,
    pool_model,
    poolings,
    square,
)
from tests.runtimes.native.test_malformed import Damage, attribute


def run_native(geometry: PoolGeometry, x: UInt8, threads: int = 1) -> UInt8:
    model = pool_model(geometry, (None,) * x.ndim)
    del model.functions[:]
    session = ort.session(model.SerializeToString(), threads=threads, native=library())
    [y] = ort.run(session, {"x": x})
    return y


@settings(max_examples=150, deadline=None)
@given(poolings())
def test_any_geometry(case: tuple[PoolGeometry, tuple[int, ...]]) -> None:
    geometry, shape = case
    x = draw_bytes(shape)
    np.testing.assert_array_equal(run_native(geometry, x), expected(geometry, x))


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 16, 31, 32, 33, 64, 75])
@pytest.mark.parametrize(
    "geometry",
    [square(2, 2), square(2, 2, 1), square(2, 2, ceil_mode=True), square(3, 2, 1), square(3, 1, 1)],
    ids=["2/2", "2/2 padded", "2/2 ceil", "3/2", "3/1"],
)
def test_usual_geometries(geometry: PoolGeometry, size: int) -> None:
    for shape in ((1, 5, size, size), (3, 2, size, size + 1), (2, 1, size + 1, size)):
        x = draw_bytes(shape)
        np.testing.assert_array_equal(run_native(geometry, x), expected(geometry, x))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 64, 80, 81), (40, 16, 32, 32), (1, 3, 400, 300)])
@pytest.mark.parametrize("geometry", [square(2, 2), square(3, 2, 1)], ids=["2/2", "3/2"])
def test_large_tensors_are_shared_out(
    geometry: PoolGeometry, shape: tuple[int, ...], threads: int
) -> None:
    x = draw_bytes(shape)
    np.testing.assert_array_equal(run_native(geometry, x, threads), expected(geometry, x))


def test_a_session_may_run_on_several_threads_at_once() -> None:
    geometry = square(3, 2, 1)
    model = pool_model(geometry, (None,) * 4)
    session = ort.session(model.SerializeToString(), native=library())
    inputs = [draw_bytes((1, 8, 9 + seed, 20), seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: ort.run(session, {"x": x})[0], inputs * 5))
    for x, y in zip(inputs * 5, results, strict=True):
        np.testing.assert_array_equal(y, expected(geometry, x))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_nothing_gives_nothing(shape: tuple[int, ...]) -> None:
    y = run_native(square(2, 2), np.zeros(shape, np.uint8))
    assert y.shape == (*shape[:2], 4, 4)


def test_a_window_of_padding_gives_zero() -> None:
    """Its two taps lie before and behind the image."""
    geometry = PoolGeometry(kernel_shape=(2,), strides=(1,), pads=(1, 1), dilations=(3,))
    x = np.full((1, 1, 2), 9, np.uint8)
    np.testing.assert_array_equal(run_native(geometry, x), [[[0]]])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "three axes": (attribute("kernel_shape", [2, 2, 2]), "kernel_shape .* one or two axes"),
    "five axes": (attribute("kernel_shape", [2] * 5), "kernel_shape .* one or two axes"),
    "kernel 0": (attribute("kernel_shape", [2, 0]), "kernel_shape .* out of range"),
    "stride 0": (attribute("strides", [0, 1]), "strides .* out of range"),
    "strides of one axis": (attribute("strides", [1]), "kernel's 2 axes"),
    "negative pad": (attribute("pads", [0, 0, -1, 0]), "pads .* out of range"),
    "wide pad": (attribute("pads", [0, 0, 3, 0]), "pads .* not below kernel_shape"),
    "pads of one axis": (attribute("pads", [0, 0]), "kernel's 2 axes"),
    "huge dilation": (attribute("dilations", [1, 2**40]), "dilations .* out of range"),
    "ceil_mode 2": (attribute("ceil_mode", 2), "ceil_mode is 2"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_malformed_node_is_refused_with_a_reason(damage: Damage, reason: str) -> None:
    model = pool_model(square(3, 2, 1), (None,) * 4)
    damage(model)
    del model.functions[:]
    with pytest.raises(ort.SessionError, match=f"QuantizedMaxPool: .*({reason})"):
        ort.session(model.SerializeToString(), native=library())


def without(name: str) -> Damage:
    def damage(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)

    return damage


@pytest.mark.parametrize("name", ["kernel_shape", "strides", "pads", "dilations", "ceil_mode"])
def test_a_missing_attribute_is_named(name: str) -> None:
    model = pool_model(square(3, 2, 1), (None,) * 4)
    without(name)(model)
    del model.functions[:]
    with pytest.raises(ort.SessionError, match=f"QuantizedMaxPool: {name}: .*attribute"):
        ort.session(model.SerializeToString(), native=library())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 2, 8), "X has 3 axes"),
        ((1, 2, 0, 8), "image is empty"),
        ((1, 2, 1, 8), "kernel is larger"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(shape: tuple[int, ...], reason: str) -> None:
    model = pool_model(square(4, 2), (None,) * len(shape))
    del model.functions[:]
    session = ort.session(model.SerializeToString(), native=library())
    with pytest.raises(ort.SessionError, match=reason):
        ort.run(session, {"x": np.zeros(shape, np.uint8)})
