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
from tinygp import GaussianProcess, kernels, solvers, transforms

from hyperdyn_jax.tuner import bounded_bfgs
from hyperdyn_jax.tuner.interface import Leaf

# A `Query` for each row and which are not empty: (Query, bool[n]). tinygp's kernels
# take any pytree, and say jax.Array.
Rows: TypeAlias = Any


class EuclideanDistance(kernels.Distance):
    """The L2 distance, axis by axis: XLA makes vector code of that, and none of a sum
    over so short an axis, which takes five times as long.

    tinygp measures Matérn distances in L1 unless told otherwise, and that is not
    positive definite in more than one dimension.
    """

    def distance(self, X1: jax.Array, X2: jax.Array) -> jax.Array:
        # Away from zero, where the root has no slope. A select, as tinygp has it, would
        # not do: XLA:CPU computes the difference once for the comparison and once for
        # the value, rounds the two differently (a product and a subtraction become one
        # fused operation), and takes a point to be itself in one place and not in the
        # other (`test_compiler`; jaxlib 0.10.2 to 0.12.0.1).
        squared = self.squared_distance(X1, X2)
        return jnp.sqrt(squared + jnp.finfo(squared.dtype).tiny)

    def squared_distance(self, X1: jax.Array, X2: jax.Array) -> jax.Array:
        first, *others = (jnp.square(X1[i] - X2[i]) for i in range(len(X1)))
        return sum(others, first)


SPATIAL_KERNELS = {
    "rbf": kernels.ExpSquared(1.0, EuclideanDistance()),
    "matern32": kernels.Matern32(1.0, EuclideanDistance()),
    "matern52": kernels.Matern52(1.0, EuclideanDistance()),
}


class TimeKernel(kernels.Kernel):
    r"""Similarity of two epochs, K2 of the paper (section 2.4).

    .. math:: K_2(t_1, t_2) = \beta^\alpha / (|t_1 - t_2| + \beta)^\alpha

    A mixture of exponential decays with a Gamma(alpha, beta) prior on the rate
    (Swersky et al. 2014), scaled to one at equal epochs.

    Args:
      alpha: shape, finite, greater than zero.
      beta: scale in epochs, finite, greater than zero.

    Raises:
      ValueError: a parameter is out of range.

    Example:
      >>> TimeKernel(1.0, 0.5)(jnp.zeros(1), jnp.array([0.0, 1.0, 4.0])).round(4)
      Array([[1.    , 0.3333, 0.1111]], dtype=float32)
    """

    alpha: float = 1.0
    beta: float = 0.5

    def __check_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            try:
                valid = math.isfinite(value) and value > 0
            except TypeError:  # not a number
                valid = False
            if not valid:
                raise ValueError(
                    f"TimeKernel needs {name} > 0 and finite, got {value!r}"
                )

    def evaluate(self, t1: jax.Array, t2: jax.Array) -> jax.Array:
        # As (1 + lag / beta)^-alpha, which is the same and cannot overflow.
        return (1.0 + jnp.abs(t1 - t2) / self.beta) ** -self.alpha


class Observations(NamedTuple):
    """The data D of the paper, padded to a fixed capacity n.

    points: f32[n, d] settings in the unit cube.
    epochs: f32[n] the epoch each was tried at; 0 for the random start.
    gains: f32[n] accuracy gained by the trial, percentage points; 0 where infeasible.
    feasible: bool[n] the trial ended with finite numbers.
    infeasible: bool[n] the trial diverged. A row that is neither is empty.
    """

    points: Leaf
    epochs: Leaf
    gains: Leaf
    feasible: Leaf
    infeasible: Leaf

    @classmethod
    def empty(cls, capacity: int, dimensions: int) -> "Observations":
        return cls(
            points=np.zeros((capacity, dimensions), np.float32),
            epochs=np.zeros(capacity, np.float32),
            gains=np.zeros(capacity, np.float32),
            feasible=np.zeros(capacity, bool),
            infeasible=np.zeros(capacity, bool),
        )

    def append(
        self, points: np.ndarray, epoch: float, gains: np.ndarray
    ) -> "Observations":
        """Adds rows at the end and drops as many, the oldest, from the front.

        Args:
          points: f32[c, d] in the unit cube.
          epoch: of all of them.
          gains: f32[c] percentage points; non-finite marks an infeasible trial.

        Returns:
          The new `Observations`.
        """
        finite = np.isfinite(gains)
        rows = Observations(
            points=points,
            epochs=np.full(len(gains), epoch, np.float32),
            gains=np.where(finite, gains, np.float32(0)),
            feasible=finite,
            infeasible=~finite,
        )
        return jax.tree.map(
            lambda old, new: np.concatenate([old, new])[-len(old) :], self, rows
        )

    def with_room(self, rows: int) -> "Observations":
        """The same with so many empty rows more at the end."""
        return jax.tree.map(
            lambda x: jnp.pad(x, [(0, rows)] + [(0, 0)] * (x.ndim - 1)), self
        )


class KernelParams(NamedTuple):
    """What the fit decides, as logarithms and in units of the standardised gains.

    log_length_scale: f[d], one an axis of the unit cube.
    log_amplitude: f[], variance of the gain.
    log_noise: f[], variance of an observation of it, sigma_0^2 of the paper.
    """

    log_length_scale: Leaf
    log_amplitude: Leaf
    log_noise: Leaf


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


class WhiteningSolver(solvers.DirectSolver):
    """A direct solver that applies the inverse Cholesky factor by multiplication.

    A prediction is then a product, which is faster for thousands of predictions, and
    it keeps XLA's two threads on a two-core machine from waiting for each other: a
    LAPACK solve blocks a thread of the pool that it needs (jaxlib 0.10.2), so two at
    once hang.
    """

    whiten: jax.Array

    def __init__(self, kernel: kernels.Kernel, X: Any, noise: Any, **options: Any):
        super().__init__(kernel, X, noise, **options)
        # Nobody asks for the factor itself, so that the compiler leaves it out.
        self.whiten = _inverse_factor(self.covariance_value)

    def solve_triangular(self, y: jax.Array, *, transpose: bool = False) -> jax.Array:
        return (self.whiten.T if transpose else self.whiten) @ y


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
      max_steps: largest number of BFGS steps.

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
    likelihood = _log_likelihood(
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


@jax.custom_vjp
def _log_likelihood(covariance: jax.Array, gains: jax.Array) -> jax.Array:
    """log N(gains; 0, covariance) up to a constant: f[]."""
    return _log_likelihood_fwd(covariance, gains)[0]


def _log_likelihood_fwd(
    covariance: jax.Array, gains: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    whiten = _inverse_factor(covariance)
    whitened = whiten @ gains
    value = -0.5 * whitened @ whitened + jnp.sum(jnp.log(jnp.diag(whiten)))
    return value, (whiten, whitened)


def _log_likelihood_bwd(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # (w w^T - K^-1) / 2 with w = K^-1 y (Rasmussen and Williams 2006, eq. 5.9).
    whiten, whitened = residuals
    weights = whitened @ whiten
    gradient = 0.5 * (jnp.outer(weights, weights) - _gram(whiten))
    return cotangent * gradient, -cotangent * weights


_log_likelihood.defvjp(_log_likelihood_fwd, _log_likelihood_bwd)


def _inverse_factor(matrix: jax.Array) -> jax.Array:
    """L^-1 of a positive definite matrix L L^T, by halves.

    Nearly all of it is matrix products, for which XLA needs one thread; LAPACK takes
    every core for a large matrix and waits for those that are busy training.
    """
    size = len(matrix)
    if size <= _LEAF:
        identity = jnp.eye(size, dtype=matrix.dtype)
        factor = jnp.linalg.cholesky(matrix)
        return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
    half = size // 2
    first = _inverse_factor(matrix[:half, :half])
    below = matrix[half:, :half] @ first.T  # of L
    last = _inverse_factor(matrix[half:, half:] - below @ below.T)
    return _lower(first, -last @ below @ first, last)


def _gram(lower: jax.Array) -> jax.Array:
    """L^T L of a lower triangular matrix, a third of the work of a full product."""
    size = len(lower)
    if size <= _LEAF:
        return lower.T @ lower
    half = size // 2
    below, last = lower[half:, :half], lower[half:, half:]
    corner = last.T @ below
    top = jnp.concatenate([_gram(lower[:half, :half]) + below.T @ below, corner.T], 1)
    return jnp.concatenate([top, jnp.concatenate([corner, _gram(last)], 1)])


def _lower(first: jax.Array, below: jax.Array, last: jax.Array) -> jax.Array:
    """The lower triangular matrix of three blocks."""
    zeros = jnp.zeros((len(first), len(last)), first.dtype)
    top = jnp.concatenate([first, zeros], 1)
    return jnp.concatenate([top, jnp.concatenate([below, last], 1)])


_LEAF = 32  # rows; up to 64 LAPACK stays on one thread, and 32 are the fastest


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
