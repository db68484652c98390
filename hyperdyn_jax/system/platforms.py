"""Whether JAX has anything to compute on, and what to say where it has not."""

from typing import Any

import jax
from jax.extend import backend


def problem() -> str:
    """Why JAX finds no device, in a line; "" if it finds some."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        return _in_words(str(error).partition("\n")[0])
    return ""


def in_words(devices: list[jax.Device]) -> str:
    """How many devices there are, of what kind."""
    return f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"


def _in_words(error: str) -> str:
    config: Any = jax.config  # its attributes have no types
    asked = config.jax_platforms
    there = _without_choice(asked) if asked else ""
    if not there:
        return f"JAX finds no device: {error}"
    # JAX asserts where a platform that it knows has no plugin here.
    why = error.partition("': ")[2] or error or "its JAX plugin is not installed"
    why = why.partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    none = f"JAX_PLATFORMS={asked}: no such device here, {why}"
    return f"{none}; there is {there}; name what there is, or leave the variable out"


def _without_choice(asked: str) -> str:
    """The devices that JAX finds where none are asked for; "" if it finds none."""
    jax.config.update("jax_platforms", None)
    backend.clear_backends()
    try:
        return in_words(jax.devices())
    except (RuntimeError, AssertionError):
        return ""
    finally:
        jax.config.update("jax_platforms", asked)
        backend.clear_backends()
