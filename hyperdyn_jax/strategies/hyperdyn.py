"""Hyperdyn: Algorithms 3 and 4 of the paper as ask and tell.

One epoch of Algorithm 4 is

  ask   Update-Statistical-Model fits the Gaussian process to D; One-Step-BO: the
        challenger s_t maximises expected improvement over S x [t, t]
  train the incumbent eta_{t-1} and s_t, one epoch each, from the same w_{t-1}
  tell  both gains join D; Check-Accuracy-Trend keeps the incumbent or switches

All that takes time is in ask, and the incumbent is known before it (`incumbent`), so
that a loop can train the one while it asks for the other. Epoch 0 is Random-Start
(Algorithm 3): k settings drawn from S, the best one kept.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.strategies import common, wait_and_watch
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner import acquisition, cpu_jit, gp
from hyperdyn_jax.tuner.interface import Decision, Leaf, Strategy, Trials, check_scores
from hyperdyn_jax.tuner.search_space import SearchSpace

FIT_STEPS = 5  # of BFGS a decision, each one evaluation; it goes on from the last fit


class HyperdynState(NamedTuple):
    """Everything Hyperdyn knows between two decisions: NumPy arrays only.

    key: u32[...], raw data of a PRNG key.
    epoch: i32[], the decision to come; 0 is the random start.
    incumbent: f32[] for every hyperparameter, the setting in force; NaN before the
      random start.
    history: f32[window + 1], accuracies of the accepted states in percentage points,
      oldest first; the untrained network's fills the places before it.
    data: the observations D.
    model: the kernel parameters that the last trials were predicted with, where the
      next fit starts.
    """

    key: Leaf
    epoch: Leaf
    incumbent: dict[str, Leaf]
    history: Leaf
    data: gp.Observations
    model: gp.KernelParams


@dataclasses.dataclass(frozen=True)
class Hyperdyn(Strategy):
    """Online hyperparameter optimisation by Bayesian optimisation and rejection.

    Scores are validation accuracies in percentage points, 0 to 100; a non-finite score
    says that the trial diverged. The defaults are the paper's (section 4).

    Args:
      space: S, the hyperparameters and their ranges.
      initial_points: k, settings tried in the random start.
      window: Delta of the wait-and-watch test, epochs.
      temperature: T of the test, percentage points.
      offset: b of the test; infinity always switches (the paper's epoch-based BO).
      kernel: K1, one of 'matern52', 'matern32', 'rbf'.
      alpha, beta: of the time kernel K2; beta in epochs.
      suggestions: challengers an epoch; the paper has one, and more is its future work
        (section 5). They are chosen one after the other, each as if what the model
        expects of those before it had been observed, and of several the best is taken.
      capacity: observations kept for the Gaussian process; when full, the oldest go.
        A decision costs capacity^3, from the first on.

    Raises:
      ValueError: a setting is out of range.

    Example:
      >>> from hyperdyn_jax import LogUniform
      >>> tuner = Hyperdyn(SearchSpace(learning_rate=LogUniform(1e-3, 1.0)))
      >>> state = tuner.init(jax.random.key(0), score=10.0)
      >>> trials = tuner.ask(state)
      >>> trials.hparams["learning_rate"].shape
      (5,)
      >>> state, decision = tuner.tell(state, trials, [30.0, 20.0, 50.0, 40.0, 10.0])
      >>> decision.branch
      2
    """

    space: SearchSpace
    initial_points: int = 5
    window: int = 4
    temperature: float = 1.0
    offset: float = 0.01
    kernel: str = "matern52"
    alpha: float = 1.0
    beta: float = 0.5
    suggestions: int = 1
    capacity: int = 256
    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        common.check_space(self.space)
        wait_and_watch.check_settings(self.window, self.temperature, self.offset)
        gp.TimeKernel(self.alpha, self.beta)
        if self.kernel not in list(gp.SPATIAL_KERNELS):
            raise ValueError(
                f"kernel must be one of {sorted(gp.SPATIAL_KERNELS)}, "
                f"got {self.kernel!r}"
            )
        checks.check_whole("initial_points", self.initial_points, 1)
        checks.check_whole("suggestions", self.suggestions, 1)
        least = self.initial_points + 1 + self.suggestions
        checks.check_whole("capacity", self.capacity, least)

    def init(self, key: jax.Array, score: float) -> HyperdynState:
        """State of a run that starts at an untrained network.

        Args:
          key: a PRNG key (`jax.random.key(seed)`), consumed.
          score: accuracy of the untrained network, percentage points.

        Returns:
          The state to `ask`.

        Raises:
          ValueError: the score is not finite.
        """
        first, dimensions = common.check_start(score), len(self.space)
        return HyperdynState(
            key=cpu_jit.key_data(key),
            epoch=np.int32(0),
            incumbent={name: np.float32(np.nan) for name in self.space},
            history=np.full(self.window + 1, first, np.float32),
            data=gp.Observations.empty(self.capacity, dimensions),
            model=gp.prior_mean(dimensions),
        )

    def incumbent(self, state: HyperdynState) -> dict[str, np.float32] | None:
        """The setting of branch 0, known at once: it can train while `ask` searches.

        Args:
          state: as `init` or `tell` returned it.

        Returns:
          What `ask(state).setting(0)` will be; None in the random start, where no
          setting is in force.
        """
        if state.epoch == 0:
            return None
        return {name: np.float32(value) for name, value in state.incumbent.items()}

    def ask(self, state: HyperdynState) -> Trials:
        """The settings to try next.

        Args:
          state: as `init` or `tell` returned it.

        Returns:
          The k settings of the random start, or the incumbent and its challengers with
          the gains that the Gaussian process predicts for them.
        """
        if state.epoch == 0:
            return Trials.of(_sample(self, state.key))
        challengers, prediction, model = _propose(self, state)
        hparams = {
            name: np.append(state.incumbent[name], challengers[name])
            for name in self.space
        }
        return Trials.of(hparams, prediction, model)

    def tell(
        self, state: HyperdynState, trials: Trials, scores: np.ndarray
    ) -> tuple[HyperdynState, Decision]:
        """Learns from the trials and decides which branch becomes the run.

        Args:
          state: the state that was asked.
          trials: what `ask` returned for it.
          scores: f32[c], accuracy after each trial in percentage points, not finite
            where the trial diverged.

        Returns:
          The state for the next epoch, and the decision. If every trial diverged the
          state stays at the same epoch and the next `ask` tries another challenger, or
          other random settings.

        Raises:
          ValueError: the number of scores is not the number of trials.
        """
        scores = check_scores(scores, trials)
        points, test, key = _learn(self, state.key, trials.hparams, state.history)
        data = state.data.append(
            points=points, epoch=state.epoch, gains=scores - state.history[-1]
        )
        decision = self._decide(state, scores, test)
        state = state._replace(
            key=key,
            data=data,
            model=_fitted(trials, state.model),
        )
        if decision.branch < 0:
            return state, decision
        return state._replace(
            epoch=state.epoch + np.int32(1),
            incumbent=trials.setting(decision.branch),
            history=np.append(state.history[1:], scores[decision.branch]),
        ), decision

    def _decide(
        self, state: HyperdynState, scores: np.ndarray, test: tuple[float, float]
    ) -> Decision:
        branch, probability, draw = common.best_branch(scores), np.nan, np.nan
        if state.epoch > 0:
            probability, draw = test
            if branch >= 0:
                branch = _after_test(scores, keep=bool(draw < probability))
        if branch < 0:
            decision = common.stay(state.epoch, hold=[len(scores)])
        else:
            kept = state.epoch > 0 and branch == 0
            decision = common.accept(state.epoch, branch, kept=kept)
        return decision._replace(keep_probability=float(probability), draw=float(draw))


def _after_test(scores: np.ndarray, *, keep: bool) -> int:
    """The incumbent or the best challenger, as the test says; the other one where that
    has diverged."""
    challenger = 1 + common.best_branch(scores[1:])  # 0, the incumbent, without one
    return 0 if keep and np.isfinite(scores[0]) else challenger


_SEARCH, _TREND = 1, 2  # streams of the state's key


@cpu_jit.compiled
def _sample(tuner: Hyperdyn, key: jax.Array) -> dict[str, jax.Array]:
    """Random-Start: k settings uniform in the cube."""
    return tuner.space.sample(cpu_jit.fold(key, _SEARCH), tuner.initial_points)


@cpu_jit.compiled
def _propose(tuner: Hyperdyn, state: HyperdynState) -> tuple[Any, ...]:
    """Update-Statistical-Model, then One-Step-BO over S x [t, t], and what the model
    expects of all trials.

    Returns the challengers' hyperparameters, f32[q] each; mean, standard deviation and
    expected improvement of the gains of (incumbent, challengers), f32[1 + q] each; the
    model.
    """
    kernel, time = kernels(tuner)
    data, last = cpu_jit.double(state.data), cpu_jit.double(state.model)
    model = gp.fit(data, last, kernel, time, max_steps=FIT_STEPS)
    posterior = gp.condition(model, data.with_room(tuner.suggestions - 1), kernel, time)
    epoch = state.epoch.astype(jnp.float64)
    incumbent = cpu_jit.double(tuner.space.to_unit(state.incumbent))

    def weight(query: gp.Query) -> jax.Array:
        return gp.feasibility(query, model, data, kernel, time)

    near = jnp.stack([incumbent, data.best_point()])
    challengers = _search(tuner, posterior, weight, state.key, epoch, near)
    units = cpu_jit.double(tuner.space.to_unit(challengers))
    points = jnp.concatenate([incumbent[None], units])
    mean, stddev = jax.vmap(lambda u: posterior.predict(gp.Query(u, epoch)))(points)
    improvement = acquisition.expected_improvement(mean, stddev, posterior.best)
    parameters = model.by_name() | {"noise_stddev": model.noise_stddev(posterior.scale)}
    return (
        challengers,
        cpu_jit.single((mean, stddev, improvement)),
        cpu_jit.single(parameters),
    )


def _search(
    tuner: Hyperdyn,
    posterior: gp.Posterior,
    weight: Callable[[gp.Query], jax.Array],
    key: jax.Array,
    epoch: jax.Array,
    near: jax.Array,
) -> dict[str, jax.Array]:
    """The challengers, one after the other: each the setting of the greatest expected
    improvement times a query's `weight`, as if those before it had come as expected.

    near: f64[m, d], points of the cube near which a peak may hide.
    """

    def best(believed: gp.Posterior, key: jax.Array) -> dict[str, jax.Array]:
        def log_weighted_improvement(point: jax.Array) -> jax.Array:
            query = gp.Query(point, epoch)
            mean, stddev = believed.predict(query)
            return acquisition.log_expected_improvement(
                mean, stddev, believed.best
            ) + jnp.log(weight(query))

        point, _ = acquisition.maximize(log_weighted_improvement, key, near)
        return tuner.space.from_unit(point)

    def next_challenger(
        changes: dict[str, Any], draw: tuple[jax.Array, jax.Array]
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        row, key = draw
        believed = posterior._replace(**changes)
        challenger = best(believed, key)
        # Believed where the trial will be, not where float32 rounded it from.
        query = gp.Query(cpu_jit.double(tuner.space.to_unit(challenger)), epoch)
        believed = believed.believe(query, row)
        return {name: getattr(believed, name) for name in changes}, challenger

    changes = {name: getattr(posterior, name) for name in ("rows", "whiten", "best")}
    draws = (
        tuner.capacity + jnp.arange(tuner.suggestions),
        _keys(key, tuner.suggestions),
    )
    _, challengers = jax.lax.scan(next_challenger, changes, draws)
    return challengers


def _keys(key: jax.Array, count: int) -> jax.Array:
    """A key for the search of each challenger."""
    first = cpu_jit.fold(key, _SEARCH)
    others = [jax.random.fold_in(first, i) for i in range(1, count)]
    return jnp.stack([first, *others])


def _fitted(trials: Trials, last: gp.KernelParams) -> gp.KernelParams:
    """The parameters that trials were predicted with, the last ones without a model."""
    if not trials.model:
        return last
    names = ("length_scale", "amplitude", "noise")
    return gp.KernelParams(*(np.log(np.float32(trials.model[name])) for name in names))


@cpu_jit.compiled
def _learn(
    tuner: Hyperdyn, key: jax.Array, hparams: dict[str, jax.Array], history: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
    """What `tell` computes, in one program: the trials as points of the cube,
    f32[c, d]; the trend test; the key of the next decision."""
    test = _trend_test(tuner, key, history)
    return tuner.space.to_unit(hparams), test, cpu_jit.next_key(key)


def _trend_test(
    tuner: Hyperdyn, key: jax.Array, history: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Check-Accuracy-Trend: the keep probability and the number drawn against it."""
    probability = wait_and_watch.keep_probability(
        history,
        window=tuner.window,
        temperature=tuner.temperature,
        offset=tuner.offset,
    )
    return probability, jax.random.uniform(cpu_jit.fold(key, _TREND), (), jnp.float32)


def kernels(tuner: Hyperdyn) -> tuple[Any, gp.TimeKernel]:
    """K1 and K2 of a tuner's model."""
    return gp.SPATIAL_KERNELS[tuner.kernel], gp.TimeKernel(tuner.alpha, tuner.beta)
