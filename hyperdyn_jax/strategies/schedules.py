"""Schedules that are written down before the run, and the one that waits for a plateau.

A setting holds for a whole epoch. A schedule that changes within an epoch (a warm-up, a
cosine) is played at its mean over the epoch, so that every epoch goes as far as under
the step-by-step schedule: a warm-up over half an epoch makes the first epoch's rate 3/4
of what it would be. Steps inside an epoch do not see it rise; where they have to, the
warm-up belongs in the optimizer (`optax.scale_by_schedule` in front of a rate that is
tuned).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from hyperdyn_jax.strategies import common
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner.interface import Decision, Leaf, Strategy, Trials, check_scores

PARTS = 16  # of an epoch, over which a schedule's mean is taken

# A value, or a function of the time since the start of the run in epochs.
Value = float | Callable[[float], float]


class ScheduleState(NamedTuple):
    """epoch: i32[], accepted epochs so far."""

    epoch: Leaf


@dataclasses.dataclass(frozen=True)
class Schedule(Strategy):
    """One trial an epoch, at settings that are known beforehand.

    A diverged epoch leaves the run where it was, and the next trial is the same again:
    a schedule has no answer to divergence.

    Args:
      hparams: for every hyperparameter a constant, or a function of the time in epochs;
        an Optax schedule that counts epochs is one. What is not named here stays as
        the optimizer has it.

    Raises:
      ValueError: there is no hyperparameter, or a constant is not a finite number.

    Example:
      >>> schedule = Schedule.manual_sgd(epochs=160, momentum=0.9)
      >>> [round(schedule.setting(t)["learning_rate"], 6) for t in (0, 79, 80, 120)]
      [0.1, 0.1, 0.01, 0.001]
    """

    hparams: Mapping[str, Value]
    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        common.check_hparams(self.hparams)
        if not self.hparams:
            raise ValueError(
                "Schedule needs at least one hyperparameter, for example "
                "Schedule.constant(learning_rate=0.1)"
            )
        for name, value in self.hparams.items():
            if not callable(value):
                checks.check_number(name, value, 0, math.inf, "[)")

    @classmethod
    def constant(cls, **hparams: float) -> "Schedule":
        """The same setting all along."""
        return cls(hparams)

    @classmethod
    def manual_sgd(
        cls, epochs: int, learning_rate: float = 0.1, **constants: float
    ) -> "Schedule":
        """He et al. 2015 (1512.03385, section 4.2): divided by 10 at 32k and at 48k of
        64k iterations, here at 1/2 and 3/4 of the epochs."""
        return cls._multiplied(
            epochs, learning_rate, _divided_by_ten((1 / 2, 3 / 4), epochs), constants
        )

    @classmethod
    def manual_adam(
        cls, epochs: int, learning_rate: float = 1e-3, **constants: float
    ) -> "Schedule":
        """Adam's default rate (Kingma and Ba 2014), divided by 10 where `manual_sgd`
        is: the paper names no schedule for it."""
        return cls.manual_sgd(epochs, learning_rate, **constants)

    @classmethod
    def manual_large_batch(
        cls,
        epochs: int,
        batch_size: int,
        *,
        learning_rate: float = 0.1,
        reference_batch_size: int = 128,
        warmup: float = 5.0,
        drops: Sequence[float] = (30 / 90, 60 / 90, 80 / 90),
        **constants: float,
    ) -> "Schedule":
        """Goyal et al. 2017 (1706.02677, sections 2.1, 2.2 and 5.1).

        The rate is scaled by batch_size / reference_batch_size, reached by a linear
        warm-up from the unscaled rate, and divided by 10 at fractions of the run.

        Args:
          epochs: length of the run.
          batch_size: examples a step.
          learning_rate: what suits the reference batch size.
          reference_batch_size: 256 in their ImageNet rule, 128 for He et al.'s CIFAR.
          warmup: epochs.
          drops: fractions of the run, theirs on ImageNet unless given.
          **constants: other hyperparameters.
        """
        checks.check_whole("batch_size", batch_size, 1)
        checks.check_whole("reference_batch_size", reference_batch_size, 1)
        checks.check_number("learning_rate", learning_rate, 0, math.inf)
        scale = batch_size / reference_batch_size
        ramp = _ramp(warmup, epochs, start=min(1.0, 1 / scale))
        divided = _divided_by_ten(drops, epochs)
        return cls._multiplied(
            epochs,
            learning_rate * scale,
            lambda time: ramp(time) * divided(time),
            constants,
        )

    @classmethod
    def cosine(
        cls, epochs: int, learning_rate: float, warmup: float = 0.0, **constants: float
    ) -> "Schedule":
        """Half a cosine to zero (SGDR without restarts, Loshchilov and Hutter 2016,
        1608.03983, eq. 5), after a linear warm-up from zero over `warmup` epochs."""
        ramp = _ramp(warmup, epochs)

        def annealed(time: float) -> float:
            done = min(max(time - warmup, 0.0) / (epochs - warmup), 1.0)
            return ramp(time) * 0.5 * (1 + math.cos(math.pi * done))

        return cls._multiplied(epochs, learning_rate, annealed, constants)

    @classmethod
    def wsd(
        cls,
        epochs: int,
        learning_rate: float,
        warmup: float = 0.0,
        decay: float = 0.2,
        **constants: float,
    ) -> "Schedule":
        """Warm-up, stable, decay (Hu et al. 2024, 2404.06395; Haegele et al. 2024,
        2405.18392): linear from zero over `warmup` epochs, constant, and linear to zero
        over the last `decay` of the run."""
        ramp = _ramp(warmup, epochs)
        checks.check_number("decay", decay, 0, 1, "(]")

        def trapezoid(time: float) -> float:
            left = max(epochs - time, 0.0) / (decay * epochs)
            return ramp(time) * min(left, 1.0)

        return cls._multiplied(epochs, learning_rate, trapezoid, constants)

    @classmethod
    def one_cycle(
        cls,
        epochs: int,
        learning_rate: float,
        *,
        rise: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e4,
        **constants: float,
    ) -> "Schedule":
        """One cycle (Smith and Topin 2017, 1708.07120) as Optax and PyTorch have it:
        half a cosine up from learning_rate / start_divisor over the first `rise` of the
        run, then half a cosine down to learning_rate / start_divisor / end_divisor."""
        checks.check_number("rise", rise, 0, 1)
        checks.check_number("start_divisor", start_divisor, 1, math.inf, "[)")
        checks.check_number("end_divisor", end_divisor, 1, math.inf, "[)")
        start, end = 1 / start_divisor, 1 / start_divisor / end_divisor

        def cycle(time: float) -> float:
            done = min(time / epochs, 1.0)
            if done < rise:
                return _half_cosine(start, 1.0, done / rise)
            return _half_cosine(1.0, end, (done - rise) / (1 - rise))

        return cls._multiplied(epochs, learning_rate, cycle, constants)

    @classmethod
    def _multiplied(
        cls,
        epochs: int,
        learning_rate: float,
        multiplier: Callable[[float], float],
        constants: Mapping[str, float],
    ) -> "Schedule":
        checks.check_whole("epochs", epochs, 1)
        checks.check_number("learning_rate", learning_rate, 0, math.inf)
        rate = {"learning_rate": lambda time: learning_rate * multiplier(time)}
        return cls(rate | dict(constants))

    def setting(self, epoch: int) -> dict[str, float]:
        """The hyperparameters of an epoch, the first being 0: their means over it."""
        parts = [self.at(epoch + (i + 0.5) / PARTS) for i in range(PARTS)]
        return {n: math.fsum(part[n] for part in parts) / PARTS for n in self.hparams}

    def at(self, time: float) -> dict[str, float]:
        """The hyperparameters at a time since the start of the run, in epochs."""
        return {
            name: float(value(time)) if callable(value) else float(value)
            for name, value in self.hparams.items()
        }

    def init(self, key: jax.Array, score: float) -> ScheduleState:
        """State of a run that starts at a network with this score."""
        del key  # nothing is random
        common.check_start(score)
        return ScheduleState(np.int32(0))

    def ask(self, state: ScheduleState) -> Trials:
        """The setting of the coming epoch."""
        setting = self.setting(int(state.epoch))
        return Trials.of(common.stack(setting, [setting]))

    def tell(
        self, state: ScheduleState, trials: Trials, scores: np.ndarray
    ) -> tuple[ScheduleState, Decision]:
        """Goes on, unless the trial diverged."""
        if not np.isfinite(check_scores(scores, trials)[0]):
            return state, common.stay(state.epoch, hold=[1])
        decision = common.accept(state.epoch, 0, kept=state.epoch > 0)
        return ScheduleState(state.epoch + np.int32(1)), decision


@dataclasses.dataclass(frozen=True)
class Replay(Schedule):
    """The settings of an earlier run's accepted path, for as many steps each.

    Args:
      hparams: for every hyperparameter a function of the optimizer step, such as
        `load_schedule` makes.
      until_step: where each piece ends, in optimizer steps, increasing.
      steps_per_epoch: of this run.

    Raises:
      ValueError: the ends do not increase.
    """

    until_step: tuple[int, ...] = ()
    steps_per_epoch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.check_whole("steps_per_epoch", self.steps_per_epoch, 1)
        if not self.until_step or np.min(np.diff([0, *self.until_step])) < 1:
            raise ValueError("until_step must increase from at least 1")

    @property
    def made_for(self) -> dict[str, int]:
        """The run that its pieces have whole steps of."""
        return {"steps_per_epoch": self.steps_per_epoch}

    def accepted_steps(self, state: ScheduleState) -> int:
        """Optimizer steps of the path."""
        del state
        return self.until_step[-1]

    def ask(self, state: ScheduleState) -> Trials:
        """The next piece."""
        begin, end = (0, *self.until_step)[int(state.epoch) :][:2]
        setting = self.at(begin)
        trials = Trials.of(common.stack(setting, [setting]))
        return trials._replace(epochs=(end - begin) / self.steps_per_epoch)


class PlateauState(NamedTuple):
    """What the plateau rule remembers.

    epoch: i32[], accepted epochs so far.
    best: f32[], the best score.
    bad_epochs: i32[], epochs in a row that were not better than that.
    reductions: i32[], how often the learning rate was reduced.
    """

    epoch: Leaf
    best: Leaf
    bad_epochs: Leaf
    reductions: Leaf


@dataclasses.dataclass(frozen=True)
class ReduceOnPlateau(Strategy):
    """Reduces the learning rate when the score has stopped improving.

    The rule is torch.optim.lr_scheduler.ReduceLROnPlateau's: a score is better if it
    exceeds the best one by more than `threshold` of its size; after more than
    `patience` epochs in a row without a better one, the learning rate is multiplied by
    `factor`. (optax.contrib.reduce_on_plateau already does so after `patience` epochs.)
    An epoch that diverged leaves the run where it was and reduces at once, as waiting
    would repeat it.

    Args:
      hparams: the setting to start with; `learning_rate` is among them.
      factor: greater than 0, less than 1.
      patience: epochs, at least 0.
      threshold: at least 0, less than 1.
      metric: 'loss' (scores are minus the validation loss in nats) or 'accuracy'
        (validation accuracy in percentage points).

    Raises:
      ValueError: a setting is out of range.

    Example:
      >>> strategy = ReduceOnPlateau({"learning_rate": 0.1}, patience=0)
      >>> state = strategy.init(jax.random.key(0), score=-2.3)
      >>> for loss in (1.0, 1.0):
      ...     state, _ = strategy.tell(state, strategy.ask(state), [-loss])
      >>> strategy.ask(state).hparams["learning_rate"].round(4).tolist()
      [0.009999999776482582]
    """

    hparams: Mapping[str, float]
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    metric: str = "loss"

    def __post_init__(self) -> None:
        common.check_hparams(self.hparams)
        if "learning_rate" not in self.hparams:
            raise ValueError(
                f"hparams must have a learning_rate to reduce, got "
                f"{sorted(self.hparams)}"
            )
        for name, value in self.hparams.items():
            checks.check_number(name, value, 0, math.inf, "[)")
        checks.check_number("factor", self.factor, 0, 1)
        checks.check_whole("patience", self.patience, 0)
        checks.check_number("threshold", self.threshold, 0, 1, "[)")
        common.check_metric(self.metric)

    def init(self, key: jax.Array, score: float) -> PlateauState:
        """State of a run that starts at a network with this score, which does not
        count as one to improve on."""
        del key  # nothing is random
        common.check_start(score)
        worst = np.finfo(np.float32).min  # finite, and so is the margin above it
        return PlateauState(np.int32(0), worst, np.int32(0), np.int32(0))

    def ask(self, state: PlateauState) -> Trials:
        """The setting in force."""
        scale = self.factor ** int(state.reductions)
        rate = self.hparams["learning_rate"] * scale
        setting = {**self.hparams, "learning_rate": rate}
        return Trials.of(common.stack(setting, [setting]))

    def tell(
        self, state: PlateauState, trials: Trials, scores: np.ndarray
    ) -> tuple[PlateauState, Decision]:
        """Goes on, and reduces the learning rate if it is time to."""
        (score,) = check_scores(scores, trials)
        if not np.isfinite(score):
            return self._reduce(state), common.stay(state.epoch, hold=[1])
        decision = common.accept(state.epoch, 0, kept=state.epoch > 0)
        state = state._replace(epoch=state.epoch + np.int32(1))
        best = float(state.best)
        if score > best + self.threshold * abs(best):
            return state._replace(best=score, bad_epochs=np.int32(0)), decision
        state = state._replace(bad_epochs=state.bad_epochs + np.int32(1))
        late = state.bad_epochs > self.patience
        return self._reduce(state) if late else state, decision

    def _reduce(self, state: PlateauState) -> PlateauState:
        return state._replace(
            bad_epochs=np.int32(0), reductions=state.reductions + np.int32(1)
        )


def _divided_by_ten(drops: Sequence[float], epochs: int) -> Callable[[float], float]:
    """0.1 for every drop that is past, each a fraction of the run."""
    for fraction in drops:
        checks.check_number("drops", fraction, 0, 1)
    return lambda time: 0.1 ** sum(time >= fraction * epochs for fraction in drops)


def _ramp(warmup: float, epochs: int, start: float = 0.0) -> Callable[[float], float]:
    """From `start` to 1 over the warm-up, linearly, and 1 from there on."""
    checks.check_whole("epochs", epochs, 1)
    checks.check_number("warmup", warmup, 0, epochs, "[)")
    if warmup == 0:
        return lambda _: 1.0
    return lambda time: start + (1 - start) * min(time / warmup, 1.0)


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
