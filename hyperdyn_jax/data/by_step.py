"""Batches by the number of the step, of data that can only be read in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Batch = TypeVar("Batch")


class ByStep(Generic[Batch]):
    """Turns an iterator or a loader into batches that `train` can take by step.

    Trials that are compared see the same steps, and a run that goes on after a stop
    begins in the middle. So the batches that were read last are kept, to be handed to
    the next branch too; and where a step is asked for that is not among them, the
    data are made again and read up to it.

    Args:
      make: `make(epoch)` returns the batches of an epoch, counted from 0: any iterable,
        such as a PyTorch DataLoader, a `tf.data.Dataset`, a Grain loader or a
        generator. It has to return the same batches whenever it is given the same
        epoch: seed its shuffle with the epoch. An epoch may have any number of batches.
      keep: how many of the batches that were read last are kept. As many as the steps
        of an epoch of `tune`, or 2% of all its steps if that is more, are as a rule
        enough for no batch to be read twice.

    Raises:
      ValueError: `make` is no function, or keep is less than 1.

    Example:
      >>> batches = ByStep(lambda epoch: (10 * epoch + i for i in range(3)), keep=2)
      >>> [batches[step] for step in (0, 1, 2, 3, 4, 2)]
      [0, 1, 2, 10, 11, 2]
    """

    def __init__(self, make: Callable[[int], Iterable[Batch]], keep: int = 1000):
        if not callable(make):
            raise ValueError(
                f"make must be a function of the epoch that returns its batches, such "
                f"as lambda epoch: loader, got {type(make).__name__}"
            )
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._make, self._keep = make, keep
        self._rewind()

    def _rewind(self) -> None:
        self._kept: deque[Batch] = deque(maxlen=self._keep)
        self._read, self._epoch = 0, 0  # batches so far, epochs begun
        self._iterator: Iterator[Batch] = iter(())

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over the whole run.

        Raises:
          ValueError: an epoch has no batches.
        """
        if step < 0:
            raise IndexError(f"a step must be at least 0, got {step}")
        if step < self._read - len(self._kept):
            self._rewind()
        while self._read <= step:
            self._kept.append(self._next())
            self._read += 1
        return self._kept[step - self._read]

    def _next(self) -> Batch:
        """The next batch in order; where an epoch ends, the first of the one after."""
        nothing: Any = object()
        batch = next(self._iterator, nothing)
        if batch is not nothing:
            return batch
        self._iterator = iter(self._make(self._epoch))
        batch = next(self._iterator, nothing)
        if batch is nothing:
            raise ValueError(
                f"make({self._epoch}) has no batches; it must return new ones in every "
                f"call, and not an iterator that has ended"
            )
        self._epoch += 1
        return batch
