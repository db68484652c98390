"""PB2: a population whose worst members copy the best and take a bandit's setting.

Parker-Holder et al. 2020, "Provably Efficient Online Hyperparameter Optimization with
Population-Based Bandits" (2002.02518); open points settled as Ray Tune's program does.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tinygp import kernels

from hyperdyn_jax.strategies import common
from hyperdyn_jax.system import checks
from hyperdyn_jax.tuner import acquisition, cpu_jit, gp
from hyperdyn_jax.tuner.interface import Decision, Leaf, Strategy, Trials, check_scores
from hyperdyn_jax.tuner.search_space import SearchSpace

# beta_t = c1 + log(c2 n) of the upper confidence bound, with the constants of Ray Tune
# for theory's unknown ones; n is the number of observations.
_BETA = (0.2, 0.4)

# Values of epsilon that the fit chooses from, by likelihood. Ray Tune starts at 0.1 and
# allows up to 0.5.
_EPSILONS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5)
_FIRST_EPSILON = 0.1

_KERNEL = gp.SPATIAL_KERNELS["rbf"]
_FIT_STEPS = 4
_CANDIDATES = 512

_SETTINGS, _COPIES, _FIRST_SLOT = 1, 2, 3  # streams of the state's key


class Forgetting(kernels.Kernel):
    r"""Similarity of two epochs in a time-varying bandit (Bogunovic et al. 2016).

    .. math:: k(t, t') = (1 - \epsilon)^{|t - t'| / 2}

    Args:
      epsilon: f[] in [0, 1), how much is forgotten in an epoch.
    """

    epsilon: jax.Array | float

    def evaluate(self, t1: jax.Array, t2: jax.Array) -> jax.Array:
        return (1.0 - self.epsilon) ** (0.5 * jnp.abs(t1 - t2))


class PB2State(NamedTuple):
    """A population between two decisions; member i is the coming trials' branch i.

    key: u32[...], raw data of a PRNG key.
    epoch: i32[], the decision to come.
    settings: f32[population] for every hyperparameter; NaN where the member takes a
      new one.
    parents: i32[population], the held state that each member goes on from.
    start: f32[population], the score of that state.
    data: gains of all members so far, percentage points.
    model: the kernel parameters fitted to them.
    epsilon: f32[], the forgetting fitted to them.
    """

    key: Leaf
    epoch: Leaf
    settings: dict[str, Leaf]
    parents: Leaf
    start: Leaf
    data: gp.Observations
    model: gp.KernelParams
    epsilon: Leaf


@dataclasses.dataclass(frozen=True)
class PB2(Strategy):
    r"""Population-based bandits inside one run: the run is the best of the population.

    Every member trains an epoch; the members are ranked; the worst quantile is dropped,
    and each of its places goes on from the state of a random member of the best
    quantile, under the setting that maximises

    .. math:: \mu(\eta, t) + \sqrt{\beta_t} \sigma(\eta, t).

    The Gaussian process models the gain of an epoch, by a squared exponential kernel
    times ``(1 - epsilon)^(|t-t'|/2)``; sigma also counts the settings that the other
    members are about to try. A diverged member is dropped wherever it ranks. It has no
    gain that the model could learn from, but it was tried: sigma counts it too, and
    its neighbourhood is avoided (`gp.feasibility`).

    Held are the members that were not dropped, the best first: `population` branches a
    decision, each an epoch.

    Scores are validation accuracies in percentage points.

    Args:
      space: the hyperparameters and their ranges.
      population: members, at least 2.
      quantile: fraction that is dropped, between 0 and 1/2; at least one member is.
      capacity: observations kept for the model; the oldest go.

    Raises:
      ValueError: a setting is out of range.
    """

    space: SearchSpace
    population: int = 4
    quantile: float = 0.25
    capacity: int = 256
    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        common.check_space(self.space)
        checks.check_whole("population", self.population, 2)
        checks.check_number("quantile", self.quantile, 0, 0.5, "(]")
        checks.check_whole("capacity", self.capacity, self.population)

    def init(self, key: jax.Array, score: float) -> PB2State:
        """State of a run that starts at a network with this score."""
        dimensions = len(self.space)
        return PB2State(
            key=cpu_jit.key_data(key),
            epoch=np.int32(0),
            settings=self._unknown(),
            parents=np.zeros(self.population, np.int32),
            start=np.full(self.population, common.check_start(score)),
            data=gp.Observations.empty(self.capacity, dimensions),
            model=gp.prior_mean(dimensions),
            epsilon=np.float32(_FIRST_EPSILON),
        )

    def ask(self, state: PB2State) -> Trials:
        """An epoch of every member."""
        hparams = _first(self, state.key) if state.epoch == 0 else self._explore(state)
        model = {
            "length_scale": np.exp(state.model.log_length_scale),
            "amplitude": np.exp(state.model.log_amplitude),
            "noise": np.exp(state.model.log_noise),
            "epsilon": state.epsilon,
        }
        return Trials.of(hparams, model=model)._replace(parents=state.parents)

    def tell(
        self, state: PB2State, trials: Trials, scores: np.ndarray
    ) -> tuple[PB2State, Decision]:
        """Ranks the members, drops the worst, and learns from all.

        Returns:
          The new state, and the decision to hold the members that go on. If all
          diverged, the states before are held and every member takes a new setting.
        """
        scores = check_scores(scores, trials)
        data = state.data.append(
            points=cpu_jit.to_unit(self, trials.hparams),
            epoch=state.epoch,
            gains=scores - state.start,
        )
        model, epsilon = _fit(self.space, data, state.model)
        state = state._replace(data=data, model=model, epsilon=epsilon)
        survivors = self._survivors(scores)
        following = state._replace(key=cpu_jit.split_key(state.key))
        if not len(survivors):
            held = len(scores) + np.arange(state.parents.max() + 1)
            return following._replace(settings=self._unknown()), common.stay(
                state.epoch, hold=held
            )
        parents = self._parents(state.key, len(survivors))
        new = np.arange(self.population) >= len(survivors)
        decision = common.accept(
            state.epoch,
            survivors[0],
            hold=survivors,
            kept=survivors[0] == 0 and np.isfinite(_first_axis(state.settings)[0]),
        )
        return following._replace(
            epoch=state.epoch + np.int32(1),
            settings={
                name: np.where(new, np.float32(np.nan), values[survivors[parents]])
                for name, values in trials.hparams.items()
            },
            parents=parents,
            start=scores[survivors[parents]],
        ), decision

    def _survivors(self, scores: np.ndarray) -> np.ndarray:
        """Branches that go on, the best first."""
        ranked = np.argsort(-scores, stable=True)  # NaN goes last
        ranked = ranked[np.isfinite(scores[ranked])]
        return ranked[: self.population - self._dropped()]

    def _parents(self, key: np.ndarray, survivors: int) -> np.ndarray:
        """The survivor that each member goes on from: itself, or one of the best."""
        best = min(self._dropped(), survivors)
        copied = np.floor(_uniform(self, key) * best).astype(np.int32)
        places = np.arange(self.population, dtype=np.int32)
        return np.where(places < survivors, places, np.minimum(copied, best - 1))

    def _dropped(self) -> int:
        return min(math.ceil(self.quantile * self.population), self.population // 2)

    def _explore(self, state: PB2State) -> dict[str, np.ndarray]:
        """The members' settings, the missing ones chosen one after the other."""
        settings = {name: values.copy() for name, values in state.settings.items()}
        for member in np.flatnonzero(np.isnan(_first_axis(settings))):
            chosen = _propose(self.space, state, settings, np.int32(member))
            for name, value in chosen.items():
                settings[name][member] = value
        return settings

    def _unknown(self) -> dict[str, np.ndarray]:
        unknown = np.full(self.population, np.nan, np.float32)
        return dict.fromkeys(self.space, unknown)


def _first_axis(settings: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(settings.values()))


@cpu_jit.compiled
def _first(tuner: PB2, key: jax.Array) -> dict[str, jax.Array]:
    """Settings uniform in the cube, one a member."""
    return tuner.space.sample(cpu_jit.fold(key, _SETTINGS), tuner.population)


@cpu_jit.compiled
def _uniform(tuner: PB2, key: jax.Array) -> jax.Array:
    shape = (tuner.population,)
    return jax.random.uniform(cpu_jit.fold(key, _COPIES), shape, jnp.float32)


@cpu_jit.compiled
def _fit(
    space: SearchSpace, data: gp.Observations, model: gp.KernelParams
) -> tuple[gp.KernelParams, jax.Array]:
    """Epsilon of the greatest density at the last fit, then the fit at that epsilon."""
    del space  # its size is the data's
    data, model = cpu_jit.double((data, model))
    epsilons = jnp.asarray(_EPSILONS, jnp.float64)
    densities = jax.lax.map(
        lambda epsilon: gp.log_density(model, data, _KERNEL, Forgetting(epsilon)),
        epsilons,
    )
    epsilon = epsilons[jnp.argmax(densities)]
    time = Forgetting(epsilon)
    fitted = gp.fit(data, model, _KERNEL, time, max_steps=_FIT_STEPS)
    return cpu_jit.single((fitted, epsilon))


@cpu_jit.compiled
def _propose(
    space: SearchSpace,
    state: PB2State,
    settings: dict[str, jax.Array],
    member: jax.Array,
) -> dict[str, jax.Array]:
    """The setting of the greatest upper confidence bound for one member.

    The deviation is that of a model that has also seen the settings without a gain:
    those that diverged, and those that the other members are about to try (Desautels
    et al. 2014). A deviation does not depend on gains.
    """
    data, model = cpu_jit.double((state.data, state.model))
    time = Forgetting(state.epsilon.astype(jnp.float64))
    epoch = state.epoch.astype(jnp.float64)
    tried = cpu_jit.double(_all_tried(space, state, settings))
    known = gp.condition(model, data, _KERNEL, time)
    explored = gp.condition(model, tried, _KERNEL, time)
    count = jnp.sum(data.feasible).astype(jnp.float64)
    beta = _BETA[0] + jnp.maximum(jnp.log(_BETA[1] * jnp.maximum(count, 1.0)), 0.0)

    def upper_bound(point: jax.Array) -> jax.Array:
        """In standardised units, less the logarithm of the chance to diverge."""
        query = gp.Query(point, epoch)
        mean = (known.predict(query)[0] - known.location) / known.scale
        stddev = explored.predict(query)[1] / explored.scale
        weight = gp.feasibility(query, model, data, _KERNEL, time)
        return mean + jnp.sqrt(beta) * stddev + jnp.log(weight)

    point, _ = acquisition.maximize(
        upper_bound,
        cpu_jit.fold(state.key, _FIRST_SLOT + member),
        data.best_point()[None],
        candidates=_CANDIDATES,
    )
    return space.from_unit(point)


def _all_tried(
    space: SearchSpace, state: PB2State, settings: dict[str, jax.Array]
) -> gp.Observations:
    """What was tried and what the members will try, with gains that mean nothing."""
    points = space.to_unit(settings)
    members = state.parents.shape
    chosen = jnp.all(jnp.isfinite(points), axis=-1)
    pending = gp.Observations(
        points=jnp.where(chosen[:, None], points, jnp.float32(0.5)),
        epochs=jnp.full(members, state.epoch, jnp.float32),
        gains=jnp.zeros(members, jnp.float32),
        feasible=chosen,
        infeasible=jnp.zeros(members, bool),
    )
    tried = state.data._replace(feasible=state.data.feasible | state.data.infeasible)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), tried, pending)
