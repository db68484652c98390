"""The polynomial average of the path, kept step by step beside what is trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib


class AveragedState(NamedTuple):
    """State of `averaged`.

    inner: of the optimizer.
    average: like the parameters, the average of those after each step so far.
    count: i32[], steps so far.
    """

    inner: Any
    average: Any
    count: jax.Array  # type: ignore[assignment]  # a tuple counts too


def averaged(
    optimizer: optax.GradientTransformation, power: float
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the polynomial average of the path beside what is trained.

    .. math:: \bar w_t = \bar w_{t-1}
              + \frac{\eta + 1}{t + \eta} (w_t - \bar w_{t-1})

    (Shamir and Zhang 2013, 1212.1824, section 4.) The weight of step s grows as
    s^eta, so the average covers about the last 1 / (eta + 1) of the steps so far.

    Args:
      optimizer: what trains; its updates stay as they are.
      power: eta, at least 0; 0 is the plain mean.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AveragedState:
        return AveragedState(optimizer.init(params), params, jnp.int32(0))

    def update(
        grads: Any, state: AveragedState, params: Any, **extra: Any
    ) -> tuple[Any, AveragedState]:
        changes, inner = optimizer.update(grads, state.inner, params, **extra)
        count = state.count + 1
        weight = (power + 1) / (count.astype(jnp.float32) + power)
        new = optax.apply_updates(params, changes)
        average = optax.incremental_update(new, state.average, weight)
        return changes, AveragedState(inner, average, count)

    return optax.GradientTransformationExtraArgs(init, update)


def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate: of most optimizers those that are trained.

    Args:
      opt_state: state of any Optax optimizer, also where `averaged` or Optax's
        schedule-free is a part of it.
      params: the parameters in training.

    Returns:
      `params` themselves, or an average of the path.

    Raises:
      ValueError: several parts of the optimizer average.
    """

    def averages(node: Any) -> bool:
        return isinstance(node, AveragedState | contrib.ScheduleFreeState)

    found = [*filter(averages, jax.tree.leaves(opt_state, is_leaf=averages))]
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} parts of the optimizer keep an average; call eval_params "
            f"with the state and the parameters of each"
        )
    if not found:
        return params
    if isinstance(found[0], AveragedState):
        return found[0].average
    return contrib.schedule_free_eval_params(found[0], params)


def without_average(opt_state: Any, params: Any) -> Any:
    """The state, evaluated at the end of the path where it was at its average.

    Args:
      opt_state: state of an optimizer made by `create_optimizer`.
      params: the parameters in training.

    Returns:
      `opt_state` itself if `averaged` is no part of it.
    """
    inner = opt_state.inner_state
    if not isinstance(inner, AveragedState):
        return opt_state
    return opt_state._replace(inner_state=inner._replace(average=params))
