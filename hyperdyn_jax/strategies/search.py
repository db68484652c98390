"""Strategies that decide every epoch anew: the paper's and two controls.

Scores are validation accuracies in percentage points; not finite where a trial
diverged.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.strategies import common
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn, HyperdynState
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner import cpu_jit
from hyperdyn_jax.tuner.interface import Decision, Leaf, Strategy, Trials, check_scores
from hyperdyn_jax.tuner.search_space import SearchSpace

FIVE_TIMES = 5 * 2  # trials an epoch: Hyperdyn has an incumbent and a challenger
_SETTINGS = 1  # the stream of the state's key that settings are drawn from


class RandomState(NamedTuple):
    """key: u32[...], raw data of a PRNG key. epoch: i32[], the decision to come."""

    key: Leaf
    epoch: Leaf


@dataclasses.dataclass(frozen=True)
class _BestOfRandom(Strategy):
    """Random settings every epoch, the best one kept."""

    space: SearchSpace
    settings: int = FIVE_TIMES
    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        common.check_space(self.space)
        checks.check_whole("settings", self.settings, 1)

    def tell(
        self, state: Any, trials: Trials, scores: np.ndarray
    ) -> tuple[Any, Decision]:
        """The best branch becomes the run; if all diverged, others are drawn."""
        branch = common.best_branch(check_scores(scores, trials))
        state = state._replace(key=cpu_jit.split_key(state.key))
        if branch < 0:
            return state, common.stay(state.epoch, hold=[len(trials.parents)])
        decision = common.accept(state.epoch, branch)
        return state._replace(epoch=state.epoch + np.int32(1)), decision


@dataclasses.dataclass(frozen=True)
class RandomSearch(_BestOfRandom):
    """The paper's "random 5x": random settings every epoch, the best one kept.

    Every epoch `settings` points are drawn uniformly from the space's cube and trained
    from the same state; the one with the best score becomes the run. "At every epoch we
    invest 5x resources more in random search than in Hyperdyn" (section 4.1): Hyperdyn
    trains two branches an epoch, so this trains ten.

    Args:
      space: S, the hyperparameters and their ranges.
      settings: trials an epoch, at least 1.

    Raises:
      ValueError: a setting is out of range.
    """

    def init(self, key: jax.Array, score: float) -> RandomState:
        """State of a run that starts at a network with this score."""
        common.check_start(score)
        return RandomState(cpu_jit.key_data(key), np.int32(0))

    def ask(self, state: RandomState) -> Trials:
        """Settings drawn from the whole space."""
        low, width = _whole(self.space)
        return Trials.of(_draw(self, state.key, low, width))


class HyperbandState(NamedTuple):
    """What the Hyperband variant remembers.

    key: u32[...], raw data of a PRNG key.
    epoch: i32[], the decision to come.
    round: i32[], rounds done in this bracket.
    low: f32[], lower end of the learning rate's range on its unit axis.
    """

    key: Leaf
    epoch: Leaf
    round: Leaf
    low: Leaf


@dataclasses.dataclass(frozen=True)
class HyperbandVariant(_BestOfRandom):
    """The paper's variant of Hyperband (Li et al. 2016), section 4.1.

    "We reduced the search space of learning rate by 0.1 instead of successive halving":
    a bracket starts with the whole range of the learning rate, and every round tries
    as many settings as the round before in a range a tenth as wide around the best
    one. The paper leaves open what a tenth is, when a new bracket starts, how many
    settings there are and what becomes of other axes. Here the width is that on the
    axis's own scale, so a log axis of 3 decades goes on with 0.3; after `rounds` rounds
    the range is the whole again; there are as many settings as in random search, which
    it is compared with; and other axes always have their whole range. A round is an
    epoch, and its best branch becomes the run.

    Args:
      space: S; it has a `learning_rate` axis.
      settings: trials a round, at least 1.
      shrink: what is left of the range's width after a round, between 0 and 1.
      rounds: rounds in a bracket, at least 1.

    Raises:
      ValueError: a setting is out of range, or there is no learning rate.
    """

    shrink: float = 0.1
    rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if "learning_rate" not in self.space:
            raise ValueError(
                f"space must have a learning_rate axis, got {sorted(self.space)}"
            )
        checks.check_number("shrink", self.shrink, 0, 1)
        checks.check_whole("rounds", self.rounds, 1)

    def init(self, key: jax.Array, score: float) -> HyperbandState:
        """State of a run that starts at a network with this score."""
        common.check_start(score)
        return HyperbandState(
            cpu_jit.key_data(key), np.int32(0), np.int32(0), np.float32(0)
        )

    def ask(self, state: HyperbandState) -> Trials:
        """Settings drawn from the range that is left."""
        low, width = _whole(self.space)
        axis = self._axis()
        low[axis], width[axis] = state.low, self._width(state.round)
        return Trials.of(_draw(self, state.key, low, width))

    def tell(
        self, state: HyperbandState, trials: Trials, scores: np.ndarray
    ) -> tuple[HyperbandState, Decision]:
        """The best branch becomes the run and the middle of the next range, which is
        shifted back if it would leave the space."""
        state, decision = super().tell(state, trials, scores)
        if decision.branch < 0:
            return state, decision
        following = (state.round + np.int32(1)) % np.int32(self.rounds)
        width = self._width(following)
        units = cpu_jit.to_unit(self, trials.hparams)
        best = units[decision.branch, self._axis()]
        low = np.clip(best - width / 2, np.float32(0), 1 - width)
        return state._replace(round=following, low=low), decision

    def _axis(self) -> int:
        return list(self.space).index("learning_rate")

    def _width(self, rounds: np.ndarray) -> np.float32:
        return np.float32(self.shrink ** int(rounds))


@dataclasses.dataclass(frozen=True)
class GreedyBestOfTwo(Hyperdyn):
    """Hyperdyn with the better score in place of the wait-and-watch test.

    The challenger is Hyperdyn's, and so are the model and the random start; then
    incumbent and challenger are trained from the same state, and the challenger wins
    if its score is greater. `window`, `temperature` and `offset` have no effect. It is
    the textbook case of short-horizon bias (Wu et al. 2018, 1803.02021).
    """

    def _decide(
        self,
        state: HyperdynState,
        scores: np.ndarray,
        test: tuple[float, float],  # noqa: ARG002 (greedy asks for no trend)
    ) -> Decision:
        branch = common.best_branch(scores)
        if branch < 0:
            return common.stay(state.epoch, hold=[len(scores)])
        kept = state.epoch > 0 and branch == 0
        return common.accept(state.epoch, branch, kept=kept)


@dataclasses.dataclass(frozen=True)
class DoNothingControl(Strategy):
    """The A/A control of a tuner: its challenger is replaced by its incumbent.

    After the random start every branch has the same setting, start, data and keys, and
    the tuner decides between them as it always does: each switch is a false alarm.

    Args:
      tuner: the tuner under test.
    """

    tuner: Hyperdyn

    @property
    def metric(self) -> str:
        """What the tuner's scores are."""
        return self.tuner.metric

    @property
    def searched(self) -> SearchSpace:
        """The tuner's."""
        return self.tuner.space

    def init(self, key: jax.Array, score: float) -> HyperdynState:
        """The tuner's state."""
        return self.tuner.init(key, score)

    def incumbent(self, state: HyperdynState) -> dict[str, np.float32] | None:
        """The tuner's."""
        return self.tuner.incumbent(state)

    def ask(self, state: HyperdynState) -> Trials:
        """The tuner's trials, after the random start all with the first one's setting
        and prediction."""
        trials = self.tuner.ask(state)
        if state.epoch == 0:
            return trials
        expected = (
            trials.posterior_mean,
            trials.posterior_stddev,
            trials.expected_improvement,
        )
        hparams, expected = jax.tree.map(
            lambda x: np.full_like(x, x[0]), (trials.hparams, expected)
        )
        return Trials.of(hparams, expected, trials.model)

    def tell(
        self, state: HyperdynState, trials: Trials, scores: np.ndarray
    ) -> tuple[HyperdynState, Decision]:
        """The tuner's decision."""
        return self.tuner.tell(state, trials, scores)


def _whole(space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """Lower corner and widths of the whole cube, f32[d] each."""
    return np.zeros(len(space), np.float32), np.ones(len(space), np.float32)


@cpu_jit.compiled
def _draw(
    strategy: _BestOfRandom,
    key: jax.Array,
    low: jax.Array,
    width: jax.Array,
) -> dict[str, jax.Array]:
    """Settings uniform in a box of the unit cube: f32[settings] each."""
    shape = (strategy.settings, len(strategy.space))
    key = cpu_jit.fold(key, _SETTINGS)
    draws = jax.random.uniform(key, shape, jnp.float32)
    return strategy.space.from_unit(low[None] + draws * width[None])
