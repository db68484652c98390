"""The Gaussian process over (hyperparameters, epoch): Algorithm 2 of the paper.

The kernel is the product of a stationary kernel on the unit cube and a time kernel
on epochs (eq. 2). Observations live in arrays of fixed capacity, so that a whole run
compiles once; empty rows are decoupled from the rest and change nothing.

The tuner calls all of it in float64: in float32 forty clustered observations are
enough to make the Cholesky factor NaN.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from tinygp import GaussianProcess, kernels, transforms

from hyperdyn_jax.tuner import bounded_bfgs, cpu_jit
from hyperdyn_jax.tuner.interface import Leaf
from hyperdyn_jax.tuner.kernels import SPATIAL_KERNELS as SPATIAL_KERNELS
from hyperdyn_jax.tuner.kernels import USUAL as USUAL
from hyperdyn_jax.tuner.kernels import TimeKernel as TimeKernel
from hyperdyn_jax.tuner.linalg import WhiteningSolver, log_likelihood
from hyperdyn_jax.tuner.observations import Observations as Observations

# A `Query` for each row and which are not empty: (Query, bool[n]). tinygp's kernels
# take any pytree, and say jax.Array.
Rows: TypeAlias = Any


class KernelParams(NamedTuple):
    """What the fit decides, as logarithms and in units of the standardised gains.

    log_length_scale: f[d], one an axis of the unit cube.
    log_amplitude: f[], variance of the gain.
    log_noise: f[], variance of an observation of it, sigma_0^2 of the paper.
    """

    log_length_scale: Leaf
    log_amplitude: Leaf
    log_noise: Leaf

    def by_name(self) -> dict[str, jax.Array]:
        """Not as logarithms: length scales in fractions of the axes, variances."""
        return {
            "length_scale": jnp.exp(self.log_length_scale),
            "amplitude": jnp.exp(self.log_amplitude),
            "noise": jnp.exp(self.log_noise),
        }

    def noise_stddev(self, scale: jax.Array) -> jax.Array:
        """Standard deviation of an observation, in the unit of a posterior's scale."""
        return scale * jnp.exp(0.5 * self.log_noise)


# Priors of the MAP fit: independent normals on the logarithms, as (mean, deviation).
# A length scale is about half the range of its axis; the amplitude is about the
# variance of the gains, which is one after standardising; the noise prior is that of
# BoTorch 0.12 (log-normal with location -4 and scale 1).
LENGTH_SCALE_PRIOR = (math.log(0.5), 0.75)
AMPLITUDE_PRIOR = (0.0, 1.0)
NOISE_PRIOR = (-4.0, 1.0)
PRIOR_RANGE = 4.0  # deviations searched to either side of a prior's mean


def prior_mean(dimensions: int) -> KernelParams:
    """The mode of the priors, float32: where the first fit starts."""
    return KernelParams(
        log_length_scale=np.full(dimensions, LENGTH_SCALE_PRIOR[0], np.float32),
        log_amplitude=np.float32(AMPLITUDE_PRIOR[0]),
        log_noise=np.float32(NOISE_PRIOR[0]),
    )


class Query(NamedTuple):
    """Where a gain is observed or predicted: `point` f[..., d], `epoch` f[...]."""

    point: jax.Array
    epoch: jax.Array


class _Masked(kernels.Kernel):
    """A kernel in which empty rows are uncorrelated with everything."""

    kernel: kernels.Kernel

    def evaluate(self, a: Rows, b: Rows) -> jax.Array:
        (query_a, valid_a), (query_b, valid_b) = a, b
        value = self.kernel.evaluate(query_a, query_b)
        return jnp.where(valid_a & valid_b, value, jnp.zeros_like(value))


class Posterior(NamedTuple):
    """A Gaussian process conditioned on D, ready to predict gains.

    kernel: of the standardised gains, over rows.
    noise: f[], variance of an observation of one.
    rows: where they were observed, and which rows are not empty.
    whiten: f[n, n], the inverse Cholesky factor of K + s0^2 I.
    weights: f[n], (K + s0^2 I)^-1 y of the standardised gains.
    location, scale: f[], percentage points: gain = location + scale * standardised.
    best: f[], percentage points, the best gain observed (tau of eq. 1).
    """

    kernel: kernels.Kernel
    noise: jax.Array
    rows: Rows
    whiten: jax.Array
    weights: jax.Array
    location: jax.Array
    scale: jax.Array
    best: jax.Array

    def predict(self, query: Query) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation of the latent gain at one query.

        Algorithm 2: mean = mu0 + k^T (K + s0^2 I)^-1 (y - m) and variance
        = k(q, q) - k^T (K + s0^2 I)^-1 k, mu0 being the mean gain.

        Args:
          query: point f[d], epoch f[].

        Returns:
          f[], f[], percentage points.
        """
        cross, prior = self._covariances(query)
        variance = prior - jnp.sum((self.whiten @ cross) ** 2)
        variance = jnp.maximum(variance, jnp.finfo(variance.dtype).eps * prior)
        mean = self.location + self.scale * (cross @ self.weights)
        return mean, self.scale * jnp.sqrt(variance)

    def believe(self, query: Query, row: jax.Array) -> "Posterior":
        """The posterior as if the mean at a query had been observed there.

        The mean stays as it is everywhere and the deviation becomes what it will be,
        whatever comes of the trial (kriging believer: Ginsbourger et al. 2010). The
        inverse factor has one more row, which takes n^2 operations.

        Args:
          query: point f[d], epoch f[].
          row: i32[], an empty row behind all that are not.
        """
        cross, prior = self._covariances(query)
        whitened = self.whiten @ cross
        deviation = jnp.sqrt(prior + self.noise - whitened @ whitened)
        border = (-whitened @ self.whiten).at[row].add(1.0) / deviation
        mean = self.location + self.scale * (cross @ self.weights)
        entry = (query, jnp.bool_(True))
        return self._replace(
            rows=jax.tree.map(lambda x, new: x.at[row].set(new), self.rows, entry),
            whiten=self.whiten.at[row].set(border),
            best=jnp.maximum(self.best, mean),
        )

    def _covariances(self, query: Query) -> tuple[jax.Array, jax.Array]:
        """Of a query with all rows, f[n], and with itself, f[]."""
        here = jax.tree.map(lambda x: x[None], (query, jnp.bool_(True)))
        return self.kernel(self.rows, here)[:, 0], self.kernel(here)[0]


def condition(
    params: KernelParams,
    data: Observations,
    kernel: kernels.Kernel,
    time: kernels.Kernel,
) -> Posterior:
    """Update-Statistical-Model (Algorithm 2) on the feasible rows of D.

    Args:
      params: fitted or assumed kernel parameters.
      data: the observations; infeasible and empty rows are left out.
      kernel: K1, one of `SPATIAL_KERNELS`' values.
      time: K2.

    Returns:
      The posterior.
    """
    gains, location, scale, best = _standardize(data)
    covariance, rows, noise = _model(params, data, kernel, time)
    process = GaussianProcess(covariance, rows, diag=noise, solver=WhiteningSolver)
    solver: Any = process.solver  # a WhiteningSolver
    whitened = solver.solve_triangular(gains)
    weights = solver.solve_triangular(whitened, transpose=True)
    return Posterior(
        kernel=covariance,
        noise=jnp.exp(params.log_noise),
        rows=rows,
        whiten=solver.whiten,
        weights=weights,
        location=location,
        scale=scale,
        best=best,
    )


def fit_afresh(data: Observations) -> tuple[KernelParams, Observations, Posterior]:
    """The usual model of few observations: Matérn 5/2, fitted from the priors' mode.

    Args:
      data: the observations, float32.

    Returns:
      Its parameters, the observations in float64, and the posterior.
    """
    data = cpu_jit.double(data)
    mode = cpu_jit.double(prior_mean(data.points.shape[-1]))
    params = fit(data, mode, *USUAL, max_steps=16)
    return params, data, condition(params, data, *USUAL)


def fit(
    data: Observations,
    warm_start: KernelParams,
    kernel: kernels.Kernel,
    time: kernels.Kernel,
    *,
    max_steps: int,
) -> KernelParams:
    """Maximum a posteriori kernel parameters, in logarithmic coordinates.

    Climbs from the better of the priors' mode and `warm_start`, usually the last fit:
    two new observations move the optimum a little, so a few steps an epoch follow it,
    and the mode lets a fit forget an optimum that has gone bad.

    Args:
      data: the observations.
      warm_start: parameters to start from.
      kernel, time: K1 and K2.
      max_steps: largest number of BFGS steps, each of one evaluation.

    Returns:
      Parameters within `PRIOR_RANGE` deviations of the priors' means.
    """

    def density(unit: jax.Array) -> jax.Array:
        return log_density(_from_cube(unit), data, kernel, time)

    warm = _to_cube(warm_start)
    mode = jnp.full_like(warm, 0.5)
    values = jax.lax.map(density, jnp.stack([mode, warm]))  # one after the other
    start = jnp.where(values[1] > values[0], warm, mode)
    # One prior deviation is a quarter of an angle, so the prior has curvature 16; an
    # observation adds about a half to the amplitude and the noise.
    curvature = 16.0 + 0.5 * jnp.sum(data.feasible).astype(warm.dtype)
    return _from_cube(
        bounded_bfgs.climb(
            density, start, max_steps=max_steps, curvature=curvature, tolerance=1e-3
        )
    )


def log_density(
    params: KernelParams,
    data: Observations,
    kernel: kernels.Kernel,
    time: kernels.Kernel,
) -> jax.Array:
    """Log marginal likelihood of the standardised gains plus log priors, up to a
    constant: f[]."""
    covariance, rows, noise = _model(params, data, kernel, time)
    likelihood = log_likelihood(
        covariance(rows, rows) + jnp.diag(noise), _standardize(data)[0]
    )
    deviations = (_to_cube(params) - 0.5) * (2 * PRIOR_RANGE)
    return likelihood - 0.5 * jnp.sum(deviations**2)


def feasibility(
    query: Query,
    params: KernelParams,
    data: Observations,
    kernel: kernels.Kernel,
    time: kernels.Kernel,
) -> jax.Array:
    """Weight in (0, 1] of a query's chance not to diverge: f[].

    (1 + similarity to feasible trials) / (1 + similarity to all trials), similarity
    being the correlation K1 K2. One where nothing has diverged. The model of the
    gains never sees a diverged trial; without this weight it would propose the same
    diverging setting again and again, because it stays as uncertain there as before.
    """
    correlation = _product(params.log_length_scale, kernel, time)

    def weight() -> jax.Array:
        tried: Any = Query(data.points, data.epochs)
        queries = jax.tree.map(lambda x: x[None], query)
        similar = correlation(tried, queries)[:, 0]
        feasible = 1.0 + jnp.sum(similar, where=data.feasible)
        return feasible / (feasible + jnp.sum(similar, where=data.infeasible))

    # Most runs have no such trial, and need not look for what is similar to one.
    diverged = jnp.any(data.infeasible)
    return jax.lax.cond(diverged, weight, lambda: jnp.ones((), data.gains.dtype))


def _product(
    log_length_scale: jax.Array, kernel: kernels.Kernel, time: kernels.Kernel
) -> kernels.Kernel:
    """K1 x K2 (eq. 2) over `Query`s, one at zero distance."""
    inverse = jnp.exp(-log_length_scale)
    return transforms.Transform(
        lambda query: query.point * inverse, kernel
    ) * transforms.Transform(lambda query: query.epoch, time)


def _model(
    params: KernelParams,
    data: Observations,
    kernel: kernels.Kernel,
    time: kernels.Kernel,
) -> tuple[kernels.Kernel, Rows, jax.Array]:
    """Kernel, rows and noise of the process: empty rows have unit variance, no
    covariance and, standardised, no gain, so they change nothing."""
    product = _product(params.log_length_scale, kernel, time)
    noise = jnp.where(data.feasible, jnp.exp(params.log_noise), 1.0)
    rows = (Query(data.points, data.epochs), data.feasible)
    return _Masked(jnp.exp(params.log_amplitude) * product), rows, noise


def _standardize(data: Observations) -> tuple[jax.Array, ...]:
    """Standardised gains f[n] (0 in empty rows), their location, scale and best."""
    gains, valid = data.gains, data.feasible
    count = jnp.maximum(jnp.sum(valid), 1).astype(gains.dtype)
    location = jnp.sum(gains, where=valid) / count
    centred = jnp.where(valid, gains - location, 0.0)
    scale = jnp.sqrt(jnp.sum(centred**2) / count)
    largest = jnp.max(jnp.abs(gains), where=valid, initial=0.0)
    scale = jnp.where(scale > 1e-12 * largest, scale, 1.0)
    best = jnp.max(gains, where=valid, initial=-jnp.inf)
    return centred / scale, location, scale, jnp.where(jnp.any(valid), best, 0.0)


def _prior(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    priors = [LENGTH_SCALE_PRIOR] * dimensions + [AMPLITUDE_PRIOR, NOISE_PRIOR]
    means, deviations = np.array(priors).T
    return means, deviations


def _to_cube(params: KernelParams) -> jax.Array:
    flat = jnp.append(
        params.log_length_scale, jnp.stack([params.log_amplitude, params.log_noise])
    )
    means, deviations = _prior(len(flat) - 2)
    return 0.5 + (flat - means) / (2 * PRIOR_RANGE * deviations)


def _from_cube(unit: jax.Array) -> KernelParams:
    means, deviations = _prior(len(unit) - 2)
    flat = means + (unit - 0.5) * (2 * PRIOR_RANGE * deviations)
    return KernelParams(flat[:-2], flat[-2], flat[-1])
