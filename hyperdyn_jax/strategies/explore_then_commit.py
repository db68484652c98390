"""Explore, then commit: a share of the run finds the setting that the rest trains with.

Short probes, all from the untrained network and on the same batches, are read out at
the average of their path instead of its end. That read-out favours nearly the same
setting after a few steps as after the whole run, where the loss at the end of a short
probe favours small learning rates (short-horizon bias: Wu et al. 2018, 1803.02021): an
average over the path has forgotten most of the noise of a large rate, as the end of a
long anneal has.

  explore  settings that cover the space and, if there is one, the base schedule's;
           then, one at a time, the setting with the largest expected improvement in a
           Gaussian process on the probes, for as long as it is worth its steps
  confirm  with a base schedule: it stays unless the setting in the middle of the good
           ones beats its own in pairs of fresh probes, by a test of known level
  commit   from the untrained network again, for the rest of the run: the base schedule,
           or what was found, held constant under the same average; its first epoch may
           be tried with settings between the two as well, of which the best goes on
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from scipy import special

from hyperdyn_jax.strategies import common, paired_test, probing
from hyperdyn_jax.strategies.budgeted import Budgeted
from hyperdyn_jax.strategies.schedules import Schedule
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner import cpu_jit, gp
from hyperdyn_jax.tuner.interface import (
    Decision,
    Leaf,
    TooShortError,
    Trials,
    check_scores,
)
from hyperdyn_jax.tuner.search_space import SearchSpace

EXPLORE, CONFIRM, COMMIT = range(3)  # phases

# A probe of an earlier run: its setting, in the order of the space, and its progress.
Earlier = tuple[tuple[float, ...], float]
# How long ago an earlier run is to the model, in epochs: K2 of it is 5/6.
AGE = 0.1


class ExploreState(NamedTuple):
    """Where a run is.

    key: u32[...], raw data of a PRNG key.
    phase: i32[], EXPLORE, CONFIRM or COMMIT.
    epoch: i32[], accepted epochs so far.
    spent: i32[], optimizer steps of all probes so far.
    start: f32[], score of the untrained network, less than 0.
    chosen: f32[] for every hyperparameter, what is confirmed or committed to; NaN
      before.
    pairs: f32[2 * confirmations], by how much the progress of the chosen setting, less
      the margin, was more than the base's in each pair; NaN where still to come.
    data: the probes; a gain is the logarithm of the loss at the start over that of the
      probe, at least 0. Those of an earlier run have an epoch of -AGE.
    """

    key: Leaf
    phase: Leaf
    epoch: Leaf
    spent: Leaf
    start: Leaf
    chosen: dict[str, Leaf]
    pairs: Leaf
    data: gp.Observations


@dataclasses.dataclass(frozen=True)
class ExploreThenCommit(Budgeted):
    """One run, with a bounded share of it spent on finding its setting.

    Scores are minus a loss greater than 0, such as a cross-entropy, of the average over
    the path since the untrained network; not finite where a trial diverged.

    Args:
      space: the hyperparameters and their ranges, the wider the better.
      epochs: budget of the run with every probe in it.
      steps_per_epoch: a probe has whole steps, and the budget is kept to the step.
      base: the schedule to anchor on. It is played, in the steps that are left, unless
        a setting is better by the switch test: that then takes the place of the
        schedule's. None commits to the best setting without a test.
      max_overhead: steps of probes over those of the accepted path: never exceeded,
        finalists not counted.
      probe: length of a probe as a share of the budget.
      probes: largest number of probes before any that confirm, at least `initial`.
      initial: how many of them cover the space, at least 2.
      plateau: share of the best expected progress that a setting must have to count as
        good; the middle of all such is taken.
      margin: share of its own progress by which a setting must beat the base's to be
        worth leaving it.
      level: largest chance to leave the base for a setting that is no better than that.
      confirmations: pairs before the first look of the switch test; there are up to
        twice as many before its second (`paired_test.look`).
      pair: length of each branch of a pair, in probes. It is longer than one, as a base
        that is left should be worse for longer than a probe.
      worth: a probe is taken for as long as it is expected to gain this many times its
        share of the run; 0 takes all.
      averaging: power of the polynomial average that scores are of, at least 0; 0 is
        the plain mean of the path (`optimizers.averaged`), None its end. The setting
        that is found is held constant with None too, where it may be too large.
      backtracking: as `Strategy.backtracking`.
      finalists: number of settings that the first epoch is tried with if the base is
        left: the base's, the chosen one and others at even distances between them. The
        best goes on. An epoch shows more of what momentum does than a probe of a few
        steps. It takes an epoch for each but one. 1 tries the chosen one alone.
      earlier: probes of an earlier run to start from (`earlier_probes`); they stand in
        for those that would cover the space.

    Raises:
      ValueError: a setting is out of range.

    Example:
      >>> from hyperdyn_jax import LogUniform
      >>> space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
      >>> tuner = ExploreThenCommit(space, epochs=48, steps_per_epoch=32)
      >>> tuner.probe_steps, tuner.probe_limit
      (8, 12)
    """

    space: SearchSpace
    epochs: int
    steps_per_epoch: int
    base: Schedule | None = dataclasses.field(default=None, compare=False)
    max_overhead: float = 0.2
    probe: float = 0.005
    probes: int = 12
    initial: int = 4
    plateau: float = 0.8
    margin: float = 0.1
    level: float = 0.05
    confirmations: int = 3
    pair: int = 2
    worth: float = 1.0
    averaging: float | None = 5.0
    backtracking: bool = True
    finalists: int = 1
    earlier: tuple[Earlier, ...] = ()
    metric: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        self.check_budget()
        checks.check_number("probe", self.probe, 0, 1)
        checks.check_whole("initial", self.initial, 2)
        checks.check_whole("probes", self.probes, self.initial)
        checks.check_number("plateau", self.plateau, 0, 1)
        checks.check_number("margin", self.margin, 0, 1, "[)")
        checks.check_number("level", self.level, 0, 1)
        checks.check_whole("confirmations", self.confirmations, 2)
        checks.check_whole("pair", self.pair, 1)
        checks.check_number("worth", self.worth, 0, math.inf, "[)")
        checks.check_whole("finalists", self.finalists, 1)
        if any(len(setting) != len(self.space) for setting, _ in self.earlier):
            raise ValueError("earlier probes must have the space's hyperparameters")
        if self.probe_limit < self._first:
            needed = self._first * self.probe_steps + self._reserved
            raise TooShortError(
                f"max_overhead={self.max_overhead:g} of {self.budget} steps is room "
                f"for {self.allowance} steps of probes, and it takes {needed}: more "
                f"epochs, a larger max_overhead, a smaller probe or another strategy"
            )
        final = self.finalists * self.steps_per_epoch if self.finalists > 1 else 0
        if final > self.budget - self.allowance:
            raise TooShortError(
                f"finalists={self.finalists} take an epoch each, and probes leave "
                f"{self.budget - self.allowance} of {self.budget} steps: more "
                f"epochs or fewer of them"
            )

    @property
    def probe_steps(self) -> int:
        """Optimizer steps of a probe."""
        return max(1, round(self.probe * self.budget))

    @property
    def probe_limit(self) -> int:
        """Largest number of probes before any that confirm."""
        return min(self.probes, (self.allowance - self._reserved) // self.probe_steps)

    @property
    def _pair_steps(self) -> int:
        """Steps of each of a pair."""
        return self.pair * self.probe_steps

    @property
    def _reserved(self) -> int:
        """Steps that the first look of the switch test takes."""
        anchored = self.base is not None
        return 2 * self.confirmations * self._pair_steps if anchored else 0

    @property
    def _first(self) -> int:
        """Probes of the first trials."""
        return (1 if self.earlier else self.initial) + (self.base is not None)

    def init(self, key: jax.Array, score: float) -> ExploreState:
        """State of a run that starts at a network with this score."""
        start = common.check_start(score)
        if start >= 0:
            raise ValueError(
                f"the untrained network's score must be minus a loss > 0, got {start}"
            )
        return ExploreState(
            key=cpu_jit.key_data(key),
            phase=np.int32(EXPLORE),
            epoch=np.int32(0),
            spent=np.int32(0),
            start=start,
            chosen=dict.fromkeys(self.space, np.float32(np.nan)),
            pairs=np.full(2 * self.confirmations, np.nan, np.float32),
            data=self._no_probes(),
        )

    def _no_probes(self) -> gp.Observations:
        count, axes = len(self.earlier), len(self.space)
        data = gp.Observations.empty(self.probes + count, axes)
        if not count:
            return data
        settings, gains = zip(*self.earlier, strict=True)
        columns = np.array(settings, np.float32).T
        points = cpu_jit.to_unit(self, dict(zip(self.space, columns, strict=True)))
        return data.append(points, -AGE, np.array(gains, np.float32))

    def ask(self, state: ExploreState) -> Trials:
        """The first probes, the next one, a pair that confirms, or an epoch."""
        if state.phase == COMMIT:
            epoch = [self._setting(state)]
            if self._undecided(state):
                epoch = self._finalists(state)
            return Trials.of(common.stack(epoch[0], epoch))
        if state.phase == CONFIRM:
            settings = common.stack(self.space, [self.anchor, state.chosen])
            epochs = self._pair_steps / self.steps_per_epoch
            block = 1 + _known(state.pairs)
            pair = Trials.of(settings)
            return pair._replace(epochs=epochs, block=block, probe=True)
        if not (_tried(state.data) & state.data.feasible).any():
            trials = Trials.of(self._first_settings(state))
        else:
            trials = self._next_probe(state)
        epochs = self.probe_steps / self.steps_per_epoch
        return trials._replace(epochs=epochs, probe=True)

    def _first_settings(self, state: ExploreState) -> dict[str, np.ndarray]:
        again = _tried(state.data).any()  # all of them diverged
        if self.earlier and not again:
            best, _ = max(self.earlier, key=lambda probe: probe[1])
            settings = [dict(zip(self.space, best, strict=True))]
        else:
            cover = probing.cover((self.space, self.initial), state.key)
            settings = [
                {k: x[i] for k, x in cover.items()} for i in range(self.initial)
            ]
        anchored = [self.anchor] if self.base is not None and not again else []
        return common.stack(self.space, [*anchored, *settings])

    def _next_probe(self, state: ExploreState) -> Trials:
        setting, (mean, stddev, improvement), model = probing.propose(
            self.space, state.key, state.data
        )
        # From logarithms to the scores' unit, to first order around the mean.
        left = -state.start * np.exp(-mean)  # the loss that is expected
        wide = left * t_over_normal(int(state.data.feasible.sum()))
        prediction = (-state.start - left, wide * stddev, left * improvement)
        model["noise_stddev"] = wide[0] * model["noise_stddev"]
        return Trials.of(common.stack(self.space, [setting]), prediction, model)

    def _setting(self, state: ExploreState) -> dict[str, float]:
        """Of the coming epoch: what was chosen, and what the base has of the rest."""
        chosen = {name: float(value) for name, value in state.chosen.items()}
        if self.base is None:
            return chosen
        base = self._base_setting(state)
        return base if state.chosen == self.anchor else base | chosen

    def _undecided(self, state: ExploreState) -> bool:
        """Whether the coming epoch is the one for the finalists."""
        if self.finalists == 1 or self.base is None or state.epoch > 0:
            return False
        return state.chosen != self.anchor and not self._diverged(state, self.anchor)

    def _finalists(self, state: ExploreState) -> list[dict[str, float]]:
        """The base's, those on the way, and the chosen one."""
        ends = cpu_jit.to_unit(
            self, common.stack(self.space, [self.anchor, state.chosen])
        )
        shares = np.linspace(0, 1, self.finalists, dtype=np.float32)[1:-1, None]
        points = ends[:1] + shares * (ends[1:] - ends[:1])
        columns = cpu_jit.from_unit(self, points)
        between = [
            {name: float(column[i]) for name, column in columns.items()}
            for i in range(len(points))
        ]
        base = self._base_setting(state)
        return [base, *(base | x for x in between), self._setting(state)]

    def _base_setting(self, state: ExploreState) -> dict[str, float]:
        """The base's of the coming epoch, shrunk in time to the steps that are left."""
        length = self.accepted_steps(state) / self.steps_per_epoch
        epoch = int(state.epoch)
        middle = epoch + 0.5 * min(1.0, length - epoch)
        assert self.base is not None
        return self.base.at(middle / length * self.epochs)

    def tell(
        self, state: ExploreState, trials: Trials, scores: np.ndarray
    ) -> tuple[ExploreState, Decision]:
        """Takes the scores of probes, or of an epoch of the run.

        Returns:
          The new state, and a decision: probes leave the run where it was, an epoch of
          the run becomes it unless it diverged. If that happens, its setting counts as
          a diverged probe, and the base or the next best probe's is taken.
        """
        scores = check_scores(scores, trials)
        state = state._replace(key=cpu_jit.split_key(state.key))
        if state.phase == COMMIT and len(scores) > 1:
            return self._tell_finalists(state, trials, scores)
        if state.phase == COMMIT:
            return self._tell_epoch(state, scores)
        gains = progress(state.start, scores)
        steps = self._pair_steps if state.phase == CONFIRM else self.probe_steps
        spent = state.spent + np.int32(len(scores) * steps)
        state, p_value = state._replace(spent=spent), math.nan
        if state.phase == CONFIRM:
            state, p_value = self._tell_pair(state, gains)
        else:
            state = self._tell_probes(state, trials, gains)
        decision = common.stay(state.epoch, hold=[len(scores)])
        return state, decision._replace(p_value=p_value)

    def _tell_probes(
        self, state: ExploreState, trials: Trials, gains: np.ndarray
    ) -> ExploreState:
        points = cpu_jit.to_unit(self, trials.hparams)
        state = state._replace(data=state.data.append(points, 0, gains))
        tried = _tried(state.data)
        left = self.probe_limit - int(tried.sum())
        if state.data.feasible[tried].any():
            more = left > 0 and self._worth_it(state)
            return state if more else self._choose(state)
        if left >= self.initial:  # all diverged: others are tried
            return state
        least = self.anchor if self.base is not None else trials.setting(0)
        return state._replace(chosen=least, phase=np.int32(COMMIT))

    def _worth_it(self, state: ExploreState) -> bool:
        """Whether a probe is expected to gain more than its steps would in the run.

        As logarithms of the loss, which falls no faster than one over the steps.
        """
        _, (_, _, improvement), _ = probing.propose(self.space, state.key, state.data)
        return bool(improvement[0] > self.worth * self.probe_steps / self.budget)

    def _choose(self, state: ExploreState) -> ExploreState:
        """The best of what was tried, to be confirmed where there is a base."""
        setting, base_is_good = self._plateau(state)
        state = state._replace(chosen=setting, phase=np.int32(COMMIT))
        if self.base is None or self._diverged(state, self.anchor):
            return state  # nothing to compare with
        if base_is_good:
            return state._replace(chosen=self.anchor)
        return state._replace(phase=np.int32(CONFIRM))

    def _plateau(self, state: ExploreState) -> tuple[dict[str, np.ndarray], np.bool_]:
        shares = np.float64(self.plateau), np.float64(self.margin)
        return probing.choose(self.space, state.data, shares)

    def _tell_pair(
        self, state: ExploreState, gains: np.ndarray
    ) -> tuple[ExploreState, float]:
        base, challenger = gains
        if not np.isfinite(challenger):
            state = self._without(state, state.chosen)
            return state._replace(chosen=self.anchor, phase=np.int32(COMMIT)), 1.0
        if not np.isfinite(base):
            state = self._without(state, self.anchor)
            return state._replace(phase=np.int32(COMMIT)), 0.0
        count = _known(state.pairs) + 1
        pairs = state.pairs.copy()
        pairs[count - 1] = (1 - self.margin) * challenger - base
        state = state._replace(pairs=pairs)
        # The pairs that the allowance has room for, whatever their scores.
        first = self.confirmations
        before = int(state.spent) - 2 * count * self._pair_steps
        room = (self.allowance - before) // (2 * self._pair_steps)
        verdict = paired_test.look(
            pairs[:count], first, min(2 * first, max(first, room)), self.level
        )
        p_value = paired_test.p_value(pairs[:count]) if count >= 2 else math.nan
        if verdict is paired_test.Verdict.CONTINUE:
            return state, math.nan
        if verdict is paired_test.Verdict.KEEP:
            state = state._replace(chosen=self.anchor)
        return state._replace(phase=np.int32(COMMIT)), p_value

    def _tell_finalists(
        self, state: ExploreState, trials: Trials, scores: np.ndarray
    ) -> tuple[ExploreState, Decision]:
        """From here on the run has the setting of the best of them."""
        count = len(scores)
        best = int(np.argmax(np.where(np.isfinite(scores), scores, -np.inf)))
        chosen = {name: trials.setting(best)[name] for name in self.space}
        state = state._replace(
            chosen=chosen if best else self.anchor,  # a schedule may begin elsewhere
            spent=state.spent + np.int32((count - 1) * self.steps_per_epoch),
        )
        state, decision = self._tell_epoch(state, scores[[best]])
        if decision.branch < 0:
            return state, common.stay(state.epoch, hold=[count])
        return state, decision._replace(branch=best, hold=np.array([best], np.int32))

    def _tell_epoch(
        self, state: ExploreState, scores: np.ndarray
    ) -> tuple[ExploreState, Decision]:
        if np.isfinite(scores[0]):
            decision = common.accept(state.epoch, 0, kept=state.epoch > 0)
            return state._replace(epoch=state.epoch + np.int32(1)), decision
        state = self._without(state, state.chosen)  # too bold for a whole epoch
        decision = common.stay(state.epoch, hold=[1])
        if self.base is not None and not self._diverged(state, self.anchor):
            return state._replace(chosen=self.anchor), decision
        if (state.data.feasible & _tried(state.data)).any():
            state = state._replace(chosen=self._plateau(state)[0])
        return state, decision

    def _without(
        self, state: ExploreState, setting: Mapping[str, Leaf]
    ) -> ExploreState:
        """The state once a setting has diverged, whatever its probe was like."""
        same = self._probes_of(state, setting)
        data = state.data._replace(
            feasible=state.data.feasible & ~same,
            infeasible=state.data.infeasible | same,
        )
        return state._replace(data=data)

    def _diverged(self, state: ExploreState, setting: Mapping[str, Leaf]) -> np.bool_:
        return np.any(self._probes_of(state, setting) & state.data.infeasible)

    def _probes_of(
        self, state: ExploreState, setting: Mapping[str, Leaf]
    ) -> np.ndarray:
        """The rows in which this run tried a setting, up to rounding."""
        point = cpu_jit.to_unit(self, common.stack(self.space, [setting]))
        near = np.all(np.abs(state.data.points - point) < 1e-4, axis=1)
        return near & _tried(state.data)


def earlier_probes(
    space: SearchSpace, decisions: list[dict[str, Any]]
) -> tuple[Earlier, ...]:
    """Probes of an earlier run, to start another from.

    Args:
      space: of the new run.
      decisions: rows of the earlier run's decisions.jsonl.

    Returns:
      The probes that ended with finite numbers, within the ranges of `space`.

    Raises:
      ValueError: there is none.
    """
    probes = []
    for row in decisions:
        if row["branch"] >= 0 or row.get("block"):  # an epoch of the run, or a pair
            continue
        scores = np.array([np.nan if s is None else s for s in row["scores"]], "f4")
        gains = progress(np.float32(row["score_before"]), scores)
        for trial, gain in zip(row["trials"], gains, strict=True):
            within = all(
                name in trial and axis.low <= trial[name] <= axis.high
                for name, axis in space.items()
            )
            if within and np.isfinite(gain):
                probes.append((tuple(trial[name] for name in space), float(gain)))
    if not probes:
        raise ValueError("the earlier run has no probe within this run's search space")
    return tuple(probes)


def progress(start: Leaf, scores: np.ndarray) -> np.ndarray:
    """Logarithm of how many times smaller the loss has become, at least 0: f32[c].

    So that good settings can be told apart however small their losses are, and that a
    loss of millions is no worse than none gained. NaN where a trial diverged.
    """
    least = 1e-6 * -start
    times = -start / np.maximum(-scores, least)
    gains = np.log(np.maximum(times, np.float32(1)))
    return np.where(np.isfinite(scores), gains, np.float32(np.nan))


def t_over_normal(observations: int) -> float:
    """By how much wider a 90% interval is that knows from how few observations its mean
    and variance were estimated: Student's t over the normal distribution."""
    degrees = max(1, observations - 2)
    return float(special.stdtrit(degrees, 0.95) / special.ndtri(0.95))


def _tried(data: gp.Observations) -> np.ndarray:
    """The rows of this run's probes."""
    return (data.feasible | data.infeasible) & (data.epochs >= 0)


def _known(pairs: np.ndarray) -> int:
    return int(np.isfinite(pairs).sum())
