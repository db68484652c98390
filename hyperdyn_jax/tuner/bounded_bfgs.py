"""Climbing a smooth function on the unit cube, inside jit."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def climb(
    function: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    max_steps: int,
    curvature: jax.Array | float,
    tolerance: float = 1e-6,
) -> jax.Array:
    """Climbs from one point with BFGS (Nocedal and Wright 2006, algorithm 6.1).

    The cube is folded into the plane by x = (1 - cos(angle)) / 2: the search is
    unconstrained, no iterate leaves the cube, and a maximum on a face becomes an
    ordinary smooth one, which BFGS finds as fast as any other.

    One loop of evaluations: a step that does not climb enough is cut back and tried
    again, and counts like any other.

    Args:
      function: f[d] -> f[], differentiable on the closed cube.
      start: f[d] in [0, 1].
      max_steps: largest number of steps, each one evaluation of the function and its
        gradient; the start is one more.
      curvature: rough size of the second derivative of `function` by the angle; it
        sets the length of the very first step.
      tolerance: stop when no component of the gradient by the angle, divided by the
        curvature, is larger.

    Returns:
      The point reached, f[d] in [0, 1]; but for rounding, never worse than the start.
    """

    def objective(angle: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, grad = jax.value_and_grad(lambda x: function(_unfold(x)))(angle)
        value, grad = -value / curvature, -grad / curvature
        # A point that cannot be evaluated is no candidate, and must not stop the climb.
        return jnp.where(jnp.isfinite(value), value, jnp.inf), grad

    def unfinished(descent: _Descent) -> jax.Array:
        slope = jnp.max(jnp.abs(descent.grad))
        return (descent.step <= max_steps) & ~(slope <= tolerance)

    angle = _fold(start)
    end = jax.lax.while_loop(
        unfinished, lambda descent: _advance(objective, descent), _begin(angle)
    )
    return jnp.where(jnp.all(end.angle == angle), start, _unfold(end.angle))


class _Descent(NamedTuple):
    """A minimisation under way.

    step: i32[], evaluations so far.
    angle: f[d], the best point so far.
    value, grad: f[], f[d] there.
    inverse: f[d, d], estimate of the inverse Hessian there.
    move: f[d], the step to try next.
    """

    step: jax.Array
    angle: jax.Array
    value: jax.Array
    grad: jax.Array
    inverse: jax.Array
    move: jax.Array


def _begin(angle: jax.Array) -> _Descent:
    """Before the start is evaluated, which is a step of no length."""
    none = jnp.zeros_like(angle)
    return _Descent(
        step=jnp.int32(0),
        angle=angle,
        value=jnp.full((), jnp.inf, angle.dtype),
        grad=jnp.full_like(angle, jnp.inf),
        inverse=jnp.eye(len(angle), dtype=angle.dtype),
        move=none,
    )


def _advance(
    objective: Callable[[jax.Array], tuple[jax.Array, jax.Array]], old: _Descent
) -> _Descent:
    """Evaluates the step to try; takes it, or cuts it back."""
    angle = old.angle + old.move
    value, grad = objective(angle)
    first = old.step == 0
    slope = jnp.where(first, 0.0, old.grad @ old.move)
    taken = value <= old.value + _ENOUGH * slope
    inverse = jnp.where(
        taken & ~first,
        _update(old.inverse, old.move, grad - old.grad, old.step == 1),
        old.inverse,
    )
    # Where the parabola through both values and the slope is lowest.
    cut = -0.5 * slope / (value - old.value - slope)
    shorter = jnp.clip(cut, 0.1, 0.5) * old.move
    onward = -inverse @ grad
    onward = onward / jnp.maximum(1.0, jnp.max(jnp.abs(onward)) / _LONGEST)
    return _Descent(
        step=old.step + 1,
        angle=jnp.where(taken, angle, old.angle),
        value=jnp.where(taken, value, old.value),
        grad=jnp.where(taken, grad, old.grad),
        inverse=inverse,
        move=jnp.where(taken, onward, shorter),
    )


def _update(
    inverse: jax.Array, move: jax.Array, change: jax.Array, fresh: jax.Array
) -> jax.Array:
    """The inverse Hessian after a step and the change of the gradient over it.

    Where the function is not convex there is no such matrix, and the next step may be
    twice as long. The first update sets the scale (Nocedal and Wright, eq. 6.20).
    """
    curved = move @ change
    convex = curved > 1e-10 * jnp.sqrt((move @ move) * (change @ change))
    rho = 1.0 / jnp.where(convex, curved, 1.0)
    scale = jnp.where(fresh, curved / jnp.maximum(change @ change, 1e-300), 1.0)
    identity = jnp.eye(len(move), dtype=move.dtype)
    left = identity - rho * jnp.outer(move, change)
    updated = left @ (scale * inverse) @ left.T + rho * jnp.outer(move, move)
    return jnp.where(convex, updated, 2.0 * inverse)


_ENOUGH = 1e-4  # share of the promised descent that a step must bring
_LONGEST = 0.8  # radians, about half of an axis: beyond, the fold repeats itself


def _unfold(angle: jax.Array) -> jax.Array:
    return 0.5 * (1.0 - jnp.cos(angle))


def _fold(point: jax.Array) -> jax.Array:
    # On a face the fold is flat, and a climb that starts there could not leave it.
    return jnp.arccos(1.0 - 2.0 * jnp.clip(point, 1e-3, 1 - 1e-3))
