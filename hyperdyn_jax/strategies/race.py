"""Race: a few settings train from one start, for longer and longer; the best goes on.

The paper's random start and its Gaussian process over settings and time, loosely; its
wait-and-watch test has no part in it.

  arms   that cover the range, and the user's own setting, the base, train from the
         untrained network. Short trials alone choose badly. From an untrained network
         they favour rates that are too large later on, so the horizon grows from round
         to round, and arms keep their weights. Where the loss is down at the noise of
         the gradients they favour rates that are too small (short-horizon bias: Wu et
         al. 2018, 1803.02021), so scores are of averaged weights
  model  over (log rate, log horizon), with the paper's kernel over time, which hardly
         forgets here. The best rate drifts with the horizon, roughly as a power of it,
         and a fixed share of the drift is carried on to the whole run (`drift`). Those
         arms go on that are next to where the best is expected, at the next horizon or
         at the end
  run    from the arm nearest to what is expected to be best at the end: held constant
         and cooled down over the last fifth or, with a base that has a shape, in that
         shape. Where it diverges or falls clearly behind its best, it goes back there
         and on at a third of the rate

The base stays unless a permutation test finds that scores depend on the rate, and
another setting is expected to end better by more than noise. Decisions are differences
between arms: nothing depends on the unit or the sign of the scores, or on the score of
the untrained network. Constants were chosen on seeds 0 to 3 of `benchmarks/suite`.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from hyperdyn_jax.strategies import common, drift
from hyperdyn_jax.strategies.race_plan import COOLDOWN, RacePlan
from hyperdyn_jax.strategies.schedules import Schedule
from hyperdyn_jax.tuner import cpu_jit
from hyperdyn_jax.tuner.acquisition import additive_steps
from hyperdyn_jax.tuner.interface import (
    Decision,
    Leaf,
    TooShortError,
    Trials,
    check_scores,
)
from hyperdyn_jax.tuner.observations import Observations
from hyperdyn_jax.tuner.search_space import SearchSpace

RACE, RUN = range(2)  # phases

SPACING = math.log(3.2)  # between the first arms, as a logarithm of the rate
HORIZONS = (1, 2, 4, 6)  # of the rounds, in those of the first
KEPT = (4, 3, 3)  # arms that go on to the next round at most, the base among them
NEEDED = 0.04  # share of what is expected to be best that an arm has to be next to
SETTLED = 0.6  # below this probability of a better setting, a base that leads stays
MOVING = 0.1  # from this probability of a warm-up on, no base is told right early
ARMS = (7, 12)  # of the first round
FEWEST = 3  # of them, where the budget has no room for more
TELLING = 6  # of them, from which on a test can show that scores follow the rate
STEPS_AN_ARM = 8  # of the allowance: half of it is enough for a few steps of each
FIRST = 0.01  # of the budget, trained by each arm of the first round
LEAST = 10  # steps of the first round; fewer only where the budget has no room for them
SHORTEST = 2  # steps of it that tell anything at all
BEHIND = 0.1  # of what the run has gained; right rates fell back by 0.03 at most
CUT = 1 / 3  # of the rate, where a run has fallen behind
SMALLEST = CUT**4  # what the rate is divided by at most
CAPACITY = 64  # observations


class RaceState(NamedTuple):
    """Where a run is.

    key: u32[...], raw data of a PRNG key.
    phase: i32[], RACE or RUN.
    epoch: i32[], accepted stretches of the run so far.
    spent: i32[], optimizer steps that are no part of the accepted path.
    done: i32[], optimizer steps of the accepted path; in the race, behind every arm.
    following: i32[], those after the round to come.
    arms: f32[k, d] points of the unit cube that the coming round trains; NaN where
      there are fewer.
    parents: i32[k] the held state that each of them goes on from.
    rounds: i32[], rounds so far that told the arms apart.
    data: scores of all arms; their epochs are logarithms of the horizon.
    chosen: f32[d] the point that won; NaN before.
    kept: bool[], the base won.
    scale: f32[], what the chosen rate has been multiplied by since.
    first: f32[], an early score, to see how much has been gained.
    best: f32[], the best score of the run.
    best_done: i32[], steps of the accepted path behind it.
    noise: f32[], of a score, as the race saw it.
    """

    key: Leaf
    phase: Leaf
    epoch: Leaf
    spent: Leaf
    done: Leaf
    following: Leaf
    arms: Leaf
    parents: Leaf
    rounds: Leaf
    data: Observations
    chosen: Leaf
    kept: Leaf
    scale: Leaf
    first: Leaf
    best: Leaf
    best_done: Leaf
    noise: Leaf


class CannotTellError(ValueError):
    """All arms of a race score alike, and there is no base to stay with."""


@dataclasses.dataclass(frozen=True)
class Race(RacePlan):
    """One run, with a bounded share of it spent on a race for its setting.

    Scores are any finite numbers; more is better. They are of the weights averaged over
    the steps since the untrained network. A trial that diverged has a score that is not
    finite.

    Args:
      space: the hyperparameters and their ranges, the wider the better.
      epochs: budget of the run with the race in it.
      steps_per_epoch: a trial has whole steps, and the budget is kept to the step.
      base: the schedule to stay with unless a test finds that scores depend on the
        rate, and another setting is expected to end better by more than noise. Where
        it changes over the run its shape is kept: the rate is multiplied, another
        hyperparameter shifted along its axis.
        With fewer than six arms, in a budget of less than about 290 steps, it stays:
        so few cannot show that they follow the rate.
      warmup: steps over which the optimizer itself raises the rate, where the base does
        not show it: larger rates look better for so long.
      max_overhead: steps of the race over those of the rest of the run; never exceeded.
        What a run that goes back has trained since its best comes on top, within
        the budget.
      metric: what scores are.
      averaging: power of the polynomial average that scores are of
        (`optimizers.averaged`).
      backtracking: whether the run should end at its best epoch's network where that is
        better than the last one's by more than chance.

    Raises:
      ValueError: a setting is out of range.
      TooShortError: the budget has no room for a race.

    Example:
      >>> from hyperdyn_jax import LogUniform
      >>> space = SearchSpace(learning_rate=LogUniform(1e-4, 0.3))
      >>> Race(space, epochs=40, steps_per_epoch=25).horizons
      [9, 18, 36, 54]
    """

    space: SearchSpace
    epochs: int
    steps_per_epoch: int
    base: Schedule | None = dataclasses.field(default=None, compare=False)
    warmup: int = 0
    max_overhead: float = 0.2
    metric: str = "loss"
    averaging: float | None = 5.0
    backtracking: bool = True
    shortest_trial: ClassVar[float] = math.inf  # it has whole steps of its own

    def __post_init__(self) -> None:
        self.check_budget()
        common.check_metric(self.metric)
        if self.horizons[0] < SHORTEST:
            needed = self._steps_for(SHORTEST * self._weight)
            raise TooShortError(
                f"{self.budget:,} steps are too few for a race, which takes {needed} "
                f"with max_overhead={self.max_overhead:g}; give more epochs or a "
                f"larger max_overhead"
            )

    @property
    def horizons(self) -> list[int]:
        """Steps that an arm has behind it after each round. As long as the first round
        cannot tell the arms apart, its steps are doubled, and with them all others."""
        room = int(self.allowance / self._weight)
        first = max(round(FIRST * self.budget), LEAST)
        return [min(first, room) * times for times in HORIZONS]

    @property
    def _weight(self) -> int:
        """Steps of all rounds less those of the winner, in those of the first round."""
        arms = (self._first_arms, *KEPT)
        lengths = np.diff((0, *HORIZONS))
        return sum(
            (min(count, arms[0]) - 1) * int(length)
            for count, length in zip(arms, lengths, strict=True)
        )

    @property
    def needed_steps(self) -> float | None:
        """Steps of a run whose race can leave the base; None where this one's can."""
        if self.base is None or self._first_arms >= TELLING:
            return None
        return self._steps_for(TELLING * STEPS_AN_ARM)

    def _steps_for(self, allowance: int) -> float:
        """The budget whose allowance is so large."""
        if not self.max_overhead:
            return math.inf
        share = self.max_overhead / (1 + self.max_overhead)
        return math.ceil(allowance / share - 1e-9)

    @property
    def note(self) -> str:
        """What a person should know of it beforehand; "" if there is nothing."""
        if (needed := self.needed_steps) is None:
            return ""
        return (
            f"{self.budget:,} steps are too few for a race to leave your own setting, "
            f"which stays unless it diverges: that takes {needed:,} steps or more"
        )

    def init(self, key: jax.Array, score: float) -> RaceState:
        """State of a run that starts at a network with this score, which is not
        looked at."""
        common.check_start(score)
        unknown = np.float32(np.nan)
        state = RaceState(
            key=cpu_jit.key_data(key),
            phase=np.int32(RACE),
            epoch=np.int32(0),
            spent=np.int32(0),
            done=np.int32(0),
            following=np.int32(self.horizons[0]),
            arms=np.full((ARMS[1] + 1, len(self.space)), unknown),
            parents=np.zeros(ARMS[1] + 1, np.int32),
            rounds=np.int32(0),
            data=Observations.empty(CAPACITY, len(self.space)),
            chosen=np.full(len(self.space), unknown),
            kept=np.bool_(False),
            scale=np.float32(1),
            first=unknown,
            best=unknown,
            best_done=np.int32(0),
            noise=np.float32(0),
        )
        return self._with_arms(state, self._cover(state.key))

    def ask(self, state: RaceState) -> Trials:
        """The next stretch of every arm, or of the run."""
        if state.phase == RUN:
            return self._stretch(state)
        count = _count(state)
        steps = int(state.following - state.done)
        middle = int(state.done) + steps / 2
        settings = [
            self.setting(point, middle / self.accepted_steps(state))
            for point in state.arms[:count]
        ]
        return self._trials(settings, steps)._replace(parents=state.parents[:count])

    def tell(
        self, state: RaceState, trials: Trials, scores: np.ndarray
    ) -> tuple[RaceState, Decision]:
        """Takes the scores of a round, or of a stretch of the run.

        Returns:
          The new state, and a decision: a round holds on to the arms that the next one
          starts from or, at the end of the race, to the one that goes on.

        Raises:
          CannotTellError: all arms score alike as long as there is room for them, and
            there is no base.
        """
        scores = check_scores(scores, trials)
        state = state._replace(key=cpu_jit.split_key(state.key))
        if state.phase == RUN:
            return self._tell_stretch(state, trials, scores)
        return self._tell_round(state, scores)

    # The race.

    @property
    def _first_arms(self) -> int:
        """Arms that cover the space, with the base among them where there is one."""
        wanted = round(self.spans[self.rate_axis] / SPACING) + 2 * (len(self.space) - 1)
        room = self.allowance // STEPS_AN_ARM
        return max(FEWEST, min(int(np.clip(wanted, *ARMS)), room))

    def _cover(self, key: np.ndarray) -> np.ndarray:
        """The first arms, f32[m, d]: evenly over the space, from the base or shifted at
        random."""
        count, rng = self._first_arms, np.random.default_rng(key.ravel())
        if len(self.space) == 1:
            places = (np.arange(count)[:, None] + rng.random()) / count
        else:
            steps = additive_steps(len(self.space))
            places = rng.random(len(steps)) + np.arange(count)[:, None] * steps
        if self.base_point is not None:
            places = places - places[0] + self.base_point
        return np.asarray(places % 1.0, np.float32)

    def _with_arms(
        self, state: RaceState, points: np.ndarray, parents: np.ndarray | None = None
    ) -> RaceState:
        """The state with the arms of the coming round, from the run by default."""
        room = len(state.arms) - len(points)
        if parents is None:
            parents = np.zeros(len(points), np.int32)
        unknown = np.full((room, len(self.space)), np.nan, np.float32)
        return state._replace(
            arms=np.concatenate([np.asarray(points, np.float32), unknown]),
            parents=np.append(parents, np.zeros(room)).astype(np.int32),
        )

    def _tell_round(
        self, state: RaceState, scores: np.ndarray
    ) -> tuple[RaceState, Decision]:
        count, steps = len(scores), int(state.following - state.done)
        points = state.arms[:count]
        time = math.log(int(state.following))
        state = state._replace(data=state.data.append(points, time, scores))
        if not np.isfinite(scores).any():
            return self._all_diverged(state, count, steps)
        state = state._replace(
            spent=state.spent + np.int32((count - 1) * steps), done=state.following
        )
        leader = np.argmax(np.where(np.isfinite(scores), scores, -np.inf))
        base_leads = bool(self.is_base(points)[leader])
        belief = self._believe(state, base_leads)
        rounds = int(state.rounds)
        alike = not belief.told_apart and np.isfinite(scores).sum() >= FEWEST
        if not rounds and alike:
            return self._longer(state, belief, scores)
        state = state._replace(rounds=np.int32(rounds + 1))
        steady = belief.warming < MOVING and not belief.rising
        right = base_leads and steady and belief.ahead < SETTLED
        if (rounds and right) or rounds + 1 == len(HORIZONS):
            return self._choose(state, belief, scores)
        growth = HORIZONS[rounds + 1] / HORIZONS[rounds]
        following = round(int(state.done) * growth)
        kept = self._survivors(state, belief, scores, following, KEPT[rounds])
        if not self._room(state, len(kept), following - int(state.done)):
            return self._choose(state, belief, scores)
        return self._go_on(state, scores, kept, following)

    def _room(self, state: RaceState, count: int, steps: int) -> bool:
        """Whether there is room for a round; one arm of it is the run's."""
        spent = int(state.spent) + (count - 1) * steps
        path = int(state.done) + steps
        return spent <= self.allowance and spent + path < self.budget

    def _believe(self, state: RaceState, base_leads: bool) -> drift.Belief:
        rows = state.data.feasible | state.data.infeasible
        gains = np.where(state.data.feasible, state.data.gains, -np.inf)
        times, length = state.data.epochs[rows], self.accepted_steps(state)
        points = [
            self.moved(point, math.exp(time) / length)
            for point, time in zip(state.data.points[rows], times, strict=True)
        ]
        base = None if self.base_point is None else self.moved(self.base_point, 1)
        return drift.believe(
            np.array(points),
            times,
            gains[rows],
            axis=self.rate_axis,
            spans=self.spans,
            end=math.log(length),
            warmup=self.warmup_steps,
            base=base,
            base_leads=base_leads,
            seed=int(state.key.ravel()[-1]),
        )

    def _survivors(
        self,
        state: RaceState,
        belief: drift.Belief,
        scores: np.ndarray,
        following: int,
        most: int,
    ) -> np.ndarray:
        """Arms that go on: those between which the best at the next horizon is expected
        to lie, and the base."""
        sound = np.flatnonzero(np.isfinite(scores))
        points = state.arms[sound]
        share = following / self.accepted_steps(state)
        wanted = self.moved_back(belief.optima(math.log(following)), share)
        wanted = np.concatenate([wanted, self.moved_back(belief.places, 1)])
        shares = np.zeros(len(sound))
        for place in wanted:
            near = np.argsort(self.gaps(points, place), stable=True)[:2]
            shares[near] += (0.6, 0.4)[: len(near)]
        shares /= len(wanted)
        shares[self.is_base(points)] = 2  # before all others
        order = np.argsort(-shares, stable=True)[:most]
        needed = order[(shares[order] >= NEEDED) | (np.arange(len(order)) < 2)]
        return sound[np.sort(needed)]

    def _go_on(
        self, state: RaceState, scores: np.ndarray, kept: np.ndarray, following: int
    ) -> tuple[RaceState, Decision]:
        """Another round of some arms. The run until then is the one that leads."""
        leader = kept[np.argmax(scores[kept])]
        held = [leader, *(arm for arm in kept if arm != leader)]
        verdict = {"leading": True, **self._base_among(state.arms[: len(scores)])}
        decision = common.accept(state.epoch, leader, hold=held)
        decision = decision._replace(verdict=verdict)
        state = self._with_arms(state, state.arms[held], np.arange(len(held)))
        return state._replace(
            epoch=state.epoch + np.int32(1), following=np.int32(following)
        ), decision

    def _longer(
        self, state: RaceState, belief: drift.Belief, scores: np.ndarray
    ) -> tuple[RaceState, Decision]:
        """The same arms for twice as long, as they differ by no more than noise; then
        the test is made again."""
        sound, steps = np.flatnonzero(np.isfinite(scores)), int(state.done)
        if not self._room(state, len(sound), steps):
            if self.base is not None or belief.differ:
                return self._choose(state, belief, scores)
            raise CannotTellError(
                f"{len(scores)} settings of {', '.join(self.space)} all score "
                f"{scores.max():.6g} after {steps} steps each, so none can be chosen; "
                f"check that train uses hparams and evaluate uses the state, give more "
                f"epochs, or a base to stay with"
            )
        if not belief.differ:  # which says nothing of what the longer trials will see
            state = state._replace(data=Observations.empty(CAPACITY, len(self.space)))
        return self._go_on(state, scores, sound, 2 * steps)

    def _all_diverged(
        self, state: RaceState, count: int, steps: int
    ) -> tuple[RaceState, Decision]:
        """The same round again from where the run is, at rates a hundred times smaller
        as far as the space has them; of as many arms as there is room for, those with
        the smallest."""
        state = state._replace(spent=state.spent + np.int32(count * steps))
        points = state.arms[:count].copy()
        lower = points[:, self.rate_axis] - math.log(100) / self.spans[self.rate_axis]
        points[:, self.rate_axis] = np.maximum(lower, 0)
        points = np.unique(points, axis=0)
        points = points[np.argsort(points[:, self.rate_axis], stable=True)]
        room = 1 + max(0, self.allowance - int(state.spent)) // steps
        state = self._with_arms(state, points[:room])
        return state, common.stay(state.epoch, hold=[count])

    def _choose(
        self, state: RaceState, belief: drift.Belief, scores: np.ndarray
    ) -> tuple[RaceState, Decision]:
        """What the run goes on with, and the arm whose weights it goes on from."""
        points, base = state.arms[: len(scores)], self.base_point
        sound = np.flatnonzero(np.isfinite(scores))
        kept = self.is_base(points[sound]).any() and not belief.leaves_base
        chosen = base if kept else np.clip(self.moved_back(belief.best, 1), 0, 1)
        chosen = np.array(chosen, np.float32)
        # Beyond the largest arm may be a cliff.
        largest = points[sound, self.rate_axis].max()
        if not kept:
            chosen[self.rate_axis] = min(chosen[self.rate_axis], largest)
        arm = int(sound[np.argmin(self.gaps(points[sound], chosen))])
        decision = common.accept(state.epoch, arm, kept=kept)
        data = state.data
        state = state._replace(
            phase=np.int32(RUN),
            epoch=state.epoch + np.int32(1),
            chosen=chosen,
            kept=np.bool_(kept),
            first=data.gains[data.feasible][0],
            best=scores[arm],
            best_done=state.done,
            noise=np.float32(belief.noise),
        )
        verdict: dict[str, Any] = {"p_value": belief.p_value}
        verdict |= self._base_among(points)
        if kept and self.needed_steps:
            verdict["needed_steps"] = self.needed_steps
        if not kept:
            setting = self._stretch(state).setting(0)
            verdict["following"] = {name: setting[name] for name in self.space}
            verdict |= self._end(data, chosen)
        return state, decision._replace(verdict=verdict)

    def _base_among(self, points: np.ndarray) -> dict[str, int]:
        """Which of the arms is the user's own setting."""
        own = self.is_base(points)
        return {"base": int(np.argmax(own))} if own.any() else {}

    def _end(self, data: Observations, chosen: np.ndarray) -> dict[str, str]:
        """The end of the range that the chosen rate is at: no arm was beyond it."""
        rates = data.points[data.feasible | data.infeasible, self.rate_axis]
        rate = chosen[self.rate_axis]
        ends = {"upper": rate >= rates.max(), "lower": rate <= rates.min()}
        reached = [end for end in ends if ends[end]]
        return {"end": reached[0]} if reached else {}

    # The run.

    def _stretch(self, state: RaceState) -> Trials:
        """An epoch of the run, less where its rate changes fast."""
        length, at = self.accepted_steps(state), int(state.done)
        steps = min(self.steps_per_epoch, length - at)
        begin = math.ceil((1 - COOLDOWN) * length)
        if at < begin:
            steps = min(steps, begin - at)
        else:
            steps = min(steps, max(1, round(0.02 * length)))
        setting = self.setting(state.chosen, (at + steps / 2) / length)
        setting[self.rate] *= float(state.scale)
        return self._trials([setting], steps)

    def _trials(self, settings: list[dict[str, float]], steps: int) -> Trials:
        names = settings[0]
        columns = {name: [setting[name] for setting in settings] for name in names}
        return Trials.of(columns)._replace(epochs=steps / self.steps_per_epoch)

    def _tell_stretch(
        self, state: RaceState, trials: Trials, scores: np.ndarray
    ) -> tuple[RaceState, Decision]:
        (score,), steps = scores, round(trials.epochs * self.steps_per_epoch)
        since = int(state.done - state.best_done)  # where the run has not been better
        best = 1 if since == 0 else 2  # the state of it, after the stretch and the run
        if self._is_behind(state, score, steps) or not np.isfinite(score):
            decision = common.stay(state.epoch, hold=[best])._replace(undone=True)
            return state._replace(
                spent=state.spent + np.int32(since + steps),
                done=state.best_done,
                scale=np.float32(state.scale * CUT),
            ), decision
        done, better = state.done + np.int32(steps), score >= state.best
        hold = [0] if better else [0, best]
        decision = common.accept(state.epoch, 0, hold=hold, kept=state.epoch > 0)
        if self._cools_down(state):
            decision = decision._replace(verdict={"cooldown": True})
        return state._replace(
            epoch=state.epoch + np.int32(1),
            done=done,
            best=np.maximum(state.best, score),
            best_done=done if better else state.best_done,
        ), decision

    def _is_behind(self, state: RaceState, score: np.float32, steps: int) -> bool:
        """Whether the run is clearly behind its best, and there is time to mend it."""
        gained = float(state.best - state.first)
        clear = BEHIND * gained + 3 * float(state.noise)
        left = self.accepted_steps(state) - int(state.done)
        smallest = state.scale * CUT <= SMALLEST
        if smallest or self._is_late(state) or left <= 2 * steps:
            return False
        return float(state.best) - float(score) > clear

    def _is_late(self, state: RaceState) -> bool:
        """Whether the part of the path has begun in which a run without a shape of its
        own cools down."""
        return bool(state.done >= (1 - COOLDOWN) * self.accepted_steps(state))

    def _cools_down(self, state: RaceState) -> bool:
        return (self.base is None or self.is_flat) and self._is_late(state)


def _count(state: RaceState) -> int:
    return int(np.isfinite(state.arms[:, 0]).sum())
