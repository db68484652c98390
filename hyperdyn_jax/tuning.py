"""Tuning in your own training loop: any pytree of training state, any strategy.

    result = tune(train, evaluate, state, space, epochs=9, steps_per_epoch=99, key=key)

The loop of a run without its network and data: ask, train every branch from the state
that it starts from, score it, tell, go on with one of them.
"""

import contextlib
import dataclasses
import io
import json
import math
import numbers
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperdyn_jax.optimizers import iterate_average as averaging
from hyperdyn_jax.run import console, jsonl
from hyperdyn_jax.run import trackers as tracking
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.strategies import Schedule, common
from hyperdyn_jax.strategies.explore_then_commit import ExploreThenCommit
from hyperdyn_jax.strategies.learned_schedule import schedules, to_schedule
from hyperdyn_jax.system import files, pytrees
from hyperdyn_jax.tuner import interface
from hyperdyn_jax.tuner.cpu_jit import key_data
from hyperdyn_jax.tuner.interface import (
    Decision,
    DivergedError,
    Strategy,
    TooShortError,
    Trials,
)
from hyperdyn_jax.tuner.search_space import SearchSpace

ATTEMPTS = 4  # decisions in a row in which everything diverges, before a run gives up
PIECES = 16  # points of the path of a trial that are averaged, at most

State = TypeVar("State")
Setting = dict[str, np.float32]
Base = float | Mapping[str, float | optax.Schedule] | Schedule | None


@dataclasses.dataclass(frozen=True, repr=False)
class TuneResult(Generic[State]):
    """What a tuned run ended with.

    state: of the training, after the last accepted epoch or the best one.
    score: of that state.
    best_epoch: whose state it is; the last one where there is no backtracking.
    metrics: a row an accepted epoch, as in metrics.jsonl; what a loop of your own does
      not tell, such as the training loss, is None.
    decisions: a row a decision, as in decisions.jsonl.
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
        """What a person wants to know of the run, in a few lines."""
        step, total = (self.metrics[-1][name] for name in ("step", "total_steps"))
        best = self.metrics[self.best_epoch]
        tried = sum(len(row["trials"]) for row in self.decisions)
        first, then = (
            console.setting(row["hyperparams"]) for row in (self.metrics[0], best)
        )
        return (
            f"score {self.score:.6g}, that of epoch {self.best_epoch} "
            f"(0 to {len(self.metrics) - 1})\n"
            f"{first} in the first epoch, {then} in that one\n"
            f"{tried} trials in {len(self.decisions)} decisions\n"
            f"{step:,} accepted steps, {total:,} total steps with every trial "
            f"({total / step - 1:+.0%})"
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
    workdir: str | Path | None = None,
    trackers: str = "",
    callback: Callable[[State, Row], Any] | None = None,
    progress: bool = False,
) -> TuneResult[State]:
    """Trains any state while its hyperparameters are tuned.

    Explore-then-commit scores the average of the path that training takes
    (`optimizers.averaged`), so `tune` keeps one: `train` is called for a trial in up to
    16 pieces, each going on where the one before ended, and all floats of the states at
    their ends are averaged, from the first step of the run on. Everything else in the
    state is that of the end, which is also what training goes on from. BatchNorm's
    running statistics are averaged too, and are not those of the averaged weights:
    measure them anew in `evaluate`, or give `ExploreThenCommit(..., averaging=None)`
    as the tuner. An optimizer that averages by itself is not needed.

    The result is the average or the end of the path, whichever scores better, of the
    last accepted epoch or, with the strategy's `backtracking`, of the best one. How
    much of a difference is chance is not known of scores alone: any better one counts,
    and the score of the best of many epochs is a little too good.

    Args:
      train: `train(state, hparams, steps)` returns the state after these steps, under
        hyperparameters f32[] by name. `steps` is a range of step numbers, counted over
        the whole run; take batches and random keys from the numbers, so that branches
        which are compared see the same. Numbers can go past the end of the run: wrap
        around. An epoch may come in several ranges. It must leave the state that it is
        given as it was, as other branches start from it: no donation, no change in
        place.
      evaluate: `evaluate(state)` returns the score on data held out of training; more
        is better. For a search space, and for strategies whose `metric` is 'loss', it
        is minus a loss, less than 0; for 'accuracy' it is in percentage points. Not
        finite says that the state has diverged, as a NaN in it does.
      state: to start from, any pytree.
      tuner: a search space, to explore within a fifth of the run and then commit
        (`ExploreThenCommit`). Where a base is left, its first epoch is tried with up to
        five settings from the base's to the one that was found, within another fifth:
        short probes favour rates that are too large later on. Or any strategy, such as
        `Hyperdyn(space)`, whose temperature is in the unit of the scores: for scores
        other than percentage points about by how much they go up and down over its
        window of epochs.
      epochs: of the accepted path, where the strategy takes none of them for trials;
        explore-then-commit's include all of its probes.
      steps_per_epoch: numbers of `steps` an epoch; most strategies decide once an
        epoch, and explore-then-commit's probes are 0.5% of all steps.
      key: a PRNG key (`jax.random.key(seed)`) for the tuner.
      base: with a search space, your own setting or schedule, which stays unless a
        significance test says that another is better: a number where the space has one
        axis; numbers by name, or Optax schedules, which count steps; or a `Schedule`,
        which counts epochs.
      workdir: a directory to write metrics.jsonl, decisions.jsonl, schedule.json and
        the newest state to. The same call again goes on from there, and ends as it
        would have ended; `python -m hyperdyn_jax.report` makes a page of it. One
        process at a time can have it.
      trackers: of 'tensorboard', 'wandb' and 'mlflow', those that every accepted epoch
        is sent to, separated by commas; they need a workdir.
      callback: `callback(state, row)` is told of every accepted epoch: the state that
        was scored, and its row of metrics.jsonl.
      progress: whether every decision is printed, in a line.

    Returns:
      The last state or the best, its score, the rows, and the schedule that led to it.

    Raises:
      ValueError: an argument is out of range, or workdir holds another run.
      DivergedError: every branch diverged, several times in a row.

    Example:
      >>> def train(w, hparams, steps):  # gradient descent on w^2 / 2
      ...     return w * (1 - hparams["learning_rate"]) ** len(steps)
      >>> halving = Schedule({"learning_rate": lambda epoch: 0.5 ** (epoch + 0.5)})
      >>> result = tune(train, lambda w: -abs(w), 1.0, halving,
      ...               epochs=3, steps_per_epoch=4, key=jax.random.key(0))
      >>> [row["hyperparams"]["learning_rate"] for row in result.metrics]
      [0.5, 0.25, 0.125]
      >>> float(result.state) == (0.5 * 0.75 * 0.875) ** 4
      True
    """
    common.check_whole("epochs", epochs, 1)
    common.check_whole("steps_per_epoch", steps_per_epoch, 1)
    epochs, steps_per_epoch = int(epochs), int(steps_per_epoch)
    strategy = _strategy(tuner, epochs, steps_per_epoch, base)
    loop = _Loop(strategy, train, evaluate, epochs, steps_per_epoch)
    about = _about(loop, key_data(key))
    names = tracking.parse(trackers)
    if names and workdir is None:
        raise ValueError(f"trackers={trackers!r} need a workdir")
    with contextlib.ExitStack() as stack:
        store = workdir and stack.enter_context(
            _Store(files.expand(workdir), about, names)
        )
        run = store.load(strategy, key, loop.begin(state)) if store else None
        if run is None:
            score = _number(evaluate(state))
            run = _Run([loop.begin(state)], strategy.init(key, score), score)
        while run.step < loop.accepted_steps(run):
            if run.attempts >= ATTEMPTS:
                raise DivergedError(_diverged(run))
            accepted, run = run.epoch, loop.decide(run)
            row = run.metrics[-1] if run.epoch > accepted else None
            if store:
                store.save(run)
            if progress:
                print(console.line(run.decisions[-1], row, loop.accepted_epochs(run)))
            if callback and row:
                callback(run.held[0].read_out(), row)
    return _result(run)


class _Held(NamedTuple):
    """A state that trials start from.

    average: of the path to it, None where the strategy scores its end.
    step: number of the step that comes next.
    """

    state: Any
    average: list[Any] | None
    step: int

    def read_out(self) -> Any:
        """The state that is scored."""
        if self.average is None:
            return self.state
        return averaging.read_out(self.average, self.state)

    def end(self) -> "_Held":
        """The same, scored at the end of its path."""
        return self._replace(average=averaging.start(self.state))


class _Best(NamedTuple):
    """The best accepted epoch so far: its state as it was scored."""

    state: Any
    score: float
    epoch: int


class _Run(NamedTuple):
    """Everything that a run needs to go on.

    held: states to start trials from, the first being the run itself.
    tuner: the strategy's state.
    score: of the run.
    best: with backtracking, the best epoch; of equals the last.
    """

    held: list[_Held]
    tuner: Any
    score: float
    best: _Best | None = None
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    attempts: int = 0
    metrics: list[dict[str, Any]] = []  # noqa: RUF012 (never changed in place)
    decisions: list[dict[str, Any]] = []  # noqa: RUF012


class _Loop(NamedTuple):
    """A decision at a time; the arguments of `tune`."""

    strategy: Strategy
    train: Callable[[Any, Setting, range], Any]
    evaluate: Callable[[Any], float]
    epochs: int
    steps_per_epoch: int

    def accepted_steps(self, run: _Run) -> int:
        """Steps of the accepted path: of all epochs, less what trials have taken."""
        steps = interface.complete(self.strategy).accepted_steps(run.tuner)
        return self.epochs * self.steps_per_epoch if steps is None else steps

    def accepted_epochs(self, run: _Run) -> int:
        """Epochs of the accepted path, the last of which may be a part of one."""
        return -(-self.accepted_steps(run) // self.steps_per_epoch)

    def begin(self, state: Any) -> _Held:
        """An untrained state."""
        held = _Held(state, None, 0)
        return held if self.averaging is None else held.end()

    @property
    def averaging(self) -> float | None:
        return getattr(self.strategy, "averaging", None)

    def decide(self, run: _Run) -> _Run:
        """Trains and scores the branches of a decision; goes on as one, or stays."""
        began = time.perf_counter()
        trials = self.strategy.ask(run.tuner)
        count = max(1, round(trials.epochs * self.steps_per_epoch))
        count = min(count, self.accepted_steps(run) - run.step)
        branches, scores = [], []
        for i, parent in enumerate(trials.parents):
            branch, score = self._branch(run.held[parent], trials, i, count)
            # The state of a probe that leads nowhere need not be kept.
            branches.append(None if trials.probe else branch)
            scores.append(score)
        told = np.array(scores, np.float32)
        tuner, decision = self.strategy.tell(run.tuner, trials, told)
        new = _follow(run, branches, scores, trials, decision)._replace(tuner=tuner)
        if decision.branch >= 0:
            new = self._accepted(new._replace(step=run.step + count))
        total = run.total_steps + count * len(scores)
        new = new._replace(total_steps=total)
        return self._recorded(run, new, trials, told, decision, began)

    def _accepted(self, run: _Run) -> _Run:
        """The run after an accepted epoch: how it ends, and the best epoch so far."""
        if self.averaging is not None and run.step == self.accepted_steps(run):
            # After an anneal that is often better than the average.
            end = run.held[0].end()
            score = self._score(end)
            if score > run.score:
                run = run._replace(held=[end, *run.held[1:]], score=score)
        better = run.best is None or run.score >= run.best.score
        if getattr(self.strategy, "backtracking", False) and better:
            best = _Best(run.held[0].read_out(), run.score, run.epoch - 1)
            run = run._replace(best=best)
        return run

    def _branch(
        self, held: _Held, trials: Trials, index: int, count: int
    ) -> tuple[_Held, float]:
        first = held.step + trials.block * count
        length = count if self.averaging is None else math.ceil(count / PIECES)
        for begin in range(first, first + count, length):
            steps = range(begin, min(begin + length, first + count))
            held = self._trained(held, trials.setting(index), steps)
        return held, math.nan if _has_nan(held.state) else self._score(held)

    def _trained(self, held: _Held, setting: Setting, steps: range) -> _Held:
        """A state some steps on. steps: their numbers, which `train` sees."""
        given = pytrees.read_only(held.state)
        before = jax.tree.leaves(given)
        try:
            state = self.train(given, setting, steps)
        except ValueError as error:
            if "read-only" in str(error):  # NumPy's word for an array of `given`
                raise _impure("changes") from error
            raise
        _check_pure(before, jax.tree.leaves(given), state)
        step, average = held.step + len(steps), held.average
        if average is not None and self.averaging is not None:
            share = averaging.weight(self.averaging, step, len(steps))
            average = averaging.update(average, state, share)
        return _Held(state, average, step)

    def _score(self, held: _Held) -> float:
        return _number(self.evaluate(held.read_out()))

    def _recorded(
        self,
        run: _Run,
        new: _Run,
        trials: Trials,
        scores: np.ndarray,
        decision: Decision,
        began: float,
    ) -> _Run:
        """The run with the rows of a decision."""
        extra = new.total_steps - run.total_steps - (new.step - run.step)
        back = {"attempt": new.attempts, "learning_rate_limit": None}
        row = jsonl.decision_row(
            trials,
            scores,
            decision,
            score_before=run.score,
            extra_steps=extra,
            rollback=back if new.attempts else None,
        )
        new = new._replace(decisions=[*run.decisions, jsonl.as_read(row)])
        if decision.branch < 0:
            return new
        loss = self.strategy.metric == "loss"
        metrics = {
            "epoch": run.epoch,
            "step": new.step,
            "total_steps": new.total_steps,
            "train_loss": None,
            "validation_accuracy": None if loss else new.score,
            "validation_loss": -new.score if loss else None,
            "hyperparams": trials.setting(decision.branch),
            "seconds": time.perf_counter() - began,
        }
        return new._replace(metrics=[*run.metrics, jsonl.as_read(metrics)])


def _result(run: _Run) -> TuneResult[Any]:
    """The run's end, or its best epoch where that scores better."""
    last = _Best(run.held[0].read_out(), run.score, run.epoch - 1)
    found = run.best if run.best and run.best.score > last.score else last
    found = found._replace(state=pytrees.writeable(found.state))
    return TuneResult(*found, run.metrics, run.decisions)


def _follow(
    run: _Run,
    branches: list[_Held | None],
    scores: list[float],
    trials: Trials,
    decision: Decision,
) -> _Run:
    """The run after a decision: what is held, and how it stands."""
    states = branches + run.held
    run = run._replace(held=[states[i] for i in decision.hold])
    if decision.branch >= 0:
        score = scores[decision.branch]
        return run._replace(score=score, epoch=run.epoch + 1, attempts=0)
    if np.isfinite(scores).any():
        return run._replace(attempts=0)
    return run if trials.probe else run._replace(attempts=run.attempts + 1)


def _diverged(run: _Run) -> str:
    tried = "; ".join(
        ", ".join(f"{name} {value:.3g}" for name, value in trial.items())
        for trial in run.decisions[-1]["trials"]
    )
    return (
        f"every branch of epoch {run.epoch} diverged, {ATTEMPTS} times in a row, last "
        f"at {tried}; lower the upper bounds of the search space"
    )


def _strategy(
    tuner: SearchSpace | Strategy, epochs: int, steps_per_epoch: int, base: Base
) -> Strategy:
    """The strategy of the arguments of `tune`, checked against the run's length."""
    if isinstance(tuner, SearchSpace):
        schedule = _schedule(base, tuner, steps_per_epoch)
        try:
            return ExploreThenCommit(
                tuner,
                epochs,
                steps_per_epoch,
                base=schedule,
                finalists=_finalists(epochs),
            )
        except TooShortError:
            raise TooShortError(
                f"{epochs} x {steps_per_epoch} steps are too few to explore within a "
                f"fifth of them; give more epochs or steps_per_epoch, or in place of "
                f"the space a strategy, such as Hyperdyn(space), or ExploreThenCommit("
                f"space, {epochs}, {steps_per_epoch}, max_overhead=0.5)"
            ) from None
    if not all(hasattr(tuner, name) for name in ("init", "ask", "tell", "metric")):
        raise ValueError(f"tuner must be a SearchSpace or a strategy, got {tuner!r}")
    if base is not None:
        raise ValueError("base goes with a SearchSpace; give the strategy its own")
    own = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    for name, value in own.items():
        if getattr(tuner, name, value) != value:
            theirs = getattr(tuner, name)
            raise ValueError(f"{name} is {value}, but {theirs} in the strategy")
    shortest = getattr(tuner, "shortest_trial", 1.0) * steps_per_epoch
    if shortest < 0.5:
        raise ValueError(
            f"steps_per_epoch={steps_per_epoch} leaves the strategy's shortest trials "
            f"{shortest:.2g} steps; more of them, or longer trials"
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


def _number(score: Any) -> float:
    """What `evaluate` returned, as a float.

    Raises:
      ValueError: it is not one number.
    """
    leaves = jax.tree.leaves(score)
    if len(leaves) == 1 and leaves[0] is score and np.size(score) == 1:
        found = np.asarray(jax.device_get(score))
        if found.dtype.kind in "fiub" or jnp.issubdtype(found.dtype, jnp.floating):
            return float(found.reshape(()))
    raise ValueError(
        f"evaluate must return one number, of which more is better, got {score!r:.100}"
    )


def _finalists(epochs: int) -> int:
    """Five, and so many that they take a fifth of the run at most."""
    return min(5, 1 + epochs // 5)


def _check_pure(before: list[Any], after: list[Any], new: Any) -> None:
    """Raises ValueError if `train` has spoilt what other branches start from."""
    if new is None:
        raise ValueError("train must return the new state, got None")
    same = len(before) == len(after) and all(map(lambda a, b: a is b, before, after))
    gone = any(isinstance(x, jax.Array) and x.is_deleted() for x in before)
    if not same or gone:
        raise _impure("donates" if gone else "changes")


def _impure(what: str) -> ValueError:
    return ValueError(
        f"train {what} the state that it is given, from which other branches start "
        f"too; let it begin with a copy, jax.tree.map(jnp.copy, state), of a Flax NNX "
        f"module nnx.clone(module)"
    )


def _has_nan(state: Any) -> bool:
    numbers: list[Any] = [
        x for x in jax.tree.leaves(state) if isinstance(x, pytrees.ARRAYS)
    ]
    floats = (x for x in numbers if jnp.issubdtype(x.dtype, jnp.inexact))
    return any(bool(jnp.isnan(x).any()) for x in floats)


def _about(loop: _Loop, key: np.ndarray) -> dict[str, Any]:
    """The config.json of a run: what has to be the same to go on with it.

    Of a schedule that is a function of the epoch the values at some epochs: it has no
    text of its own.
    """
    schedule = getattr(loop.strategy, "base", loop.strategy)
    values = None
    if isinstance(schedule, Schedule):
        # In epochs or, of a replay, in steps.
        every = range(0, loop.epochs, max(1, loop.epochs // 8))
        values = [schedule.at(x) for x in getattr(schedule, "until_step", every)]
    return {
        "strategy": type(loop.strategy).__name__,
        "settings": re.sub(r" at 0x[0-9a-f]+", "", repr(loop.strategy)),
        "epochs": loop.epochs,
        "steps_per_epoch": loop.steps_per_epoch,
        "key": key,
        "schedule": values,
    }


class _Store:
    """The files of a run. Its newest state holds the rows too, and is written first, so
    that rows and state fit whenever the process may end.

    Args:
      path: the directory; made if it is not there.
      about: the run's config.json.
      names: of the trackers that rows are sent to.

    Raises:
      ValueError: the directory holds another run, or a tracker cannot be started.
    """

    def __init__(self, path: Path, about: Row, names: list[str]):
        self._path, self._newest = path, path / "state.npz"
        config, text = path / "config.json", jsonl.dump_config(about)
        if config.exists() and config.read_text() != text:
            raise ValueError(
                f"workdir={path} holds another run, see its {config.name}; give the "
                f"same arguments, or another directory"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock, _ = files.lock(path)
        except BlockingIOError:
            raise ValueError(f"workdir={path} is in use by another process") from None
        except OSError as error:
            raise ValueError(
                f"workdir={path} cannot be written: {error.strerror}; give another"
            ) from None
        jsonl.replace_bytes(config, text.encode())
        self._trackers = tracking.Trackers(path, names, about)
        try:
            self._trackers.start()
        except BaseException:  # else a kept traceback, as of a notebook, keeps the lock
            self._lock.close()
            raise

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._trackers.close()
        self._lock.close()

    def save(self, run: _Run) -> None:
        """Writes the run and its rows."""
        facts = run._asdict() | {"held": [held.step for held in run.held]}
        del facts["tuner"]
        if run.best:
            facts["best"] = [run.best.score, run.best.epoch]
        # Every float to the bit: JSON of a Python float is exact.
        arrays: dict[str, Any] = {"facts": np.array(jsonl.dump(facts))}
        for i, held in enumerate(run.held):
            arrays |= pytrees.to_arrays(f"held/{i}", held.state)
            arrays |= pytrees.to_arrays(f"average/{i}", held.average)
        arrays |= pytrees.to_arrays("best", run.best and run.best.state)
        arrays |= pytrees.to_arrays("tuner", run.tuner)
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        jsonl.replace_bytes(self._newest, stream.getvalue())
        self._export(run)

    def _export(self, run: _Run) -> None:
        rows = {"metrics": run.metrics, "decisions": run.decisions}
        for log, each in rows.items():
            jsonl.replace_bytes(self._path / f"{log}.jsonl", jsonl.lines(each))
        if run.metrics:
            schedule = jsonl.dump(to_schedule(run.metrics), indent=1) + "\n"
            jsonl.replace_bytes(self._path / "schedule.json", schedule.encode())
        self._trackers.follow(run.metrics, run.decisions)

    def load(self, strategy: Strategy, key: jax.Array, begin: _Held) -> _Run | None:
        """The saved run, None if there is none.

        Args:
          strategy, key: of the run.
          begin: like what was held.

        Raises:
          ValueError: it is damaged, or of another state.
        """
        if not self._newest.exists():
            return None
        try:
            content = io.BytesIO(self._newest.read_bytes())
            with np.load(content) as file:  # which unpickles nothing
                arrays = dict(file)
            facts = json.loads(str(arrays["facts"]))
        except Exception as error:  # there is no end to what damage makes it raise
            raise ValueError(f"{self._newest} is damaged: {error}") from None
        try:
            held = [
                _Held(
                    pytrees.from_arrays(f"held/{i}", begin.state, arrays),
                    pytrees.from_arrays(f"average/{i}", begin.average, arrays),
                    step,
                )
                for i, step in enumerate(facts["held"])
            ]
            best = facts["best"] and _Best(
                pytrees.from_arrays("best", begin.state, arrays), *facts["best"]
            )
            like = strategy.init(key, facts["score"])
            tuner = pytrees.from_arrays("tuner", like, arrays)
        except ValueError as error:
            raise ValueError(f"workdir={self._path} holds {error}") from None
        run = _Run(**facts | {"held": held, "tuner": tuner, "best": best})
        self._export(run)  # which a process that ended may not have come to
        return run
