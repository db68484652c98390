"""AutoLRS: a learning rate for every stage, by Bayesian optimisation of a forecast.

Jin et al. 2021, "AutoLRS: Automatic Learning-Rate Schedule by Bayesian Optimization on
the Fly" (2105.10762); open points settled as their published program does.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.strategies import common
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner import acquisition, cpu_jit, gp
from hyperdyn_jax.tuner.interface import Decision, Leaf, Strategy, Trials, check_scores
from hyperdyn_jax.tuner.search_space import SearchSpace

_CANDIDATES = 256  # of the search for a probe's setting

_SETTINGS = 1  # the stream of the state's key that settings are drawn from

# Decay of the loss over a probe that a forecast may find, as b = exp(-rate) with the
# probe's length as the unit of time: from next to a straight line to a single step.
_RATES = np.logspace(-2, 2, 81)


class AutoLRSState(NamedTuple):
    """Where a run is in its stages.

    key: u32[...], raw data of a PRNG key.
    epoch: i32[], accepted decisions so far.
    stage: i32[], stages done.
    probe: i32[], probes done in this stage; when all are, the stage is trained.
    segment: i32[], segments done of this probe.
    trained: i32[], trials done of the training of this stage.
    settings: f32[probes] for every hyperparameter, of this stage's probes; NaN where
      still to come.
    losses: f32[segments], losses of this probe, nats; NaN where still to come.
    forecasts: f32[probes], losses forecast for the end of the stage, nats; NaN where
      still to come or diverged.
    first_loss: f32[], loss that the run started with, nats.
    """

    key: Leaf
    epoch: Leaf
    stage: Leaf
    probe: Leaf
    segment: Leaf
    trained: Leaf
    settings: dict[str, Leaf]
    losses: Leaf
    forecasts: Leaf
    first_loss: Leaf


@dataclasses.dataclass(frozen=True)
class AutoLRS(Strategy):
    r"""Stages of tau epochs, each with the setting of the best forecast of ten probes.

    A stage begins at a state w. Every probe trains w for tau' = tau / 10 under a
    setting eta that minimises the lower confidence bound of a Gaussian process on the
    forecasts so far,

    .. math:: \mu(\eta) - \kappa \sigma(\eta),

    the first one a random setting; its loss series is continued to tau by
    `forecast_loss`. Then w is trained for tau under the setting of the least forecast.
    The next stage is twice as long, up to `max_stage`.

    A probe is cut into segments, each a trial, to read its loss at their ends. Probes
    leave the run where it was. The published program also smooths the series by
    splines, and tells the model a loss of 1e6 for a probe that diverged; here a few
    losses over the whole validation split need no smoothing, and a diverged probe
    counts as the worst forecast of its stage. The model's kernel is Matern-5/2.

    Scores are minus the validation loss, in nats.

    Args:
      space: the learning rate on a log axis; any other space works too.
      stage: tau of the first stage, epochs.
      max_stage: largest tau, epochs. (Published: 1,000 steps, growing to 8,000.)
      probes: settings tried a stage, at least 2.
      probe_fraction: tau' / tau, between 0 and 1.
      segments: losses read of a probe, at least 3. (Published: about 16.)
      kappa: weight of the uncertainty, greater than 0. The published program has 1e6,
        which explores only; 1.96 makes the bound a 95% interval's.

    Raises:
      ValueError: a setting is out of range.
    """

    space: SearchSpace
    stage: float = 1.0
    max_stage: float = 8.0
    probes: int = 10
    probe_fraction: float = 0.1
    segments: int = 4
    kappa: float = 1e6
    metric: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        common.check_space(self.space)
        checks.check_number("stage", self.stage, 0, math.inf)
        checks.check_number("max_stage", self.max_stage, self.stage, math.inf, "[)")
        checks.check_whole("probes", self.probes, 2)
        checks.check_number("probe_fraction", self.probe_fraction, 0, 1)
        checks.check_whole("segments", self.segments, 3)
        checks.check_number("kappa", self.kappa, 0, math.inf)

    @property
    def shortest_trial(self) -> float:
        """Epochs of the shortest trial, which must be at least a step."""
        return self.stage * self.probe_fraction / self.segments

    def init(self, key: jax.Array, score: float) -> AutoLRSState:
        """State of a run that starts at a network with this score."""
        return self._new_stage(
            key=cpu_jit.key_data(key),
            epoch=np.int32(0),
            stage=np.int32(0),
            first_loss=-common.check_start(score),
        )

    def ask(self, state: AutoLRSState) -> Trials:
        """The next segment of a probe, or the next epoch of the stage's training."""
        tau = self._tau(state)
        if state.probe == self.probes:
            best = int(np.nanargmin(state.forecasts))
            epochs = min(1.0, tau - float(state.trained))
            return _one_trial(_at(state.settings, best), parent=0, epochs=epochs)
        epochs = tau * self.probe_fraction / self.segments
        if state.segment > 0:
            setting = _at(state.settings, state.probe)
            return _one_trial(setting, parent=1, epochs=epochs)
        if state.probe == 0:
            setting = _at(_random(self.space, state.key), 0)
            return _one_trial(setting, parent=0, epochs=epochs)
        tried = state.settings, state.forecasts, state.probe
        kappa = np.float64(self.kappa)
        setting, model = _propose(self.space, state.key, kappa, tried)
        return _one_trial(setting, parent=0, epochs=epochs, model=model)

    def tell(
        self, state: AutoLRSState, trials: Trials, scores: np.ndarray
    ) -> tuple[AutoLRSState, Decision]:
        """Takes the score of a segment or of an epoch.

        Returns:
          The new state, and a decision: a segment holds on to the run and to the probe,
          an epoch of training becomes the run. If that diverges, or every probe of a
          stage does, the run stays where it was and the stage is searched again.
        """
        (score,) = check_scores(scores, trials)
        if state.probe == self.probes:
            return self._tell_training(state, score)
        part = f"part {state.segment + 1} of {self.segments}"
        verdict = {"probe": f"{state.probe + 1} of {self.probes}, {part}"}
        state, decision = self._tell_segment(state, trials, score)
        return state, decision._replace(verdict=verdict)

    def _tell_training(
        self, state: AutoLRSState, score: np.float32
    ) -> tuple[AutoLRSState, Decision]:
        if not np.isfinite(score):
            return self._search(state, state.stage), common.stay(state.epoch, hold=[1])
        decision = common.accept(state.epoch, 0, kept=state.trained > 0)
        state = state._replace(
            epoch=state.epoch + np.int32(1), trained=state.trained + np.int32(1)
        )
        if state.trained >= self._tau(state):
            state = self._search(state, state.stage + np.int32(1))
        return state, decision

    def _tell_segment(
        self, state: AutoLRSState, trials: Trials, score: np.float32
    ) -> tuple[AutoLRSState, Decision]:
        state = state._replace(
            settings={
                name: _with(values, state.probe, trials.hparams[name][0])
                for name, values in state.settings.items()
            },
            losses=_with(state.losses, state.segment, -score),
            segment=state.segment + np.int32(1),
        )
        if np.isfinite(score) and state.segment < self.segments:
            return state, common.stay(state.epoch, hold=[1, 0])
        forecast = self._forecast(state) if np.isfinite(score) else np.nan
        state = state._replace(
            key=cpu_jit.split_key(state.key),
            probe=state.probe + np.int32(1),
            segment=np.int32(0),
            losses=np.full_like(state.losses, np.nan),
            forecasts=_with(state.forecasts, state.probe, forecast),
        )
        if state.probe == self.probes and not np.isfinite(state.forecasts).any():
            state = self._search(state, state.stage)
        return state, common.stay(state.epoch, hold=[1])

    def _forecast(self, state: AutoLRSState) -> float:
        # As published: a probe that lost all the run had gained is not extrapolated.
        if state.losses.max() >= state.first_loss:
            return float(state.losses[-1])
        forecast = forecast_loss(state.losses, self.segments / self.probe_fraction)
        largest = np.finfo(np.float32).max
        return float(np.clip(forecast, -largest, largest))

    def _search(self, state: AutoLRSState, stage: np.ndarray) -> AutoLRSState:
        """The beginning of a stage's search, from where the run is."""
        return self._new_stage(
            key=cpu_jit.split_key(state.key),
            epoch=state.epoch,
            stage=stage,
            first_loss=state.first_loss,
        )

    def _new_stage(
        self,
        key: np.ndarray,
        epoch: Leaf,
        stage: Leaf,
        first_loss: Leaf,
    ) -> AutoLRSState:
        unknown = np.full(self.probes, np.nan, np.float32)
        return AutoLRSState(
            key=key,
            epoch=epoch,
            stage=stage,
            probe=np.int32(0),
            segment=np.int32(0),
            trained=np.int32(0),
            settings=dict.fromkeys(self.space, unknown),
            losses=np.full(self.segments, np.nan, np.float32),
            forecasts=unknown,
            first_loss=first_loss,
        )

    def _tau(self, state: AutoLRSState) -> float:
        return min(self.stage * 2.0 ** int(state.stage), self.max_stage)


def forecast_loss(losses: np.ndarray, horizon: float) -> float:
    """The loss to come, by the exponential model of AutoLRS.

    Fits a b^t + c with 0 < b < 1 to the series by least squares. For a given b the
    best a and c are those of a straight line over b^t, so that only b is searched for.

    Args:
      losses: f[n] at times 1, 2, ..., n; finite, n >= 3.
      horizon: time of the forecast, in the same unit.

    Returns:
      The model's value at the horizon.

    Example:
      >>> round(forecast_loss(2.0 * 0.5 ** np.arange(1, 6) + 0.25, 20.0), 4)
      0.25
    """
    from scipy import optimize  # which nobody else waits for

    losses = np.asarray(losses, np.float64)
    times = np.arange(len(losses)) / len(losses)

    def fit(log_rate: float) -> tuple[float, float]:
        """Sum of squared residuals, and the forecast."""
        powers = np.exp(-np.exp(log_rate) * times)
        centred = powers - powers.mean()
        slope = centred @ losses / (centred @ centred)
        residuals = losses - losses.mean() - slope * centred
        ahead = np.exp(-np.exp(log_rate) * (horizon - 1) / len(losses))
        return residuals @ residuals, losses.mean() + slope * (ahead - powers.mean())

    grid = np.log(_RATES)
    nearest = int(np.argmin([fit(log_rate)[0] for log_rate in grid]))
    refined = optimize.minimize_scalar(
        lambda log_rate: fit(log_rate)[0],
        bounds=(grid[max(nearest - 1, 0)], grid[min(nearest + 1, len(grid) - 1)]),
        method="bounded",
        options={"xatol": 1e-6},
    ).x
    return float(min(fit(grid[nearest]), fit(refined))[1])


def _one_trial(
    setting: dict[str, np.ndarray],
    *,
    parent: int,
    epochs: float,
    model: dict[str, np.ndarray] | None = None,
) -> Trials:
    trials = Trials.of(common.stack(setting, [setting]), model=model)
    return trials._replace(parents=np.array([parent], np.int32), epochs=epochs)


def _at(settings: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    return {name: values[index] for name, values in settings.items()}


def _with(values: np.ndarray, index: int, value: Leaf) -> np.ndarray:
    """A copy of f32[n] with one element replaced."""
    values = values.copy()
    values[index] = value
    return values


@cpu_jit.compiled
def _random(space: SearchSpace, key: jax.Array) -> dict[str, jax.Array]:
    """One setting uniform in the cube."""
    return space.sample(cpu_jit.fold(key, _SETTINGS), 1)


@cpu_jit.compiled
def _propose(
    space: SearchSpace, key: jax.Array, kappa: jax.Array, tried: tuple[Any, ...]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The setting with the least lower confidence bound, and the model behind it."""
    model, data, posterior = gp.fit_afresh(_observations(space, *tried))
    now = jnp.zeros((), jnp.float64)

    def negative_bound(point: jax.Array) -> jax.Array:
        """Divided by kappa and in standardised units, so that it is of order one."""
        mean, stddev = posterior.predict(gp.Query(point, now))
        return (stddev + (mean - posterior.location) / kappa) / posterior.scale

    point, _ = acquisition.maximize(
        negative_bound,
        cpu_jit.fold(key, _SETTINGS),
        data.best_point()[None],
        candidates=_CANDIDATES,
    )
    return space.from_unit(point), cpu_jit.single(model.by_name())


def _observations(
    space: SearchSpace,
    settings: dict[str, jax.Array],
    forecasts: jax.Array,
    probe: jax.Array,
) -> gp.Observations:
    """This stage's forecasts as gains; a diverged probe has the worst of them."""
    tried = jnp.arange(len(forecasts), dtype=jnp.int32) < probe
    finite = jnp.isfinite(forecasts)
    worst = jnp.max(forecasts, where=finite, initial=-jnp.inf)
    worst = jnp.where(jnp.any(finite), worst, jnp.float32(0))
    losses = jnp.where(finite, forecasts, worst)
    points = space.to_unit(settings)
    return gp.Observations(
        points=jnp.where(tried[:, None], points, jnp.float32(0.5)),
        epochs=jnp.zeros_like(forecasts),
        gains=jnp.where(tried, -losses, jnp.float32(0)),
        feasible=tried,
        infeasible=jnp.zeros_like(tried),
    )
