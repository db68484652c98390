"""Explore, then commit: a share of the run finds the setting that the rest trains with.

Short probes, all from the untrained network and on the same batches, are read out at
the average of their path instead of its end. That read-out favours nearly the same
setting after a few steps as after the whole run, where the loss at the end of a short
probe favours small learning rates (short-horizon bias: Wu et al. 2018, 1803.02021): an
average over the path has forgotten most of the noise of a large rate, as the end of a
long anneal has.

  explore  `initial` settings that cover the space; then, one at a time, that with the
           largest expected improvement in a Gaussian process on the probes
  commit   from the untrained network again, for the rest of the run, as the probe of
           which the process expects the most
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax import acquisition, gp, host
from hyperdyn_jax.baselines import common
from hyperdyn_jax.space import SearchSpace
from hyperdyn_jax.types import Decision, Trials, check_scores

# Every fit starts afresh: there are few of them, on few observations.
_FIT_STEPS, _CANDIDATES, _STARTS, _ASCENT_STEPS = 16, 1024, 4, 20
_SETTINGS = 1  # the stream of the state's key that settings are drawn from


class ExploreState(NamedTuple):
    """Where a run is.

    key: u32[...], raw data of a PRNG key.
    epoch: i32[], accepted epochs so far.
    start: f32[], score of the untrained network, less than 0.
    chosen: f32[] for every hyperparameter, what was committed to; NaN before.
    data: the probes; a gain is the logarithm of the loss at the start over that of the
      probe, at least 0.
    """

    key: np.ndarray
    epoch: np.ndarray
    start: np.ndarray
    chosen: dict[str, np.ndarray]
    data: gp.Observations


@dataclasses.dataclass(frozen=True)
class ExploreThenCommit:
    """One run, with a bounded share of it spent on finding its setting.

    Scores are minus a loss greater than 0, such as a cross-entropy, of the average over
    the path since the untrained network; not finite where a trial diverged.

    Args:
      space: the hyperparameters and their ranges, the wider the better.
      epochs: budget of the run with every probe in it.
      max_overhead: steps of probes over those of the accepted path, before a probe is
        rounded to whole steps.
      probes: how many settings are tried, at least `initial`.
      initial: how many of them before the first is proposed by the model, at least 2.
      averaging: power of the polynomial average that scores are of, at least 0; 0 is
        the plain mean of the path (`optimizers.averaged`).

    Raises:
      ValueError: a setting is out of range.

    Example:
      >>> from hyperdyn_jax import LogUniform
      >>> space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
      >>> tuner = ExploreThenCommit(space, epochs=48)
      >>> round(tuner.shortest_trial, 3), round(tuner.extra_epochs, 3)
      (0.436, 4.364)
    """

    space: SearchSpace
    epochs: int
    max_overhead: float = 0.1
    probes: int = 10
    initial: int = 6
    averaging: float = 5.0
    metric: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        common.check_whole("epochs", self.epochs, 1)
        common.check_number("max_overhead", self.max_overhead, 0, math.inf)
        common.check_whole("initial", self.initial, 2)
        common.check_whole("probes", self.probes, self.initial)
        common.check_number("averaging", self.averaging, 0, math.inf, "[)")

    @property
    def extra_epochs(self) -> float:
        """Epochs of all probes; the accepted path has the rest of the budget."""
        return self.epochs * self.max_overhead / (1 + self.max_overhead)

    @property
    def shortest_trial(self) -> float:
        """Epochs of a probe."""
        return self.extra_epochs / self.probes

    def extra_steps(self, steps_per_epoch: int) -> int:
        """Steps of all probes, each rounded as the loop rounds it."""
        return self.probes * max(1, round(self.shortest_trial * steps_per_epoch))

    def init(self, key: jax.Array, score: float) -> ExploreState:
        """State of a run that starts at a network with this score."""
        score = common.check_start(score)
        if score >= 0:
            raise ValueError(
                f"the untrained network's score must be minus a loss > 0, got {score}"
            )
        return ExploreState(
            key=host.key_data(key),
            epoch=np.int32(0),
            start=score,
            chosen=dict.fromkeys(self.space, np.float32(np.nan)),
            data=gp.Observations.empty(self.probes, len(self.space)),
        )

    def ask(self, state: ExploreState) -> Trials:
        """The probes that cover the space, the next one, or an epoch of the run."""
        if self._committed(state):
            return Trials.of({k: np.reshape(x, 1) for k, x in state.chosen.items()})
        tried = _count(state.data)
        if tried == 0:
            trials = Trials.of(_cover(self, state.key))
        else:
            setting, (mean, *spreads), model = _propose(self, state)
            hparams = {name: np.reshape(x, 1) for name, x in setting.items()}
            # From logarithms to the scores' unit, to first order around the mean.
            left = -state.start * np.exp(-mean)  # the loss that is expected
            prediction = (-state.start - left, *(left * x for x in spreads))
            model["noise_stddev"] = left[0] * model["noise_stddev"]
            trials = Trials.of(hparams, prediction, model)
        return trials._replace(epochs=self.shortest_trial)

    def tell(
        self, state: ExploreState, trials: Trials, scores: np.ndarray
    ) -> tuple[ExploreState, Decision]:
        """Takes the scores of probes, or of an epoch of the run.

        Returns:
          The new state, and a decision: probes leave the run where it was, an epoch of
          the run becomes it unless it diverged.

        If every probe diverged, all begin anew with other settings; if an epoch of the
        run does, its setting counts as a diverged probe, and the next best is taken.
        """
        scores = check_scores(scores, trials)
        key = host.split_key(state.key)
        if self._committed(state):
            return self._tell_epoch(state._replace(key=key), trials, scores)
        data = state.data.append(
            points=host.to_unit(self, trials.hparams),
            epoch=0,
            gains=_progress(state.start, scores),
        )
        if _count(data) == self.probes and not data.feasible.any():
            data = gp.Observations.empty(self.probes, len(self.space))
        state = state._replace(key=key, data=data)
        if _count(data) == self.probes:
            state = state._replace(chosen=_choose(self, state))
        return state, common.stay(state.epoch, hold=[len(scores)])

    def _tell_epoch(
        self, state: ExploreState, trials: Trials, scores: np.ndarray
    ) -> tuple[ExploreState, Decision]:
        if np.isfinite(scores[0]):
            decision = common.accept(state.epoch, 0, kept=state.epoch > 0)
            return state._replace(epoch=state.epoch + np.int32(1)), decision
        # The setting was too bold for a whole epoch: the next best, or search again.
        point = host.to_unit(self, trials.hparams)
        same = np.all(np.abs(state.data.points - point) < 1e-4, axis=1)
        data = state.data._replace(
            feasible=state.data.feasible & ~same,
            infeasible=state.data.infeasible | same,
        )
        if data.feasible.any():
            state = state._replace(data=data)
            state = state._replace(chosen=_choose(self, state))
        else:
            state = state._replace(
                data=gp.Observations.empty(self.probes, len(self.space)),
                chosen=dict.fromkeys(self.space, np.float32(np.nan)),
            )
        return state, common.stay(state.epoch, hold=[1])

    def _committed(self, state: ExploreState) -> bool:
        return all(np.isfinite(value) for value in state.chosen.values())


def _progress(start: np.float32, scores: np.ndarray) -> np.ndarray:
    """Logarithm of how many times smaller the loss has become, at least 0: f32[c].

    So that good settings can be told apart however small their losses are, and that a
    loss of millions is no worse than none gained. NaN where a trial diverged.
    """
    least = 1e-6 * -start
    return np.maximum(np.log(-start / np.maximum(-scores, least)), np.float32(0))


def _count(data: gp.Observations) -> int:
    return int(np.sum(data.feasible | data.infeasible))


@host.compiled
def _cover(tuner: ExploreThenCommit, key: jax.Array) -> dict[str, jax.Array]:
    """Settings that cover the cube evenly, shifted at random: the additive recurrence
    R_d, whose steps are the inverse powers of the root of x^(d+1) = x + 1."""
    dimensions = len(tuner.space)
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    shift = jax.random.uniform(host.stream(key, _SETTINGS), (1, dimensions))
    points = (shift + np.arange(tuner.initial)[:, None] * steps[None]) % 1.0
    return tuner.space.from_unit(points)


@host.compiled
def _propose(tuner: ExploreThenCommit, state: ExploreState) -> tuple:
    """The probe with the largest expected improvement, what is expected of it, and the
    model behind it."""
    model, data, posterior = _model(tuner, state.data)

    def log_improvement(point: jax.Array) -> jax.Array:
        query = gp.Query(point, jnp.zeros((), jnp.float64))
        mean, stddev = posterior.predict(query)
        weight = gp.feasibility(query, model, data, *_kernels())
        improvement = acquisition.log_expected_improvement(mean, stddev, posterior.best)
        return improvement + jnp.log(weight)

    best = data.points[jnp.argmax(jnp.where(data.feasible, data.gains, -jnp.inf))]
    point, _ = acquisition.maximize(
        log_improvement,
        host.stream(state.key, _SETTINGS),
        best[None],
        candidates=_CANDIDATES,
        starts=_STARTS,
        max_steps=_ASCENT_STEPS,
    )
    mean, stddev = posterior.predict(gp.Query(point, jnp.zeros((), jnp.float64)))
    improvement = acquisition.expected_improvement(mean, stddev, posterior.best)
    parameters = {
        "length_scale": jnp.exp(model.log_length_scale),
        "amplitude": jnp.exp(model.log_amplitude),
        "noise": jnp.exp(model.log_noise),
        "noise_stddev": posterior.scale * jnp.exp(0.5 * model.log_noise),
    }
    prediction = tuple(x[None] for x in (mean, stddev, improvement))
    setting = tuner.space.from_unit(point)
    return setting, host.single(prediction), host.single(parameters)


@host.compiled
def _choose(tuner: ExploreThenCommit, state: ExploreState) -> dict[str, jax.Array]:
    """The probe that the model expects the most of, noise taken off.

    One that was tried: what lies between a good probe and a cliff may be past its edge.
    """
    _, data, posterior = _model(tuner, state.data)
    queries = gp.Query(data.points, jnp.zeros(len(data.gains), jnp.float64))
    means, _ = jax.vmap(posterior.predict)(queries)
    best = jnp.argmax(jnp.where(data.feasible, means, -jnp.inf))
    return tuner.space.from_unit(data.points[best])


def _model(tuner: ExploreThenCommit, data: gp.Observations) -> tuple[Any, ...]:
    data = host.double(data)
    mode = host.double(gp.prior_mean(len(tuner.space)))
    model = gp.fit(data, mode, *_kernels(), max_steps=_FIT_STEPS)
    return model, data, gp.condition(model, data, *_kernels())


def _kernels() -> tuple[Any, gp.TimeKernel]:
    return gp.SPATIAL_KERNELS["matern52"], gp.TimeKernel()
