import numpy as np
import onnx_ir as ir
import pytest

from tests.helpers import classifier, parse_ir
from toolchain.inputs import InputSpec, batched_names, fixed_batch, input_specs, random_feeds


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> InputSpec:
    return InputSpec(name=name, shape=shape, dtype=np.dtype(dtype))


def test_specs_of_a_model() -> None:
    [given] = input_specs(ir.from_proto(classifier()))
    assert given == spec("input", "N", 3, 8, 8)
    assert given.describe() == "float32 (N, 3, 8, 8)"


def test_inputs_with_a_default_need_not_be_fed() -> None:
    model = parse_ir(
        "g (float[N, 2] x, float[2] w) => (float[N, 2] y) { y = Add (x, w) }",
        {"w": np.ones(2, np.float32)},
    )
    assert [each.name for each in input_specs(model)] == ["x"]


def test_batch_axis() -> None:
    inputs = [spec("a", "N", 2), spec("b", "N"), spec("c", 5), spec("d")]
    assert batched_names(inputs) == {"a", "b"}
    assert fixed_batch(inputs) is None
    assert fixed_batch([spec("a", 4, 2)]) == 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_random_feeds_are_seeded_and_typed(dtype: str) -> None:
    inputs = [spec("x", "N", 3, dtype=dtype)]
    first, again, other = (random_feeds(inputs, seed=s, batch=20)["x"] for s in (1, 1, 2))
    assert first.dtype == dtype
    assert first.shape == (20, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    if dtype not in ("float32", "float16"):
        assert set(np.unique(first)) == {0, 1}


def test_random_sizes_of_symbols() -> None:
    inputs = [spec("image", "N", 3, "H", None), spec("ids", "N", "S", dtype="int64")]
    feeds = random_feeds(inputs, seed=0, batch=2, dims={"H": 5})
    assert feeds["image"].shape == (2, 3, 5, 224)
    assert feeds["ids"].shape == (2, 16)
    assert random_feeds([spec("x", 7, 1)], seed=0, batch=2)["x"].shape == (7, 1)
