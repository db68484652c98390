"""ImageNet, too large for memory: workers decode it while a network trains."""

import atexit
import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from hyperdyn_jax.data import tfds_records as records
from hyperdyn_jax.data.dataset import Batch, Split, check_batch_sizes, check_hosts
from hyperdyn_jax.data.tfds_records import DataError, Example, Records, Skips
from hyperdyn_jax.system import signals

if TYPE_CHECKING:  # its import takes a second that other data need not spend
    import grain
    from PIL import Image

CLASSES = 1000
VALIDATION = 100  # a hundredth of the training set is held out: 12,811 images

# Of the training set's red, green and blue in [0, 255], as torchvision and
# fb.resnet.torch have them; Goyal et al. 2017 (1706.02677, section 5.1) use the latter.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STDDEV = np.array([58.395, 57.12, 57.375], np.float32)

# Random crops as Szegedy et al. 2014 (1409.4842, section 6) draw them.
AREA = (0.08, 1.0)  # of the image
RATIO = (3 / 4, 4 / 3)  # of width to height
ATTEMPTS = 10  # to draw a box that fits, before the centre is taken

CENTRE = 224 / 256  # side of the part that is evaluated, of the shorter side

WORKERS = 16  # at most, by default: they decode 10,000 images/s and more

_CHUNK = 64  # images that travel together from a worker, at most
_AHEAD = 2  # chunks that each worker keeps ready


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
        self._passes: dict[str, _Passes] = {}
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

    def _count(self, split: str, samples: "_Samples") -> None:
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

    def _open(self, split: str) -> "_Passes":
        if split not in self._passes:
            train = split == "train"
            examples = self._training() if train else self._evaluation(split)
            size = self.batch_size if train else self._eval_batch_size
            self._passes[split] = _Passes(
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


class Box(NamedTuple):
    """A part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
    """Decodes a random part of an image, mirrored or not: u8[size, size, 3]."""

    size: int

    def __call__(self, example: Example, rng: np.random.Generator) -> Split:
        box = random_box(*records.image_size(example), rng)
        image = crop(example, box, self.size, mirrored=rng.random() < 0.5)
        return Split(image, np.int32(example.label))


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Decodes the centre of an image: u8[size, size, 3].

    The same as resizing its shorter side to size / `CENTRE` and cutting out the centre.
    """

    size: int

    def __call__(self, example: Example) -> Split:
        box = centre_box(*records.image_size(example))
        return Split(crop(example, box, self.size), np.int32(example.label))


class _Samples(NamedTuple):
    """Examples, and the number in its split of a bad record in the place of each:
    i32[n], -1 where there is none."""

    examples: Split
    bad: Any


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
    crop: "TrainingCrop | CentreCrop"
    skip: int
    substitute: bool = False

    def __call__(self, number: int, *rng: np.random.Generator) -> _Samples:
        """Raises DataError where bad records follow each other, more than `skip`."""
        try:
            return _Samples(self._crop(number, *rng), np.int32(-1))
        except DataError:
            if not self.skip:
                raise
        return _Samples(self._instead(number, *rng), np.int32(number))

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
        return self.crop(self.records[number % len(self.records)], *rng)


def _problem(split: Records, number: int, size: int) -> str:
    """What is wrong with a bad record, with its place; workers tell its number only."""
    try:
        CentreCrop(size)(split[number])
    except DataError as error:
        return str(error)
    return f"{split.place(number)}: could not be read at first"


def random_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """A box of random area and shape at a random place of an image.

    Areas are uniform in `AREA`, ratios log-uniform in `RATIO`; a box that does not fit
    is drawn again, and after `ATTEMPTS` it is the largest one at the centre that has
    a ratio in `RATIO`.
    """
    for _ in range(ATTEMPTS):
        area = rng.uniform(*AREA) * height * width
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers((height - h + 1, width - w + 1))
            return Box(int(top), int(left), h, w)
    h = min(height, max(1, round(width / RATIO[0])))
    w = min(width, max(1, round(height * RATIO[1])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def centre_box(height: int, width: int) -> Box:
    """The square at the centre whose side is `CENTRE` of the shorter side."""
    side = max(1, round(CENTRE * min(height, width)))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def crop(example: Example, box: Box, size: int, mirrored: bool = False) -> np.ndarray:
    """Decodes a part of an image and resizes it, bilinearly: u8[size, size, 3].

    A part at least twice as large is decoded at a half, a quarter or an eighth: that is
    faster, and bilinear interpolation then leaves few pixels out.

    Args:
      example: with the image.
      box: the part.
      size: height and width of what becomes of it.
      mirrored: left to right.

    Raises:
      DataError: the image cannot be decoded, with its place.
    """
    times = min(box.height, box.width) // size
    reduction = next(k for k in (8, 4, 2, 1) if k <= max(1, times))
    image = records.load_image(example, reduction)
    top, left, height, width = box
    part = (
        left // reduction,
        top // reduction,
        (left + width) // reduction,
        (top + height) // reduction,
    )
    return _resize(image.crop(part), size, mirrored)


def _resize(image: "Image.Image", size: int, mirrored: bool) -> np.ndarray:
    """Bilinear interpolation between the four nearest pixels: u8[size, size, 3].

    Pillow's own is twice as slow (`Image.transform`), or averages over more pixels
    where it shrinks (`Image.resize`).
    """
    # NumPy gathers pixels of four bytes, as Pillow holds them, many times as fast as
    # pixels of three.
    words = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32)
    words = words.reshape(image.height, image.width)
    first, second, share = _neighbours(image.width, size)
    if mirrored:
        first, second, share = first[::-1], second[::-1], share[::-1]
    left, right = (
        words.take(columns, 1).view(np.uint8).astype(np.float32)
        for columns in (first, second)
    )
    wide = _between(left, right, share.repeat(4))
    first, second, share = _neighbours(image.height, size)
    mixed = _between(wide.take(first, 0), wide.take(second, 0), share[:, None])
    mixed += 0.5  # the cast below rounds down
    pixels = mixed.astype(np.uint8)
    opener = records.import_package("PIL.Image")
    four = opener.frombuffer("RGBX", (size, size), pixels, "raw", "RGBX", 0, 1)
    return np.frombuffer(four.tobytes("raw", "RGB"), np.uint8).reshape(size, size, 3)


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones beside its centre, i[size] each, and the
    share of the second: f32[size]."""
    places = (np.arange(size) + 0.5) * (length / size) - 0.5
    places = np.clip(places, 0, length - 1)
    first = places.astype(np.intp)
    second = np.minimum(first + 1, length - 1)
    return first, second, (places - first).astype(np.float32)


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """A weighted mean; both are overwritten."""
    second -= first
    second *= share
    first += second
    return first


class _Passes:
    """Batches of a split, one pass over it after another, made ahead by workers.

    Args:
      samples: Grain data set of one pass: `_Samples` of one example each.
      batch_size: examples a batch; the last of a pass may be smaller.
      image_shape: of the examples.
      workers: number of processes, 0 for threads.
    """

    def __init__(
        self,
        samples: "grain.MapDataset",
        batch_size: int,
        image_shape: tuple[int, int, int],
        workers: int,
    ):
        # Parts of batches travel, so that all workers share the first one, and to hold
        # less in memory. They divide a batch: no part belongs to two.
        part = max(n for n in range(1, _CHUNK + 1) if batch_size % n == 0)
        self._parts, self._per_batch = samples.batch(part), batch_size // part
        self._image_shape, self._workers = image_shape, workers
        self._iterators: list[grain.DatasetIterator] = []
        self._next = 0  # part, counted on from pass to pass
        self._ready = False  # whether it is the one that the iterators give next

    @property
    def begun(self) -> int:
        """Number of passes of which a part was read."""
        return math.ceil(self._next / max(1, len(self._parts)))

    def read(self, number: int, position: int) -> _Samples:
        """A batch of a pass, both counted from 0; empty behind the last.

        Raises:
          DataError: naming the record that cannot be read or decoded.
        """
        start = position * self._per_batch
        stop = min(start + self._per_batch, len(self._parts))
        first = number * len(self._parts)
        parts = [self._read_part(first + i) for i in range(start, stop)]
        # Copied: the workers take back the memory that they share the parts in.
        examples = [part.examples for part in parts]
        images = _join([x.images for x in examples], self._image_shape, np.uint8)
        labels = _join([x.labels for x in examples], (), np.int32)
        bad = _join([part.bad for part in parts], (), np.int32)
        return _Samples(Split(images, labels), bad)

    def close(self) -> None:
        self._ready = False
        if self._iterators:
            atexit.unregister(self._stop)
            self._stop()

    def _read_part(self, number: int) -> _Samples:
        if not self._ready or number != self._next:
            self._seek(number)
        self._ready = False  # unless this goes well, Ctrl-C included
        try:
            part = next(self._iterators[number % len(self._iterators)])
        except DataError as error:
            self.close()
            raise DataError(str(error)) from None  # without the workers' tracebacks
        except RuntimeError as error:
            self.close()
            if "terminated unexpectedly" not in str(error):
                raise
            raise DataError(
                f"a process that decodes images died; more memory, a larger /dev/shm "
                f"or fewer workers may help ({records.reason(error)})"
            ) from error
        self._next, self._ready = number + 1, True
        return part

    def _seek(self, number: int) -> None:
        """Makes every worker go on with its first part from this one on."""
        grain = records.import_package("grain")
        if not self._iterators:
            self._iterators = self._start()  # and _stop empties that list
            self._stop = weakref.finalize(self, _stop, self._iterators)
            # At exit before multiprocessing closes the queues, which Grain trips over.
            atexit.register(self._stop)
        count = len(self._iterators)
        for i, iterator in enumerate(self._iterators):
            position = -(-(number - i) // count)  # rounded up
            grain.experimental.set_next_index(iterator, position)
            iterator.start_prefetch()

    def _start(self) -> "list[grain.DatasetIterator]":
        """Iterators over the parts in turn.

        One for each worker, which Grain can set to any part; of a single one for all
        workers it cannot.
        """
        grain = records.import_package("grain")
        if not flags.FLAGS.is_parsed():  # in notebooks and tests; Grain reads some
            flags.FLAGS.mark_as_parsed()
        if not self._workers:
            threads = grain.ReadOptions(_AHEAD, _AHEAD)
            return [iter(self._parts.repeat().to_iter_dataset(threads))]
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        process = grain.MultiprocessingOptions(1, per_worker_buffer_size=_AHEAD)
        return [
            iter(
                self._parts.repeat()[i :: self._workers]
                .to_iter_dataset(alone)
                .mp_prefetch(process, worker_init_fn=_start_worker)
            )
            for i in range(self._workers)
        ]


def _stop(iterators: "list[grain.DatasetIterator]") -> None:
    while iterators:
        iterators.pop().close()


def _start_worker(number: int, count: int) -> None:  # noqa: ARG001 (Grain's signature)
    """Prepares a process that decodes images."""
    for each in signals.STOPPING:  # its parent handles those that all of a group get
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)
    # Every shard stays open: more files than most systems let a process have.
    import resource  # Windows lacks it, and the file formats too

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_later(*_: object) -> None:
    """Ends this process when its parent has had the time to stop without it."""
    leave = threading.Timer(signals.GRACE + 1, os._exit, [0])
    leave.daemon = True
    leave.start()


def _leave_with_parent() -> None:
    """Ends this process when its parent was killed: nobody else would."""
    if parent := multiprocessing.parent_process():
        parent.join()
    # By then its queue is full, and no shared memory is between made and registered.
    time.sleep(1)
    os._exit(1)


def _numbers(split: Records) -> "grain.MapDataset":
    return records.import_package("grain").MapDataset.range(len(split))


def _join(
    parts: Sequence[np.ndarray], shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    joined = np.empty((sum(map(len, parts)), *shape), dtype)
    if parts:
        np.concatenate(parts, out=joined)
    return joined


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the examples, until there are as many."""
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))


def _cores() -> int:
    """Number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
