"""Hyperparameters in the optimizer state: read, set, traced once, and in effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperdyn_jax import optimizers

HPARAMS = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "plain_sgd": {"learning_rate": 0.1, "weight_decay": 0.01},
    "adam": {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "weight_decay": 0.01},
}
NEW = {"learning_rate": 0.5, "momentum": 0.25, "b1": 0.5, "b2": 0.75}
PARAMS = {"kernel": np.array([[1.0, -2.0]], np.float32), "bias": np.ones(2, np.float32)}
GRADS = {"kernel": np.array([[0.5, 3.0]], np.float32), "bias": np.full(2, 2.0, "f4")}


def reference(name, trajectory, decay_all=False):
    """The textbook updates in float64, one for each setting of the trajectory."""
    params = {k: v.astype(np.float64) for k, v in PARAMS.items()}
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    for t, h in enumerate(trajectory, start=1):
        for k, w in params.items():
            decay = h["weight_decay"] * w * (decay_all or k == "kernel")
            g = GRADS[k].astype(np.float64)
            if name == "adam":
                first[k] = h["b1"] * first[k] + (1 - h["b1"]) * g
                second[k] = h["b2"] * second[k] + (1 - h["b2"]) * g**2
                m = first[k] / (1 - h["b1"] ** t)
                v = second[k] / (1 - h["b2"] ** t)
                step = m / (np.sqrt(v) + 1e-8) + decay
            else:
                first[k] = h.get("momentum", 0.0) * first[k] + g + decay
                step = first[k]
            params[k] = w - h["learning_rate"] * step
    return params


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", HPARAMS)
def test_updates_follow_the_textbook_before_and_after_a_change(name, decay_all):
    optimizer = optimizers.create_optimizer(name, HPARAMS[name], decay_all=decay_all)
    new = {k: v for k, v in NEW.items() if k in HPARAMS[name]}
    trajectory = [HPARAMS[name]] * 2 + [HPARAMS[name] | new] * 2

    params, state = PARAMS, optimizer.init(PARAMS)
    for i in range(4):
        if i == 2:
            state = optimizers.set_hyperparams(state, new)
        updates, state = optimizer.update(GRADS, state, params)
        params = jax.tree.map(jnp.add, params, updates)

    wanted = reference(name, trajectory, decay_all)
    for k in PARAMS:
        np.testing.assert_allclose(params[k], wanted[k], rtol=1e-5)


@pytest.mark.parametrize("name", HPARAMS)
def test_every_hyperparameter_is_read_and_set(name):
    state = optimizers.create_optimizer(name, HPARAMS[name]).init(PARAMS)
    read = optimizers.get_hyperparams(state)
    assert {k: float(v) for k, v in read.items()} == pytest.approx(HPARAMS[name])
    for hyperparameter in HPARAMS[name]:
        state = optimizers.set_hyperparams(state, {hyperparameter: 0.125})
        value = optimizers.get_hyperparams(state)[hyperparameter]
        assert (float(value), value.dtype, value.weak_type) == (0.125, "float32", False)


def test_setting_leaves_the_old_state_alone():
    old = optimizers.create_optimizer("sgd", HPARAMS["sgd"]).init(PARAMS)
    optimizers.set_hyperparams(old, {"learning_rate": 0.5})
    assert float(old.hyperparams["learning_rate"]) == pytest.approx(0.1)


@pytest.mark.parametrize("value", [0.5, 1, np.float64(0.5), np.float32(0.5)])
@pytest.mark.parametrize("name", HPARAMS)
def test_setting_never_compiles_the_step_again(name, value, compilations):
    optimizer = optimizers.create_optimizer(name, HPARAMS[name])
    step = jax.jit(optimizer.update)
    _, state = step(GRADS, optimizer.init(PARAMS), PARAMS)
    _, state = step(GRADS, state, PARAMS)
    jnp.asarray(value, jnp.float32)  # a conversion is a program of its own
    with compilations() as counter:
        state = optimizers.set_hyperparams(state, {"learning_rate": value})
        _, state = step(GRADS, state, PARAMS)
    assert counter.count == 0
    assert float(state.hyperparams["learning_rate"]) == float(value)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"one of .*'adam', 'plain_sgd', 'sgd'.*'rms'"):
        optimizers.create_optimizer("rms", {})
    with pytest.raises(ValueError, match=r"needs .*'momentum'.*got .*'b1'"):
        optimizers.create_optimizer("sgd", {"learning_rate": 0.1, "b1": 0.9})
    state = optimizers.create_optimizer("plain_sgd", HPARAMS["plain_sgd"]).init(PARAMS)
    with pytest.raises(ValueError, match="no hyperparameter momentum; it has learn"):
        optimizers.set_hyperparams(state, {"momentum": 0.9})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 1e39),  # infinite in float32
        ("learning_rate", "0.1"),
        ("momentum", 1.0),
        ("b2", 1 - 1e-9),  # one in float32
        ("weight_decay", True),
    ],
)
def test_impossible_values_are_refused_with_the_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a number >= 0 and .*, got "):
        optimizers.check_hyperparameter(name, value)


def test_possible_values_are_taken():
    for name, value in (("learning_rate", 0), ("momentum", 0.999), ("b1", 0.0)):
        optimizers.check_hyperparameter(name, value)
