"""Every strategy by the name that `config.strategy` gives it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from hyperdyn_jax.strategies.autolrs import AutoLRS
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn
from hyperdyn_jax.strategies.learned_schedule import load_schedule, read_schedule
from hyperdyn_jax.strategies.pb2 import PB2
from hyperdyn_jax.strategies.race import Race
from hyperdyn_jax.strategies.race_plan import peak_values
from hyperdyn_jax.strategies.schedules import ReduceOnPlateau, Replay, Schedule
from hyperdyn_jax.strategies.search import (
    DoNothingControl,
    GreedyBestOfTwo,
    HyperbandVariant,
    RandomSearch,
)
from hyperdyn_jax.tuner.interface import Strategy
from hyperdyn_jax.tuner.search_space import LogUniform, SearchSpace


@dataclasses.dataclass(frozen=True)
class Context:
    """What a strategy may be made from.

    space: the search space.
    base: the optimizer's own value of every hyperparameter in the search space.
    epochs, batch_size, steps_per_epoch: the run's.
    sections: the config's sections, by name.
    """

    space: SearchSpace
    base: Mapping[str, float]
    epochs: int
    batch_size: int
    steps_per_epoch: int
    sections: Mapping[str, Any]

    def section(self, name: str) -> dict[str, Any]:
        """The config's section of a strategy's name; empty without one."""
        return dict(self.sections.get(name, {}))

    def tuner(self, kind: type[Hyperdyn] = Hyperdyn, **changes: Any) -> Hyperdyn:
        """Hyperdyn, with no more room for observations than the run can fill.

        Empty rows change no prediction, and a decision costs the cube of all rows.
        """
        tuner = kind(self.space, **{**self.section("hyperdyn"), **changes})
        repeats = 3  # of the random start, where all of it diverges
        needed = repeats * tuner.initial_points + (1 + tuner.suggestions) * self.epochs
        rounded = -(-needed // 16) * 16
        return dataclasses.replace(tuner, capacity=min(tuner.capacity, rounded))


def _scheduled(name: str) -> Callable[[Context], Schedule]:
    """A schedule over the whole run, from the optimizer's own values."""
    make = getattr(Schedule, name)
    return lambda c: make(c.epochs, **{**c.base, **c.section(name)})


def _race(c: Context) -> Race:
    """A race over some of the axes, around the schedule that the run would have had."""
    settings = c.section("race")
    names = settings.pop("tune", "learning_rate").split(",")
    base = settings.pop("base", "constant")
    if unknown := [name for name in names if name not in c.space]:
        raise ValueError(
            f"race.tune must be one or more of {', '.join(c.space)}, got {unknown[0]!r}"
        )
    axes: dict[str, Any] = {name: c.space[name] for name in names}
    schedule = None
    if base != "none":
        if base not in SCHEDULES:
            known = ", ".join(["none", *SCHEDULES])
            raise ValueError(f"race.base must be one of {known}, got {base!r}")
        schedule = SCHEDULES[base](c)
        peaks = peak_values(schedule, c.epochs)
        axes = {n: _holding(n, axis, float(peaks[n])) for n, axis in axes.items()}
    space = SearchSpace(**axes)
    return Race(space, c.epochs, c.steps_per_epoch, base=schedule, **settings)


def _holding(name: str, axis: Any, value: float) -> Any:
    """An axis wide enough for a schedule's value: however far the user's own rate is
    from what is usual, it is among those that are tried."""
    low, high = min(axis.low, value), max(axis.high, value)
    try:
        return dataclasses.replace(axis, low=low, high=high)
    except ValueError as error:
        if isinstance(axis, LogUniform) and value <= 0:
            raise ValueError(f"a race needs a {name} > 0, got {value:g}") from None
        start = f"it starts from a {name} of {value:g}, which its axis cannot hold"
        raise ValueError(f"{start}: {error}") from None


def _replay(c: Context) -> Replay:
    """The accepted path of an earlier run."""
    settings = c.section("replay")
    run = settings.pop("run", "")
    if settings or not run:
        raise ValueError(f"replay has one setting, run, a run directory, got {run!r}")
    try:
        ends, _ = read_schedule(run)
        hparams = load_schedule(run)
    except OSError as error:
        raise ValueError(f"replay.run: {error}") from None
    return Replay(hparams, tuple(map(int, ends)), c.steps_per_epoch)


# Written down before the run: strategies, and what a race may stay with.
SCHEDULES: dict[str, Callable[[Context], Schedule]] = {
    "constant": lambda c: Schedule.constant(**{**c.base, **c.section("constant")}),
    **{
        name: _scheduled(name)
        for name in ("cosine", "wsd", "one_cycle", "manual_sgd", "manual_adam")
    },
    "manual_large_batch": lambda c: Schedule.manual_large_batch(
        c.epochs, c.batch_size, **{**c.base, **c.section("manual_large_batch")}
    ),
}
# The paper's own, its baselines, and what a user would pick instead.
STRATEGIES: dict[str, Callable[[Context], Strategy]] = {
    "hyperdyn": lambda c: c.tuner(),
    "race": _race,
    # Epoch-based Bayesian optimisation is Hyperdyn without rejection (section 4.1).
    "epoch_bo": lambda c: c.tuner(offset=math.inf),
    "random_search": lambda c: RandomSearch(c.space, **c.section("random_search")),
    "hyperband": lambda c: HyperbandVariant(c.space, **c.section("hyperband")),
    **SCHEDULES,
    "replay": _replay,
    "plateau": lambda c: ReduceOnPlateau(c.base, **c.section("plateau")),
    "greedy": lambda c: c.tuner(GreedyBestOfTwo),
    "control": lambda c: DoNothingControl(c.tuner()),
    "autolrs": lambda c: AutoLRS(c.space, **c.section("autolrs")),
    "pb2": lambda c: PB2(c.space, **c.section("pb2")),
}
# Those that take the settings of hyperdyn, and have none of their own.
AS_HYPERDYN = ("epoch_bo", "greedy", "control")
