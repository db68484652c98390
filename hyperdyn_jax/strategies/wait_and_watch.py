"""The wait-and-watch test: Algorithm 5 of the paper."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hyperdyn_jax.system import checks


def keep_probability(
    history: ArrayLike,
    *,
    window: int = 4,
    temperature: float = 1.0,
    offset: float = 0.01,
) -> jax.Array:
    r"""Probability of keeping the incumbent, from the trend of the accuracy.

    .. math:: p = \min(1, \exp((y_\tau - y_{\tau - \Delta}) / T - b))

    A setting under which accuracy still rises is kept; the faster accuracy falls, the
    likelier a switch. With fewer than window + 1 accuracies, the oldest stands in.

    Args:
      history: f[n] accuracies of the accepted states, percentage points, oldest
        first, finite; the untrained network is the first.
      window: epochs looked back, at least 1.
      temperature: percentage points, greater than zero.
      offset: any number; infinity never keeps.

    Returns:
      f32[] in [0, 1].

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(f"{keep_probability([50.0, 49.0], offset=0.0):.4f}")
      0.3679
    """
    check_settings(window, temperature, offset)
    history = jnp.asarray(history, jnp.float32)
    if history.ndim != 1 or not history.size:
        raise ValueError(
            f"history must be a list of at least one accuracy, got shape "
            f"{history.shape}"
        )
    rise = history[-1] - history[max(-1 - window, -len(history))]
    return jnp.exp(jnp.minimum(rise / temperature - offset, 0.0))


def check_settings(window: int, temperature: float, offset: float) -> None:
    """Raises ValueError for settings the test is not defined for."""
    checks.check_whole("window", window, 1)
    checks.check_number("temperature", temperature, 0, math.inf)
    if not checks.is_number(offset) or math.isnan(offset):
        raise ValueError(f"offset must be a number or infinity, got {offset!r}")
