"""Tuning in your own training loop: any pytree of training state, any strategy.

    result = tune(train, evaluate, state, space, epochs=9, steps_per_epoch=99, key=key)

The loop of a run without its network and data: ask, train every branch from the state
that it starts from, score it, tell, go on with one of them.
"""

import dataclasses
import numbers
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
import optax

from hyperdyn_jax.run import console, misuse, verdicts
from hyperdyn_jax.run import trackers as tracking
from hyperdyn_jax.run.engine import Engine
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.run.own_loop import OwnLoop, Setting
from hyperdyn_jax.run.rows import InMemory
from hyperdyn_jax.run.state import Decided, Run
from hyperdyn_jax.strategies import Schedule
from hyperdyn_jax.strategies.learned_schedule import path_of, schedules, to_schedule
from hyperdyn_jax.strategies.race import Race
from hyperdyn_jax.system import checks, files, pytrees
from hyperdyn_jax.tuner import interface
from hyperdyn_jax.tuner.cpu_jit import key_data
from hyperdyn_jax.tuner.interface import Strategy, TooShortError
from hyperdyn_jax.tuner.search_space import SearchSpace

State = TypeVar("State")
Base = float | Mapping[str, float | optax.Schedule] | Schedule | None

OTHER_STATE = (
    "it goes on from its own, and the one that is given now is not used; give another "
    "workdir to train that one"
)


@dataclasses.dataclass(frozen=True, repr=False)
class TuneResult(Generic[State]):
    """The end of a tuned run.

    state: the training's state after the last accepted epoch or the best one.
    score: the score of that state, as `evaluate` returned it.
    best_epoch: the epoch that the state is of; the last one without backtracking.
    metrics: a row an accepted epoch, as in metrics.jsonl; what a loop of your own does
      not tell, such as the training loss, is None. A row that is `leading` is of the
      arm that led a race so far, which the run need not have gone on from.
    decisions: a row a decision, as in decisions.jsonl; of its scores more is better.
    """

    state: State
    score: float
    best_epoch: int
    metrics: list[dict[str, Any]]
    decisions: list[dict[str, Any]]

    def __repr__(self) -> str:
        """In a line: the rows of a long run would fill the screen."""
        return (
            f"TuneResult(score={self.score:.6g}, best_epoch={self.best_epoch}, "
            f"epochs={len(self.metrics)}, steps={self.metrics[-1]['step']}, "
            f"total_steps={self.metrics[-1]['total_steps']})"
        )

    def summary(self) -> str:
        """The run in a few lines."""
        best = self.metrics[self.best_epoch]
        tried = sum(len(row["trials"]) for row in self.decisions)
        path = path_of(self.metrics)
        first, then = map(verdicts.short, (path[0][1], best["hyperparams"]))
        return (
            f"score {self.score:.6g}, that of epoch {self.best_epoch} "
            f"(0 to {len(self.metrics) - 1})\n"
            f"{first} in the first epoch, {then} in that one\n"
            f"{tried} trials in {len(self.decisions)} decisions\n"
            f"{console.spent(self.metrics)}"
        )

    @property
    def schedule(self) -> dict[str, optax.Schedule]:
        """The accepted path: for every hyperparameter a function of the step."""
        return schedules(to_schedule(self.metrics))


def tune(
    train: Callable[[State, Setting, range], State],
    evaluate: Callable[[State], float],
    state: State,
    tuner: SearchSpace | Strategy,
    *,
    epochs: int,
    steps_per_epoch: int,
    key: jax.Array,
    base: Base = None,
    warmup: int | None = None,
    minimize: bool | None = None,
    workdir: str | Path | None = None,
    trackers: str = "",
    callback: Callable[[State, Row], Any] | None = None,
    on_decision: Callable[[Row], Any] | None = None,
    progress: bool = False,
) -> TuneResult[State]:
    """Trains any state while its hyperparameters are tuned.

    A race scores the average of the path that training takes (`optimizers.averaged`),
    so `tune` keeps one for every trial: `train` is called for it in up to 16 pieces,
    each going on where the one before ended, and all floats of the states at their ends
    are averaged, from the first step of the run on. Everything else in the
    state is that of the end, which is also what training goes on from. BatchNorm's
    running statistics are averaged too, and are not those of the averaged weights:
    measure them anew in `evaluate`, or give `Race(..., averaging=None)` as the
    tuner. An optimizer that averages by itself is not needed.

    The result is the average or the end of the path of the last accepted epoch,
    whichever scores better; with the strategy's `backtracking`, an earlier epoch as it
    was scored, if that is better still. How much of a difference is chance is not known
    of scores alone: any better one counts, and the score of the best of many epochs is
    a little too good.

    Args:
      train: `train(state, hparams, steps)` returns the state after these steps, under
        hyperparameters f32[] by name. `steps` is a range of step numbers, counted over
        the whole run; take batches and random keys from the numbers, so that trials
        which are compared see the same, and each stretch something new. Where a run
        goes back, numbers come again. Take `step % len(batches)`, as numbers go past
        the end of the data. An epoch may come in several ranges. It must leave the
        state that it is given as it was, as other trials start from it: no donation,
        no change in place.
      evaluate: `evaluate(state)` returns the score on data held out of training: more
        is better, or less with `minimize`. For a search space it is any number, of any
        sign and unit. A strategy whose `metric` is 'accuracy' takes percentage points,
        without `minimize`. Not finite says that the state has diverged, as a NaN in it
        does.
      state: to start from, any pytree.
      tuner: a search space: some of its settings train from the same start for more
        and more steps, within a sixth of all, and the run goes on from the one that
        is expected to end best (`Race`). Up to 24 states are held at once, each with
        its average. Or any strategy, such as `Hyperdyn(space)`, whose temperature is in
        the unit of the scores: where these are no percentage points, give about as much
        as scores change in its `window` epochs.
      epochs: of `steps_per_epoch` steps. With a search space they are all of the run,
        the race included; with most other strategies trials come on top.
      steps_per_epoch: numbers of `steps` an epoch; most strategies decide once an
        epoch, and a race in stretches of its own.
      key: a PRNG key (`jax.random.key(seed)`) for the tuner.
      base: with a search space, your own setting or schedule, which stays unless a
        significance test finds that rates differ, and the model expects another to end
        better. The shape of a schedule stays: a rate is scaled, another hyperparameter
        shifted along its axis. It is a number where the space has one axis; numbers by
        name, or Optax schedules, which count steps; or a `Schedule`, which counts
        epochs.
      warmup: with a search space, the steps over which your optimizer itself raises the
        rate: for so long larger rates look better than they are. A warm-up in `base` is
        seen. None is 0, with a warning where an Optax schedule is in the state.
      minimize: True where `evaluate` returns a loss; False where more is better. None
        is False, with a warning where the scores look like a loss.
      workdir: a directory to write metrics.jsonl, decisions.jsonl, schedule.json and
        the newest state to. The same call again goes on from there, and ends as it
        would have ended; `python -m hyperdyn_jax.report` makes a page of it. One
        process at a time can have it. There is a warning if the run there began with
        another state. That the functions and the data are the same is not checked.
      trackers: those of 'tensorboard', 'wandb' and 'mlflow' that every accepted epoch
        is sent to, separated by commas; they need a workdir.
      callback: `callback(state, row)` is told of every accepted epoch: the state that
        was scored, and its row of metrics.jsonl.
      on_decision: `on_decision(row)` is told of every decision, also of trials that
        leave the run where it is: its row of decisions.jsonl, before `callback`.
      progress: True to print a line for every decision.

    Returns:
      The last state or the best, its score, the rows, and the schedule that led to it.

    Raises:
      ValueError: an argument is out of range, workdir holds another run, or `train`
        or `evaluate` does what it may not.
      TooShortError: the run has too few steps for a race; a ValueError too.
      CannotTellError: all trials of a race score alike, and there is no base; a
        ValueError too.
      DivergedError: every trial diverged, several times in a row.

    Example:
      >>> def train(w, hparams, steps):  # gradient descent on w^2 / 2
      ...     return w * (1 - hparams["learning_rate"]) ** len(steps)
      >>> halving = Schedule({"learning_rate": lambda epoch: 0.5 ** (int(epoch) + 1)})
      >>> result = tune(train, lambda w: -abs(w), 1.0, halving,
      ...               epochs=3, steps_per_epoch=4, key=jax.random.key(0))
      >>> [row["hyperparams"]["learning_rate"] for row in result.metrics]
      [0.5, 0.25, 0.125]
      >>> float(result.state) == (0.5 * 0.75 * 0.875) ** 4
      True
    """
    checks.check_whole("epochs", epochs, 1)
    checks.check_whole("steps_per_epoch", steps_per_epoch, 1)
    epochs, steps_per_epoch = int(epochs), int(steps_per_epoch)
    strategy = _strategy(tuner, epochs, steps_per_epoch, base, warmup)
    if note := getattr(strategy, "note", ""):
        warnings.warn(note, stacklevel=2)
    untold = isinstance(tuner, SearchSpace) and warmup is None
    if untold and misuse.has_schedule(state):
        warnings.warn(misuse.SCHEDULE, stacklevel=2)
    names = tracking.parse(trackers)
    if names and workdir is None:
        raise ValueError(f"trackers={trackers!r} need a workdir")
    if wrong := pytrees.problem(state):
        raise ValueError(
            f"the state holds {wrong}; branches would share it and it could not be "
            f"saved: keep it outside, and take batches and keys from the step numbers"
        )
    _check_minimize(minimize, strategy)
    loss = bool(minimize)
    training = OwnLoop(strategy, train, evaluate, state, epochs, steps_per_epoch, loss)
    engine = Engine(strategy, training, strategy.backtracking)
    own = strategy if isinstance(tuner, SearchSpace) else tuner
    about = _about(own, epochs, steps_per_epoch, key_data(key))
    about |= {"minimize": True} if loss else {}  # else another run than without
    watch = misuse.Watch(strategy.metric, minimize)

    def told(_: Run, decided: Decided) -> None:
        metrics = directory.rows["metrics"] if "metrics" in decided.rows else []
        decision = directory.rows["decisions"][-1]
        step, steps = decided.run.step, engine.length(decided.run)
        for note in (*training.news(), *watch.notes(decision, ended=step >= steps)):
            warnings.warn(note, stacklevel=4)  # at the line that calls tune
        if progress:
            words = console.LOSS if loss else console.SCORE
            where = console.at_step(step, steps)
            print(console.folded(console.told(where, decision, metrics, words)))
        if on_decision:
            on_decision(decision)
        if callback and metrics:
            callback(decided.accepted.read_out(), metrics[-1])

    with _directory(workdir, about, names) as directory:
        first = pytrees.digest_of_tree(state) if directory.keeps else None
        run = engine.resume(key, directory)
        if run is None:
            run = training.begin(key)._replace(first_state=first)
        elif run.first_state not in (None, first):
            note = f"workdir={workdir} holds a run that began with another state"
            warnings.warn(f"{note}; {OTHER_STATE}", stacklevel=2)
        run = engine.run_to_end(run, directory, told)
    last = run.best_epoch == run.epoch - 1
    score = run.score if last else run.best_merit
    return TuneResult(
        state=pytrees.writeable(run.held[0].read_out()),
        score=-score if loss else score,
        best_epoch=run.best_epoch,
        metrics=directory.rows["metrics"],
        decisions=directory.rows["decisions"],
    )


def _check_minimize(minimize: Any, strategy: Strategy) -> None:
    """Raises ValueError where a loss is given to a strategy that takes none."""
    if not (minimize is None or isinstance(minimize, bool | np.bool_)):
        raise ValueError(f"minimize must be True, False or None, got {minimize!r}")
    if minimize and strategy.metric == "accuracy":
        raise ValueError(
            f"minimize=True is for a loss, and {type(strategy).__name__} takes an "
            f"accuracy in percentage points; return one without minimize, or give a "
            f"strategy with metric='loss' or the search space alone"
        )


def _directory(workdir: str | Path | None, about: Row, names: list[str]) -> Any:
    """Where the rows and states of a run go.

    Raises:
      ValueError: the directory holds another run, or a tracker cannot be started.
    """
    if workdir is None:
        return InMemory()
    from hyperdyn_jax.run.run_dir import RunDirectory  # Orbax comes with it

    return RunDirectory(files.expand(workdir), about, print, names, flag="workdir")


def _strategy(
    tuner: SearchSpace | Strategy,
    epochs: int,
    steps_per_epoch: int,
    base: Base,
    warmup: int | None,
) -> Strategy:
    """The strategy of the arguments of `tune`, checked against the run's length."""
    if isinstance(tuner, SearchSpace):
        schedule = _schedule(base, tuner, steps_per_epoch)
        try:
            return Race(
                tuner, epochs, steps_per_epoch, base=schedule, warmup=warmup or 0
            )
        except TooShortError:
            raise TooShortError(
                f"{epochs} x {steps_per_epoch} steps are too few for a race within a "
                f"sixth of them; give more epochs or steps_per_epoch, or in place of "
                f"the space a strategy, such as Hyperdyn(space), or Race(space, "
                f"{epochs}, {steps_per_epoch}, max_overhead=0.5)"
            ) from None
    try:
        tuner = interface.complete(tuner)
    except ValueError as error:
        raise ValueError(
            f"tuner must be a SearchSpace or a strategy: {error}"
        ) from None
    if base is not None:
        raise ValueError("base goes with a SearchSpace; give the strategy its own")
    if warmup is not None:
        raise ValueError("warmup goes with a SearchSpace; give it to Race(...)")
    own = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    for name, theirs in tuner.made_for.items():
        if theirs != own[name]:
            raise ValueError(f"{name} is {own[name]}, but {theirs} in the strategy")
    if problem := interface.too_short(tuner, steps_per_epoch):
        raise ValueError(
            f"steps_per_epoch={steps_per_epoch} is too small for the strategy: "
            f"{problem}; give more of them, or longer trials"
        )
    return tuner


def _schedule(base: Base, space: SearchSpace, steps_per_epoch: int) -> Schedule | None:
    """The base of the arguments of `tune`, its functions of the step as of the epoch.

    Raises:
      ValueError: it is no setting of the space.
    """
    if base is None:
        return None
    names = ", ".join(space)
    if isinstance(base, numbers.Real) and len(space) == 1:
        base = dict.fromkeys(space, base)
    if isinstance(base, Mapping):
        values: dict[str, Any] = {
            name: _by_epoch(value, steps_per_epoch) if callable(value) else value
            for name, value in base.items()
        }
        base = Schedule(values)
    if not isinstance(base, Schedule):
        raise ValueError(
            f"base must be numbers or schedules by name, for {names}, or a Schedule; "
            f"got {base!r}"
        )
    if set(base.hparams) != set(space):
        raise ValueError(
            f"base must have the search space's hyperparameters, {names}; "
            f"got {', '.join(base.hparams)}"
        )
    return base


def _by_epoch(
    schedule: Callable[[float], Any], steps_per_epoch: int
) -> Callable[[float], float]:
    """An Optax schedule, which counts steps, as a function of the time in epochs."""
    return lambda time: float(schedule(time * steps_per_epoch))


def _in_words(strategy: Any) -> str:
    """The settings of a strategy; those of a user's class that has no `repr`."""
    kind: Any = type(strategy)
    silent = kind.__repr__ is object.__repr__
    return repr(vars(strategy) if silent else strategy)


def _about(
    strategy: Any, epochs: int, steps_per_epoch: int, key: np.ndarray
) -> dict[str, Any]:
    """The config.json of a run: what has to be the same to go on with it.

    Of a schedule that is a function of the epoch the values at some epochs: it has no
    text of its own.
    """
    schedule = getattr(strategy, "base", strategy)
    values = None
    if isinstance(schedule, Schedule):
        # In epochs or, of a replay, in steps.
        every = range(0, epochs, max(1, epochs // 8))
        values = [schedule.at(x) for x in getattr(schedule, "until_step", every)]
    return {
        "strategy": type(strategy).__name__,
        "settings": re.sub(r" at 0x[0-9a-f]+", "", _in_words(strategy)),
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "key": key,
        "schedule": values,
    }
