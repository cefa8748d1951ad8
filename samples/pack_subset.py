"""Packs the sheets in samples/data from all of CIFAR-10: how the committed files were made.

    python -m samples.pack_subset --source DIR

``eval.webp``: the first 100 test images of each class in the order of the test set, exact.
``calib.avif``: 512 training images by seeded choice, slightly lossy.
"""

import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samples.make_data import (
    PIXELS,
    Images,
    choose_training_images,
    cifar_folder,
    read_full_sheet,
    read_labels,
)
from toolchain.errors import OptcError

CLASSES = 10
PER_CLASS = 100
CALIBRATION_IMAGES = 512
SEED = 0


def balanced_subset(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the first 100 images of each class, in rising order."""
    firsts = [np.flatnonzero(labels == each)[:PER_CLASS] for each in range(CLASSES)]
    return np.sort(np.concatenate(firsts))


def tile(images: Images, columns: int) -> Image.Image:
    """Images (N, 32, 32, 3) as one sheet; `columns` divides N."""
    grid = images.reshape(-1, columns, PIXELS, PIXELS, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(-1, columns * PIXELS, 3))


@click.command()
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(__file__).parent / "data",
)
def main(source: Path, out: Path) -> None:
    """Write eval.webp, eval_labels.npy and calib.avif from the folder of CIFAR-10 sheets."""
    try:
        folder = cifar_folder(source)
        images = read_full_sheet(folder / "test.webp")
        labels = read_labels(folder / "test_labels.npy", len(images))
        calibration = choose_training_images(folder, CALIBRATION_IMAGES, SEED)
    except OptcError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    chosen = balanced_subset(labels)
    out.mkdir(parents=True, exist_ok=True)
    tile(images[chosen], 25).save(out / "eval.webp", lossless=True, quality=100, method=6)
    np.save(out / "eval_labels.npy", labels[chosen].astype(np.uint8))
    # The training sheets are AVIF on the same 32-pixel grid: coding them so again costs least.
    tile(calibration, 32).save(out / "calib.avif", quality=90, subsampling="4:4:4", speed=2)


if __name__ == "__main__":
    main()
