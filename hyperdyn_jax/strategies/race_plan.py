"""What a race knows before it begins: its budget, its space, and the user's schedule.

The model of a race (`drift`) sees settings in factors of e of the rate *in effect*. A
cosine trains with less than its largest rate most of the time, so its largest rate is
translated by the root mean square of its shape. This is a rule of thumb, which was not
measured. `moved` and `moved_back` go between the unit cube and these coordinates.
"""

import functools
import math
from typing import Any

import numpy as np

from hyperdyn_jax.strategies import common
from hyperdyn_jax.strategies.schedules import Schedule
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner import cpu_jit
from hyperdyn_jax.tuner.interface import Strategy
from hyperdyn_jax.tuner.search_space import LogUniform, SearchSpace

COOLDOWN = 0.2  # of the path
SAME = 1e-4  # settings that are nearer to each other than this are one
OTHER_SPAN = 4.0  # of an axis that is not logarithmic, in factors of e of the rate


class RacePlan(Strategy):
    """The fixed part of a strategy over one run, with all of its trials in the run's
    own budget.

    Its state counts in `spent` the optimizer steps that are no part of the accepted
    path. `space`, `epochs`, `steps_per_epoch`, `base`, `warmup` and `max_overhead` are
    as `strategies.race.Race` has them.
    """

    space: SearchSpace
    epochs: int
    steps_per_epoch: int
    base: Schedule | None
    warmup: int
    max_overhead: float

    # The budget.

    def check_budget(self) -> None:
        """Raises ValueError if a setting of the budget or of the base is wrong."""
        common.check_space(self.space)
        checks.check_whole("epochs", self.epochs, 1)
        checks.check_whole("steps_per_epoch", self.steps_per_epoch, 1)
        checks.check_whole("warmup", self.warmup, 0)
        checks.check_number("max_overhead", self.max_overhead, 0, math.inf)
        if self.averaging is not None:
            checks.check_number("averaging", self.averaging, 0, math.inf, "[)")
        if self.base is None:
            return
        if not isinstance(self.base, Schedule):
            raise ValueError(
                f"base must be a Schedule, for example "
                f"Schedule.constant({self.rate}=0.1); got {self.base!r}"
            )
        if missing := sorted(set(self.space) - set(self.base.hparams)):
            raise ValueError(f"base must be a schedule of {', '.join(missing)} too")
        for name, value in self.anchor.items():
            axis = self.space[name]
            if not axis.low <= value <= axis.high:
                raise ValueError(
                    f"the space must hold the base's {name}, {value:g}, "
                    f"got {axis.low:g} to {axis.high:g}"
                )

    @property
    def budget(self) -> int:
        """Optimizer steps of everything."""
        return self.epochs * self.steps_per_epoch

    @property
    def allowance(self) -> int:
        """Steps that max_overhead allows for trials."""
        share = self.max_overhead / (1 + self.max_overhead)
        return math.floor(self.budget * share + 1e-9)

    @property
    def made_for(self) -> dict[str, int]:
        """The run that its budget is of."""
        return {"epochs": self.epochs, "steps_per_epoch": self.steps_per_epoch}

    def accepted_steps(self, state: Any) -> int:
        """Optimizer steps of the accepted path, if no more are spent on trials."""
        return self.budget - int(state.spent)

    # The user's schedule.

    @functools.cached_property
    def anchor(self) -> dict[str, np.float32]:
        """The base's setting, the largest value of each hyperparameter."""
        assert self.base is not None
        peaks = peak_values(self.base, self.epochs)
        return {name: peaks[name] for name in self.space}

    @functools.cached_property
    def base_point(self) -> np.ndarray | None:
        """That setting in the unit cube, f32[d]."""
        if self.base is None:
            return None
        columns = {name: np.array([x], np.float32) for name, x in self.anchor.items()}
        return np.asarray(cpu_jit.to_unit(self, columns)[0], np.float32)

    @functools.cached_property
    def is_flat(self) -> bool:
        """Whether the base's rate stays what it is for the whole run."""
        assert self.base is not None
        values = [self.base.at(self.epochs * i / 64)[self.rate] for i in range(64)]
        return max(values) <= min(values) * (1 + 1e-6)

    def setting(self, point: np.ndarray, share: float) -> dict[str, float]:
        """The hyperparameters of a point at a share of the path: in the base's shape.
        A constant rate is cooled down."""
        setting = self._values(point)
        rate = setting[self.rate]
        if self.base is None:
            return setting | {self.rate: rate * wsd(share)}
        played = self.base.at(share * self.epochs)
        setting = played | setting | self._shifted(point, played)
        if self.is_flat:
            return setting | {self.rate: rate * wsd(share)}
        factor = rate / float(self.anchor[self.rate])
        return setting | {self.rate: played[self.rate] * factor}

    @functools.cached_property
    def varying(self) -> tuple[str, ...]:
        """The hyperparameters of the space, the rate aside, that the base varies."""
        assert self.base is not None
        settings = [self.base.at(self.epochs * i / 64) for i in range(64)]
        others = [name for name in self.space if name != self.rate]
        return tuple(x for x in others if len({played[x] for played in settings}) > 1)

    def _shifted(self, point: np.ndarray, played: dict[str, float]) -> dict[str, float]:
        """What the base varies beside the rate: its values, shifted along their axes as
        far as the point is from the base's, and not beyond the ends."""
        if not self.varying:
            return {}
        columns = {name: np.array([played[name]], np.float32) for name in self.space}
        shift = point - self.base_point
        shifted = self._values(np.clip(cpu_jit.to_unit(self, columns)[0] + shift, 0, 1))
        moved = dict(zip(self.space, np.abs(shift) > SAME, strict=True))
        # What is not moved is played as it is, inside of the range or not.
        return {x: shifted[x] if moved[x] else played[x] for x in self.varying}

    def _values(self, point: np.ndarray) -> dict[str, float]:
        """The hyperparameters of a point of the unit cube."""
        columns = cpu_jit.from_unit(self, point[None])
        return {name: float(values[0]) for name, values in columns.items()}

    # The space.

    @property
    def rate(self) -> str:
        """The hyperparameter whose best value drifts with the horizon."""
        return (
            "learning_rate" if "learning_rate" in self.space else next(iter(self.space))
        )

    @property
    def rate_axis(self) -> int:
        """Its place in a point."""
        return list(self.space).index(self.rate)

    @functools.cached_property
    def spans(self) -> np.ndarray:
        """Length of every axis, f64[d]: of a logarithmic one that of its logarithm."""
        return np.array(
            [
                math.log(axis.high / axis.low)
                if isinstance(axis, LogUniform)
                else OTHER_SPAN
                for axis in self.space.values()
            ]
        )

    def moved(self, point: np.ndarray, share: float) -> np.ndarray:
        """A point as the model sees it: in factors of e, of the rate that was in effect
        up to a share of the path."""
        moved = point * self.spans
        moved[..., self.rate_axis] += self._effect(share)
        return moved

    def moved_back(self, moved: np.ndarray, share: float) -> np.ndarray:
        """The inverse of `moved`."""
        point = moved.copy()
        point[..., self.rate_axis] -= self._effect(share)
        return point / self.spans

    @functools.cached_property
    def base_warmup(self) -> float:
        """The share of the run after which the base has its largest rate, if it rises
        to that from less than half of it; 0 if not."""
        if self.base is None or self.is_flat:
            return 0.0
        shares = np.arange(1024) / 1024
        rates = np.array([self.base.at(x * self.epochs)[self.rate] for x in shares])
        peak = int(np.argmax(rates >= 0.999 * rates.max()))
        rises = rates[0] < 0.5 * rates[peak] and (np.diff(rates[: peak + 1]) >= 0).all()
        return float(shares[peak]) if rises else 0.0

    @property
    def warmup_steps(self) -> float:
        """Of the base or of the optimizer, 0 without one."""
        return max(self.warmup, self.base_warmup * self.budget)

    def _effect(self, share: float) -> float:
        """Logarithm of the rate in effect up to a share of the path, the root mean
        square of the base's shape without its warm-up, over that of a constant with a
        cooldown."""
        if self.base is None or self.is_flat:
            return 0.0
        shares = share * (np.arange(64) + 0.5) / 64
        full = float(self.anchor[self.rate])
        played = [
            self.base.at(x * self.epochs)[self.rate] if x >= self.base_warmup else full
            for x in shares
        ]
        usual = [full * wsd(x) for x in shares]
        return 0.5 * math.log(np.mean(np.square(played)) / np.mean(np.square(usual)))

    def gaps(self, points: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Distances of points f[n, d] to one, in factors of e: f64[n]."""
        gaps: np.ndarray = np.linalg.norm((points - point) * self.spans, axis=1)
        return gaps

    def is_base(self, points: np.ndarray) -> np.ndarray:
        """Which of some points is the user's own setting: bool[n]."""
        if self.base_point is None:
            return np.zeros(len(points), bool)
        return self.gaps(points, self.base_point) < SAME


def wsd(share: float) -> float:
    """Constant, then 1 - sqrt over the last fifth (Haegele et al. 2024, 2405.18392)."""
    return 1 - math.sqrt(max(0.0, share - (1 - COOLDOWN)) / COOLDOWN)


def peak_values(schedule: Schedule, epochs: int) -> dict[str, np.float32]:
    """The largest value of each hyperparameter of a schedule, at half epochs."""
    settings = [schedule.at(0.5 * i) for i in range(2 * epochs + 1)]
    names = schedule.hparams
    return {name: np.float32(max(x[name] for x in settings)) for name in names}
