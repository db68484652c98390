"""How a user's own loop is trained and scored, for the engine."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.optimizers import iterate_average
from hyperdyn_jax.run import misuse
from hyperdyn_jax.run.engine import Engine, within
from hyperdyn_jax.run.rows import Directory
from hyperdyn_jax.run.state import Branch, Pending, Run
from hyperdyn_jax.system import pytrees
from hyperdyn_jax.training.progress import Evaluation, Progress
from hyperdyn_jax.tuner.cpu_jit import key_data
from hyperdyn_jax.tuner.interface import Strategy, Trials

SHOWN = 200  # characters of a structure
PIECES = 16  # points of the path of a trial that are averaged, at most

Setting = dict[str, np.float32]


class Held(NamedTuple):
    """A state that trials start from.

    average: the average of the path to it, None where the strategy scores its end.
    step: number of the step that comes next.
    """

    state: Any
    average: list[Any] | None
    step: int

    def read_out(self) -> Any:
        """The state that is scored."""
        if self.average is None:
            return self.state
        return iterate_average.read_out(self.average, self.state)

    def end(self) -> "Held":
        """The same, scored at the end of its path."""
        return self._replace(average=iterate_average.start(self.state))


class OwnLoop:
    """The engine's `Training`, which has the docstrings, of the functions that `tune`
    is given.

    Args:
      strategy: the strategy of the run; it says what is scored.
      train, evaluate, state, epochs, steps_per_epoch: as `tune` has them.
      minimize: whether `evaluate` returns a loss.
    """

    advice = "lower the upper bounds of the search space"

    def __init__(
        self,
        strategy: Strategy,
        train: Callable[[Any, Setting, range], Any],
        evaluate: Callable[[Any], float],
        state: Any,
        epochs: int,
        steps_per_epoch: int,
        minimize: bool = False,
    ):
        self._strategy, self._train, self._evaluate = strategy, train, evaluate
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self._sign = -1 if minimize else 1
        self._news: list[str] = []
        self._counted = True  # until it was told that steps are not those asked for
        untrained = Held(state, None, 0)
        self._first = untrained if strategy.averaging is None else untrained.end()

    def begin(self, key: jax.Array) -> Run:
        """A run that has not begun, scored."""
        score = self._score(self._first)
        tuner = self._strategy.init(key, score)
        return Run([self._first], [], tuner, key_data(key), score, score, {})

    def train(
        self,
        engine: Engine,
        run: Run,
        directory: Directory,  # noqa: ARG002 (only networks are saved inside a trial)
    ) -> Run:
        if run.pending is not None:  # of a run that stopped while it was scored
            return run
        began = time.perf_counter()
        trials = within(run.limit, engine.strategy.ask(run.tuner))
        count = engine.trial_steps(run, trials)
        branches = [
            self._branch(run.held[parent], trials, i, count)
            for i, parent in enumerate(trials.parents)
        ]
        starts = [run.held[parent] for parent in trials.parents]
        self._check_changed(starts, branches, trials, count)
        self._check_steps(starts, branches, count)
        losses = np.full((len(branches), count), np.nan, np.float32)
        progress = Progress(branches[0].step - count, branches, losses)
        seconds = time.perf_counter() - began
        return run._replace(pending=Pending(trials, progress, seconds))

    def _check_changed(
        self, starts: list[Held], ends: list[Held], trials: Trials, count: int
    ) -> None:
        """Raises ValueError where the first trials train nothing."""
        settings = [trials.setting(i) for i in range(len(ends))]
        idle = any(not any(setting.values()) for setting in settings)  # rates of 0
        pairs = zip(starts, ends, strict=True)
        if starts[0].step or idle:
            return
        if all(misuse.is_unchanged(a.state, b.state) for a, b in pairs):
            raise ValueError(misuse.unchanged(settings, count))

    def _check_steps(self, starts: list[Held], ends: list[Held], count: int) -> None:
        """Notes it once if no trial has taken the steps that it was asked for."""
        if not self._counted:
            return
        taken = [
            misuse.miscounted(a.state, b.state, count)
            for a, b in zip(starts, ends, strict=True)
        ]
        if (one := taken[0]) is not None and None not in taken:
            self._counted = False
            self._news.append(
                f"train took {one:,} optimizer steps where `steps` had {count:,} "
                f"numbers; take one for each, with batches by their numbers (ByStep "
                f"makes such of a loader)"
            )

    def _branch(self, held: Held, trials: Trials, index: int, count: int) -> Held:
        first, averaging = held.step, self._strategy.averaging
        length = count if averaging is None else math.ceil(count / PIECES)
        for begin in range(first, first + count, length):
            steps = range(begin, min(begin + length, first + count))
            held = self._trained(held, trials.setting(index), steps)
        return held

    def _trained(self, held: Held, setting: Setting, steps: range) -> Held:
        """A state some steps on. steps: their numbers, which `train` sees."""
        given = pytrees.read_only(held.state)
        before = jax.tree.leaves(given)
        with _told("train"):
            state = self._train(given, setting, steps)
        _check_pure("train", before, jax.tree.leaves(given))
        _check_alike(held.state, state)
        step, average = held.step + len(steps), held.average
        power = self._strategy.averaging
        if average is not None and power is not None:
            share = iterate_average.weight(power, step, len(steps))
            average = iterate_average.update(average, state, share)
        return Held(state, average, step)

    def news(self) -> list[str]:
        """What is to be told of the user's functions since the last call."""
        news, self._news = self._news, []
        return news

    def score(self, progress: Progress) -> list[Branch]:
        """Scores trained branches with `evaluate`."""
        return [*map(self._scored, progress.states)]

    def _scored(self, held: Held) -> Branch:
        score = math.nan if has_nan(held.state) else self._score(held)
        is_loss = self._strategy.metric == "loss"
        validation = Evaluation(
            accuracy=None if is_loss else score, loss=-score if is_loss else None
        )
        return Branch(held, None, validation, score)

    def _score(self, held: Held) -> float:
        given = pytrees.read_only(held.read_out())
        before = jax.tree.leaves(given)
        with _told("evaluate"):
            score = self._sign * number(self._evaluate(given))
        _check_pure("evaluate", before, jax.tree.leaves(given))
        return score

    def steps_taken(self, progress: Progress) -> int:
        return len(progress.states) * progress.steps

    def at_end(self, branch: Branch) -> Branch | None:
        held: Held = branch.state
        return None if held.average is None else self._scored(held.end())

    def chance(
        self,
        validation: Evaluation,  # noqa: ARG002
        comparisons: int,  # noqa: ARG002
    ) -> float:
        """How much of a difference is chance is not known of scores alone."""
        return 0.0

    def test(self, state: Held) -> dict[str, Any]:  # noqa: ARG002
        """The user's own test data are the user's."""
        return {}

    def skipped(self) -> None:
        """No record is read here."""

    def check(self, examples: Mapping[str, int], directory: Directory) -> None:
        """The number of examples is not known here."""

    def pack(self, held: Held) -> dict[str, Any]:
        packed = {"step": np.int64(held.step), "state": pytrees.to_arrays(held.state)}
        if held.average is not None:
            packed["average"] = pytrees.to_arrays(held.average)
        return packed

    def like(self) -> dict[str, Any]:
        like = {"step": np.int64(0), "state": pytrees.shapes(self._first.state)}
        if self._first.average is not None:
            like["average"] = pytrees.shapes(self._first.average)
        return like

    def unpack(self, arrays: Mapping[str, Any]) -> Held:
        """The state of such arrays; what is no number in it is that of the first."""
        state = pytrees.from_arrays(self._first.state, arrays["state"])
        average = self._first.average
        if average is not None:
            average = pytrees.from_arrays(average, arrays["average"])
        return Held(state, average, int(arrays["step"]))


def number(score: Any) -> float:
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
        f"evaluate must return one number, a score or with minimize=True a loss, got "
        f"{score!r:.100}"
    )


@contextlib.contextmanager
def _told(function: str) -> Iterator[None]:
    """Says so where one of the user's functions writes to an array that is read-only,
    because other branches start from it."""
    try:
        yield
    except ValueError as error:
        if "read-only" in str(error):  # NumPy's word
            raise _impure(function, "changes") from error
        raise


def _check_alike(given: Any, returned: Any) -> None:
    """Raises ValueError if `train` returned something else than a state like its own,
    such as a state and metrics. What is no number or array in it may change."""
    old: Any = jax.tree.structure(given)
    new: Any = jax.tree.structure(returned)
    if old == new or _paths(given) == _paths(returned):
        return
    wanted, got = (str(x).removeprefix("PyTreeDef")[1:-1] for x in (old, new))
    raise ValueError(
        f"train must return the new state, like the one that it is given, and nothing "
        f"beside it: it was given {wanted:.{SHOWN}} and returned {got:.{SHOWN}}"
    )


def _paths(state: Any) -> list[str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [jax.tree_util.keystr(path) for path, _ in leaves]


def _check_pure(function: str, before: list[Any], after: list[Any]) -> None:
    """Raises ValueError if a function of the user's has spoilt what other branches
    start from."""
    same = len(before) == len(after) and all(map(lambda a, b: a is b, before, after))
    gone = any(isinstance(x, jax.Array) and x.is_deleted() for x in before)
    if not same or gone:
        raise _impure(function, "donates" if gone else "changes")


def _impure(function: str, what: str) -> ValueError:
    return ValueError(
        f"{function} {what} the state that it is given, from which other branches "
        f"start too; copy it first: jax.tree.map(jnp.copy, state), or of a Flax NNX "
        f"module nnx.clone(module)"
    )


def has_nan(state: Any) -> bool:
    """Whether a number in a state is NaN."""
    leaves = jax.tree.leaves(state)
    numbers: list[Any] = [x for x in leaves if isinstance(x, pytrees.ARRAYS)]
    floats = (x for x in numbers if jnp.issubdtype(x.dtype, jnp.inexact))
    if any(bool(jnp.isnan(x).any()) for x in floats):
        return True
    return any(isinstance(x, float | complex) and x != x for x in leaves)
