"""A plain loop over a workload: an optimizer, a rate, and how the rate changes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from benchmarks.suite.tables import SHAPES
from benchmarks.suite.workload import State, Workload

READS = 40  # of the validation loss, along a run
PIECES = 5  # between two of them, each at its own rate
WARMUP = 0.05  # of a run


def warmed_cosine(share: float) -> float:
    return min(1.0, share / WARMUP) * SHAPES["cosine"](share)


SCHEDULES = SHAPES | {"warmed_cosine": warmed_cosine}


class Run(NamedTuple):
    """What a run came to.

    losses: of validation, by step; the first is the untrained network's.
    loss, test: of validation and of test, where the validation loss was best: a run
      may stop early, as the race may.
    last: the validation loss at the end; not finite where it diverged.
    """

    losses: list[tuple[int, float]]
    loss: float
    test: float
    last: float


def train(
    work: Workload,
    rate: float,
    shape: str,
    seed: int,
    read: Callable[[State], State] = lambda state: state,
    warmup: int = 0,
) -> Run:
    """Trains a workload to its end.

    Args:
      work: the workload.
      rate: the largest of the run.
      shape: one of `SCHEDULES`.
      seed: of the weights.
      read: the state that is scored.
      warmup: steps over which the rate rises to what the shape says.
    """
    state, every = work.init(jax.random.key(seed)), work.steps // READS
    losses, best = [(0, -work.evaluate(state))], state
    length = max(1, every // PIECES)
    for first in range(0, work.steps, length):
        steps = range(first, min(first + length, work.steps))
        middle = first + len(steps) / 2
        raised = min(1.0, (middle + 0.5) / max(warmup, 1))
        now = rate * SCHEDULES[shape](middle / work.steps) * raised
        state = work.train(state, {"learning_rate": now}, steps)
        if steps.stop % every and steps.stop != work.steps:
            continue
        losses.append((steps.stop, -work.evaluate(read(state))))
        if not math.isfinite(losses[-1][1]):
            break
        if losses[-1][1] < min(loss for _, loss in losses[:-1]):
            best = read(state)
    loss = min(loss for _, loss in losses if math.isfinite(loss))
    return Run(losses, loss, -work.test(best), losses[-1][1])
