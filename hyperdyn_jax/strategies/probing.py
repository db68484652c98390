"""The model of explore's probes: what covers the space, what to try next, what to take.

A Gaussian process on the progress of probes over the unit cube of settings; those of an
earlier run are further away in time. Three programs, each compiled once for a run.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.tuner import acquisition, cpu_jit, gp
from hyperdyn_jax.tuner.search_space import SearchSpace

_CANDIDATES = 1024  # that the plateau is seen on
_SETTINGS = 1  # the stream of the state's key that settings are drawn from


@cpu_jit.compiled
def cover(wanted: tuple[SearchSpace, int], key: jax.Array) -> dict[str, jax.Array]:
    """Settings that cover the cube evenly (`acquisition.additive_steps`), shifted at
    random.

    Args:
      wanted: the space, and how many.
      key: a PRNG key.

    Returns:
      f32[count] for every hyperparameter.
    """
    space, count = wanted
    dimensions = len(space)
    steps = acquisition.additive_steps(dimensions)
    shift = jax.random.uniform(cpu_jit.fold(key, _SETTINGS), (1, dimensions))
    points = (shift + np.arange(count)[:, None] * steps[None]) % 1.0
    return space.from_unit(points)


@cpu_jit.compiled
def propose(
    space: SearchSpace, key: jax.Array, data: gp.Observations
) -> tuple[Any, ...]:
    """The probe with the largest expected improvement.

    Args:
      space: the hyperparameters.
      key: a PRNG key.
      data: probes so far, their gains being progress; an earlier run's have epochs < 0.

    Returns:
      f32[] for every hyperparameter; mean, standard deviation and expected improvement
      of its progress, f32[1] each; the parameters of the model.
    """
    model, data, posterior = gp.fit_afresh(data)
    mine = data.feasible & (data.epochs >= 0)
    best_gain = jnp.max(jnp.where(mine, data.gains, -jnp.inf))

    def log_improvement(point: jax.Array) -> jax.Array:
        query = gp.Query(point, jnp.zeros((), jnp.float64))
        mean, stddev = posterior.predict(query)
        weight = gp.feasibility(query, model, data, *gp.USUAL)
        improvement = acquisition.log_expected_improvement(mean, stddev, best_gain)
        return improvement + jnp.log(weight)

    point, _ = acquisition.maximize(
        log_improvement, cpu_jit.fold(key, _SETTINGS), data.best_point()[None]
    )
    mean, stddev = posterior.predict(gp.Query(point, jnp.zeros((), jnp.float64)))
    improvement = acquisition.expected_improvement(mean, stddev, best_gain)
    parameters = model.by_name() | {"noise_stddev": model.noise_stddev(posterior.scale)}
    prediction = tuple(x[None] for x in (mean, stddev, improvement))
    setting = space.from_unit(point)
    return setting, cpu_jit.single(prediction), cpu_jit.single(parameters)


@cpu_jit.compiled
def choose(
    space: SearchSpace, data: gp.Observations, shares: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    """The probe nearest to the middle of the plateau: of all settings that keep a share
    of the best expected progress.

    The middle is near the best whichever way noise has bent the curve, and the plateau
    of the whole run is where that of the probes is. Only tried settings
    are chosen: a point between a good probe and a cliff may already diverge.

    Args:
      space: the hyperparameters.
      data: the probes, as for `propose`.
      shares: f[], f[], the share of the plateau and the margin of the switch test.

    Returns:
      f32[] for every hyperparameter; and bool[], whether the first probe of this run is
      as good: less than the margin behind, and within a deviation of the middle.
    """
    plateau, margin = shares
    model, data, posterior = gp.fit_afresh(data)

    def expected(point: jax.Array) -> jax.Array:
        query = gp.Query(point, jnp.zeros((), jnp.float64))
        mean, _ = posterior.predict(query)
        return mean * gp.feasibility(query, model, data, *gp.USUAL)

    mine = data.epochs >= 0
    tried = jax.vmap(expected)(data.points)
    best = jnp.max(jnp.where(data.feasible & mine, tried, -jnp.inf))
    enough = best - (1 - plateau) * jnp.abs(best)
    cloud = jnp.asarray(acquisition.sobol(_CANDIDATES, len(space)))
    good = jax.vmap(expected)(cloud) >= enough
    middle = jnp.mean(cloud, axis=0, where=good[:, None])
    radius = jnp.sqrt(jnp.sum(jnp.var(cloud, axis=0, where=good[:, None])))
    distance = jnp.linalg.norm(data.points - middle[None], axis=1)
    eligible = data.feasible & mine & (tried >= enough)
    chosen = jnp.argmin(jnp.where(eligible, distance, jnp.inf))
    first = jnp.argmax((data.feasible | data.infeasible) & mine)
    as_good = tried[first] >= best - margin * jnp.abs(best)
    setting = space.from_unit(data.points[chosen])
    return setting, as_good & (distance[first] <= radius)
