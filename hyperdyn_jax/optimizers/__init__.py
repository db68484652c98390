"""Optax optimizers whose hyperparameters can be read and set between two steps.

`optax.inject_hyperparams` keeps them as f32 scalars in the optimizer state. They are
arguments of the compiled training step, not constants in it, so a new value costs
nothing and a checkpoint holds the values in force.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from hyperdyn_jax.optimizers import salera as salera_lib

AVERAGING = 0.9  # schedule-free's interpolation, its authors' default


def sgd(
    learning_rate: float, momentum: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """SGD with heavy-ball momentum and coupled weight decay (He et al. 2015)."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(learning_rate, momentum),
    )


def plain_sgd(
    learning_rate: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """SGD without momentum, with coupled weight decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask), optax.sgd(learning_rate)
    )


def adam(
    learning_rate: float, b1: float, b2: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2014) with decoupled weight decay, as in AdamW."""
    return optax.chain(
        unbiased(lambda rate: optax.adam(rate, b1, b2), learning_rate, b1, b2),
        optax.add_decayed_weights(-learning_rate * weight_decay, mask),
    )


def lars(
    learning_rate: float, momentum: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """LARS (You et al. 2017, 1708.03888): the step of every array of parameters is in
    proportion to its norm."""
    mask = True if mask is None else mask
    return optax.lars(
        learning_rate, weight_decay, weight_decay_mask=mask, momentum=momentum
    )


def prodigy(
    learning_rate: float, b1: float, b2: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """Prodigy (Mishchenko and Defazio 2023, 2306.06101): Adam that estimates its own
    rate, which `learning_rate` multiplies; coupled weight decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        unbiased(lambda rate: contrib.prodigy(rate, (b1, b2)), learning_rate, b1, b2),
    )


def schedule_free(
    learning_rate: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """Schedule-free SGD (Defazio et al. 2024, 2405.15682): evaluate `eval_params`."""
    return contrib.schedule_free(
        plain_sgd(learning_rate, weight_decay, mask), learning_rate, b1=AVERAGING
    )


def salera(
    learning_rate: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    """SALeRA, with coupled weight decay; `learning_rate` is that of the start."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask), salera_lib.salera(learning_rate)
    )


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
        weight = (power + 1) / (count + power)
        new = optax.apply_updates(params, changes)
        average = optax.incremental_update(new, state.average, weight)
        return changes, AveragedState(inner, average, count)

    return optax.GradientTransformationExtraArgs(init, update)


# Every optimizer with the hyperparameters it has, and the values they may take.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "plain_sgd": plain_sgd,
    "adam": adam,
    "lars": lars,
    "prodigy": prodigy,
    "schedule_free": schedule_free,
    "salera": salera,
}
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "sgd": ("learning_rate", "momentum", "weight_decay"),
    "plain_sgd": ("learning_rate", "weight_decay"),
    "adam": ("learning_rate", "b1", "b2", "weight_decay"),
    "lars": ("learning_rate", "momentum", "weight_decay"),
    "prodigy": ("learning_rate", "b1", "b2", "weight_decay"),
    "schedule_free": ("learning_rate", "weight_decay"),
    "salera": ("learning_rate", "weight_decay"),
}
# Where each may be. A decay rate of one would never forget.
_RATE = (np.inf, ">= 0 and finite")
_DECAY = (1.0, ">= 0 and < 1")
LIMITS: dict[str, tuple[float, str]] = {
    "learning_rate": _RATE,
    "weight_decay": _RATE,
    "momentum": _DECAY,
    "b1": _DECAY,
    "b2": _DECAY,
}


def check_hyperparameter(name: str, value: float) -> None:
    """Raises ValueError where a hyperparameter is not a number that it can be."""
    limit, valid = LIMITS.get(name, (np.inf, "finite"))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in it
            possible = number and 0 <= np.float32(value) < limit
    except OverflowError:  # nor any float
        possible = False
    if not possible:
        raise ValueError(f"{name} must be a number {valid}, got {value!r}")


def create_optimizer(
    name: str,
    hparams: Mapping[str, float],
    *,
    decay_all: bool = False,
    averaging: float | None = None,
) -> optax.GradientTransformation:
    """An optimizer with all its hyperparameters exposed in its state.

    Args:
      name: one of `OPTIMIZERS`.
      hparams: the value each of its hyperparameters starts from.
      decay_all: apply weight decay to BatchNorm parameters and biases too.
      averaging: power of the average of the path that is evaluated (`averaged`); None
        to evaluate what is trained.

    Returns:
      A gradient transformation; its state is read and set by `get_hyperparams` and
      `set_hyperparams`.

    Raises:
      ValueError: the optimizer is unknown, or lacks or is not given a hyperparameter.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)}, got {name!r}")
    if set(hparams) != set(HYPERPARAMETERS[name]):
        raise ValueError(
            f"optimizer {name!r} needs {list(HYPERPARAMETERS[name])}, "
            f"got {sorted(hparams)}"
        )
    mask = None if decay_all else _kernels
    make = OPTIMIZERS[name]
    if averaging is not None:

        @functools.wraps(make)  # its arguments are those that can be set
        def averaging_make(*args: Any, **kwargs: Any) -> optax.GradientTransformation:
            return averaged(OPTIMIZERS[name](*args, **kwargs), averaging)

        make = averaging_make
    optimizer = optax.inject_hyperparams(
        make, static_args=("mask",), hyperparam_dtype=jnp.float32
    )(**hparams, mask=mask)

    def update(*args: Any, **kwargs: Any) -> Any:
        # Optax mixes integer steps with floats, which strict callers forbid.
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(*args, **kwargs)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate: of most optimizers those that are trained.

    Args:
      opt_state: state of an optimizer made by `create_optimizer`.
      params: the parameters in training.

    Returns:
      `params` themselves, or an average of the path.
    """
    inner = opt_state.inner_state
    if isinstance(inner, AveragedState):
        return inner.average
    if not isinstance(inner, contrib.ScheduleFreeState):
        return params
    return contrib.schedule_free_eval_params(inner, params)


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


def get_hyperparams(opt_state: Any) -> dict[str, jax.Array]:
    """The hyperparameters in force, f32[] each.

    Args:
      opt_state: any Optax state with `optax.inject_hyperparams` somewhere in it.

    Returns:
      Values by name. Where several parts of the optimizer have one name, each has its
      place before it, such as `encoder/learning_rate` of `optax.multi_transform`.
    """
    found = _injected(opt_state)
    return {
        _called(place, name, found): value
        for place, node in found
        for name, value in node.hyperparams.items()
    }


def set_hyperparams(opt_state: Any, hparams: Mapping[str, Any]) -> Any:
    """A new optimizer state with other hyperparameters; the old one stays as it was.

    Args:
      opt_state: any Optax state with `optax.inject_hyperparams` somewhere in it.
      hparams: new values by name, as `get_hyperparams` calls them; the others stay.

    Returns:
      The new state, which a compiled step takes without compiling again.

    Raises:
      ValueError: there is no hyperparameter of that name, or several; it follows a
        schedule, which would overwrite the value; or it is held in less than float32.
    """
    found = _injected(opt_state)
    new: dict[Place, dict[str, Any]] = {}
    for called, value in hparams.items():
        place, name, node = _find(called, found)
        _check_settable(name, node)
        new.setdefault(place, {})[name] = _like(node.hyperparams[name], value)
    return _replace(opt_state, new)


Place = tuple[str, ...]  # where in an optimizer's state


def _is_injected(node: Any) -> bool:
    """Whether it is a state of `optax.inject_hyperparams`, of whichever version."""
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _injected(opt_state: Any, place: Place = ()) -> list[tuple[Place, Any]]:
    """Every state of `inject_hyperparams`, also those inside others."""
    found = []
    leaves = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=_is_injected)
    for path, node in leaves:
        if _is_injected(node):
            parts = (jax.tree_util.keystr((key,), simple=True) for key in path)
            here = (*place, *parts)
            found += [(here, node), *_injected(node.inner_state, (*here, "inner"))]
    return found


def _replace(
    opt_state: Any, new: Mapping[Place, Mapping[str, Any]], place: Place = ()
) -> Any:
    """The state with new values in the states of `inject_hyperparams`."""

    def change(path: Any, node: Any) -> Any:
        if not _is_injected(node):
            return node
        parts = (jax.tree_util.keystr((key,), simple=True) for key in path)
        here = (*place, *parts)
        return node._replace(
            hyperparams=node.hyperparams | new.get(here, {}),
            inner_state=_replace(node.inner_state, new, (*here, "inner")),
        )

    return jax.tree_util.tree_map_with_path(change, opt_state, is_leaf=_is_injected)


def _called(place: Place, name: str, found: list[tuple[Place, Any]]) -> str:
    """A hyperparameter's name, with what sets it apart where there are several."""
    others = [p for p, node in found if name in node.hyperparams and p != place]
    shared = set(place).intersection(*map(set, others)) if others else set(place)
    return "/".join([part for part in place if part not in shared] + [name])


def _find(called: str, found: list[tuple[Place, Any]]) -> tuple[Place, str, Any]:
    """The one hyperparameter of a name, with or without its place."""
    if not found:
        raise ValueError(
            "the optimizer has no hyperparameters that can be set; make it with "
            "optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.float32)"
            "(learning_rate=0.1)"
        )
    *where, name = called.split("/")
    fits = [
        (place, name, node)
        for place, node in found
        if name in node.hyperparams and set(where) <= set(place)
    ]
    names = sorted(_called(p, n, found) for p, node in found for n in node.hyperparams)
    if not fits:
        raise ValueError(
            f"the optimizer has no hyperparameter {called}; it has {', '.join(names)}"
        )
    if len(fits) > 1:
        several = ", ".join(sorted(_called(p, name, found) for p, *_ in fits))
        raise ValueError(f"{called} is in several places; name one of {several}")
    return fits[0]


def _check_settable(name: str, node: Any) -> None:
    """Raises ValueError where a value that is set would be lost or spoiled."""
    if name in getattr(node, "hyperparams_states", {}):
        raise ValueError(
            f"{name} follows a schedule, which would overwrite it at the next step; "
            f"make the optimizer with a number in place of the schedule"
        )
    dtype = jnp.asarray(node.hyperparams[name]).dtype
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise ValueError(
            f"{name} is held as {dtype}, which has two or three digits (0.999 becomes "
            f"1); make the optimizer with "
            f"optax.inject_hyperparams(..., hyperparam_dtype=jnp.float32)"
        )


def _like(old: Any, value: Any) -> jax.Array:
    """A new value that a compiled step cannot tell from the old one: a Python float is
    weakly typed, and an array elsewhere is another program."""
    value = jnp.asarray(value, jnp.float32)
    if getattr(old, "committed", False):
        return jax.device_put(value, old.sharding)
    return value


def _kernels(params: Any) -> Any:
    """Which parameters are weight matrices: BatchNorm's and biases are vectors."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)
