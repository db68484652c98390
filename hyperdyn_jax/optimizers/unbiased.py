"""Adam's bias correction, right while its betas change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class UnbiasedState(NamedTuple):
    """State of `unbiased`.

    inner: of the optimizer.
    count: i32[], steps so far.
    weights: f32[2], what the first and the second moment weigh all gradients so far
      with, together.
    """

    inner: Any
    count: jax.Array  # type: ignore[assignment]  # a tuple counts too
    weights: jax.Array


def unbiased(
    make: Callable[[Any], optax.GradientTransformation],
    learning_rate: float,
    b1: float,
    b2: float,
) -> optax.GradientTransformation:
    r"""An optimizer with Adam's moments, right while its betas change.

    Adam divides a moment by the weight that it has given to gradients so far (Kingma
    and Ba 2014, section 3). Where beta is constant, that is 1 - beta^t, and Optax uses
    this with the beta of the day: after a change from 0.9 to 0.9999 at step 352, steps
    are five times too small. The weight itself follows

    .. math:: c_t = \beta_t c_{t-1} + (1 - \beta_t)

    and the rate of each step is multiplied by what Optax's correction lacks. (Adam's
    epsilon, which is there against division by zero, is scaled with it.)

    Args:
      make: the optimizer of a learning rate.
      learning_rate, b1, b2: in force at this step.
    """
    betas = jnp.stack([jnp.asarray(b, jnp.float32) for b in (b1, b2)])

    def init(params: Any) -> UnbiasedState:
        zeros = jnp.zeros(2, jnp.float32)
        return UnbiasedState(make(learning_rate).init(params), jnp.int32(0), zeros)

    def update(
        grads: Any, state: UnbiasedState, params: Any = None
    ) -> tuple[Any, UnbiasedState]:
        count = state.count + 1
        weights = betas * state.weights + (1 - betas)
        first, second = (1 - betas**count) / weights
        rate = learning_rate * first / jnp.sqrt(second)
        changes, inner = make(rate).update(grads, state.inner, params)
        return changes, UnbiasedState(inner, count, weights)

    return optax.GradientTransformation(init, update)
