"""CIFAR-10 in memory, and the augmentation of its images on the device."""

from pathlib import Path
from typing import Any

import numpy as np

from hyperdyn_jax import records
from hyperdyn_jax.data import PadCropFlip, Split, moments
from hyperdyn_jax.records import DataError, Records

CLASSES = 10
SIZE = 32  # pixels, height and width
VALIDATION = 10  # a tenth of the training set is held out: 5,000 of 50,000

_BLOCK = 2048  # records read at once: enough to be fast, few enough to hold


def cifar10(data_dir: str | Path, pad: int = 4) -> dict[str, Any]:
    """CIFAR-10 (Krizhevsky 2009): 60,000 colour photographs of 32x32 pixels.

    The split is fixed: of the 50,000 training images in a fixed shuffle the first
    45,000 train and the other 5,000 validate; the 10,000 test images test.

    Args:
      data_dir: the TFDS `data_dir` that it was prepared in.
      pad: border of the augmentation in pixels, 0 for none of it.

    Returns:
      Arguments of `data.ArrayDataset`: the splits, the number of classes and the
      augmentation.

    Raises:
      DataError: the data are missing, not whole or damaged.
    """
    names = ["train", "test"]
    opened = records.open_splits("cifar10", data_dir, CLASSES, names)
    images, labels = load(opened[0])
    order = np.random.RandomState(0).permutation(len(labels))
    rest = len(labels) // VALIDATION
    parts = {
        "train": order[: len(order) - rest],
        "validation": order[len(order) - rest :],
    }
    splits = {name: Split(images[part], labels[part]) for name, part in parts.items()}
    return _arguments(splits | {"test": load(opened[1])}, pad)


def cifar10_twin(
    data_dir: str | Path,
    pad: int = 2,
    sizes: tuple[int, int, int] = (4096, 2048, 4096),
) -> dict[str, Any]:
    """A small CIFAR-10 for comparisons that a CPU can make: 16x16 pixels.

    Each pixel is the rounded mean of 2x2; the images are the first of each of
    `cifar10`'s splits, test images in a fixed shuffle.

    Args:
      data_dir: the TFDS `data_dir` that CIFAR-10 was prepared in.
      pad: border of the augmentation in pixels, 0 for none of it.
      sizes: images that train, validate and test.

    Returns:
      As `cifar10` does.

    Raises:
      DataError: the data are missing, not whole, damaged or too few.
    """
    full, splits = cifar10(data_dir), {}
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
    return _arguments(splits, pad)


def load(split: Records) -> Split:
    """Decodes a whole split: images u8[n, 32, 32, 3], labels i32[n].

    Raises:
      DataError: naming the record that cannot be read or decoded.
    """
    images = np.empty((len(split), SIZE, SIZE, 3), np.uint8)
    labels = np.empty(len(split), np.int32)
    for start in range(0, len(split), _BLOCK):
        block = range(start, min(start + _BLOCK, len(split)))
        for i, example in zip(block, split.read(block), strict=True):
            image = records.decode(example)
            if image.shape != images.shape[1:]:
                height, width, _ = image.shape
                raise DataError(
                    f"{example.place}: the image has {height}x{width} pixels, must "
                    f"have {SIZE}x{SIZE}"
                )
            images[i], labels[i] = image, example.label
    return Split(images, labels)


def halve(images: np.ndarray) -> np.ndarray:
    """Half the height and width, each pixel the rounded mean of 2x2: u8[n, h, w, c]."""
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    return ((blocks.sum((2, 4), np.uint16) + 2) // 4).astype(np.uint8)


def _arguments(splits: dict[str, Split], pad: int) -> dict[str, Any]:
    mean, _ = moments(splits["train"].images)
    augment = PadCropFlip(pad, tuple(mean.tolist())) if pad else None
    return splits | {"classes": CLASSES, "augment": augment}
