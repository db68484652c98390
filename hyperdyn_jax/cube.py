"""Climbing a smooth function on the unit cube, inside jit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def climb(
    function: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    max_steps: int,
    curvature: jax.Array | float,
    tolerance: float = 1e-6,
) -> jax.Array:
    """Climbs from one point with L-BFGS.

    The cube is folded into the plane by x = (1 - cos(angle)) / 2: the search is
    unconstrained, no iterate leaves the cube, and a maximum on a face becomes an
    ordinary smooth one, which L-BFGS finds as fast as any other.

    Args:
      function: f[d] -> f[], differentiable on the closed cube.
      start: f[d] in [0, 1].
      max_steps: largest number of L-BFGS steps, each with at most
        `LINESEARCH_STEPS` evaluations and in practice one or two.
      curvature: rough size of the second derivative of `function` by the angle; it
        sets the length of the very first step and saves the evaluations that a line
        search would spend on finding it.
      tolerance: stop when no component of the gradient by the angle, divided by the
        curvature, is larger.

    Returns:
      The point reached, f[d] in [0, 1]; but for rounding, never worse than the start.
    """

    def objective(angle: jax.Array) -> jax.Array:
        value = -function(_unfold(angle)) / curvature
        # A point that cannot be evaluated is no candidate, and must not stop the climb.
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    solver = optax.lbfgs(
        memory_size=len(start) + 2,
        scale_init_precond=False,
        linesearch=optax.scale_by_zoom_linesearch(
            max_linesearch_steps=LINESEARCH_STEPS, initial_guess_strategy="one"
        ),
    )
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        step, _, state, _ = carry
        slope = jnp.max(jnp.abs(optax.tree.get(state, "grad")))
        return (step == 0) | ((step < max_steps) & (slope > tolerance))

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, angle, state, first = carry
        value, grad = value_and_grad(angle, state=state)
        # Optax indexes its memory with mixed integers, which strict callers forbid.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = solver.update(
                grad, state, angle, value=value, grad=grad, value_fn=objective
            )
        first = jnp.where(step == 0, value, first)
        return step + 1, optax.apply_updates(angle, updates), state, first

    angle = _fold(start)
    begin = (0, angle, solver.init(angle), jnp.zeros_like(angle[0]))
    _, angle, state, first = jax.lax.while_loop(unfinished, advance, begin)
    return jnp.where(optax.tree.get(state, "value") <= first, _unfold(angle), start)


LINESEARCH_STEPS = 8


def _unfold(angle: jax.Array) -> jax.Array:
    return 0.5 * (1.0 - jnp.cos(angle))


def _fold(point: jax.Array) -> jax.Array:
    # On a face the fold is flat, and a climb that starts there could not leave it.
    return jnp.arccos(1.0 - 2.0 * jnp.clip(point, 1e-3, 1 - 1e-3))
