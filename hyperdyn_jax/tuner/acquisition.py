"""Expected improvement, its logarithm, and its maximiser over S x [t, t]."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hyperdyn_jax.tuner import bounded_bfgs


def expected_improvement(
    mean: ArrayLike, stddev: ArrayLike, best: ArrayLike
) -> jax.Array:
    r"""Expected improvement over the best gain observed (eq. 1 of the paper).

    .. math:: a_{EI} = (\mu - \tau) \Phi(z) + \sigma \phi(z), \quad
              z = (\mu - \tau) / \sigma

    The paper prints tau as the least observation; gains are maximised, so it is the
    greatest.

    Args:
      mean: f[...] posterior mean.
      stddev: f[...] posterior standard deviation, >= 0.
      best: f[...] the best observation, tau.

    Returns:
      f[...] in the units of `mean`, >= 0; max(mean - best, 0) where stddev is 0.

    Example:
      >>> print(f"{expected_improvement(0.0, 1.0, 0.0):.5f}")
      0.39894
    """
    mean, stddev, best = _floats(mean, stddev, best)
    certain = 1e30 * stddev <= jnp.abs(mean - best)  # the quotient could overflow
    safe = jnp.where(certain, 1.0, stddev)
    value = safe * jnp.exp(_log_h((mean - best) / safe))
    return jnp.where(certain, jnp.maximum(mean - best, 0.0), value)


def log_expected_improvement(
    mean: ArrayLike, stddev: ArrayLike, best: ArrayLike
) -> jax.Array:
    """Logarithm of `expected_improvement`, finite and smooth where that underflows.

    Late in a run every candidate is far below the best. There expected improvement and
    its gradient are next to zero, and exactly zero from about z = -38 on in float64, in
    which the tuner calls it (-14 in float32): its argmax is then the first candidate.

    Args:
      mean: f[...] posterior mean.
      stddev: f[...] posterior standard deviation, > 0.
      best: f[...] the best observation.

    Returns:
      f[...], with finite gradients.
    """
    mean, stddev, best = _floats(mean, stddev, best)
    return jnp.log(stddev) + _log_h((mean - best) / stddev)


def maximize(
    acquisition: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    known: jax.Array,
    *,
    candidates: int = 1024,
    starts: int = 4,
    max_steps: int = 20,
) -> tuple[jax.Array, jax.Array]:
    """Maximises an acquisition function over the unit cube.

    A quasi-random set covers the cube, the known points cover narrow peaks beside
    the data, and BFGS climbs from the best of both.

    Args:
      acquisition: f[d] -> f[], differentiable.
      key: a PRNG key, consumed.
      known: f[m, d] in [0, 1], points near which a peak may hide.
      candidates: size of the quasi-random set.
      starts: how many of the best to climb from.
      max_steps: largest number of BFGS steps of a climb, each of one evaluation.

    Returns:
      The best point found, f[d] in [0, 1], and the acquisition there, f[].
    """
    dimensions = known.shape[-1]
    shift = jax.random.uniform(key, (1, dimensions), known.dtype)
    spread = (jnp.asarray(sobol(candidates, dimensions), known.dtype) + shift) % 1.0
    pool = jnp.concatenate([spread, known])
    values = jax.vmap(acquisition)(pool)
    _, first = jax.lax.top_k(values, starts)
    climb = functools.partial(
        bounded_bfgs.climb, acquisition, max_steps=max_steps, curvature=_CURVATURE
    )
    peaks = _on_faces(jax.vmap(climb)(pool[first]))
    heights = jax.vmap(acquisition)(peaks)
    return peaks[jnp.argmax(heights)], jnp.max(heights)


def _on_faces(points: jax.Array) -> jax.Array:
    """Puts what is next to a face on it: a climb comes close to one and never arrives,
    and a momentum of 1e-11 is meant to be 0."""
    points = jnp.where(points < _NEXT_TO, 0.0, points)
    return jnp.where(points > 1.0 - _NEXT_TO, 1.0, points)


_NEXT_TO = 1e-6
# Log-EI changes by a few units over an axis, more beside the data.
_CURVATURE = 16.0


def sobol(count: int, dimensions: int) -> np.ndarray:
    """The first `count` points of the Sobol sequence, f64[count, dimensions]."""
    from scipy.stats import qmc  # takes half a second, which no start need wait for

    exponent = math.ceil(math.log2(count))
    return qmc.Sobol(dimensions, scramble=False).random_base2(exponent)[:count]


def additive_steps(dimensions: int) -> np.ndarray:
    """Steps of the additive recurrence R_d, f64[dimensions]: its points, i times the
    steps modulo 1, cover the cube evenly however many they are.

    The inverse powers of the root of x^(d+1) = x + 1.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    return root ** -np.arange(1.0, dimensions + 1)


# Below this z, phi(z) + z Phi(z) cancels and the continued fraction takes over.
_TAIL = -4.0
# Terms at which the fraction is exact to 6e-13 at z = _TAIL, and better below.
_TERMS = 24


@jax.custom_jvp
def _log_h(z: jax.Array) -> jax.Array:
    """log h(z), h(z) = phi(z) + z Phi(z), without cancellation or underflow."""
    near, far, tail = _split(z)
    c1 = _mills_fraction(far)
    in_tail = _log_phi(far) + jnp.log(c1) - jnp.log(far + c1)
    return jnp.where(tail, in_tail, jnp.log(_h(near)))


@_log_h.defjvp
def _log_h_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (z,), (z_dot,) = primals, tangents
    near, far, tail = _split(z)
    # h' = Phi, and Phi / h = (phi R) / (phi c1 R) in the tail.
    slope = jnp.where(
        tail, 1.0 / _mills_fraction(far), jax.scipy.special.ndtr(near) / _h(near)
    )
    return _log_h(z), slope * z_dot


def _split(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """z where it is near zero, -z where it is in the tail, and which of both it is.

    Cut off and not selected: the two meet at the border, so that nothing hangs on how
    XLA rounds z where it compares it (`kernels.EuclideanDistance`).
    """
    return jnp.maximum(z, _TAIL), jnp.maximum(-z, -_TAIL), z < _TAIL


def _h(z: jax.Array) -> jax.Array:
    return jnp.exp(_log_phi(z)) + z * jax.scipy.special.ndtr(z)


def _mills_fraction(x: jax.Array) -> jax.Array:
    """c1 in Laplace's continued fraction of the Mills ratio R(x) = Q(x) / phi(x):
    R = 1 / (x + c1), c1 = 1 / (x + c2), c2 = 2 / (x + c3), ... for x > 0 (Abramowitz
    and Stegun 26.2.14). With it h(-x) = phi (1 - x R) = phi c1 R: a product of positive
    numbers, in which nothing cancels."""

    fraction = jnp.zeros_like(x)
    for term in range(_TERMS, 0, -1):  # unrolled: a loop costs more than the divisions
        fraction = term / (x + fraction)
    return fraction


def _log_phi(z: jax.Array) -> jax.Array:
    return -0.5 * z * z - 0.5 * math.log(2 * math.pi)


def _floats(*values: ArrayLike) -> list[jax.Array]:
    """As float32, or float64 where that is enabled; lists and integers too."""
    return [jnp.asarray(value, float) for value in values]
