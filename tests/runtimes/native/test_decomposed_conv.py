"""Every instruction set of the native kernel against a float64 convolution."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimes import ort
from runtimes.operators.decomposed_conv import FusedActivation
from tests.runtimes.native.layers import (
    NO_ACTIVATION,
    VARIANTS,
    library,
    random_layer,
    relative_error,
    run_native,
    use_variant,
)

TOLERANCE = 1e-5
ACTIVATIONS = (
    NO_ACTIVATION,
    FusedActivation(name="Relu"),
    FusedActivation(name="Clip", lower=-0.5, upper=1.5),
)
SWEEP: dict[str, dict[str, Any]] = {
    "resnet 32×32": {"shape": (16, 16, 5), "image": (32, 32)},
    "resnet 16×16": {"shape": (16, 16, 5), "image": (16, 16)},
    "resnet 8×8": {"shape": (16, 24, 5)},
    "resnet 4×4": {"shape": (40, 24, 5), "image": (4, 4)},
    "stride 2": {"shape": (16, 8, 5), "image": (32, 32), "stride": 2},
    "stride 2, odd image": {"shape": (8, 8, 4), "image": (7, 9), "stride": 2},
    "7×7 image": {"shape": (8, 8, 4), "image": (7, 7), "batch": 3},
    "one pixel": {"shape": (8, 8, 4), "image": (1, 1), "batch": 5},
    "tiny images of a batch": {"shape": (8, 8, 4), "image": (4, 4), "batch": 7},
    "no padding": {"shape": (8, 8, 4), "image": (10, 11), "pad": 0},
    "wide padding": {"shape": (8, 8, 4), "pad": 3},
    "dilation": {"shape": (8, 8, 4), "image": (12, 12), "pad": 2, "dilation": 2},
    "1×1": {"shape": (8, 8, 1), "kernel": (1, 1), "pad": 0},
    "1×1, stride 2": {"shape": (8, 8, 1), "kernel": (1, 1), "pad": 0, "stride": 2},
    "5×5": {"shape": (8, 8, 9), "kernel": (5, 5), "pad": 2},
    "one axis": {"shape": (8, 8, 2), "kernel": (3,), "image": (50,)},
    "groups": {"shape": (9, 4, 3), "group": 3},
    "depthwise": {"shape": (8, 1, 3), "group": 8, "density": 0.7},
    "one channel": {"shape": (1, 1, 1), "density": 1.0},
    "many basis kernels": {"shape": (8, 8, 13), "density": 0.5},
    "pairs": {"shape": (16, 16, 4), "pair": True},
    "dense": {"shape": (16, 16, 5), "density": 1.0},
    "empty": {"shape": (16, 16, 5), "density": 0.0},
    "no bias": {"shape": (16, 16, 5), "bias": False},
    "several passes": {"shape": (24, 300, 5), "image": (16, 16), "density": 0.5},
    "several passes, groups": {"shape": (24, 150, 5), "group": 2, "density": 0.5, "batch": 5},
    "depthwise, several passes": {"shape": (900, 1, 3), "group": 900, "image": (16, 16)},
    "large image": {"shape": (2, 80, 2), "image": (240, 240)},
    "wide": {"shape": (64, 512, 5), "image": (5, 5), "density": 0.05},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", SWEEP.values(), ids=SWEEP)
def test_equals_the_float64_convolution(
    variant: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_variant(variant, monkeypatch)
    layer = random_layer(0, **options)
    assert relative_error(run_native(layer, threads=2), layer.expected()) <= TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("image", [(8, 8), (5, 5)])
def test_bias_residual_and_activation_are_fused(
    variant: str,
    residual: bool,
    activation: FusedActivation,
    image: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_variant(variant, monkeypatch)
    layer = random_layer(
        1, shape=(12, 10, 4), image=image, residual=residual, activation=activation
    )
    assert relative_error(run_native(layer), layer.expected()) <= TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(1, 7)),
    kernel=st.sampled_from([(3, 3), (1, 1), (2, 3), (5, 5), (3,), (4,)]),
    image=st.tuples(st.integers(9, 20), st.integers(9, 20)),
    batch=st.integers(1, 4),
    density=st.sampled_from([0.03, 0.3, 1.0]),
    pair=st.booleans(),
    stride=st.integers(1, 3),
    pad=st.integers(0, 3),
    dilation=st.integers(1, 2),
    group=st.integers(1, 3),
    bias=st.booleans(),
    residual=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_any_layer_equals_the_float64_convolution(
    variant: str, monkeypatch: pytest.MonkeyPatch, **drawn: Any
) -> None:
    use_variant(variant, monkeypatch)
    drawn["image"] = drawn["image"][: len(drawn["kernel"])]
    drawn["shape"] = (drawn["shape"][0] * drawn["group"], *drawn["shape"][1:])
    layer = random_layer(**drawn)
    y, expected = run_native(layer), layer.expected()
    # Against the size of what was added up: sums that nearly cancel have no relative accuracy.
    scale = np.linalg.norm(layer.feeds["x"]) * np.linalg.norm(layer.weights.dense())
    assert np.linalg.norm(y - expected) <= TOLERANCE * max(np.linalg.norm(expected), scale / 100)


def test_equals_the_function_body() -> None:
    layer = random_layer(2, shape=(24, 16, 5), image=(16, 16), batch=2, residual=True)
    session = ort.session(layer.model().SerializeToString())
    [body] = ort.run(session, layer.feeds)
    assert relative_error(run_native(layer), body.astype(np.float64)) <= TOLERANCE


def test_the_native_kernel_runs_instead_of_the_body(tmp_path: Any) -> None:
    layer = random_layer(2, shape=(4, 4, 2))
    session = ort.session(
        layer.model().SerializeToString(), native=library(), profile_prefix=tmp_path / "p"
    )
    ort.run(session, layer.feeds)
    with open(session.end_profiling(), encoding="utf-8") as file:
        profile = file.read()
    assert '"op_name" : "DecomposedConv"' in profile
    assert '"op_name" : "Conv"' not in profile


def test_batch_and_image_size_may_change_between_runs() -> None:
    layer = random_layer(3, shape=(8, 6, 3))
    session = ort.session(layer.model().SerializeToString(), native=library())
    for batch, image in [(1, (8, 8)), (3, (5, 9)), (2, (16, 3)), (0, (8, 8)), (1, (8, 8))]:
        other = random_layer(3, shape=(8, 6, 3), batch=batch, image=image)
        [y] = ort.run(session, other.feeds)
        assert relative_error(y, other.expected()) <= TOLERANCE


def test_nan_and_infinity_of_the_input_reach_the_output() -> None:
    layer = random_layer(4, shape=(4, 4, 2), density=1.0, activation=ACTIVATIONS[1])
    layer.feeds["x"][0, 0, 4, 4] = np.nan
    y = run_native(layer)
    assert np.isnan(y[0, :, 3:6, 3:6]).all()
    assert np.isfinite(y[0, :, 6:, :]).all()


@pytest.mark.parametrize("shape", [(1, 7, 8, 8), (1, 6, 1, 1)])
def test_input_that_does_not_fit_is_an_error(shape: tuple[int, ...]) -> None:
    layer = random_layer(5, shape=(4, 6, 2), pad=0)
    session = ort.session(layer.model().SerializeToString(), native=library())
    with pytest.raises(ort.SessionError, match="DecomposedConv: "):
        ort.run(session, {"x": np.zeros(shape, np.float32)})


def test_residual_of_another_shape_is_an_error() -> None:
    layer = random_layer(5, shape=(4, 6, 2), residual=True)
    session = ort.session(layer.model().SerializeToString(), native=library())
    with pytest.raises(ort.SessionError, match="residual does not have the shape"):
        ort.run(session, {**layer.feeds, "r": np.zeros((1, 4, 8, 1), np.float32)})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", SWEEP.values(), ids=SWEEP)
def test_the_x87_unit_is_left_as_it_was(
    variant: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_variant(variant, monkeypatch)
    run_native(random_layer(6, **options))
    assert np.longdouble(1) + np.longdouble(2) == 3  # NaN after a use of the MMX registers
