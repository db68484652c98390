"""Hyperparameters in the optimizer state: read, set, traced once, and in effect."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax import contrib

from hyperdyn_jax import optimizers

HPARAMS = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "plain_sgd": {"learning_rate": 0.1, "weight_decay": 0.01},
    "adam": {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "weight_decay": 0.01},
    "lars": {"learning_rate": 2.0, "momentum": 0.9, "weight_decay": 0.01},
    "prodigy": {"learning_rate": 1.0, "b1": 0.9, "b2": 0.99, "weight_decay": 0.01},
    "schedule_free": {"learning_rate": 0.1, "weight_decay": 0.01},
    "salera": {"learning_rate": 0.1, "weight_decay": 0.01},  # see test_salera.py
}
NEW = {"learning_rate": 0.5, "momentum": 0.25, "b1": 0.5, "b2": 0.75}
PARAMS = {"kernel": np.array([[1.0, -2.0]], np.float32), "bias": np.ones(2, np.float32)}
GRADS = {"kernel": np.array([[0.5, 3.0]], np.float32), "bias": np.full(2, 2.0, "f4")}


def decayed(w, h, k):
    """A gradient with coupled weight decay in it, float64."""
    return GRADS[k] + h["weight_decay"] * w * (k == "kernel")


def sgd(trajectory):
    params, trace = start()
    for h in trajectory:
        for k, w in params.items():
            trace[k] = h.get("momentum", 0.0) * trace[k] + decayed(w, h, k)
            params[k] = w - h["learning_rate"] * trace[k]
    return params


def adam(trajectory):
    (params, first), (_, second) = start(), start()
    for h, (c1, c2) in zip(trajectory, moment_weights(trajectory), strict=True):
        for k, w in params.items():
            first[k] = h["b1"] * first[k] + (1 - h["b1"]) * GRADS[k]
            second[k] = h["b2"] * second[k] + (1 - h["b2"]) * GRADS[k] ** 2
            m, v = first[k] / c1, second[k] / c2
            decay = h["weight_decay"] * w * (k == "kernel")
            params[k] = w - h["learning_rate"] * (m / (np.sqrt(v) + 1e-8) + decay)
    return params


def moment_weights(trajectory):
    """What each moment weighs all gradients with: 1 less the product of the betas."""
    products = np.cumprod([[h["b1"], h["b2"]] for h in trajectory], axis=0)
    return 1 - products


def lars(trajectory):
    """You et al. 2017, algorithm 1, with eta = 0.001; all layers scaled."""
    params, trace = start()
    for h in trajectory:
        for k, w in params.items():
            g = decayed(w, h, k)
            local = 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
            trace[k] = h["momentum"] * trace[k] + h["learning_rate"] * local * g
            params[k] = w - trace[k]
    return params


def prodigy(trajectory):
    """Mishchenko and Defazio 2023, algorithm 4, with the bias correction of their
    program's use_bias_correction; the estimate starts at 1e-6."""
    (params, first), (first_params, second) = start(), start()
    _, sums = start()
    d, r = 1e-6, 0.0
    for h, (c1, c2) in zip(trajectory, moment_weights(trajectory), strict=True):
        b1, b2 = h["b1"], h["b2"]
        b3 = np.sqrt(b2)
        rate = d * h["learning_rate"] * np.sqrt(c2) / c1
        g = {k: decayed(w, h, k) for k, w in params.items()}
        inner = sum(np.sum(g[k] * (first_params[k] - params[k])) for k in g)
        r = b3 * r + d / 1e-6 * rate * inner
        for k in g:
            first[k] = b1 * first[k] + (1 - b1) * d * g[k]
            second[k] = b2 * second[k] + (1 - b2) * (d * g[k]) ** 2
            sums[k] = b3 * sums[k] + rate * d * g[k] / 1e-6
        d = max(d, r / sum(np.abs(s).sum() for s in sums.values()))
        for k in g:
            params[k] = params[k] - rate * first[k] / (np.sqrt(second[k]) + d * 1e-8)
    return params


def schedule_free(trajectory, evaluated=False):
    """Defazio et al. 2024, eq. 1-3, with averaging weights of the squared rate."""
    (z, _), (x, _) = start(), start()
    total = largest = 0.0
    for h in trajectory:
        largest = max(largest, h["learning_rate"])
        total += largest**2
        for k in z:
            y = 0.1 * z[k] + 0.9 * x[k]
            z[k] = z[k] - h["learning_rate"] * decayed(y, h, k)
            x[k] = x[k] + largest**2 / total * (z[k] - x[k])
    return x if evaluated else {k: 0.1 * z[k] + 0.9 * x[k] for k in z}


def start():
    """Parameters in float64, and zeros like them."""
    params = {k: v.astype(np.float64) for k, v in PARAMS.items()}
    return params, {k: np.zeros_like(v) for k, v in params.items()}


REFERENCES = {
    "sgd": sgd,
    "plain_sgd": sgd,
    "adam": adam,
    "lars": lars,
    "prodigy": prodigy,
    "schedule_free": schedule_free,
}


def optimize(name, steps=2):
    """Some steps, a change of settings, as many -> parameters, state, settings."""
    optimizer = optimizers.create_optimizer(name, HPARAMS[name])
    new = {k: v for k, v in NEW.items() if k in HPARAMS[name]}
    params, state, update = PARAMS, optimizer.init(PARAMS), jax.jit(optimizer.update)
    for i in range(2 * steps):
        if i == steps:
            state = optimizers.set_hyperparams(state, new)
        updates, state = update(GRADS, state, params, value=jnp.float32(1))
        params = jax.tree.map(jnp.add, params, updates)
    return params, state, [HPARAMS[name]] * steps + [HPARAMS[name] | new] * steps


@pytest.mark.parametrize("name", REFERENCES)
def test_updates_follow_the_definition_before_and_after_a_change(name):
    params, _, trajectory = optimize(name)
    wanted = REFERENCES[name](trajectory)
    for k in PARAMS:
        np.testing.assert_allclose(params[k], wanted[k], rtol=2e-5)


def test_prodigy_follows_it_for_long_enough_to_move():
    """Where its estimate doubles at every step, and with it what float32 rounds."""
    params, _, trajectory = optimize("prodigy", steps=12)
    wanted = prodigy(trajectory)
    for k, before in PARAMS.items():
        moved = wanted[k] - before
        np.testing.assert_allclose(params[k] - before, moved, rtol=0.05)
        assert np.abs(moved).min() > 1e-3


@pytest.mark.parametrize(
    "change", [{"b2": 0.9999}, {"b1": 0.99}, {"b1": 0.0}, {"b1": 0.99, "b2": 0.9}]
)
def test_adam_takes_steps_of_the_learning_rate_whatever_becomes_of_its_betas(change):
    """Under a constant gradient both moments are it, once they are unbiased."""
    hparams = {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "weight_decay": 0.0}
    optimizer = optimizers.create_optimizer("adam", hparams)
    state, update = optimizer.init(PARAMS), jax.jit(optimizer.update)
    for step in range(60):
        if step == 30:
            state = optimizers.set_hyperparams(state, change)
        changes, state = update(GRADS, state, PARAMS)
        for k, gradient in GRADS.items():
            np.testing.assert_allclose(changes[k], -0.1 * np.sign(gradient), rtol=1e-3)


def test_schedule_free_is_evaluated_at_its_average():
    params, state, trajectory = optimize("schedule_free")
    wanted = schedule_free(trajectory, evaluated=True)
    average = optimizers.eval_params(state, params)
    for k in PARAMS:
        np.testing.assert_allclose(average[k], wanted[k], rtol=2e-5)
        assert np.abs(average[k] - params[k]).max() > 1e-3


def test_an_average_is_found_anywhere_in_an_optimizer():
    """Also where Optax alone made it, as in a user's own loop."""
    free = contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.9)
    kept = optimizers.averaged(optax.sgd(0.1), 3.0)
    for inner, average in (free, contrib.schedule_free_eval_params), (kept, None):
        for optimizer, find in (
            (inner, lambda state: state),
            (optax.chain(optax.clip(1.0), inner), lambda state: state[1]),
            (optax.apply_if_finite(inner, 2), lambda state: state.inner_state),
        ):
            params, state = PARAMS, optimizer.init(PARAMS)
            for _ in range(4):
                updates, state = optimizer.update(GRADS, state, params)
                params = optax.apply_updates(params, updates)
            own = find(state)
            wanted = average(own, params) if average else own.average
            found = optimizers.eval_params(state, params)
            for k in PARAMS:
                np.testing.assert_array_equal(found[k], wanted[k])
                assert np.abs(found[k] - params[k]).max() > 1e-3


def test_parts_of_an_optimizer_average_their_own_parameters():
    """As where some layers are frozen."""
    free = contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.9)
    kept = optimizers.averaged(optax.sgd(0.1), 3.0)
    start = {"a": jnp.ones(2), "b": {"c": jnp.ones(1), "d": jnp.ones(3)}, "e": 1.0}
    parts = {"free": free, "kept": kept, "frozen": optax.set_to_zero()}
    labels = {"a": "free", "b": "kept", "e": "frozen"}
    optimizer = optax.partition(parts, labels)
    whole = {name: parts[labels[name]].init(x) for name, x in start.items()}
    params, state = start, optimizer.init(start)
    for _ in range(4):
        updates, state = optimizer.update(start, state, params)
        for name, x in params.items():  # each part alone
            part = parts[labels[name]]
            _, whole[name] = part.update(start[name], whole[name], x)
        params = optax.apply_updates(params, updates)
    found = optimizers.eval_params(state, params)
    assert found["e"] == params["e"] == 1
    a = contrib.schedule_free_eval_params(whole["a"], params["a"])
    np.testing.assert_allclose(found["a"], a, rtol=1e-6)
    for name, x in found["b"].items():
        np.testing.assert_allclose(x, whole["b"].average[name], rtol=1e-6)
        assert np.abs(x - params["b"][name]).max() > 1e-3


def test_the_average_of_short_floats_is_kept_in_longer_ones():
    """The average moves by less than bfloat16 can tell; types stay what they are."""
    optimizer = optimizers.averaged(optax.sgd(1.0), 0.0)
    params = jnp.ones(1, jnp.bfloat16)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    types = jax.tree.map(lambda x: x.dtype, state)
    path = []
    for i in range(100):
        gradient = jnp.full(1, (-1) ** i / 128, jnp.bfloat16)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        path.append(float(params[0]))
    assert jax.tree.map(lambda x: x.dtype, state) == types
    np.testing.assert_allclose(state.average, np.mean(path), rtol=1e-6)
    assert optimizers.eval_params(state, params).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", sorted(HPARAMS.keys() - {"schedule_free"}))
def test_the_others_are_evaluated_where_they_are(name):
    params, state, _ = optimize(name)
    assert optimizers.eval_params(state, params) is params


def test_without_an_average_the_others_are_evaluated_where_they_are_too():
    optimizer = optimizers.create_optimizer("sgd", HPARAMS["sgd"], averaging=3.0)
    state = optimizer.init(PARAMS)
    changes, state = optimizer.update(GRADS, state, PARAMS)
    params = optax.apply_updates(PARAMS, changes)
    assert optimizers.eval_params(state, params) is not params
    state = optimizers.without_average(state, params)
    assert optimizers.eval_params(state, params) is params


@pytest.mark.parametrize("power", [0.0, 3.0])
@pytest.mark.parametrize("name", ["sgd", "salera", "schedule_free"])
def test_average_has_the_weights_of_the_formula(name, power):
    optimizer = optimizers.create_optimizer(name, HPARAMS[name], averaging=power)
    plain = optimizers.create_optimizer(name, HPARAMS[name])
    params, state, path = PARAMS, optimizer.init(PARAMS), []
    others, other_state = PARAMS, plain.init(PARAMS)
    for i in range(12):
        if i == 6:
            state = optimizers.set_hyperparams(state, {"learning_rate": 0.03})
            other_state = optimizers.set_hyperparams(
                other_state, {"learning_rate": 0.03}
            )
        grads = {k: g * np.float32(np.sin(i + 1)) for k, g in GRADS.items()}
        loss = jnp.float32(1)
        updates, state = optimizer.update(grads, state, params, value=loss)
        params = jax.tree.map(jnp.add, params, updates)
        updates, other_state = plain.update(grads, other_state, others, value=loss)
        others = jax.tree.map(jnp.add, others, updates)
        path.append(others)
    # Unrolled: step s of t weighs (eta + 1) / (s + eta) times what is left after it.
    weights = np.ones(12)
    for s in range(1, 13):
        weights[: s - 1] *= 1 - (power + 1) / (s + power)
        weights[s - 1] = (power + 1) / (s + power)
    assert weights.sum() == pytest.approx(1)
    average = optimizers.eval_params(state, params)
    for k in PARAMS:
        np.testing.assert_array_equal(params[k], others[k])
        wanted = sum(
            w * np.float64(point[k]) for w, point in zip(weights, path, strict=True)
        )
        np.testing.assert_allclose(average[k], wanted, rtol=1e-5)


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
    step = jax.jit(functools.partial(optimizer.update, value=jnp.float32(1)))
    _, state = step(GRADS, optimizer.init(PARAMS), PARAMS)
    _, state = step(GRADS, state, PARAMS)
    jnp.asarray(value, jnp.float32)  # a conversion is a program of its own
    with compilations() as counter:
        state = optimizers.set_hyperparams(state, {"learning_rate": value})
        _, state = step(GRADS, state, PARAMS)
    assert counter.count == 0
    assert float(state.hyperparams["learning_rate"]) == float(value)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"one of .*'adam', .*'sgd'.*'rms'"):
        optimizers.create_optimizer("rms", {})
    with pytest.raises(ValueError, match=r"needs .*'momentum'.*got .*'b1'"):
        optimizers.create_optimizer("sgd", {"learning_rate": 0.1, "b1": 0.9})
    state = optimizers.create_optimizer("plain_sgd", HPARAMS["plain_sgd"]).init(PARAMS)
    with pytest.raises(ValueError, match="no hyperparameter momentum; it has learn"):
        optimizers.set_hyperparams(state, {"momentum": 0.9})


def injected(make=optax.sgd, dtype=jnp.float32, **hparams):
    return optax.inject_hyperparams(make, hyperparam_dtype=dtype)(**hparams)


NESTED = {
    "chain": optax.chain(optax.clip(1.0), injected(learning_rate=0.1)),
    "steps": optax.MultiSteps(injected(learning_rate=0.1), 1),
    "masked": optax.masked(
        injected(learning_rate=0.1), {"kernel": True, "bias": False}
    ),
    "finite": optax.apply_if_finite(injected(learning_rate=0.1), 3),
    "inside": injected(
        lambda weight_decay: optax.chain(
            optax.add_decayed_weights(weight_decay), injected(learning_rate=0.1)
        ),
        weight_decay=0.01,
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_hyperparameters_are_found_wherever_they_are(name):
    optimizer = NESTED[name]
    old = optimizer.init(PARAMS)
    state = optimizers.set_hyperparams(old, {"learning_rate": 0.5})
    assert optimizers.get_hyperparams(state)["learning_rate"] == 0.5
    assert optimizers.get_hyperparams(old)["learning_rate"] == np.float32(0.1)
    assert jax.tree.structure(state) == jax.tree.structure(old)
    update = jax.jit(optimizer.update)
    with jax.numpy_dtype_promotion("standard"):  # as Optax needs it
        changes = [update(GRADS, each, PARAMS)[0]["kernel"] for each in (old, state)]
    np.testing.assert_allclose(changes[1], 5 * changes[0], rtol=1e-6)


def test_hyperparameters_of_one_name_are_told_apart():
    parts = {
        "encoder": injected(learning_rate=0.1),
        "head": injected(optax.adam, learning_rate=0.2),
    }
    labels = {"kernel": "encoder", "bias": "head"}
    state = optax.multi_transform(parts, labels).init(PARAMS)
    found = optimizers.get_hyperparams(state)
    assert found["encoder/learning_rate"] == np.float32(0.1)
    assert found["head/learning_rate"] == np.float32(0.2)
    assert found["b1"] == np.float32(0.9)
    with pytest.raises(
        ValueError,
        match="learning_rate is in several places; name one of encoder/learning_rate, "
        "head/learning_rate",
    ):
        optimizers.set_hyperparams(state, {"learning_rate": 0.5})
    state = optimizers.set_hyperparams(
        state, {"head/learning_rate": 0.5, "encoder/learning_rate": 0.25, "b1": 0.0}
    )
    found = optimizers.get_hyperparams(state)
    names = ("encoder/learning_rate", "head/learning_rate", "b1")
    assert [float(found[name]) for name in names] == [0.25, 0.5, 0.0]


def test_what_a_schedule_would_overwrite_is_refused():
    optimizer = injected(
        learning_rate=optax.linear_schedule(0.1, 0.0, 10), momentum=0.9
    )
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match="learning_rate follows a schedule, which"):
        optimizers.set_hyperparams(state, {"learning_rate": 0.5})
    state = optimizers.set_hyperparams(state, {"momentum": 0.5})
    assert optimizers.get_hyperparams(state)["momentum"] == 0.5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_hyperparameters_of_two_digits_are_refused(dtype):
    params = {"kernel": jnp.ones((2, 2), dtype)}
    state = injected(optax.adam, None, learning_rate=0.1).init(params)
    with pytest.raises(ValueError, match=f"b2 is held as {dtype}.*=jnp.float32"):
        optimizers.set_hyperparams(state, {"b2": 0.999})
    state = injected(optax.adam, learning_rate=0.1).init(params)
    optimizers.set_hyperparams(state, {"b2": 0.999})


def test_an_optimizer_without_hyperparameters_is_told_how_to_have_some():
    state = optax.sgd(0.1).init(PARAMS)
    with pytest.raises(ValueError, match=r"make it with optax.inject_hyperparams"):
        optimizers.set_hyperparams(state, {"learning_rate": 0.5})
    assert optimizers.get_hyperparams(state) == {}


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


def test_hyperparameters_can_be_set_inside_of_a_compiled_step():
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)

    @jax.jit
    def step(opt_state, rate):
        opt_state = optimizers.set_hyperparams(opt_state, {"learning_rate": rate})
        updates, _ = optimizer.update(jnp.ones(()), opt_state)
        return updates

    update = step(optimizer.init(jnp.zeros(())), jnp.float32(0.25))
    assert float(update) == -0.25


def test_the_state_of_an_nnx_optimizer_keeps_its_variables():
    """They are what NNX looks for; of plain arrays a step would be traced again."""
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    optimizer = nnx.Optimizer(model, injected, wrt=nnx.Param)
    traces = []

    @nnx.jit
    def step(model, optimizer):
        traces.append(True)
        optimizer.update(model, nnx.grad(lambda m: m(jnp.ones(2)).sum())(model))

    before = jax.tree.structure(optimizer.opt_state)
    for rate in (0.5, 0.25):
        weights = np.asarray(model.kernel[...])
        optimizer.opt_state = optimizers.set_hyperparams(
            optimizer.opt_state, {"learning_rate": rate}
        )
        assert jax.tree.structure(optimizer.opt_state) == before
        step(model, optimizer)  # along gradients of 1
        np.testing.assert_allclose(weights - model.kernel[...], rate, rtol=1e-4)
    assert len(traces) == 1
