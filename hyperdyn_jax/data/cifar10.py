"""CIFAR-10 in memory, and the augmentation of its images on the device."""

from pathlib import Path
from typing import Any

import numpy as np

from hyperdyn_jax.data import tfds_records
from hyperdyn_jax.data.augment import PadCropFlip
from hyperdyn_jax.data.dataset import Split, moments
from hyperdyn_jax.data.tfds_records import DataError, Example, Records, Skips

CLASSES = 10
SIZE = 32  # pixels, height and width
VALIDATION = 10  # a tenth of the training set is held out: 5,000 of 50,000

_BLOCK = 2048  # records read at once: enough to be fast, few enough to hold


def cifar10(data_dir: str | Path, pad: int = 4, skip: int = 0) -> dict[str, Any]:
    """CIFAR-10 (Krizhevsky 2009): 60,000 colour photographs of 32x32 pixels.

    The split is fixed: of the 50,000 training images in a fixed shuffle the first
    45,000 train and the other 5,000 validate; the 10,000 test images test.

    Args:
      data_dir: the TFDS `data_dir` that it was prepared in.
      pad: border of the augmentation in pixels, 0 for none of it.
      skip: how many bad records are left out of their splits; the others stay in
        theirs.

    Returns:
      Arguments of `data.ArrayDataset`: the splits, the number of classes, the
      augmentation, and what was left out.

    Raises:
      DataError: the data are missing or not whole, or more than `skip` records bad.
    """
    skips = Skips(skip)
    names = ["train", "test"]
    opened = tfds_records.open_splits("cifar10", data_dir, CLASSES, names)
    (images, labels), good = load(opened[0], skips)
    order = np.random.RandomState(0).permutation(len(labels))
    rest = len(labels) // VALIDATION
    parts = {
        "train": order[: len(order) - rest],
        "validation": order[len(order) - rest :],
    }
    parts = {name: part[good[part]] for name, part in parts.items()}
    splits = {name: Split(images[part], labels[part]) for name, part in parts.items()}
    test, good = load(opened[1], skips)
    splits["test"] = Split(test.images[good], test.labels[good])
    return _arguments(splits, pad, skips)


def cifar10_twin(
    data_dir: str | Path,
    pad: int = 2,
    skip: int = 0,
    sizes: tuple[int, int, int] = (4096, 2048, 4096),
) -> dict[str, Any]:
    """A small CIFAR-10 for comparisons that a CPU can make: 16x16 pixels.

    Each pixel is the rounded mean of 2x2; the images are the first of each of
    `cifar10`'s splits, test images in a fixed shuffle.

    Args:
      data_dir: the TFDS `data_dir` that CIFAR-10 was prepared in.
      pad: border of the augmentation in pixels, 0 for none of it.
      skip: how many bad records of CIFAR-10 are left out.
      sizes: images that train, validate and test.

    Returns:
      As `cifar10` does.

    Raises:
      DataError: the data are missing, not whole, damaged or too few.
    """
    full, splits = cifar10(data_dir, skip=skip), {}
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        images, labels = full[name]
        if len(labels) < size:
            raise DataError(
                f"split {name!r} has {len(labels)} images, the twin needs {size}"
            )
        chosen = np.arange(size)
        if name == "test":  # as it is on disk, in whatever order it was prepared
            chosen = np.random.RandomState(0).permutation(len(labels))[:size]
        splits[name] = Split(halve(images[chosen]), labels[chosen])
    return _arguments(splits, pad, full["skips"])


def load(split: Records, skips: Skips) -> tuple[Split, np.ndarray]:
    """Decodes a whole split.

    Returns:
      Images u8[n, 32, 32, 3] and labels i32[n], zeros for bad records; and bool[n],
      which records are good.

    Raises:
      DataError: naming the record that is bad, and one too many for `skips`.
    """
    images = np.zeros((len(split), SIZE, SIZE, 3), np.uint8)
    labels, good = np.zeros(len(split), np.int32), np.zeros(len(split), bool)
    for start in range(0, len(split), _BLOCK):
        block = range(start, min(start + _BLOCK, len(split)))
        for i, example in split.read_good(block, skips).items():
            with skips.spare():
                images[i], labels[i], good[i] = _decode(example), example.label, True
    return Split(images, labels), good


def _decode(example: Example) -> np.ndarray:
    """u8[32, 32, 3]; DataError where it is none."""
    image = tfds_records.decode(example)
    if image.shape != (SIZE, SIZE, 3):
        height, width, _ = image.shape
        raise DataError(
            f"{example.place}: the image has {height}x{width} pixels, must have "
            f"{SIZE}x{SIZE}"
        )
    return image


def halve(images: np.ndarray) -> np.ndarray:
    """Half the height and width, each pixel the rounded mean of 2x2: u8[n, h, w, c]."""
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    return ((blocks.sum((2, 4), np.uint16) + 2) // 4).astype(np.uint8)


def _arguments(splits: dict[str, Split], pad: int, skips: Skips) -> dict[str, Any]:
    for name, split in splits.items():
        if not len(split.labels):
            raise DataError(f"split {name!r} has no good record")
    mean, _ = moments(splits["train"].images)
    augment = PadCropFlip(pad, tuple(mean.tolist())) if pad else None
    return splits | {"classes": CLASSES, "augment": augment, "skips": skips}
