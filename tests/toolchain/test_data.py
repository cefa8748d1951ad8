import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import images
from toolchain.data import Data, _join, open_data, random_data
from toolchain.errors import UnreadableError, UsageError
from toolchain.inputs import InputSpec


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> InputSpec:
    return InputSpec(name=name, shape=shape, dtype=np.dtype(dtype))


IMAGE = [spec("input", "N", 3, 8, 8)]


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def sizes(data: Data, *arguments: Any, **options: Any) -> list[int]:
    return [batch.samples for batch in data.batches(*arguments, **options)]


def test_file(tmp_path: Path) -> None:
    array, labels = images(10), np.arange(10)
    path = saved(tmp_path / "d.npz", input=array, labels=labels)
    data = open_data(path, IMAGE)
    assert (data.samples, data.labelled, data.notes) == (10, True, ())
    assert data.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    batches = list(data.batches(4))
    assert [batch.samples for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([b.feeds["input"] for b in batches]), array)
    np.testing.assert_array_equal(
        np.concatenate([b.labels for b in batches if b.labels is not None]), labels
    )


@pytest.mark.parametrize(("size", "limit", "expected"), [(4, 6, [4, 2]), (None, None, [10])])
def test_batch_sizes_and_limit(
    tmp_path: Path, size: int | None, limit: int | None, expected: list[int]
) -> None:
    data = open_data(saved(tmp_path / "d.npz", input=images(10)), IMAGE)
    assert sizes(data.limited(limit), size) == expected
    assert data.limited(limit).batch_count(size) == len(expected)


def test_folder_is_read_in_order_of_names_and_joined(tmp_path: Path) -> None:
    array = images(9)
    saved(tmp_path / "b.npz", input=array[5:])
    saved(tmp_path / "a.npz", input=array[:5])
    data = open_data(str(tmp_path), IMAGE)
    assert sizes(data, 4) == [4, 4, 1]
    joined = np.concatenate([batch.feeds["input"] for batch in data.batches(4)])
    np.testing.assert_array_equal(joined, array)


def test_batches_do_not_mix_lengths(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", x=np.ones((3, 5), np.float32))
    saved(tmp_path / "b.npz", x=np.ones((3, 7), np.float32))
    data = open_data(str(tmp_path), [spec("x", "N", "S")])
    assert [batch.feeds["x"].shape for batch in data.batches(2)] == [(2, 5), (1, 5), (2, 7), (1, 7)]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 5))
def test_joining_keeps_every_sample_in_order(lengths: Sequence[int], size: int) -> None:
    everything = np.arange(sum(lengths))
    parts = np.split(everything, np.cumsum(lengths)[:-1])
    joined = list(_join(iter([{"x": part} for part in parts]), {"x"}, size))
    np.testing.assert_array_equal(np.concatenate([part["x"] for part in joined]), everything)
    assert all(len(part["x"]) % size == 0 for part in joined[:-1])


def test_fixed_batch_leaves_out_the_remainder(tmp_path: Path) -> None:
    data = open_data(saved(tmp_path / "d.npz", input=images(10)), [spec("input", 4, 3, 8, 8)])
    assert data.samples == 8
    assert sizes(data, 32) == [4, 4]
    assert data.notes == ("the model is fixed to batches of 4: 2 samples left out",)


def test_a_limit_below_a_fixed_batch_is_refused() -> None:
    data = random_data([spec("input", 4, 3, 8, 8)], samples=8, seed=0)
    with pytest.raises(UsageError, match="--samples 3 is below the model's batch of 4"):
        data.limited(3)
    assert sizes(data.limited(4)) == sizes(data.limited(7)) == [4]


def test_input_without_samples_is_given_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "d.npz", input=images(3), rate=np.array(5, np.int64))
    data = open_data(path, [*IMAGE, spec("rate", dtype="int64")])
    assert [batch.feeds["rate"].item() for batch in data.batches(2)] == [5, 5]


def test_extra_arrays_are_noted(tmp_path: Path) -> None:
    data = open_data(saved(tmp_path / "d.npz", input=images(1), other=[1]), IMAGE)
    assert data.notes == ("not an input of the model, ignored: 'other'",)


@pytest.mark.parametrize(
    ("given", "wanted"), [("float64", "float32"), ("int32", "int64"), ("uint8", "int32")]
)
def test_types_that_change_no_value_are_converted(tmp_path: Path, given: str, wanted: str) -> None:
    path = saved(tmp_path / "d.npz", x=np.arange(6, dtype=given).reshape(3, 2))
    [batch] = open_data(path, [spec("x", "N", 2, dtype=wanted)]).batches()
    assert batch.feeds["x"].dtype == wanted


BAD = {
    "name": ({"inputs": images(2)}, "no array named 'input' .has: 'inputs'.; rename 'inputs'"),
    "no similar name": ({"zzz": images(2)}, "name arrays like the model's inputs"),
    "shape": ({"input": images(2)[:, :, :4]}, r"shape \(2, 3, 4, 8\), .* wants \(N, 3, 8, 8\)"),
    "channels last": ({"input": images(2).transpose(0, 2, 3, 1)}, r"transpose\(0, 3, 1, 2\)"),
    "no sample axis": ({"input": images(1)[0]}, r"add it with array\[None\]"),
    "double": ({"input": images(2) / np.float64(3)}, "is float64, .* save it with .astype"),
    "bytes": ({"input": np.zeros((2, 3, 8, 8), np.uint8)}, "is uint8, .* preprocessing"),
    "NaN": ({"input": np.where(np.arange(3)[:, None, None, None] == 1, np.nan, images(3))}, "NaN"),
    "infinity": ({"input": np.full((1, 3, 8, 8), np.inf, np.float32)}, "infinite"),
    "no samples": ({"input": images(0)}, "is empty; give at least one sample"),
    "no arrays": ({}, "has no arrays"),
    "label count": ({"input": images(2), "labels": np.zeros(3, int)}, "for each of 2 samples"),
    "label type": ({"input": images(2), "labels": np.zeros(2)}, "'labels' is float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    arrays, message = BAD[case]
    arrays = {k: v.astype(np.float32) if case == "NaN" else v for k, v in arrays.items()}
    path = saved(tmp_path / "d.npz", **arrays)
    with pytest.raises(UnreadableError, match=message) as caught:
        open_data(path, IMAGE)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_repeated_symbols_must_agree(tmp_path: Path) -> None:
    inputs = [spec("ids", "N", "S", dtype="int64"), spec("mask", "N", "S", dtype="int64")]
    path = saved(tmp_path / "d.npz", ids=np.ones((2, 5), int), mask=np.ones((2, 6), int))
    with pytest.raises(UnreadableError, match="dimension 'S' is 5 in 'ids' and 6 in 'mask'"):
        open_data(path, inputs)


def test_sample_counts_must_agree(tmp_path: Path) -> None:
    path = saved(tmp_path / "d.npz", a=np.ones((2, 5), int), b=np.ones((3, 5), int))
    inputs = [spec(name, "N", 5, dtype="int64") for name in "ab"]
    with pytest.raises(UnreadableError, match="'b' has 3 samples, 'a' has 2"):
        open_data(path, inputs)


def test_some_files_without_labels(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", input=images(1), labels=[0])
    saved(tmp_path / "b.npz", input=images(1))
    with pytest.raises(UnreadableError, match="some parts have 'labels'"):
        open_data(str(tmp_path), IMAGE)


def test_too_few_samples_for_a_fixed_batch(tmp_path: Path) -> None:
    path = saved(tmp_path / "d.npz", input=images(3))
    with pytest.raises(UnreadableError, match="fixed to batches of 4"):
        open_data(path, [spec("input", 4, 3, 8, 8)])


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_files_that_are_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="not a readable"):
        open_data(str(path), IMAGE)


@pytest.mark.parametrize("place", [60, 90, 200])
def test_damaged_npz(tmp_path: Path, place: int) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, input=images(2))
    content = bytearray(path.read_bytes())
    content[place : place + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="not a readable"):
        open_data(str(path), IMAGE)


def test_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", images(1))
    with pytest.raises(UnreadableError, match="is a single array"):
        open_data(str(tmp_path / "d.npy"), IMAGE)


def test_empty_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="files in this folder"):
        open_data(str(tmp_path), IMAGE)
    for name in ("none.npz", "x" * 300):
        with pytest.raises(UnreadableError, match="no such file"):
            open_data(str(tmp_path / name), IMAGE)


MODULE = """
import numpy as np
def good():
    for length in (2, 3):
        yield {"input": np.ones((length, 3, 8, 8), np.float32)}
def bad():
    yield 1
def failing():
    raise KeyError("gone")
def nothing():
    return []
rest = [{"input": np.ones((2, 3, 8, 8), np.float32)}]
def leaving():
    yield {"input": np.ones((2, 3, 8, 8), np.float32)}
    raise SystemExit(0)
def ragged():
    yield {"input": [[1, 2], [3]]}
def numbered():
    yield {1: np.ones((2, 3, 8, 8), np.float32)}
def talking():
    print("talking")
    yield {"input": np.ones((2, 3, 8, 8)).tolist(), "boxes": [[1, 2], [3]]}
def once():
    while rest:
        yield rest.pop()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"data_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_function(module: str) -> None:
    before = list(sys.path)
    data = open_data(f"{module}:good", IMAGE)
    assert sizes(data, 4) == [4, 1]
    assert data.sha256 == open_data(f"{module}:good", IMAGE).sha256
    assert sys.path == before


def test_a_function_may_have_a_longer_name_than_a_file(module: str) -> None:
    name = "long_" * 60
    Path(f"{module}.py").write_text(f"{MODULE}\n{name} = good\n")
    assert sizes(open_data(f"{module}:{name}", IMAGE), 4) == [4, 1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("bad", "yields int, expected a dict"),
        ("failing", "failed with KeyError: 'gone'"),
        ("nothing", "no samples"),
        ("leaving", "failed with SystemExit: 0"),
        ("ragged", "item 0: 'input' is no array: ValueError"),
        ("numbered", "expected a dict of input name to array"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_bad_functions(module: str, function: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        open_data(f"{module}:{function}", IMAGE)


def test_function_that_yields_nothing_when_read_again(module: str) -> None:
    data = open_data(f"{module}:once", IMAGE)
    with pytest.raises(UnreadableError, match=f"{module}:once: gives no batch of samples"):
        sizes(data)


def test_stdout_is_not_for_functions(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data(f"{module}:talking", IMAGE)
    assert sizes(data, 4) == [2]
    assert data.notes == ("not an input of the model, ignored: 'boxes'",)
    assert capsys.readouterr() == ("", "talking\n" * 2)


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "print('talking'); exit(2)"])
def test_modules_that_end_the_program(
    module: str, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    Path(f"{module}_ends.py").write_text(text)
    with pytest.raises(UnreadableError, match=r"cannot import .*: SystemExit: "):
        open_data(f"{module}_ends:good", IMAGE)
    assert capsys.readouterr().out == ""


def test_missing_module() -> None:
    with pytest.raises(UnreadableError, match="cannot import 'no_such_module_here'"):
        open_data("no_such_module_here:f", IMAGE)


def test_random_data_repeats() -> None:
    data = random_data(IMAGE, samples=40, seed=3)
    assert (data.samples, sizes(data, 32)) == (40, [32, 8])
    first, again = (next(data.batches()).feeds["input"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert sizes(random_data([spec("input", 4, 3)], samples=6, seed=0)) == [4, 4]


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"N": 7}, "--dim N=7: 'N' counts samples"),
        ({"S": 3, "T": 4}, r"--dim T=4: no input has a dimension of that name .has: 'S'."),
    ],
)
def test_sizes_of_dimensions_that_cannot_be_set(dims: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        random_data([spec("x", "N", "S")], samples=4, seed=0, dims=dims)
