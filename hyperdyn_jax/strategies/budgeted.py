"""What strategies share that spend a bounded share of one run on trials."""

import functools
import math
from typing import Any

import numpy as np

from hyperdyn_jax.strategies.schedules import Schedule
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner.interface import Strategy
from hyperdyn_jax.tuner.search_space import SearchSpace


class Budgeted(Strategy):
    """A strategy over one run, with all of its trials in the run's own budget.

    Its state counts in `spent` the optimizer steps that are no part of the accepted
    path. `space`, `epochs`, `steps_per_epoch`, `base` and `max_overhead` are as
    `strategies.race.Race` has them.
    """

    space: SearchSpace
    epochs: int
    steps_per_epoch: int
    base: Schedule | None
    max_overhead: float

    def check_budget(self) -> None:
        """Raises ValueError if a setting of the budget or of the base is wrong."""
        checks.check_whole("epochs", self.epochs, 1)
        checks.check_whole("steps_per_epoch", self.steps_per_epoch, 1)
        checks.check_number("max_overhead", self.max_overhead, 0, math.inf)
        if self.averaging is not None:
            checks.check_number("averaging", self.averaging, 0, math.inf, "[)")
        if self.base is None:
            return
        if missing := sorted(set(self.space) - set(self.base.hparams)):
            raise ValueError(f"base must be a schedule of {', '.join(missing)} too")
        for name, value in self.anchor.items():
            axis = self.space[name]
            if not axis.low <= value <= axis.high:
                raise ValueError(
                    f"the space must hold the base's {name}, {value:g}, "
                    f"got {axis.low:g} to {axis.high:g}"
                )

    @functools.cached_property
    def anchor(self) -> dict[str, np.float32]:
        """The base's setting, the largest value of each hyperparameter."""
        assert self.base is not None
        peaks = peak_values(self.base, self.epochs)
        return {name: peaks[name] for name in self.space}

    @property
    def budget(self) -> int:
        """Optimizer steps of everything."""
        return self.epochs * self.steps_per_epoch

    @property
    def allowance(self) -> int:
        """Steps that max_overhead allows for trials, whatever they are for."""
        share = self.max_overhead / (1 + self.max_overhead)
        return math.floor(self.budget * share + 1e-9)

    @property
    def made_for(self) -> dict[str, int]:
        """The run that its budget is of."""
        return {"epochs": self.epochs, "steps_per_epoch": self.steps_per_epoch}

    def accepted_steps(self, state: Any) -> int:
        """Optimizer steps of the accepted path, if no more are spent on trials."""
        return self.budget - int(state.spent)


def peak_values(schedule: Schedule, epochs: int) -> dict[str, np.float32]:
    """The largest value of each hyperparameter of a schedule, at half epochs."""
    settings = [schedule.at(0.5 * i) for i in range(2 * epochs + 1)]
    names = schedule.hparams
    return {name: np.float32(max(x[name] for x in settings)) for name in names}
