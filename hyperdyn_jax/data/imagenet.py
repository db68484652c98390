"""ImageNet, too large for memory: workers decode it while a network trains."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.data import tfds_records as records
from hyperdyn_jax.data.augment import CentreCrop, TrainingCrop
from hyperdyn_jax.data.dataset import Batch, Split, check_batch_sizes, check_hosts
from hyperdyn_jax.data.streaming import Passes, Samples
from hyperdyn_jax.data.tfds_records import DataError, Records, Skips

if TYPE_CHECKING:  # its import takes a second that other data need not spend
    import grain

CLASSES = 1000
VALIDATION = 100  # a hundredth of the training set is held out: 12,811 images

# Of the training set's red, green and blue in [0, 255], as torchvision and
# fb.resnet.torch have them; Goyal et al. 2017 (1706.02677, section 5.1) use the latter.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STDDEV = np.array([58.395, 57.12, 57.375], np.float32)

WORKERS = 16  # at most, by default: they decode 10,000 images/s and more


class StreamedDataset:
    """A data set whose images are read and decoded while they are needed.

    It satisfies `data.Dataset`. Every epoch visits each training example once; order
    and crops follow from the seed and the step alone, however many workers and hosts
    share the work. A bad record that is left out has its place taken by the one after
    it on the disk, which an epoch then visits twice; it is never counted in an
    evaluation. The last batch of an epoch is smaller; if it does not divide over
    the devices, the at most `devices` - 1 examples too many wait for another epoch.

    Workers make the batches that follow the one last asked for, in time for a caller
    that takes the steps in turn. Any other step takes as long as its batch does. As
    always with processes, the main program needs its `if __name__ == "__main__":`.

    Args:
      train, validation, test: the splits.
      classes: number of labels.
      batch_size: examples a training step, over all devices of all hosts.
      eval_batch_size: examples an evaluation step, likewise.
      devices: number of devices that share a batch, over all hosts.
      seed: of the order of the examples and of their crops.
      image_size: height and width of what the network sees, pixels.
      workers: processes that decode, for each split in use; 0 for threads of this
        process, and by default as many as there are cores, up to `WORKERS`.
      skip: how many bad records are left out, those of all splits together.
      host, hosts: the part of each batch that is made here, and of how many.

    Raises:
      ValueError: naming the numbers, where a batch does not divide over the devices or
        hosts, a split is too small, or there are no pixels.
    """

    def __init__(
        self,
        train: Records,
        validation: Records,
        test: Records,
        *,
        classes: int,
        batch_size: int,
        eval_batch_size: int,
        devices: int,
        seed: int,
        image_size: int = 224,
        workers: int | None = None,
        skip: int = 0,
        host: int = 0,
        hosts: int = 1,
    ):
        self._splits = {"train": train, "validation": validation, "test": test}
        for name in self._splits:
            if not self.size(name):
                raise ValueError(
                    f"split {name!r} is empty; it needs at least one image"
                )
        check_batch_sizes(batch_size, eval_batch_size, devices, self.size("train"))
        check_hosts(devices, host, hosts)
        if image_size < 1 or (workers is not None and workers < 0):
            raise ValueError(
                f"image_size must be at least 1 and workers at least 0, got "
                f"{image_size} and {workers}"
            )
        self.classes, self.batch_size, self.skips = classes, batch_size, Skips(skip)
        self.image_shape = (image_size, image_size, 3)
        self._eval_batch_size, self._seed = eval_batch_size, seed
        self._workers = min(_cores(), WORKERS) if workers is None else workers
        self._host, self._hosts = host, hosts
        full, rest = divmod(self.size("train"), batch_size)
        self._examples = full * batch_size + rest // devices * devices
        self.steps_per_epoch = math.ceil(self._examples / batch_size)
        self._passes: dict[str, Passes] = {}
        self._bad: dict[str, set[int]] = {name: set() for name in self._splits}

    def size(self, split: str) -> int:
        return len(self._splits[split])

    def resident(self, split: str) -> tuple[()]:  # noqa: ARG002 (nothing of any split)
        return ()

    def train_batch(self, step: int) -> Batch:
        samples = self._open("train").read(*divmod(step, self.steps_per_epoch))
        self._count("train", samples)
        return Batch(samples.examples, np.ones(len(samples.bad), np.float32))

    def eval_batches(self, split: str) -> Iterator[Batch]:
        passes, size = self._open(split), self._eval_batch_size // self._hosts
        number = passes.begun  # the workers have gone on to it already
        for i in range(math.ceil(self.size(split) / self._eval_batch_size)):
            samples = passes.read(number, i)
            self._count(split, samples)
            good = (samples.bad < 0).astype(np.float32)
            examples = jax.tree.map(lambda x: _pad(x, size), samples.examples)
            yield Batch(examples, _pad(good, size))

    def load(
        self,
        resident: tuple[()],  # noqa: ARG002 (there is nothing)
        examples: Split,
        keys: Any | None,  # noqa: ARG002 (images come cropped and mirrored)
    ) -> Split:
        mean, stddev = (x[None, None, None] for x in (MEAN, STDDEV))
        images = (examples.images.astype(jnp.float32) - mean) / stddev
        return Split(images, examples.labels)

    def close(self) -> None:
        """Ends the worker processes; new ones start when a batch is asked for."""
        for passes in self._passes.values():
            passes.close()
        self._passes = {}

    def _count(self, split: str, samples: Samples) -> None:
        """Counts the bad records of a batch as it is used, whichever worker met them
        and when.

        Raises:
          DataError: there are too many, or nothing else in the split.
        """
        found = set(samples.bad[samples.bad >= 0].tolist()) - self._bad[split]
        for number in sorted(found):
            line = _problem(self._splits[split], number, self.image_shape[0])
            self.skips.add(line)
            self._bad[split].add(number)
            if len(self._bad[split]) == self.size(split):
                raise DataError(f"split {split!r} has no good record")

    def _open(self, split: str) -> Passes:
        if split not in self._passes:
            train = split == "train"
            examples = self._training() if train else self._evaluation(split)
            size = self.batch_size if train else self._eval_batch_size
            self._passes[split] = Passes(
                examples[self._host :: self._hosts],
                size // self._hosts,
                self.image_shape,
                self._workers,
            )
        return self._passes[split]

    def _training(self) -> "grain.MapDataset":
        """One epoch over all hosts; the ones after it are shuffled and cropped anew."""
        # Seeds far apart: Grain adds the epoch to that of the order.
        order, crops = np.random.SeedSequence(self._seed).generate_state(2).tolist()
        size, split = self.image_shape[0], self._splits["train"]
        load = _Load(split, TrainingCrop(size), self.skips.limit, substitute=True)
        numbers = _numbers(split).shuffle(order)[: self._examples]
        return numbers.random_map(load, seed=crops)

    def _evaluation(self, split: str) -> "grain.MapDataset":
        crop, records = CentreCrop(self.image_shape[0]), self._splits[split]
        return _numbers(records).map(_Load(records, crop, self.skips.limit))


def imagenet(data_dir: str | Path) -> dict[str, Any]:
    """ImageNet (ILSVRC 2012): 1,281,167 photographs of 1,000 classes.

    The split is fixed: of the training images in a fixed shuffle the last hundredth
    validates and the others train; the 50,000 images that ImageNet names validation
    test, as in all reports.

    Args:
      data_dir: the TFDS `data_dir` that it was prepared in.

    Returns:
      Arguments of `StreamedDataset`: the splits and the number of classes.

    Raises:
      DataError: the data are missing or not whole.
    """
    names = ["train", "validation"]
    train, test = records.open_splits("imagenet", data_dir, CLASSES, names)
    order = np.random.RandomState(0).permutation(len(train))
    first = len(order) - max(1, len(order) // VALIDATION)
    return {
        "train": train.subset(order[:first]),
        "validation": train.subset(order[first:]),
        "test": test,
        "classes": CLASSES,
    }


@dataclasses.dataclass(frozen=True)
class _Load:
    """Reads and crops a record by its number; in a worker.

    Args:
      records: the split.
      crop: `TrainingCrop` or `CentreCrop`.
      skip: how many bad records may be left out; with 0 the first one is raised.
      substitute: whether the next good record takes the place of a bad one, and not an
        image of zeros.
    """

    records: Records
    crop: TrainingCrop | CentreCrop
    skip: int
    substitute: bool = False

    def __call__(self, number: int, *rng: np.random.Generator) -> Samples:
        """Raises DataError where bad records follow each other, more than `skip`."""
        try:
            return Samples(self._crop(number, *rng), np.int32(-1))
        except DataError:
            if not self.skip:
                raise
        return Samples(self._instead(number, *rng), np.int32(number))

    def _instead(self, number: int, *rng: np.random.Generator) -> Split:
        """What takes the place of a bad record."""
        if not self.substitute:
            shape = (self.crop.size, self.crop.size, 3)
            return Split(np.zeros(shape, np.uint8), np.int32(0))
        *others, last = range(number + 1, number + 1 + self.skip)
        for other in others:
            with contextlib.suppress(DataError):
                return self._crop(other, *rng)
        return self._crop(last, *rng)

    def _crop(self, number: int, *rng: np.random.Generator) -> Split:
        example = self.records[number % len(self.records)]
        return Split(self.crop(example, *rng), np.int32(example.label))


def _problem(split: Records, number: int, size: int) -> str:
    """What is wrong with a bad record, with its place; workers tell its number only."""
    try:
        CentreCrop(size)(split[number])
    except DataError as error:
        return str(error)
    return f"{split.place(number)}: could not be read at first"


def _numbers(split: Records) -> "grain.MapDataset":
    return records.import_package("grain").MapDataset.range(len(split))


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the examples, until there are as many."""
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))


def _cores() -> int:
    """Number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
