"""Kernels of the Gaussian process: K1 on the unit cube of settings, K2 on epochs."""

import math

import jax
import jax.numpy as jnp
from tinygp import kernels

from hyperdyn_jax.system import checks


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
        checks.check_number("alpha", self.alpha, 0, math.inf)
        checks.check_number("beta", self.beta, 0, math.inf)

    def evaluate(self, t1: jax.Array, t2: jax.Array) -> jax.Array:
        # As (1 + lag / beta)^-alpha, which is the same and cannot overflow.
        return (1.0 + jnp.abs(t1 - t2) / self.beta) ** -self.alpha


USUAL = (SPATIAL_KERNELS["matern52"], TimeKernel())  # K1 and K2 as they come
