"""What every strategy needs: its decisions, and checks of its settings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperdyn_jax.tuner.interface import Decision, Leaf
from hyperdyn_jax.tuner.search_space import SearchSpace


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


def stack(
    names: Iterable[str], settings: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """The values of some hyperparameters in each setting, f32[settings] by name."""
    return {name: np.array([x[name] for x in settings], np.float32) for name in names}


def check_metric(metric: str) -> None:
    """Raises ValueError unless the metric is one that scores can be of."""
    if metric not in ("loss", "accuracy"):
        raise ValueError(f"metric must be 'loss' or 'accuracy', got {metric!r}")


def check_space(space: Any) -> None:
    """Raises ValueError unless it is a search space, and not one axis or a dict."""
    if not isinstance(space, SearchSpace):
        raise ValueError(f"space must be a SearchSpace, got {space!r}")


def check_hparams(hparams: Any) -> None:
    """Raises ValueError unless it has values by names."""
    if not isinstance(hparams, Mapping):
        raise ValueError(
            f"hparams must be values by the names of hyperparameters, for example "
            f"{{'learning_rate': 0.1}}, got {hparams!r}"
        )


def check_start(score: float) -> np.float32:
    """The untrained network's score as f32, or ValueError if it is not finite."""
    start = np.float32(score)
    if not np.isfinite(start):
        raise ValueError(f"the untrained network's score must be finite: {start}")
    return start
