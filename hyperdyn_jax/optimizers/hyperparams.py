"""Hyperparameters in an optimizer's state: what they may be, reading and setting."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.system.checks import is_number

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
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in it
            possible = is_number(value) and 0 <= np.float32(value) < limit
    except OverflowError:  # nor any float
        possible = False
    if not possible:
        raise ValueError(f"{name} must be a number {valid}, got {value!r}")


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
        # Of an NNX optimizer it is a variable, which is a pytree and stays one.
        new.setdefault(place, {})[name] = jax.tree.map(
            lambda old, value=value: _like(old, value), node.hyperparams[name]
        )
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
            f"make the optimizer with a number in place of the schedule, which tune "
            f"takes as base"
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
    traced = isinstance(old, jax.core.Tracer)  # which is on no device yet
    if not traced and getattr(old, "committed", False):
        return jax.device_put(value, old.sharding)
    return value
