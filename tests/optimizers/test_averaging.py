"""The average of a path seen at some points, against the step by step recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperdyn_jax import optimizers
from hyperdyn_jax.optimizers import iterate_average


@pytest.mark.parametrize("power", [0.0, 2.5, 5.0])
@pytest.mark.parametrize(("steps", "length"), [(1, 1), (7, 1), (7, 7), (900, 250)])
def test_a_stretch_weighs_what_its_steps_do(power, steps, length):
    first = steps - length + 1
    left = np.prod([1 - (power + 1) / (s + power) for s in range(first, steps + 1)])
    assert iterate_average.weight(power, steps, length) == pytest.approx(
        1 - left, rel=1e-9
    )


def test_pieces_of_a_step_are_the_average_of_the_optimizer():
    optimizer = optimizers.averaged(optax.sgd(0.3), 5.0)
    params = {"w": jnp.float32([3.0, -1.0]), "b": jnp.float32(2.0)}
    state, average = optimizer.init(params), iterate_average.start(params)
    for t in range(1, 30):
        with jax.numpy_dtype_promotion("standard"):
            changes, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, changes)
        average = iterate_average.update(
            average, params, iterate_average.weight(5.0, t, 1)
        )
    found = iterate_average.read_out(average, params)
    for a, b in zip(
        jax.tree.leaves(found), jax.tree.leaves(state.average), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_floats_are_averaged_in_their_own_kind_and_nothing_else():
    def state(x):
        return {
            "half": jnp.full(3, x, jnp.bfloat16),
            "single": jnp.full((2, 2), x, jnp.float32),
            "double": np.full(2, float(x)),
            "scalar": np.float32(x),
            "python": float(x),
            "complex": jnp.full(1, x, jnp.complex64),
            "count": jnp.int32(x),
            "whole": int(x),
            "key": jax.random.key(int(x)),
            "act": jnp.tanh,
        }

    old, new = state(1), state(2)
    average = iterate_average.update(iterate_average.start(old), new, 0.25)
    found = iterate_average.read_out(average, new)
    for name in ("half", "single", "double", "scalar", "complex"):
        assert found[name].dtype == new[name].dtype
        assert type(found[name]) is type(new[name])
        np.testing.assert_array_equal(np.asarray(found[name], "c8"), 1.25)
    assert found["python"] == 1.25
    for name in ("count", "whole", "key", "act"):
        assert found[name] is new[name]


def test_bfloat16_does_not_stand_still():
    """Its rounding would swallow shares this small."""
    one, two = ({"w": jnp.full(2, x, jnp.bfloat16)} for x in (1, 2))
    average = iterate_average.start(one)
    for _ in range(1000):
        average = iterate_average.update(average, two, 1e-3)
    expected = 2 - (1 - 1e-3) ** 1000
    found = iterate_average.read_out(average, two)["w"]
    np.testing.assert_allclose(np.float32(found), expected, rtol=2**-8)


def test_one_program_for_every_share():
    state = {"w": jnp.ones(5), "b": jnp.zeros(3)}
    average = iterate_average.update(iterate_average.start(state), state, 0.5)
    compiled = iterate_average._mix_arrays._cache_size()
    for share in (0.1, 0.2, 0.3):
        average = iterate_average.update(average, state, share)
    assert iterate_average._mix_arrays._cache_size() == compiled
