"""What training and validation tell: branches on their way, and scores of a split."""

from typing import Any, NamedTuple

import numpy as np


class Progress(NamedTuple):
    """Branches on their way through the same batches.

    start: the step that all of them started from.
    states: one for each branch.
    losses: f32[branches, steps], the training loss of each branch at every step so far
      in nats; NaN where a diverged branch was no longer trained, or where the loop is
      the user's own and tells no loss.
    """

    start: int
    states: list[Any]
    losses: np.ndarray

    @property
    def steps(self) -> int:
        """How far they are."""
        return self.losses.shape[1]


class Evaluation(NamedTuple):
    """Mean over every example of a split, each counted once.

    accuracy: top-1, percentage points; None where a user's own loop tells a loss alone.
    loss: cross-entropy, nats; None where a user's own loop tells an accuracy alone.
    count: examples; 0 where they are not known.
    """

    accuracy: float | None
    loss: float | None
    count: int = 0  # type: ignore[assignment]  # a tuple counts too
