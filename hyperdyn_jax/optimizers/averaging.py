"""The polynomial average of the path, kept step by step beside what is trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from hyperdyn_jax.optimizers.iterate_average import narrow, wide


class AveragedState(NamedTuple):
    """State of `averaged`.

    inner: of the optimizer.
    average: like the parameters, in float32 where they have less than 32 bits, the
      average of those after each step so far.
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
      optimizer: what trains, all of it, as nothing may change its updates afterwards;
        they stay as they are. `eval_params` gives the average.
      power: eta, at least 0; 0 is the plain mean.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AveragedState:
        average = jax.tree.map(wide, params)
        return AveragedState(optimizer.init(params), average, jnp.int32(0))

    def update(
        grads: Any, state: AveragedState, params: Any, **extra: Any
    ) -> tuple[Any, AveragedState]:
        changes, inner = optimizer.update(grads, state.inner, params, **extra)
        count = state.count + 1
        weight = (power + 1) / (count.astype(jnp.float32) + power)
        new = jax.tree.map(wide, optax.apply_updates(params, changes))
        average = optax.incremental_update(new, state.average, weight)
        return changes, AveragedState(inner, average, count)

    return optax.GradientTransformationExtraArgs(init, update)


def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate: of most optimizers those that are trained.

    Args:
      opt_state: state of any Optax optimizer, also where `averaged` or Optax's
        schedule-free is a part of it, or several are, each of some parameters.
      params: the parameters in training.

    Returns:
      `params`, with the average of the path in place of all that are averaged; the very
      same object where that makes no difference, as after `without_average`.
    """

    def averages(node: Any) -> bool:
        return isinstance(node, AveragedState | contrib.ScheduleFreeState)

    evaluated = params
    for part in filter(averages, jax.tree.leaves(opt_state, is_leaf=averages)):
        evaluated = jax.tree.map(
            lambda average, leaf: leaf if _absent(average) else narrow(average, leaf),
            _average(part, params),
            evaluated,
            is_leaf=_absent,
        )
    leaves = zip(jax.tree.leaves(evaluated), jax.tree.leaves(params), strict=True)
    return params if all(new is old for new, old in leaves) else evaluated


def _absent(node: Any) -> bool:
    """Whether it stands for parameters that another part of the optimizer has."""
    return isinstance(node, optax.MaskedNode)


def _average(part: Any, params: Any) -> Any:
    """The average in a state, without the parameters that are absent there."""
    if isinstance(part, AveragedState):
        return part.average
    own = jax.tree.map(
        lambda z, leaf: z if _absent(z) else leaf, part.z, params, is_leaf=_absent
    )
    return contrib.schedule_free_eval_params(part, own)


def without_average(opt_state: Any, params: Any) -> Any:
    """The state with `params` in place of the average that `averaged` keeps, so that
    `eval_params` gives these; the next update goes on averaging from there.

    Args:
      opt_state: state of an optimizer made by `create_optimizer`.
      params: the parameters in training.

    Returns:
      `opt_state` itself if `averaged` is no part of it.
    """
    inner = opt_state.inner_state
    if not isinstance(inner, AveragedState):
        return opt_state
    average = jax.tree.map(wide, params)
    return opt_state._replace(inner_state=inner._replace(average=average))
