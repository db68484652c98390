"""The wait-and-watch test: Algorithm 5 of the paper."""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


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


def relative_temperature(epoch: int, cooling: float) -> np.float32:
    """T of an epoch over T of the first: (1 + epoch)^-cooling.

    Cooled, the test follows smaller falls of the accuracy as the run goes on; heated
    (less than 0), it puts up with larger ones. Time-varying temperatures are among the
    paper's future work (section 5).

    Args:
      epoch: at least 0.
      cooling: from -4 to 4; 0 is a constant temperature.

    Raises:
      ValueError: cooling is out of range.
    """
    if not (_is_number(cooling) and -4 <= cooling <= 4):
        raise ValueError(f"cooling must be a number from -4 to 4, got {cooling!r}")
    return np.float32((1.0 + epoch) ** -cooling)


def check_settings(window: int, temperature: float, offset: float) -> None:
    """Raises ValueError for settings the test is not defined for."""
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be a whole number >= 1, got {window!r}")
    if not (_is_number(temperature) and 0 < temperature < math.inf):
        raise ValueError(f"temperature must be > 0 and finite, got {temperature!r}")
    if not _is_number(offset):
        raise ValueError(f"offset must be a number or infinity, got {offset!r}")


def _is_number(value: object) -> bool:
    """A real number or an infinity: neither NaN nor True."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    return not math.isnan(value)
