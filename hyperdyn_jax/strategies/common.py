"""What every baseline needs: its decisions in words, and checks of its settings."""

import math
import numbers
from typing import Any

import numpy as np

from hyperdyn_jax.tuner.interface import Decision, Leaf


def best_branch(scores: np.ndarray) -> int:
    """The branch with the best finite score, the first of equals; -1 without one."""
    finite = np.isfinite(scores)
    return int(np.argmax(np.where(finite, scores, -np.inf))) if finite.any() else -1


def accept(
    epoch: Leaf, branch: int, *, hold: Any = None, kept: Leaf = False
) -> Decision:
    """The run goes on as this branch; `hold` is that branch alone unless given."""
    return _decision(epoch, branch, [branch] if hold is None else hold, kept)


def stay(epoch: Leaf, hold: Any) -> Decision:
    """The run stays where it was; `hold` begins with the state that it was in."""
    return _decision(epoch, -1, hold, False)


def _decision(epoch: Leaf, branch: int, hold: Any, kept: Leaf) -> Decision:
    return Decision(
        epoch=int(epoch),
        branch=int(branch),
        kept=bool(kept),
        keep_probability=math.nan,
        draw=math.nan,
        hold=np.array(hold, np.int32),
    )


def check_start(score: float) -> np.float32:
    """The untrained network's score as f32, or ValueError if it is not finite."""
    start = np.float32(score)
    if not np.isfinite(start):
        raise ValueError(f"the untrained network's score must be finite: {start}")
    return start


def check_whole(name: str, value: int, least: int) -> None:
    """Raises ValueError unless the value is a whole number of at least `least`, of
    Python's or of NumPy's."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


def check_number(
    name: str, value: float, low: float, high: float, bounds: str = "()"
) -> None:
    """Raises ValueError unless the value is a number between low and high.

    Bounds: which ends are among the valid values, as '()', '[)', '(]' or '[]'.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not (
        (low <= value if bounds[0] == "[" else low < value)
        and (value <= high if bounds[1] == "]" else value < high)
    ):
        valid = f"{bounds[0]}{low:g}, {high:g}{bounds[1]}"
        raise ValueError(f"{name} must be a number in {valid}, got {value!r}")
