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
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperdyn_jax import jsonl
from hyperdyn_jax import trackers as tracking
from hyperdyn_jax.baselines import Schedule, common
from hyperdyn_jax.explore import ExploreThenCommit
from hyperdyn_jax.host import key_data
from hyperdyn_jax.jsonl import Row
from hyperdyn_jax.schedule import schedules, to_schedule
from hyperdyn_jax.space import SearchSpace
from hyperdyn_jax.types import Decision, DivergedError, Strategy, Trials

ATTEMPTS = 4  # decisions in a row in which everything diverges, before a run gives up

State = TypeVar("State")
Setting = dict[str, np.float32]


@dataclasses.dataclass(frozen=True)
class TuneResult(Generic[State]):
    """What a tuned run ended with.

    state: of the training, after the last accepted epoch.
    score: of that state.
    metrics: a row an accepted epoch, as in metrics.jsonl; what a loop of your own does
      not tell, such as the training loss, is None.
    decisions: a row a decision, as in decisions.jsonl.
    """

    state: State
    score: float
    metrics: list[dict[str, Any]]
    decisions: list[dict[str, Any]]

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
    base: Mapping[str, float] | Schedule | None = None,
    workdir: str | Path | None = None,
    trackers: str = "",
    callback: Callable[[State, Row], Any] | None = None,
) -> TuneResult[State]:
    """Trains any state while its hyperparameters are tuned.

    Args:
      train: `train(state, hparams, steps)` returns the state after these steps, under
        hyperparameters f32[] by name. `steps` is a range of step numbers, counted over
        the whole run; take batches and random keys from the numbers, so that branches
        which are compared see the same. Numbers can go past the end of the run: wrap
        around. It must leave the state that it is given as it was, as other branches
        start from it: no donation, no change in place.
      evaluate: `evaluate(state)` returns the score on data held out of training; more
        is better. For a search space, and for strategies whose `metric` is 'loss', it
        is minus a loss, less than 0; for 'accuracy' it is in percentage points. Not
        finite says that the state has diverged, as a NaN in it does.
      state: to start from, any pytree.
      tuner: a search space, to explore within a fifth of the run and then commit
        (`ExploreThenCommit`): its probes see the beginning of a run alone, so the
        space should hold no rates that are known to go wrong later, and a run of fewer
        than some 2,000 steps leaves them too few. Or any strategy, such as
        `Hyperdyn(space)`, whose temperature is in the unit of the scores: for scores
        other than percentage points about by how much they go up and down over its
        window of epochs.
      epochs: of the accepted path, where the strategy takes none of them for trials;
        explore-then-commit's include all of its probes.
      steps_per_epoch: numbers of `steps` an epoch; most strategies decide once an
        epoch, and explore-then-commit's probes are 0.5% of all steps.
      key: a PRNG key (`jax.random.key(seed)`) for the tuner.
      base: with a search space, your own setting or schedule, which stays unless a
        significance test says that another is better.
      workdir: a directory to write metrics.jsonl, decisions.jsonl, schedule.json and
        the newest state to. The same call again goes on from there, and ends as it
        would have ended; `python -m hyperdyn_jax.report` makes a page of it.
      trackers: of 'tensorboard', 'wandb' and 'mlflow', those that every accepted epoch
        is sent to, separated by commas; they need a workdir.
      callback: `callback(state, row)` is told of every accepted epoch, the row being
        that of metrics.jsonl.

    Returns:
      The last state, its score, the rows, and the schedule that led to it.

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
    strategy = _strategy(tuner, epochs, steps_per_epoch, base)
    loop = _Loop(strategy, train, evaluate, epochs, steps_per_epoch)
    about = _about(loop, key_data(key))
    names = tracking.parse(trackers)
    if names and workdir is None:
        raise ValueError(f"trackers={trackers!r} need a workdir")
    with contextlib.ExitStack() as stack:
        store = workdir and stack.enter_context(_Store(Path(workdir), about, names))
        run = store.load(strategy, key, state) if store else None
        if run is None:
            score = float(evaluate(state))
            run = _Run([_Held(state, 0)], strategy.init(key, score), score)
        while run.step < loop.accepted_steps(run):
            if run.attempts >= ATTEMPTS:
                raise DivergedError(_diverged(run))
            accepted, run = run.epoch, loop.decide(run)
            if store:
                store.save(run)
            if callback and run.epoch > accepted:
                callback(run.held[0].state, run.metrics[-1])
    return TuneResult(run.held[0].state, run.score, run.metrics, run.decisions)


class _Held(NamedTuple):
    """A state that trials start from, and the number of the step that comes next."""

    state: Any
    step: int


class _Run(NamedTuple):
    """Everything that a run needs to go on.

    held: states to start trials from, the first being the run itself.
    tuner: the strategy's state.
    score: of the run.
    """

    held: list[_Held]
    tuner: Any
    score: float
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
        if shortened := getattr(self.strategy, "accepted_steps", None):
            return int(shortened(run.tuner))
        return self.epochs * self.steps_per_epoch

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
            new = new._replace(step=run.step + count)
        total = run.total_steps + count * len(scores)
        new = new._replace(total_steps=total)
        return self._recorded(run, new, trials, told, decision, began)

    def _branch(
        self, held: _Held, trials: Trials, index: int, count: int
    ) -> tuple[_Held, float]:
        first = held.step + trials.block * count
        steps = range(first, first + count)
        before = jax.tree.leaves(held.state)
        state = self.train(held.state, trials.setting(index), steps)
        _check_pure(before, jax.tree.leaves(held.state), state)
        score = math.nan if _has_nan(state) else float(self.evaluate(state))
        return _Held(state, steps.stop), score

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
    tuner: SearchSpace | Strategy,
    epochs: int,
    steps_per_epoch: int,
    base: Mapping[str, float] | Schedule | None,
) -> Strategy:
    """The strategy of the arguments of `tune`, checked against the run's length."""
    common.check_whole("epochs", epochs, 1)
    common.check_whole("steps_per_epoch", steps_per_epoch, 1)
    if isinstance(tuner, SearchSpace):
        if isinstance(base, Mapping):
            base = Schedule.constant(**base)
        if base is not None and set(base.hparams) != set(tuner):
            raise ValueError(
                f"base must have the search space's hyperparameters, "
                f"{', '.join(tuner)}; got {', '.join(base.hparams)}"
            )
        return ExploreThenCommit(tuner, epochs, steps_per_epoch, base=base)
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


def _check_pure(before: list[Any], after: list[Any], new: Any) -> None:
    """Raises ValueError if `train` has spoilt what other branches start from."""
    if new is None:
        raise ValueError("train must return the new state, got None")
    same = len(before) == len(after) and all(map(lambda a, b: a is b, before, after))
    gone = any(isinstance(x, jax.Array) and x.is_deleted() for x in before)
    if not same or gone:
        what = "donates" if gone else "changes"
        raise ValueError(
            f"train {what} the state that it is given, from which other branches start "
            f"too; return a new state instead"
        )


def _has_nan(state: Any) -> bool:
    numbers: list[Any] = [x for x in jax.tree.leaves(state) if isinstance(x, _ARRAYS)]
    floats = (x for x in numbers if jnp.issubdtype(x.dtype, jnp.inexact))
    return any(bool(jnp.isnan(x).any()) for x in floats)


_ARRAYS = (jax.Array, np.ndarray, np.generic)
_NUMBERS = (bool, int, float, complex)


def _about(loop: _Loop, key: np.ndarray) -> dict[str, Any]:
    """The config.json of a run: what has to be the same to go on with it."""
    return {
        "strategy": type(loop.strategy).__name__,
        "settings": re.sub(r" at 0x[0-9a-f]+", "", repr(loop.strategy)),
        "epochs": loop.epochs,
        "steps_per_epoch": loop.steps_per_epoch,
        "key": key,
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
        path.mkdir(parents=True, exist_ok=True)
        jsonl.replace_bytes(config, text.encode())
        self._trackers = tracking.Trackers(path, names, about)
        self._trackers.start()

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._trackers.close()

    def save(self, run: _Run) -> None:
        """Writes the run and its rows."""
        facts = run._asdict() | {"held": [held.step for held in run.held]}
        del facts["tuner"]
        # Every float to the bit: JSON of a Python float is exact.
        arrays: dict[str, Any] = {"facts": np.array(jsonl.dump(facts))}
        for i, held in enumerate(run.held):
            arrays |= _to_arrays(f"held/{i}", held.state)
        arrays |= _to_arrays("tuner", run.tuner)
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

    def load(self, strategy: Strategy, key: jax.Array, state: Any) -> _Run | None:
        """The saved run, None if there is none.

        Args:
          strategy, key: of the run.
          state: like the saved ones.

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
                _Held(_from_arrays(f"held/{i}", state, arrays), step)
                for i, step in enumerate(facts["held"])
            ]
            like = strategy.init(key, facts["score"])
            tuner = _from_arrays("tuner", like, arrays)
        except ValueError as error:
            raise ValueError(f"workdir={self._path} holds {error}") from None
        run = _Run(**facts | {"held": held, "tuner": tuner})
        self._export(run)  # which a process that ended may not have come to
        return run


def _to_arrays(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """The numbers in a pytree by their place in it."""
    return {
        prefix + jax.tree_util.keystr(path): np.asarray(jax.device_get(_raw(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if isinstance(leaf, _ARRAYS + _NUMBERS)
    }


def _from_arrays(prefix: str, like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A pytree like another, with the numbers of `arrays`; the rest is that of `like`.

    Raises:
      ValueError: they are of another shape.
    """

    def restored(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, _ARRAYS + _NUMBERS):
            return leaf
        name = prefix + jax.tree_util.keystr(path)
        raw, saved = _raw(leaf), arrays.get(name)
        if saved is None or saved.shape != np.shape(raw):
            found = "nothing" if saved is None else f"shape {saved.shape}"
            raise ValueError(
                f"another state: {found} for {name}, of shape {np.shape(raw)} here"
            )
        if isinstance(leaf, _NUMBERS) and not isinstance(leaf, np.generic):
            return type(leaf)(saved[()])
        # NumPy's files do not know bfloat16 and the like, but keep their bytes.
        saved = saved.view(raw.dtype) if saved.dtype.kind == "V" else saved
        if not isinstance(leaf, jax.Array):
            return saved[()] if isinstance(leaf, np.generic) else saved
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                jnp.asarray(saved), impl=jax.random.key_impl(leaf)
            )
        return jax.device_put(saved, leaf.sharding)

    return jax.tree_util.tree_map_with_path(restored, like)


def _raw(leaf: Any) -> Any:
    """A leaf, of a PRNG key its data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
