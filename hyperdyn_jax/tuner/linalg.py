"""Linear algebra of the Gaussian process: whitening and the likelihood.

Nearly all of it is matrix products, for which XLA needs one thread; LAPACK takes every
core for a large matrix and waits for those that are busy training.
"""

from typing import Any

import jax
import jax.numpy as jnp
from tinygp import kernels, solvers


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
        self.whiten = inverse_factor(self.covariance_value)

    def solve_triangular(self, y: jax.Array, *, transpose: bool = False) -> jax.Array:
        return (self.whiten.T if transpose else self.whiten) @ y


@jax.custom_vjp
def log_likelihood(covariance: jax.Array, gains: jax.Array) -> jax.Array:
    """log N(gains; 0, covariance) up to a constant: f[]."""
    return _log_likelihood_fwd(covariance, gains)[0]


def _log_likelihood_fwd(
    covariance: jax.Array, gains: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    whiten = inverse_factor(covariance)
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


log_likelihood.defvjp(_log_likelihood_fwd, _log_likelihood_bwd)


def inverse_factor(matrix: jax.Array) -> jax.Array:
    """L^-1 of a positive definite matrix L L^T, by halves."""
    size = len(matrix)
    if size <= _LEAF:
        identity = jnp.eye(size, dtype=matrix.dtype)
        factor = jnp.linalg.cholesky(matrix)
        return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
    half = size // 2
    first = inverse_factor(matrix[:half, :half])
    below = matrix[half:, :half] @ first.T  # of L
    last = inverse_factor(matrix[half:, half:] - below @ below.T)
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
