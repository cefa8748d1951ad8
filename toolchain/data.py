"""Data for calibration, comparison and evaluation, read lazily and checked when opened.

Arrays are named like the model's inputs; the first axis counts samples. A ``labels`` array, if
there is one, holds class numbers.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.data_checks import LABELS, check_chunk
from toolchain.data_sources import open_source, source_sha256
from toolchain.errors import UnreadableError, UsageError
from toolchain.inputs import InputSpec, batched_names, fixed_batch, random_feeds

Array = NDArray[Any]
Chunk = Mapping[str, Array]

DEFAULT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples.

    Attributes:
        feeds: arrays by input name.
        labels: (samples, ...) class numbers, or None.
        samples: how many.
    """

    feeds: Mapping[str, Array]
    labels: Array | None
    samples: int


@dataclass(frozen=True, kw_only=True)
class Data:
    """Checked data for one model.

    Attributes:
        path: as given by the user, or "random".
        sha256: of the files, in name order, or of the arrays of a function.
        samples: in all.
        labelled: has labels.
        inputs: of the model.
        chunks: starts reading from the beginning; arrays are of the inputs' types.
        notes: what a person should know.
    """

    path: str
    sha256: str
    samples: int
    labelled: bool
    inputs: tuple[InputSpec, ...]
    chunks: Callable[[], Iterator[Chunk]]
    notes: tuple[str, ...] = ()

    def limited(self, samples: int | None) -> "Data":
        """The first so many samples, or all.

        Raises:
            UsageError: they are fewer than the model's fixed batch.
        """
        if samples is None or samples >= self.samples:
            return self
        fixed = fixed_batch(self.inputs)
        if fixed and samples < fixed:
            raise UsageError(f"--samples {samples} is below the model's batch of {fixed}")
        return replace(self, samples=samples // fixed * fixed if fixed else samples)

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Reads the data in batches.

        A model with a fixed batch size gets batches of that size and the remainder is dropped;
        otherwise the last batch, and the last before a change of shape, may be smaller.

        Args:
            size: samples a batch, 32 if None.

        Raises:
            UnreadableError: the data no longer gives a batch.
        """
        fixed = fixed_batch(self.inputs)
        size, left = fixed or size or DEFAULT_BATCH, self.samples
        batched = {*batched_names(self.inputs), LABELS}
        for joined in _join(self.chunks(), batched, size):
            samples = _length(joined, batched)
            for start in range(0, samples, size):
                taken = min(size, samples - start, left)
                if taken <= 0 or (fixed and taken < fixed):
                    break
                yield _cut(joined, batched, start, taken, self.inputs)
                left -= taken
            if not left:
                return
        if left == self.samples:
            raise UnreadableError(
                f"{self.path}: gives no batch of samples; a function must yield the same at every "
                "call, and a fixed batch needs enough samples of one shape"
            )

    def batch_count(self, size: int | None = None) -> int:
        """About how many batches there will be, for progress."""
        return max(1, -(-self.samples // (fixed_batch(self.inputs) or size or DEFAULT_BATCH)))


def open_data(source: str, inputs: Sequence[InputSpec]) -> Data:
    """Opens data and checks all of it against a model's inputs.

    Args:
        source: a ``.npz`` file, a folder of them, or ``module:function`` yielding feeds.
        inputs: of the model.

    Raises:
        UnreadableError: it is missing or empty, or does not fit the model.
    """
    read = open_source(source)
    digest, samples, labelled = hashlib.sha256(), 0, []
    notes: dict[str, None] = {}  # in order, each once
    known_sha256 = source_sha256(source)
    for where, chunk in read():
        arrays, count = check_chunk(where, chunk, inputs)
        samples += count
        labelled.append(LABELS in arrays)
        extra = ", ".join(f"'{name}'" for name in chunk if name not in arrays)
        if extra:
            notes[f"not an input of the model, ignored: {extra}"] = None
        if known_sha256 is None:
            _update(digest, arrays)
    if not samples:
        raise UnreadableError(f"{source}: no samples; give at least one")
    if any(labelled) and not all(labelled):
        raise UnreadableError(f"{source}: some parts have 'labels' and some have not")
    data = Data(
        path=source,
        sha256=known_sha256 or digest.hexdigest(),
        samples=samples,
        labelled=all(labelled),
        inputs=tuple(inputs),
        chunks=lambda: (check_chunk(where, chunk, inputs)[0] for where, chunk in read()),
        notes=tuple(notes),
    )
    return _fit_batch(data)


def random_data(
    inputs: Sequence[InputSpec],
    *,
    samples: int,
    seed: int,
    dims: Mapping[str, int] | None = None,
) -> Data:
    """Seeded random inputs in the place of data; a fixed batch size rounds `samples` up.

    Args:
        inputs: of the model.
        samples: how many.
        seed: equal seeds give equal values.
        dims: sizes of symbolic dimensions other than the batch, see `random_feeds`.

    Raises:
        UsageError: the inputs have no such dimension, or it counts samples.
    """
    _check_dims(inputs, dims or {})
    fixed = fixed_batch(inputs)
    size = fixed or DEFAULT_BATCH
    total = -(-samples // fixed) * fixed if fixed else samples

    def chunks() -> Iterator[Chunk]:
        for index, start in enumerate(range(0, total, size)):
            batch = min(size, total - start)
            yield random_feeds(inputs, seed=seed + index, batch=batch, dims=dims)

    return Data(
        path="random",
        sha256=hashlib.sha256(f"random {seed} {samples}".encode()).hexdigest(),
        samples=total,
        labelled=False,
        inputs=tuple(inputs),
        chunks=chunks,
        notes=(f"no data given: random inputs, seed {seed}",),
    )


def _check_dims(inputs: Sequence[InputSpec], dims: Mapping[str, int]) -> None:
    batch = inputs[0].shape[0] if batched_names(inputs) else None
    sizes = [size for spec in inputs for size in spec.shape if isinstance(size, str)]
    known = [name for name in dict.fromkeys(sizes) if name != batch]
    for name, size in dims.items():
        if name == batch:
            raise UsageError(f"--dim {name}={size}: '{name}' counts samples; see --samples")
        if name not in known:
            listed = ", ".join(f"'{each}'" for each in known) or "none"
            raise UsageError(
                f"--dim {name}={size}: no input has a dimension of that name (has: {listed})"
            )


def _fit_batch(data: Data) -> Data:
    """Accounts for the remainder that a fixed batch size leaves."""
    fixed = fixed_batch(data.inputs)
    used = data.samples // fixed * fixed if fixed else data.samples
    if not used:
        raise UnreadableError(
            f"{data.path}: {data.samples} samples, the model is fixed to batches of {fixed}; give "
            "more samples, or export it with a dynamic batch"
        )
    if used == data.samples:
        return data
    note = f"the model is fixed to batches of {fixed}: {data.samples - used} samples left out"
    return replace(data, samples=used, notes=(*data.notes, note))


def _join(chunks: Iterator[Chunk], batched: set[str], size: int) -> Iterator[Chunk]:
    """Joins neighbours that fit, so that every yield but the last of a run fills its batches."""
    held: Chunk | None = None
    for chunk in chunks:
        if held is not None and not _fits(held, chunk, batched):
            yield held
            held = None
        held = chunk if held is None else _concatenate(held, chunk, batched)
        full = _length(held, batched) // size * size
        if full:
            yield {n: a[:full] if n in batched else a for n, a in held.items()}
            rest = {n: a[full:] if n in batched else a for n, a in held.items()}
            held = rest if batched & rest.keys() and _length(rest, batched) else None
    if held is not None:
        yield held


def _fits(left: Chunk, right: Chunk, batched: set[str]) -> bool:
    if not batched & left.keys():
        return False
    return all(
        array.shape[1:] == right[name].shape[1:]
        if name in batched
        else np.array_equal(array, right[name])
        for name, array in left.items()
    )


def _concatenate(left: Chunk, right: Chunk, batched: set[str]) -> Chunk:
    return {
        name: np.concatenate([array, right[name]]) if name in batched else array
        for name, array in left.items()
    }


def _length(chunk: Chunk, batched: set[str]) -> int:
    return next((len(array) for name, array in chunk.items() if name in batched), 1)


def _cut(
    chunk: Chunk, batched: set[str], start: int, taken: int, inputs: Sequence[InputSpec]
) -> Batch:
    part = {n: a[start : start + taken] if n in batched else a for n, a in chunk.items()}
    feeds = {spec.name: part[spec.name] for spec in inputs}
    return Batch(feeds=feeds, labels=part.get(LABELS), samples=taken)


def _update(digest: "hashlib._Hash", arrays: Chunk) -> None:
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
