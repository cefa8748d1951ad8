"""Makes the data files that the examples and benchmarks read.

    python samples/make_data.py                 # from the sheets in samples/data
    python samples/make_data.py --source DIR    # from all of CIFAR-10, see samples/README.md

Each file holds images normalised as the sample models expect. The same command writes the same
bytes each time.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toolchain.errors import OptcError, UnreadableError

PIXELS = 32
TRAIN_SHEETS = 5
SHEET_IMAGES = 10_000
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

Images = NDArray[np.uint8]


def read_sheet(path: Path) -> Images:
    """Cuts a sheet of 32×32 tiles into images (N, 32, 32, 3), row by row.

    Raises:
        UnreadableError: the file is missing, damaged or no sheet.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableError(f"{path}: {_one_line(error)}") from error
    height, width, _ = pixels.shape
    if height % PIXELS or width % PIXELS:
        raise UnreadableError(f"{path}: {width}×{height} pixels are no sheet of 32×32 images")
    grid = pixels.reshape(height // PIXELS, PIXELS, width // PIXELS, PIXELS, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, PIXELS, PIXELS, 3)


def read_labels(path: Path, count: int) -> NDArray[np.int64]:
    """Reads class numbers.

    Raises:
        UnreadableError: the file is missing, damaged or does not hold `count` labels.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UnreadableError(f"{path}: {_one_line(error)}") from error
    if labels.shape != (count,):
        raise UnreadableError(f"{path}: labels of shape {labels.shape}, expected ({count},)")
    return np.asarray(labels, dtype=np.int64)


def normalise(images: Images) -> NDArray[np.float32]:
    """Images (N, 32, 32, 3) of bytes as the network's input (N, 3, 32, 32)."""
    scaled = (images.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def choose_training_images(source: Path, count: int, seed: int) -> Images:
    """A seeded choice from the training sheets; a larger `count` contains the smaller ones.

    Raises:
        UnreadableError: a sheet is missing or damaged.
    """
    chosen = np.random.default_rng(seed).permutation(TRAIN_SHEETS * SHEET_IMAGES)[:count]
    images = np.empty((len(chosen), PIXELS, PIXELS, 3), dtype=np.uint8)
    for sheet in np.unique(chosen // SHEET_IMAGES):
        here = chosen // SHEET_IMAGES == sheet
        tiles = read_full_sheet(source / f"train_{sheet}.avif")
        images[here] = tiles[chosen[here] % SHEET_IMAGES]
    return images


def read_full_sheet(path: Path) -> Images:
    """Reads a sheet of 10,000 images.

    Raises:
        UnreadableError: the file is missing, damaged or of another size.
    """
    images = read_sheet(path)
    if len(images) != SHEET_IMAGES:
        raise UnreadableError(f"{path}: {len(images)} images, expected {SHEET_IMAGES}")
    return images


def cifar_folder(source: Path) -> Path:
    """The folder with the sheets: `source` itself or its ``cifar10``."""
    nested = source / "cifar10"
    return nested if nested.is_dir() else source


def unpack_samples(data: Path, out: Path) -> Iterable[Path]:
    """Writes ``eval.npz`` and ``calib.npz`` from the committed sheets."""
    images = read_sheet(data / "eval.webp")
    labels = read_labels(data / "eval_labels.npy", len(images))
    calibration = read_sheet(data / "calib.avif")
    yield _save(out / "eval.npz", input=normalise(images), labels=labels)
    yield _save(out / "calib.npz", input=normalise(calibration))


def unpack_source(source: Path, out: Path, count: int, seed: int) -> Iterable[Path]:
    """Writes ``eval_full.npz`` and ``calib.npz`` from all of CIFAR-10."""
    folder = cifar_folder(source)
    images = read_full_sheet(folder / "test.webp")
    labels = read_labels(folder / "test_labels.npy", len(images))
    calibration = choose_training_images(folder, count, seed)
    yield _save(out / "eval_full.npz", input=normalise(images), labels=labels)
    yield _save(out / "calib.npz", input=normalise(calibration))


def _save(path: Path, **arrays: Any) -> Path:
    """Writes an uncompressed npz under its name only once it is complete."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
    return path


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


@click.command()
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Folder of CIFAR-10 sheets; without it the sheets in samples/data are used.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--calib-samples", type=click.IntRange(1, 50_000), default=512, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(source: Path | None, out: Path, calib_samples: int, seed: int) -> None:
    """Make the data files of the examples: labelled test and unlabelled calibration images."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if source is None:
            written = unpack_samples(Path(__file__).parent / "data", out)
        else:
            written = unpack_source(source, out, calib_samples, seed)
        for path in written:
            click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    except OptcError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
