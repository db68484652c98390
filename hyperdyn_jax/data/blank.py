"""Data sets of the real sizes without their examples, for runs that are only described.

Programs are compiled from shapes: nothing here is on a disk, or takes memory.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hyperdyn_jax.data import cifar10, dataset, imagenet, registry
from hyperdyn_jax.data.augment import PadCropFlip
from hyperdyn_jax.data.dataset import Batch, Split

Config = Mapping[str, Any]
CIFAR10 = {"train": 45_000, "validation": 5_000, "test": 10_000}
TWIN = {"train": 4_096, "validation": 2_048, "test": 4_096}
IMAGENET = {"train": 1_268_356, "validation": 12_811, "test": 50_000}


def _images(count: int, size: int) -> Split:
    """Images of one grey, of class 0."""
    images = np.broadcast_to(np.uint8(1), (count, size, size, 3))
    return Split(images, np.broadcast_to(np.int32(0), (count,)))


def _cifar(sizes: Mapping[str, int], pixels: int) -> Callable[..., dataset.Dataset]:
    def make(config: Config, sharing: Config) -> dataset.Dataset:
        splits: Any = {name: _images(count, pixels) for name, count in sizes.items()}
        pad = config["pad"]
        augment = PadCropFlip(pad, (1.0, 1.0, 1.0)) if pad else None
        return dataset.ArrayDataset(
            **splits, classes=cifar10.CLASSES, augment=augment, **sharing
        )

    return make


class _Streamed(imagenet.StreamedDataset):
    """One whose batches nobody decodes."""

    def train_batch(self, step: int) -> Batch:  # noqa: ARG002 (all are alike)
        return self._blank(self.batch_size)

    def eval_batches(self, split: str) -> Iterator[Batch]:
        for _ in range(0, self.size(split), self._eval_batch_size):
            yield self._blank(self._eval_batch_size)

    def _blank(self, count: int) -> Batch:
        images = _images(count, self.image_shape[0])
        return Batch(images, np.ones(count, np.float32))


def _imagenet(config: Config, sharing: Config) -> dataset.Dataset:
    records: Any = {name: range(count) for name, count in IMAGENET.items()}
    size = config.get("image_size", 224)
    return _Streamed(**records, classes=imagenet.CLASSES, **sharing, image_size=size)


# In place of the data sets that are on a disk; the others come with the package.
DATASETS = registry.DATASETS | {
    "cifar10": _cifar(CIFAR10, cifar10.SIZE),
    "cifar10_twin": _cifar(TWIN, cifar10.SIZE // 2),
    "imagenet": _imagenet,
}
