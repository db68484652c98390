"""What a loop of the user's own does that it hardly means to, as far as it shows.

All of it is seen in states and scores that are at hand anyway: a look at a few numbers
a decision, which costs no time that could be noticed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.system import pytrees

# Fields of Optax's states inside of which a count need not follow the steps.
_PAUSES = {"mini_step", "notfinite_count", "total_notfinite", "steps_since_sync"}
FRACTIONS = 2  # decisions in which an accuracy looks like a fraction, the same
PATIENCE = 4  # decisions in which all settings score alike, before that is told


def is_unchanged(before: Any, after: Any) -> bool:
    """Whether every number of a training state is what it was before."""
    old, new = jax.tree.leaves(before), jax.tree.leaves(after)
    if len(old) != len(new):
        return False
    pairs = zip(old, new, strict=True)
    known = [(a, b) for a, b in pairs if isinstance(a, pytrees.SAVED)]
    known.sort(key=lambda pair: np.size(pair[0]))  # a count of steps tells most
    return all(_is_same(a, b) for a, b in known)


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or np.shape(a) != np.shape(b):
        return False
    if isinstance(a, jax.Array):
        if not (a.is_fully_addressable and b.is_fully_addressable):
            return False  # other processes have the rest
        a, b = (np.asarray(jax.device_get(pytrees.raw(x))) for x in (a, b))
    return bool(np.all(a == b))


def unchanged(settings: Sequence[Mapping[str, Any]], steps: int) -> str:
    """That no trial has changed the state."""
    tried = "; ".join(map(verdicts.short, settings))
    return (
        f"train returned the state as it was: after {steps} steps at {tried} no number "
        f"in it has changed; return the new state, after as many updates as `steps` "
        f"has numbers"
    )


def optimizer_steps(state: Any) -> list[int]:
    """The counts of steps in a training state that Optax keeps."""
    nodes = jax.tree.leaves(state, is_leaf=lambda x: bool(_fields(x)))
    counts = [x.count for x in nodes if "count" in _fields(x) - _PAUSES]
    return [int(np.ravel(x)[0]) for x in jax.device_get(counts) if np.size(x)]


def _fields(node: Any) -> set[str]:
    """The fields of an Optax state that has a count, or may leave one as it is."""
    if not type(node).__module__.startswith("optax"):
        return set()
    fields = set(getattr(node, "_fields", ()))
    if fields & _PAUSES:
        return fields - {"count"}
    return fields if "count" in fields else set()


def has_schedule(state: Any) -> bool:
    """Whether an optimizer in a training state changes its rate by itself, with
    `optax.scale_by_schedule`."""
    return any(
        isinstance(node, optax.ScaleByScheduleState)
        for node in jax.tree.leaves(state, is_leaf=lambda x: bool(_fields(x)))
    )


SCHEDULE = (
    "the optimizer has a schedule of its own (ScaleByScheduleState), which multiplies "
    "the rate that is tuned; if it begins with a warm-up, give its steps, "
    "tune(..., warmup=100), or make it a part of base; if not, give warmup=0"
)


def miscounted(start: Any, end: Any, steps: int) -> int | None:
    """The optimizer steps from one training state to another, if Optax has counted
    others than these."""
    before, after = optimizer_steps(start), optimizer_steps(end)
    if len(before) != len(after):
        return None
    taken = [b - a for a, b in zip(before, after, strict=True)]
    return None if not taken or steps in taken else max(taken)


class Watch:
    """Looks at the scores of a run, one decision after the other.

    Args:
      metric: of the strategy.
      minimize: whether scores are losses; None where nobody has said so.
    """

    def __init__(self, metric: str, minimize: bool | None):
        # Decisions with scores like fractions, until that is told.
        self._fractions = FRACTIONS if metric == "accuracy" else 0
        self._unsure = minimize in (None, True) and metric != "accuracy"
        self._minimize = bool(minimize)
        self._mistaken = False  # about the sign of the scores, as it was told
        self._alike: list[Row] | None = []  # None once settings differed

    def notes(self, decision: Row, ended: bool) -> list[str]:
        """What is to be told after a decision.

        Args:
          decision: its row of decisions.jsonl.
          ended: it was the last one.
        """
        found = [self._sign(decision), self._fraction(decision), self._end(decision)]
        return [x for x in (*found, self._same(decision, ended)) if x]

    def _sign(self, row: Row) -> str | None:
        """A loss falls the more the larger a rate is, while rates are small; a score
        rises."""
        likely = self._unsure and falls(row, positive=not self._minimize)
        self._unsure = False
        if not likely:
            return None
        self._mistaken = True
        if self._minimize:
            return (
                "of the smaller rates, a larger one scores more, as of a score; if "
                "more is better, give no minimize=True; if not, all rates are too large"
            )
        return (
            "of the smaller rates, a larger one scores lower, as of a loss; if "
            "evaluate returns a loss, give tune(..., minimize=True); if not, "
            "minimize=False"
        )

    def _end(self, row: Row) -> str | None:
        """A rate at an end of the range of those that a race has tried."""
        told = "end" in row and not self._mistaken
        return f"the race {verdicts.reason(row)}" if told else None

    def _fraction(self, row: Row) -> str | None:
        """An accuracy from 0 to 1 where percentage points are meant."""
        scores = [x for x in row["scores"] if verdicts.known(x) is not None]
        if not scores or not self._fractions:
            return None
        best = max(scores)
        if best > 1 or min(scores) < 0:
            self._fractions = 0
        # What is more than half of all is learned; the same in percent is next to none.
        if best <= 0.5 or not self._fractions:
            return None
        self._fractions -= 1
        if self._fractions:
            return None
        return (
            f"scores are from 0 to 1 ({best:.4g}), and the strategy takes an accuracy "
            f"in percentage points, from 0 to 100: return 100 times as much"
        )

    def _same(self, row: Row, ended: bool) -> str | None:
        """Settings that make no difference at all."""
        if self._alike is None:
            return None
        count = len(row["trials"])
        if count > 1:
            if not _scored_alike(row):
                self._alike = None
                return None
            self._alike.append(row)
        over = ended or count == 1 or len(self._alike) == PATIENCE
        if not over or not self._alike:
            return None
        last, self._alike = self._alike[-1], None
        return (
            f"all {len(last['trials'])} settings that were compared score "
            f"{last['scores'][0]:.6g}, so that none is better than another; check that "
            f"train uses hparams and returns the new state, and that evaluate uses it"
        )


def _scored_alike(row: Row) -> bool:
    """Whether different settings have one score."""
    settings = {tuple(x.items()) for x in row["trials"]}
    scores = set(row["scores"])
    return len(settings) > 1 and len(scores) == 1 and None not in scores


def falls(row: Row, positive: bool = True) -> bool:
    """Whether the scores of the smaller rates of a decision, the untrained one as that
    of a rate of 0, are lower the larger the rate is; and positive, if that is asked."""
    settings, scores = row["trials"], row["scores"]
    names = [*settings[0]]
    name = "learning_rate" if "learning_rate" in names else names[0]
    sound = sorted(
        (setting[name], score)
        for setting, score in zip(settings, scores, strict=True)
        if verdicts.known(score) is not None
    )
    smaller = sound[: max(3, math.ceil(len(sound) / 2))]
    path = [row["score_before"], *(score for _, score in smaller)]
    steps = np.diff(np.array(path, np.float64))
    falling = len(smaller) >= 3 and bool((steps < 0).all())
    return falling and (min(path) > 0 or not positive)
