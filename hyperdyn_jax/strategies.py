"""Every strategy by the name that `config.strategy` gives it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from hyperdyn_jax import baselines
from hyperdyn_jax.baselines import Schedule
from hyperdyn_jax.explore import ExploreThenCommit
from hyperdyn_jax.hyperdyn import Hyperdyn
from hyperdyn_jax.space import SearchSpace
from hyperdyn_jax.types import Strategy


@dataclasses.dataclass(frozen=True)
class Context:
    """What a strategy may be made from.

    space: the search space.
    base: the optimizer's own value of every hyperparameter in the search space.
    epochs, batch_size: of the run.
    settings: the config's section of the strategy's name.
    hyperdyn: the config's section of Hyperdyn, for what is a variation of it.
    """

    space: SearchSpace
    base: Mapping[str, float]
    epochs: int
    batch_size: int
    settings: Mapping[str, Any]
    hyperdyn: Mapping[str, Any]

    def tuner(self, kind: type[Hyperdyn] = Hyperdyn, **changes: Any) -> Hyperdyn:
        """Hyperdyn, with no more room for observations than the run can fill.

        Empty rows change no prediction, and a decision costs the cube of all rows.
        """
        tuner = kind(self.space, **{**self.hyperdyn, **changes})
        needed = 3 * tuner.initial_points + 2 * self.epochs  # with repeated starts
        rounded = -(-needed // 16) * 16
        return dataclasses.replace(tuner, capacity=min(tuner.capacity, rounded))


def _scheduled(make: Callable[..., Schedule]) -> Callable[[Context], Strategy]:
    """A schedule over the whole run, from the optimizer's own values."""
    return lambda c: make(c.epochs, **{**c.base, **c.settings})


# The paper's own, its baselines, and what a user would pick instead.
STRATEGIES: dict[str, Callable[[Context], Strategy]] = {
    "hyperdyn": lambda c: c.tuner(),
    "explore": lambda c: ExploreThenCommit(c.space, c.epochs, **c.settings),
    # Epoch-based Bayesian optimisation is Hyperdyn without rejection (section 4.1).
    "epoch_bo": lambda c: c.tuner(offset=math.inf),
    "random_search": lambda c: baselines.RandomSearch(c.space, **c.settings),
    "hyperband": lambda c: baselines.HyperbandVariant(c.space, **c.settings),
    "manual_sgd": _scheduled(Schedule.manual_sgd),
    "manual_adam": _scheduled(Schedule.manual_adam),
    "manual_large_batch": lambda c: Schedule.manual_large_batch(
        c.epochs, c.batch_size, **{**c.base, **c.settings}
    ),
    "constant": lambda c: Schedule.constant(**{**c.base, **c.settings}),
    "cosine": _scheduled(Schedule.cosine),
    "wsd": _scheduled(Schedule.wsd),
    "one_cycle": _scheduled(Schedule.one_cycle),
    "plateau": lambda c: baselines.ReduceOnPlateau(c.base, **c.settings),
    "greedy": lambda c: c.tuner(baselines.GreedyBestOfTwo),
    "control": lambda c: baselines.DoNothingControl(c.tuner()),
    "autolrs": lambda c: baselines.AutoLRS(c.space, **c.settings),
    # Its bound with the weight of a 95% interval, not the published 1e6.
    "autolrs_95": lambda c: baselines.AutoLRS(c.space, **{"kappa": 1.96, **c.settings}),
    "pb2": lambda c: baselines.PB2(c.space, **c.settings),
}
