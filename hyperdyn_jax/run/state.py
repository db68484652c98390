"""The state of a run, and what the engine asks of a training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from hyperdyn_jax.run.rows import Directory
from hyperdyn_jax.strategies.learned_schedule import Piece
from hyperdyn_jax.training.progress import Evaluation, Progress
from hyperdyn_jax.tuner.interface import Leaf, Trials

Path = Sequence[Piece]
Rows = dict[str, dict[str, Any]]  # of a decision, by the log that each is for


class Branch(NamedTuple):
    """A trial, trained and scored; the score of one that diverged is NaN.

    train_loss: mean over its steps, nats; None where a user's own loop tells none.
    """

    state: Any
    train_loss: float | None
    validation: Evaluation
    score: float


class Pending(NamedTuple):
    """A decision whose branches are on their way.

    trials: the settings that they try.
    progress: the branches as far as they are trained.
    seconds: time that they have been trained for.
    """

    trials: Trials
    progress: Progress
    seconds: float = 0.0


class Run(NamedTuple):
    """Everything that a run needs to go on; a checkpoint holds it.

    held: states that trials start from; the first is the run itself.
    steps: optimizer steps on the path to each of them.
    paths: the settings on the path to each of them, as of
      `learned_schedule.path_of`; None for that of the run itself, which its rows tell.
    best: with backtracking, the state of the epoch that was best on validation data, of
      those that the run came through.
    tuner: the strategy's state.
    key: u32[...], raw PRNG key of the augmentation; of `tune` its own key, which only a
      roll-back changes.
    score: the run's score on validation data, as the strategy measures it.
    first_score: score that the strategy began with.
    examples: number of examples of each split of the data, where it is known.
    epoch: decisions so far that took the run on, one an epoch for most strategies.
    attempts: decisions in a row, up to now, in which every branch diverged.
    limit: largest learning rate that is tried, lowered where everything diverges.
    total_steps: optimizer steps with every trial.
    told_step: step at which the last row of metrics.jsonl ended.
    best_epoch, best_merit: the epoch of `best`, and how good it was (`merit`).
    seconds: spent since the last accepted epoch, on trials that led nowhere.
    pending: the decision that is being trained for, if the state was saved inside one.
    skipped: a line for each record that was left out so far.
    first_state: digest of the state that a run of `tune` with a workdir began with.
    """

    held: list[Any]
    best: list[Any]
    tuner: Any
    key: Leaf
    score: float
    first_score: float
    examples: dict[str, int]
    steps: Sequence[int] = (0,)
    paths: Sequence[Path | None] = (None,)
    epoch: int = 0
    attempts: int = 0
    limit: float = math.inf
    total_steps: int = 0
    told_step: int = 0
    best_epoch: int = -1
    best_merit: float = -math.inf
    seconds: float = 0.0
    pending: Pending | None = None
    skipped: Sequence[str] = ()
    first_state: int | None = None

    @property
    def step(self) -> int:
        """Optimizer steps on the accepted path."""
        return self.steps[0]


class Decided(NamedTuple):
    """The run after a decision, and what is told of it.

    run: the run after it.
    rows: its rows, by log.
    accepted: the state that was scored and accepted; None where the run stays.
    """

    run: Run
    rows: Rows
    accepted: Any = None


class Training(Protocol):
    """How the branches of a run are trained and scored.

    epochs: length of the accepted path, where the strategy takes none of it for trials.
    steps_per_epoch: optimizer steps of an epoch.
    advice: a line on what a person can change where everything diverges.
    """

    @property
    def epochs(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def advice(self) -> str: ...

    def train(self, engine: Any, run: Run, directory: Directory) -> Run:
        """Trains every branch of the next decision, which is then pending, on the same
        batches. The run may be saved on the way."""
        ...

    def score(self, progress: Progress) -> list[Branch]:
        """Scores trained branches on validation data."""
        ...

    def steps_taken(self, progress: Progress) -> int:
        """Optimizer steps that the branches took together."""
        ...

    def at_end(self, branch: Branch) -> Branch | None:
        """The branch scored at the end of its path; None if it was already."""
        ...

    def chance(self, validation: Evaluation, comparisons: int) -> float:
        """How much better than the last the best of some epochs looks by chance."""
        ...

    def test(self, state: Any) -> dict[str, Any]:
        """The results of a state on the test split, for the last row."""
        ...

    def skipped(self) -> Sequence[str] | None:
        """A line for each record that was left out so far; None if no record may be
        left out."""
        ...

    def check(self, examples: Mapping[str, int], directory: Directory) -> None:
        """Raises ConfigError if a saved run is of other data."""
        ...

    def pack(self, state: Any) -> Any:
        """A state as a pytree of arrays, for a checkpoint."""
        ...

    def like(self) -> Any:
        """Arrays of the shapes and dtypes of a packed state."""
        ...

    def unpack(self, arrays: Any) -> Any:
        """The state of such arrays."""
        ...
