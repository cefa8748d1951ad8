"""Every instruction set and form of the hybrid kernel, bit for bit the integer reference."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimes import native_build, ort
from tests.runtimes.native.hybrid_layers import (
    FORMS,
    VARIANTS,
    HybridLayer,
    random_hybrid_layer,
    run_hybrid,
)
from tests.runtimes.native.layers import library

POINT: dict[str, Any] = {"kernel": (1, 1), "pad": 0}
SWEEP: dict[str, dict[str, Any]] = {
    "resnet 32×32": {"shape": (16, 16, 4), "image": (32, 32), "pair": True},
    "resnet 16×16": {"shape": (16, 16, 4), "image": (16, 16), "residual": True},
    "resnet 8×8": {"shape": (16, 24, 4), "residual": True},
    "resnet 4×4": {"shape": (40, 24, 4), "image": (4, 4), "residual": True},
    "2×2 image": {"shape": (40, 24, 4), "image": (2, 2), "residual": True},
    "five basis kernels": {"shape": (8, 8, 5), "image": (16, 16)},
    "eight basis kernels": {"shape": (8, 8, 8)},
    "thirteen basis kernels": {"shape": (8, 8, 13)},
    "one basis kernel": {"shape": (8, 8, 1), "density": 1.0},
    "stride 2": {"shape": (16, 8, 4), "image": (32, 32), "stride": 2},
    "stride 2, 8×8": {"shape": (16, 8, 4), "stride": 2, "residual": True},
    "stride 2, odd image": {"shape": (8, 8, 4), "image": (7, 9), "stride": 2},
    "stride 2, wide image": {"shape": (4, 3, 4), "image": (5, 75), "stride": 2},
    "stride 5": {"shape": (4, 3, 4), "image": (9, 100), "stride": 5},
    "unequal strides": {"shape": (4, 3, 4), "image": (9, 20), "stride": (3, 1)},
    "7×7 image": {"shape": (8, 8, 4), "image": (7, 7), "batch": 3, "residual": True},
    "7×7 images of a batch": {"shape": (8, 8, 4), "image": (7, 7), "batch": 5},
    "one pixel": {"shape": (8, 8, 4), "image": (1, 1), "batch": 6, "residual": True},
    "4×4 images of a batch": {"shape": (8, 8, 4), "image": (4, 4), "batch": 7},
    "two vectors": {"shape": (8, 8, 4), "image": (4, 8), "residual": True},
    "three vectors": {"shape": (8, 8, 4), "image": (6, 8), "residual": True},
    "width 1": {"shape": (8, 8, 4), "image": (70, 1)},
    "width 512": {"shape": (8, 4, 4), "image": (3, 512)},
    "width 37": {"shape": (8, 4, 4), "image": (11, 37)},
    "no padding": {"shape": (8, 8, 4), "image": (10, 11), "pad": 0},
    "wide padding": {"shape": (8, 8, 4), "pad": 3},
    "dilation": {"shape": (8, 8, 4), "image": (12, 12), "pad": 2, "dilation": 2},
    "wide dilation": {"shape": (4, 4, 4), "image": (50, 50), "pad": 9, "dilation": 20},
    "1×1": {"shape": (8, 8, 1), "kernel": (1, 1), "pad": 0},
    "1×1, unit": {"shape": (8, 8, 1), "unit": True, **POINT},
    "1×1, unit, dense": {"shape": (24, 16, 1), "unit": True, "density": 1.0, **POINT},
    "1×1, unit, odd channels": {"shape": (8, 7, 1), "unit": True, "image": (7, 7), **POINT},
    "1×1, unit, padded": {"shape": (8, 8, 1), "unit": True, "kernel": (1, 1), "pad": 2},
    "1×1, unit, stride 2": {"shape": (8, 8, 1), "unit": True, "stride": 2, "x_zero": 0, **POINT},
    "1×1, unit, 3 pixels": {"shape": (8, 6, 1), "unit": True, "image": (1, 3), **POINT},
    "1×1, unit, a batch": {"shape": (8, 8, 1), "unit": True, "image": (3, 3), "batch": 5, **POINT},
    "1×1, unit, groups": {"shape": (12, 6, 1), "unit": True, "group": 2, **POINT},
    "3×3, unit": {"shape": (8, 3, 9), "unit": True, "density": 1.0, "x_zero": 0},
    "offset": {"shape": (16, 16, 4), "offset": 90, "shifts": (3, 8)},
    "negative offset": {"shape": (16, 16, 4), "offset": -128, "shifts": (3, 8)},
    "1×1, stride 2": {"shape": (8, 8, 4), "kernel": (1, 1), "pad": 0, "stride": 2},
    "5×5": {"shape": (8, 8, 9), "kernel": (5, 5), "pad": 2},
    "one axis": {"shape": (8, 8, 2), "kernel": (3,), "image": (50,)},
    "one axis of nine taps": {"shape": (8, 8, 2), "kernel": (9,), "image": (50,)},
    "groups": {"shape": (12, 4, 3), "group": 3},
    "groups of three": {"shape": (9, 4, 3), "group": 3},
    "depthwise": {"shape": (8, 1, 3), "group": 8, "density": 0.7},
    "dense": {"shape": (16, 16, 4), "density": 1.0},
    "empty": {"shape": (16, 16, 4), "density": 0.0},
    "wide": {"shape": (64, 512, 4), "image": (5, 5), "density": 0.05},
    "bounds": {"shape": (16, 16, 4), "bounds": (7, 131), "residual": True},
    "saturated": {"shape": (16, 16, 4), "shifts": (0, 3)},
    "large zero point": {"shape": (16, 16, 4), "x_zero": 255},
}


def use(variant: str, form: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions from here on use an instruction set and a form; skips where it cannot run."""
    path = library()
    monkeypatch.setenv("OPTC_ISA", variant)
    if native_build.hybrid_instruction_set(path) != variant:
        pytest.skip(f"this processor has no {variant}")
    if form is not None:
        monkeypatch.setenv("OPTC_HYBRID_FORM", form)


def assert_equals_the_reference(layer: HybridLayer, threads: int = 1) -> None:
    np.testing.assert_array_equal(run_hybrid(layer, threads=threads), layer.expected())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", SWEEP.values(), ids=SWEEP)
def test_equals_the_reference(
    variant: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in FORMS:
        use(variant, form, monkeypatch)
        assert_equals_the_reference(random_hybrid_layer(0, **options), threads=2)


def test_the_sweep_tells_rounding_and_saturation_apart() -> None:
    layer = random_hybrid_layer(0, **SWEEP["resnet 16×16"])
    values, counts = np.unique(layer.expected(), return_counts=True)
    assert len(values) > 200  # most outputs lie inside the range
    fused = layer.expected().copy()
    wrong = replace(layer, weights=replace(layer.weights, bias=layer.weights.bias + 0.02))
    assert (fused != wrong.expected()).any()
    assert counts.max() < fused.size / 2


@pytest.mark.parametrize("variant", VARIANTS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([(3, 3), (1, 1), (2, 3), (5, 5), (3,), (4,)]),
    image=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    batch=st.integers(1, 3),
    density=st.sampled_from([0.03, 0.3, 1.0]),
    bits=st.sampled_from([1, 1, 4, 8]),
    pair=st.booleans(),
    one_level=st.booleans(),
    shifts=st.sampled_from([(6, 11), (0, 22)]),
    stride=st.integers(1, 3),
    pad=st.integers(0, 3),
    dilation=st.integers(1, 2),
    group=st.integers(1, 3),
    residual=st.booleans(),
    x_zero=st.integers(0, 255),
    bounds=st.sampled_from([(0, 255), (7, 255), (9, 140), (50, 50)]),
    offset=st.sampled_from([0, 0, -128, 77, 128]),
    unit=st.booleans(),
    form=st.sampled_from([None, *FORMS]),
)
def test_any_layer_equals_the_reference(
    variant: str, monkeypatch: pytest.MonkeyPatch, form: str | None, **drawn: Any
) -> None:
    use(variant, form, monkeypatch)
    drawn["image"] = drawn["image"][: len(drawn["kernel"])]
    K, C, M = drawn["shape"]
    M = int(np.prod(drawn["kernel"])) if drawn["unit"] else M
    drawn["shape"] = (K * drawn["group"], C, M)
    assert_equals_the_reference(random_hybrid_layer(**drawn))


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("bits", [1, 8])
def test_small_images_may_run_in_another_form(density: float, bits: int) -> None:
    layer = random_hybrid_layer(0, shape=(32, 48, 4), density=density, bits=bits)
    session = ort.session(layer.model().SerializeToString(), native=library(), threads=2)
    for batch, image in [(1, (4, 4)), (1, (16, 16)), (3, (4, 4)), (1, (2, 2)), (1, (6, 5))]:
        other = random_hybrid_layer(
            0, shape=(32, 48, 4), density=density, bits=bits, batch=batch, image=image
        )
        [y] = ort.run(session, other.feeds)
        np.testing.assert_array_equal(y, other.expected())


@pytest.mark.parametrize("form", FORMS)
def test_long_sums_do_not_overflow(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of -128 and 127 throughout, more of them than 16 bits can add."""
    monkeypatch.setenv("OPTC_HYBRID_FORM", form)
    for sign in (-1, 1):
        layer = random_hybrid_layer(
            0, shape=(4, 700, 1), bits=1, density=1.0, shifts=(0, 0), one_level=True, x_zero=0
        )
        layer.weights.basis[:] = 127 * sign
        layer.weights.symbols[:] = 1
        layer.weights.scale[:] /= 2000
        layer.feeds["x"][:] = 255
        assert_equals_the_reference(layer)


def test_equals_the_function_body() -> None:
    layer = random_hybrid_layer(2, shape=(24, 16, 5), image=(16, 16), batch=2, residual=True)
    [body] = ort.run(ort.session(layer.model().SerializeToString()), layer.feeds)
    np.testing.assert_array_equal(run_hybrid(layer), body)


def test_the_native_kernel_runs_instead_of_the_body(tmp_path: Any) -> None:
    layer = random_hybrid_layer(2, shape=(4, 4, 2), residual=True)
    session = ort.session(
        layer.model().SerializeToString(), native=library(), profile_prefix=tmp_path / "p"
    )
    ort.run(session, layer.feeds)
    with open(session.end_profiling(), encoding="utf-8") as file:
        profile = file.read()
    assert '"op_name" : "HybridDecomposedConvAdd"' in profile
    assert '"op_name" : "MatMul"' not in profile


def test_batch_and_image_size_may_change_between_runs() -> None:
    layer = random_hybrid_layer(3, shape=(8, 6, 3))
    session = ort.session(layer.model().SerializeToString(), native=library(), threads=2)
    for batch, image in [(1, (8, 8)), (3, (5, 9)), (2, (16, 3)), (5, (4, 4)), (1, (8, 8))]:
        other = random_hybrid_layer(3, shape=(8, 6, 3), batch=batch, image=image)
        [y] = ort.run(session, other.feeds)
        np.testing.assert_array_equal(y, other.expected())
    [y] = ort.run(session, {"x": np.zeros((0, 6, 8, 8), np.uint8)})
    assert y.shape == (0, 8, 8, 8)


def test_one_session_from_four_threads() -> None:
    """Threads keep responses of the call they are at, and only of that."""
    layer = random_hybrid_layer(4, shape=(64, 32, 4))
    session = ort.session(layer.model().SerializeToString(), native=library(), threads=2)

    def agrees(seed: int, image: tuple[int, int]) -> bool:
        x = np.random.default_rng(seed).integers(0, 256, (1, 32, *image)).astype(np.uint8)
        fed = replace(layer, feeds={"x": x})
        expected = fed.expected()
        return all(np.array_equal(ort.run(session, fed.feeds)[0], expected) for _ in range(25))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, range(4), [(8, 8), (8, 8), (4, 4), (16, 16)]))


@pytest.mark.parametrize("shape", [(1, 7, 8, 8), (1, 6, 1, 1)])
def test_input_that_does_not_fit_is_an_error(shape: tuple[int, ...]) -> None:
    layer = random_hybrid_layer(5, shape=(4, 6, 2), pad=0)
    session = ort.session(layer.model().SerializeToString(), native=library())
    with pytest.raises(ort.SessionError, match="HybridDecomposedConv: "):
        ort.run(session, {"x": np.zeros(shape, np.uint8)})


def test_residual_of_another_shape_is_an_error() -> None:
    layer = random_hybrid_layer(5, shape=(4, 6, 2), residual=True)
    session = ort.session(layer.model().SerializeToString(), native=library())
    with pytest.raises(ort.SessionError, match="residual does not have the shape"):
        ort.run(session, {**layer.feeds, "r": np.zeros((1, 4, 8, 1), np.uint8)})
