"""Data sets: split once and for all, and served by the number of the step.

A batch is a function of (seed, step) alone. Two branches at the same step see the same
batch, and a resumed run needs no more than its step to go on with the same data.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.data.augment import PadCropFlip
from hyperdyn_jax.data.tfds_records import Skips
from hyperdyn_jax.system import streams


class Split(NamedTuple):
    """Examples: images u8[n, h, w, c], labels i32[n]."""

    images: Any
    labels: Any


class Batch(NamedTuple):
    """What the host sends for one step.

    examples: a pytree of arrays [b, ...] that `Dataset.load` turns into images.
    weights: f32[b], 1 for an example and 0 for padding.
    """

    examples: Any
    weights: np.ndarray


class Dataset(Protocol):
    """What the training half asks of data."""

    classes: int
    image_shape: tuple[int, int, int]
    batch_size: int  # examples a training step, over all devices
    steps_per_epoch: int
    skips: Skips  # bad records that were left out so far

    def size(self, split: str) -> int:
        """Number of examples of a split: 'train', 'validation' or 'test'."""
        ...

    def resident(self, split: str) -> Any:
        """Arrays that every device holds for the whole run; may be empty."""
        ...

    def train_batch(self, step: int) -> Batch:
        """This host's part of the batch of one optimizer step, counted from the start
        of the run."""
        ...

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """This host's part of every example of a split once, in batches of one size."""
        ...

    def load(self, resident: Any, examples: Any, keys: Any | None) -> Split:
        """Normalised f32 images and labels, inside the compiled step.

        keys: a PRNG key for every example to augment it with, None to evaluate.
        """
        ...

    def close(self) -> None:
        """Ends what works in the background; a batch asked for starts it again."""
        ...


class ArrayDataset:
    """A data set that fits into the memory of each device.

    Every epoch visits each training example once, in an order drawn from the seed and
    the epoch. The last batch of an epoch is smaller, and moves the weights in
    proportion; if it does not divide over the devices, the at most `devices` - 1
    examples too many wait for another epoch.

    Args:
      train, validation, test: the splits, as NumPy arrays.
      classes: number of labels.
      batch_size: examples a training step, over all devices.
      eval_batch_size: examples an evaluation step, over all devices.
      devices: number of devices that share a batch, over all hosts.
      seed: of the order of the examples.
      augment: (key, image f32[h, w, c] in [0, 255]) -> image, for one training example.
      standardize: whether images are served with mean zero and deviation one, as they
        should be unless their numbers are names of classes.
      skips: records that were left out of the splits.
      host, hosts: the part of each batch that is served here, and of how many.

    Raises:
      ValueError: naming the numbers, where a batch does not divide over the devices, a
        split is empty or too small, or labels are out of range.
    """

    def __init__(
        self,
        train: Split,
        validation: Split,
        test: Split,
        *,
        classes: int,
        batch_size: int,
        eval_batch_size: int,
        devices: int,
        seed: int,
        augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
        standardize: bool = True,
        skips: Skips | None = None,
        host: int = 0,
        hosts: int = 1,
    ):
        self._splits = {"train": train, "validation": validation, "test": test}
        self.classes = classes
        # Of this run: the splits may be shared with others.
        self.skips = copy.deepcopy(skips or Skips())
        self.image_shape = tuple(train.images.shape[1:])
        for name, split in self._splits.items():
            _check_split(name, split, classes)
        check_batch_sizes(batch_size, eval_batch_size, devices, self.size("train"))
        check_hosts(devices, host, hosts)
        self.batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._host, self._hosts = host, hosts
        self._seed, self._augment = seed, augment
        # Of the training split alone, as everything that the network learns from.
        self._mean, deviation = np.array([[0], [1]], np.float32)
        if standardize:
            self._mean, deviation = moments(train.images)
        self._stddev = np.maximum(deviation, np.float32(1e-3))
        rest = self.size("train") % batch_size
        self._batches = [batch_size] * (self.size("train") // batch_size)
        self._batches += [rest // devices * devices] if rest >= devices else []
        self.steps_per_epoch = len(self._batches)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def size(self, split: str) -> int:
        return len(self._splits[split].labels)

    def resident(self, split: str) -> Split:
        return self._splits[split]

    def train_batch(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        start, count = position * self.batch_size, self._batches[position]
        index = self._part(self._order(epoch)[start : start + count])
        return Batch(index, np.ones(len(index), np.float32))

    def eval_batches(self, split: str) -> Iterator[Batch]:
        size, batch = self.size(split), self._eval_batch_size
        for start in range(0, size, batch):
            index = self._part(np.arange(start, start + batch, dtype=np.int32))
            weights = (index < size).astype(np.float32)
            yield Batch(np.minimum(index, size - 1), weights)

    def load(self, resident: Split, examples: jax.Array, keys: Any | None) -> Split:
        images = resident.images[examples].astype(jnp.float32)
        if keys is not None and self._augment is not None:
            images = jax.vmap(self._augment)(keys, images)
        mean, stddev = (x[None, None, None] for x in (self._mean, self._stddev))
        return Split((images - mean) / stddev, resident.labels[examples])

    def close(self) -> None:
        """Nothing works in the background."""

    def _part(self, examples: np.ndarray) -> np.ndarray:
        """This host's examples of a whole batch."""
        count = len(examples) // self._hosts
        return examples[self._host * count : (self._host + 1) * count]

    def _draw_order(self, epoch: int) -> np.ndarray:
        key = jax.random.fold_in(streams.of_seed(self._seed, "order"), epoch)
        return np.asarray(jax.random.permutation(key, self.size("train")), np.int32)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, grey images of 8x8 pixels by 13 writers.

    The test set of *Optical Recognition of Handwritten Digits* (E. Alpaydin and
    C. Kaynak 1998, UCI Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0), as
    scikit-learn has it.

    Returns:
      Pixels in 0..16, u8[1797, 64], and labels, i32[1797].
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return file["images"], file["labels"].astype(np.int32)


def digits(pad: int = 0) -> dict[str, Any]:
    """`load_digits` in splits; nothing is downloaded.

    The split is a fixed shuffle: 1,280 train, 257 validation, 260 test.

    Args:
      pad: pixels by which training images are shifted at most, 0 for none.

    Returns:
      Arguments of `ArrayDataset`: the splits, the number of classes, the augmentation.
    """
    images, labels = load_digits()
    # Pixels are 0..16 there; 0..240 here.
    images = (images * 15).reshape(-1, 8, 8, 1)
    order = np.random.RandomState(0).permutation(len(labels))
    parts = np.split(order, [1280, 1537])
    train, validation, test = (Split(images[i], labels[i]) for i in parts)
    splits = {"train": train, "validation": validation, "test": test}
    augment = PadCropFlip(pad, fill=(0.0,), flip=False) if pad else None
    return {**splits, "classes": 10, "augment": augment}


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of u8[n, h, w, c]: f32[c] each."""
    channels, levels = images.shape[-1], np.arange(256.0)
    counts = np.zeros((channels, 256))
    for start in range(0, len(images), 1000):  # copies of all would fill the memory
        for channel in range(channels):
            pixels = images[start : start + 1000, ..., channel].ravel()
            counts[channel] += np.bincount(pixels, minlength=256)
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(1)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def check_batch_sizes(
    batch_size: int, eval_batch_size: int, devices: int, examples: int
) -> None:
    """Raises ValueError for batches that devices or examples cannot be shared by, a
    line each."""
    share = f"{devices} device{'s' if devices > 1 else ''}"
    problems = [
        f"{name} must be a positive multiple of the number of devices, got {size} for "
        f"{share}"
        for name, size in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
        )
        if size < 1 or size % devices
    ]
    if batch_size > examples:
        problems.append(
            f"batch_size must be at most the number of training examples, got "
            f"{batch_size} for {examples} examples"
        )
    if problems:
        raise ValueError("\n".join(problems))


def check_hosts(devices: int, host: int, hosts: int) -> None:
    """Raises ValueError for a host that devices cannot be shared by."""
    if not 0 <= host < hosts or devices % hosts:
        raise ValueError(
            f"devices must be a multiple of hosts, and host one of them, got "
            f"{devices} devices and host {host} of {hosts}"
        )


def _check_split(name: str, split: Split, classes: int) -> None:
    if not len(split.labels) or len(split.images) != len(split.labels):
        raise ValueError(
            f"split {name!r} has {len(split.images)} images and {len(split.labels)} "
            f"labels; it needs at least one, and as many of both"
        )
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"split {name!r} has labels from {low} to {high}; "
            f"they must be in 0..{classes - 1}"
        )
