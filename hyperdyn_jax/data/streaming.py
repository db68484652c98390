"""Batches of a split that worker processes make ahead of the training loop."""

import atexit
import math
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from hyperdyn_jax.data import tfds_records as records
from hyperdyn_jax.data.dataset import Split
from hyperdyn_jax.data.tfds_records import DataError
from hyperdyn_jax.system import errors, signals

if TYPE_CHECKING:  # its import takes a second that other data need not spend
    import grain

_CHUNK = 64  # images that travel together from a worker, at most
_AHEAD = 2  # chunks that each worker keeps ready


class Samples(NamedTuple):
    """Examples, and the number in its split of a bad record in the place of each:
    i32[n], -1 where there is none."""

    examples: Split
    bad: Any


class Passes:
    """Batches of a split, one pass over it after another, made ahead by workers.

    Args:
      samples: Grain data set of one pass: `Samples` of one example each.
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

    def read(self, number: int, position: int) -> Samples:
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
        return Samples(Split(images, labels), bad)

    def close(self) -> None:
        self._ready = False
        if self._iterators:
            atexit.unregister(self._stop)
            self._stop()

    def _read_part(self, number: int) -> Samples:
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
                f"or fewer workers may help ({errors.first_line(error)})"
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


def _join(
    parts: Sequence[np.ndarray], shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    joined = np.empty((sum(map(len, parts)), *shape), dtype)
    if parts:
        np.concatenate(parts, out=joined)
    return joined
