"""SALeRA: a learning rate for every layer from two statistical tests, as Optax has it.

Schoenauer-Sebag, Schoenauer and Sebag 2017, "Stochastic Gradient Descent: Going As Fast
As Possible But Not Faster" (1709.01427); open points as their published program settles
them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class PageHinkley(NamedTuple):
    """A test for an upward change of the mean of a series: f32[] each.

    count: values since the last alarm.
    relaxed: the smoothed loss, nats.
    mean: of the smoothed losses so far, nats.
    deviation: sum of (smoothed loss - mean), nats.
    lowest: the least deviation so far, at most 0, nats.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple counts too
    relaxed: jax.Array
    mean: jax.Array
    deviation: jax.Array
    lowest: jax.Array


class SaleraState(NamedTuple):
    """State of `salera`.

    count: i32[], updates that were no backtracking.
    threshold: f32[], of the change detection, nats; 0 before the first step.
    log_rates: f32[] for every array of parameters, log of what multiplies its rate.
    paths: like the parameters, moving averages of the normalised gradients.
    previous: like the parameters, those before the last update.
    test: the change detection.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple counts too
    threshold: jax.Array
    log_rates: Any
    paths: Any
    previous: Any
    test: PageHinkley


def salera(
    learning_rate: Any,
    *,
    memory: float = 0.01,
    gain: float = 3e-6,
    relaxation: float = 0.01,
    tolerance: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD whose rates grow while gradients agree, and are halved when the loss rises.

    For every array of d parameters with gradient g, a path of unit steps

    .. math:: p_t = (1 - \alpha) p_{t-1} + \alpha g_t / |g_t|

    is compared with that of random unit vectors, for which :math:`|p_t|^2` has mean
    :math:`\mu_t = \alpha / (2 - \alpha) (1 - (1 - \alpha)^{2t})` and a standard
    deviation of about :math:`\sigma = \alpha / \sqrt d`; the rate is multiplied by
    :math:`\exp(C (|p_t|^2 - \mu_t) / \sigma)` before each step. When a Page-Hinkley
    test finds that the smoothed training loss has gone up, the last update is taken
    back, every rate is halved and the test begins anew.

    BatchNorm statistics are no parameters and are not taken back.

    Args:
      learning_rate: of all arrays at the start.
      memory: alpha, the weight of the newest gradient.
      gain: C. (Their program takes alpha and C as arguments; these are ours.)
      relaxation: weight of the newest loss in the smoothed one, theirs.
      tolerance: threshold of the test, as a fraction of the first loss, theirs.

    Returns:
      A transformation whose `update` needs the parameters, and the loss as `value`.
    """

    def init(params: Any) -> SaleraState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        zero = jnp.float32(0)
        return SaleraState(
            count=jnp.int32(0),
            threshold=zero,
            log_rates=jax.tree.map(lambda _: zero, params),
            paths=zeros,
            previous=jax.tree.map(jnp.array, params),
            test=PageHinkley(*[zero] * 5),
        )

    def update(
        grads: Any, state: SaleraState, params: Any, *, value: jax.Array, **_: Any
    ) -> tuple[Any, SaleraState]:
        started = state.threshold > 0
        threshold = jnp.where(started, state.threshold, tolerance * value)
        test = _observe(state.test, value, relaxation)
        alarm = test.deviation - test.lowest > threshold
        paths, log_rates = _adapt(grads, state, memory, gain)
        step = jax.tree.map(
            lambda log_rate, grad: -learning_rate * jnp.exp(log_rate) * grad,
            log_rates,
            grads,
        )
        back = jax.tree.map(jnp.subtract, state.previous, params)

        def choose(if_alarm: Any, otherwise: Any) -> Any:
            return jax.tree.map(
                lambda a, b: jnp.where(alarm, a, b), if_alarm, otherwise
            )

        halved = jax.tree.map(lambda x: x - jnp.log(jnp.float32(2)), state.log_rates)
        new = SaleraState(
            count=state.count + jnp.where(alarm, 0, 1).astype(jnp.int32),
            threshold=threshold,
            log_rates=choose(halved, log_rates),
            paths=choose(state.paths, paths),
            previous=choose(state.previous, params),
            test=choose(PageHinkley(*[jnp.float32(0)] * 5), test),
        )
        return choose(back, step), new

    return optax.GradientTransformationExtraArgs(init, update)


def _observe(test: PageHinkley, value: jax.Array, relaxation: float) -> PageHinkley:
    """Takes one loss: a mean of all at first, a moving average later."""
    count = test.count
    early = (count * test.relaxed + value) / (count + 1)
    late = (1 - relaxation) * test.relaxed + relaxation * value
    relaxed = jnp.where(count > 1 / relaxation, late, early)
    mean = (count * test.mean + relaxed) / (count + 1)
    deviation = test.deviation + relaxed - mean
    lowest = jnp.minimum(test.lowest, deviation)
    return PageHinkley(count + 1, relaxed, mean, deviation, lowest)


def _adapt(
    grads: Any, state: SaleraState, memory: float, gain: float
) -> tuple[Any, Any]:
    """The new paths, and the new logarithms of the rates."""

    def walk(path: jax.Array, grad: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.sum(grad**2))
        unit = grad / jnp.where(norm > 1e-6, norm, jnp.inf)  # no direction: no step
        return (1 - memory) * path + memory * unit

    paths = jax.tree.map(walk, state.paths, grads)
    time = (state.count + 1).astype(jnp.float32)
    mean = memory / (2 - memory) * (1 - (1 - memory) ** (2 * time))

    def grow(log_rate: jax.Array, path: jax.Array) -> jax.Array:
        stddev = memory / path.size**0.5
        return log_rate + gain * (jnp.sum(path**2) - mean) / stddev

    return paths, jax.tree.map(grow, state.log_rates, paths)
