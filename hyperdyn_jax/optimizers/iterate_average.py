"""The polynomial average of a path of which only some points are seen.

`optimizers.averaged` keeps it step by step inside of an optimizer; this is the same
average for any pytree of training state, where the path is seen every few steps.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.system.pytrees import ARRAYS


def weight(power: float, steps: int, length: int) -> float:
    r"""How much of the average the end of a stretch of the path makes up.

    .. math:: 1 - \prod_{s = t - d + 1}^{t} \Bigl(1 - \frac{\eta + 1}{s + \eta}\Bigr)
              = 1 - \frac{\Gamma(t)\, \Gamma(t - d + \eta + 1)}
                         {\Gamma(t - d)\, \Gamma(t + \eta + 1)}

    What the steps of the stretch weigh together in `optimizers.averaged` (Shamir and
    Zhang 2013, 1212.1824, section 4); about 1 - ((t - d) / t)^(eta + 1).

    Args:
      power: eta, at least 0.
      steps: t, from the untrained network to the end of the stretch.
      length: d, of the stretch, from 1 to t.
    """
    before = steps - length
    if before == 0:  # the untrained network is no part of it
        return 1.0
    gammas = math.lgamma(steps) - math.lgamma(before)
    gammas += math.lgamma(before + power + 1) - math.lgamma(steps + power + 1)
    return -math.expm1(gammas)


def start(state: Any) -> list[Any]:
    """The average of a path that has not begun: the floats of its state.

    Args:
      state: any pytree.

    Returns:
      An array for every leaf with real or complex floating point numbers, in order;
      those of less than 32 bits in float32. Python's floats stay what they are.
    """
    return [wide(leaf) for leaf in jax.tree.leaves(state) if _is_float(leaf)]


def update(average: list[Any], state: Any, share: float) -> list[Any]:
    """The average with the state at the end of another stretch in it.

    Args:
      average: as of `start`.
      state: like the one that it is an average of.
      share: of the state, see `weight`.
    """
    new = start(state)
    if share == 1:
        return new
    single = np.float32(share)
    pairs = list(zip(average, new, strict=True))
    # One program for all that is on a device; the rest is NumPy's and Python's.
    mixed = iter(_mix_arrays([x for x in pairs if isinstance(x[1], jax.Array)], single))
    with np.errstate(all="ignore"):  # a path that diverges is told of by its score
        return [
            next(mixed) if isinstance(pair[1], jax.Array) else _mix(*pair, single)
            for pair in pairs
        ]


def read_out(average: list[Any], state: Any) -> Any:
    """The state with the average in place of its floats, in its own dtypes."""
    floats = iter(average)
    return jax.tree.map(
        lambda leaf: narrow(next(floats), leaf) if _is_float(leaf) else leaf, state
    )


def _is_float(leaf: Any) -> bool:
    if isinstance(leaf, ARRAYS):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return isinstance(leaf, float | complex)


def wide(leaf: Any) -> Any:
    """The leaf, in float32 if it holds floats of less than 32 bits."""
    short = isinstance(leaf, ARRAYS) and _is_float(leaf) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.float32) if short else leaf


def narrow(average: Any, leaf: Any) -> Any:
    """An average in the dtype of the leaf that it is an average of."""
    other = isinstance(leaf, ARRAYS) and average.dtype != leaf.dtype
    return average.astype(leaf.dtype) if other else average


def _mix(old: Any, new: Any, share: Any) -> Any:
    share = share.astype(new.dtype) if isinstance(new, ARRAYS) else float(share)
    return share * new + (1 - share) * old


@jax.jit
def _mix_arrays(pairs: list[tuple[Any, Any]], share: jax.Array) -> list[Any]:
    return [_mix(old, new, share) for old, new in pairs]
