"""What a tuner and a training loop say to each other."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from numpy.typing import ArrayLike

from hyperdyn_jax.tuner.search_space import Axis

# Of a state: a NumPy array or scalar, of the shape that its docstring gives.
Leaf: TypeAlias = Any


class Trials(NamedTuple):
    """Settings to try from states that the loop holds, with what the tuner expects.

    hparams: f32[c] for every hyperparameter; branch i trains with element i of each.
    parents: i32[c], the held state that branch i starts from; 0 is the run itself.
    epochs: length of every branch, in epochs.
    posterior_mean: f32[c] predicted gain in percentage points, NaN without a model.
    posterior_stddev: f32[c] its standard deviation.
    expected_improvement: f32[c] over the best gain so far, percentage points.
    model: parameters of the model that predicted, arrays by name; empty without one.
    """

    hparams: dict[str, np.ndarray]
    parents: np.ndarray
    epochs: float
    posterior_mean: np.ndarray
    posterior_stddev: np.ndarray
    expected_improvement: np.ndarray
    model: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        hparams: Mapping[str, ArrayLike],
        prediction: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
        model: Mapping[str, np.ndarray] | None = None,
    ) -> "Trials":
        """One-epoch trials from the run's own state, without a prediction if None."""
        settings = {name: np.asarray(x, np.float32) for name, x in hparams.items()}
        (count,) = {len(x) for x in settings.values()}
        unknown = np.full(count, np.nan, np.float32)
        mean, stddev, improvement = prediction or (unknown, unknown, unknown)
        return cls(
            hparams=settings,
            parents=np.zeros(count, np.int32),
            epochs=1.0,
            posterior_mean=np.asarray(mean, np.float32),
            posterior_stddev=np.asarray(stddev, np.float32),
            expected_improvement=np.asarray(improvement, np.float32),
            model=dict(model or {}),
        )

    def setting(self, branch: int) -> dict[str, np.float32]:
        """The hyperparameters of one branch."""
        return {name: values[branch] for name, values in self.hparams.items()}


class Decision(NamedTuple):
    """Which branch becomes the run, and why.

    epoch: the decision epoch the trials belong to; 0 is the random start.
    branch: index of the branch that becomes the run, or -1 if the run stays where it
      was because every branch was infeasible.
    kept: the incumbent setting continues.
    keep_probability: result of the wait-and-watch test, in [0, 1]; NaN without one.
    draw: the uniform number it was compared with, in [0, 1); NaN where there was none.
    hold: i32[h], states to hold on to for the next trials, by their index in (branches,
      then the states held before). The first becomes the run.
    undone: the trial was the run's own next steps, and these are taken back.
    verdict: what else a row of decisions.jsonl is to tell. Nothing depends on it, so
      processes do not share it.
    """

    epoch: int
    branch: int
    kept: bool
    keep_probability: float
    draw: float
    hold: np.ndarray
    undone: bool = False
    verdict: Mapping[str, Any] | None = None


class DivergedError(RuntimeError):
    """Every branch of an epoch diverged, in every attempt."""


class TooShortError(ValueError):
    """A run has fewer steps than the settings of its strategy need."""


class Strategy:
    """What proposes settings and decides between trials; the base of all strategies.

    Functions over an explicit state: a pytree of arrays with random bits of its own.
    A subclass has `metric`, `init`, `ask` and `tell`; everything else has a default.
    An object that has only those four is as good (`complete`).
    """

    @property
    def metric(self) -> str:
        """What scores are. "accuracy": percentage points; "loss": minus nats."""
        raise NotImplementedError

    def init(self, key: jax.Array, score: float) -> Any:
        """State of a run that starts at a network with this score."""
        raise NotImplementedError

    def ask(self, state: Any) -> Trials:
        """Settings to try next. Reads the state, changes nothing."""
        raise NotImplementedError

    def tell(
        self, state: Any, trials: Trials, scores: np.ndarray
    ) -> tuple[Any, Decision]:
        """Takes the scores of all trials, f32[c], and decides."""
        raise NotImplementedError

    def incumbent(self, state: Any) -> Mapping[str, Any] | None:  # noqa: ARG002
        """The setting of branch 0, where it is known before `ask` has searched; None
        where it is not. Its trial is one epoch long, from the run itself."""
        return None

    def accepted_steps(self, state: Any) -> int | None:  # noqa: ARG002
        """Optimizer steps of the accepted path; None for those of all epochs."""
        return None

    @property
    def averaging(self) -> float | None:
        """Power of the iterate average that is evaluated (`optimizers.averaged`); None
        to evaluate the parameters in training."""
        return None

    @property
    def backtracking(self) -> bool:
        """Whether the run ends at its best epoch's network, where that is better than
        the last one's by more than chance."""
        return False

    @property
    def shortest_trial(self) -> float:
        """Epochs of its shortest trial, which must not round to no step; infinity
        where it counts whole steps itself."""
        return 1.0

    @property
    def searched(self) -> Mapping[str, Axis]:
        """The axes that it searches; empty where it follows a schedule."""
        return getattr(self, "space", {})

    @property
    def made_for(self) -> Mapping[str, int]:
        """The run's `epochs` and `steps_per_epoch`, where it holds for no others."""
        return {}


def too_short(strategy: Strategy, steps_per_epoch: int) -> str:
    """Says so if the shortest trial of a strategy would be rounded to no step; else
    ""."""
    steps = strategy.shortest_trial * steps_per_epoch
    return f"its shortest trials would be of {steps:.2g} steps" if steps < 0.5 else ""


def complete(strategy: Any) -> Strategy:
    """The strategy, with defaults for what it lacks if it is no subclass of `Strategy`.

    Args:
      strategy: it has `metric`, `init`, `ask` and `tell`.

    Raises:
      ValueError: it lacks one of them.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if lacking := [name for name in NEEDED if not hasattr(strategy, name)]:
        raise ValueError(
            f"a strategy has {', '.join(NEEDED)}; {strategy!r} lacks "
            f"{', '.join(lacking)}"
        )
    names = ["space", *(name for name in vars(Strategy) if not name.startswith("_"))]
    parts = {name: getattr(strategy, name) for name in names if hasattr(strategy, name)}
    methods = {name: staticmethod(x) for name, x in parts.items() if callable(x)}
    made: Any = type(type(strategy).__name__, (Strategy,), parts | methods)
    return made()


NEEDED = ("metric", "init", "ask", "tell")


def check_scores(scores: Any, trials: Trials) -> np.ndarray:
    """Scores as f32[c], or ValueError if there is not one for each trial."""
    each: np.ndarray = np.asarray(scores, np.float32)
    if each.shape != (len(trials.parents),):
        raise ValueError(
            f"expected one score for each of {len(trials.parents)} trials, "
            f"got shape {each.shape}"
        )
    return each
