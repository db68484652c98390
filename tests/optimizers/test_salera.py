"""SALeRA against its definition, written out step by step in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperdyn_jax.optimizers.salera import salera

ALPHA, GAIN, MEMORY = 0.1, 0.02, 0.25  # large, so that few steps show every part
SHAPES = {"kernel": (3, 4), "bias": (5,)}


class Reference:
    """The algorithm of 1709.01427 with one rate an array, in float64."""

    def __init__(self, params, rate, tolerance):
        self.params = {k: np.float64(v) for k, v in params.items()}
        self.rates = dict.fromkeys(params, rate)
        self.paths = {k: np.zeros(v.shape) for k, v in params.items()}
        self.tolerance, self.threshold, self.count = tolerance, None, 0
        self.alarms = 0
        self.begin_test()

    def begin_test(self):
        self.seen, self.sum, self.lowest, self.smoothed, self.mean = 0, 0, 0, 0, 0

    def alarm(self, loss):
        if self.threshold is None:
            self.threshold = self.tolerance * loss
        if self.seen > 1 / MEMORY:
            self.smoothed = (1 - MEMORY) * self.smoothed + MEMORY * loss
        else:
            self.smoothed = (self.seen * self.smoothed + loss) / (self.seen + 1)
        self.mean = (self.seen * self.mean + self.smoothed) / (self.seen + 1)
        self.sum += self.smoothed - self.mean
        self.lowest = min(self.lowest, self.sum)
        self.seen += 1
        return self.sum - self.lowest > self.threshold

    def step(self, grads, loss):
        if self.alarm(loss):
            self.alarms += 1
            self.params = dict(self.previous)
            self.rates = {k: rate / 2 for k, rate in self.rates.items()}
            self.begin_test()
            return
        self.previous = dict(self.params)
        self.count += 1
        for name, grad in grads.items():
            unit = grad / np.linalg.norm(grad) if np.linalg.norm(grad) > 1e-6 else 0
            self.paths[name] = (1 - ALPHA) * self.paths[name] + ALPHA * unit
            expected = sum(  # of a random path: the weights' squares
                (ALPHA * (1 - ALPHA) ** i) ** 2 for i in range(self.count)
            )
            excess = np.sum(self.paths[name] ** 2) - expected
            self.rates[name] *= np.exp(GAIN * excess / (ALPHA / np.sqrt(grad.size)))
            self.params[name] = self.params[name] - self.rates[name] * grad


def run(losses, seed=0, agree=0.0):
    """Both on the same gradients: yields (parameters, reference, state)."""
    rng = np.random.default_rng(seed)
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    reference = Reference(params, rate=0.1, tolerance=0.1)
    optimizer = salera(0.1, memory=ALPHA, gain=GAIN, relaxation=MEMORY)
    state, common = (
        optimizer.init(params),
        {k: rng.normal(size=s) for k, s in SHAPES.items()},
    )
    for loss in losses:
        grads = {
            k: (agree * common[k] + rng.normal(size=s)).astype(np.float32)
            for k, s in SHAPES.items()
        }
        reference.step(grads, loss)
        changes, state = optimizer.update(grads, state, params, value=jnp.float32(loss))
        params = optax.apply_updates(params, changes)
        yield params, reference, state


FALLING = 2.0 * 0.97 ** np.arange(30)
RISING = np.concatenate([FALLING[:10], 2.0 * 1.2 ** np.arange(20)])


@pytest.mark.parametrize("agree", [0.0, 3.0])
@pytest.mark.parametrize("losses", [FALLING, RISING], ids=["falling", "rising"])
def test_every_step_is_the_algorithms(losses, agree):
    for params, reference, state in run(losses, agree=agree):
        for name in SHAPES:
            np.testing.assert_allclose(
                params[name], reference.params[name], rtol=1e-4, atol=1e-5
            )
            rate = 0.1 * np.exp(np.float64(state.log_rates[name]))
            assert rate == pytest.approx(reference.rates[name], rel=1e-4)
    assert (reference.alarms > 0) == (losses is RISING)


def test_rates_grow_where_gradients_agree_and_shrink_where_they_do_not():
    *_, (_, _, agreeing) = run(FALLING, agree=5.0)
    assert all(float(x) > 0 for x in agreeing.log_rates.values())
    optimizer = salera(0.1, memory=ALPHA, gain=GAIN)
    params = {k: np.ones(s, np.float32) for k, s in SHAPES.items()}
    state = optimizer.init(params)
    for i in range(30):
        opposed = {k: np.full(s, (-1.0) ** i, np.float32) for k, s in SHAPES.items()}
        _, state = optimizer.update(opposed, state, params, value=jnp.float32(1))
    assert all(float(x) < 0 for x in state.log_rates.values())


def test_alarm_takes_back_one_update_and_halves_every_rate():
    states = list(run(RISING))
    rates = [s.log_rates["bias"] for _, _, s in states]
    at = next(
        i
        for i in range(1, 30)
        if rates[i] - rates[i - 1] == pytest.approx(-np.log(2), abs=1e-6)
    )
    before_last = states[at - 2][0]
    for name in SHAPES:
        np.testing.assert_allclose(states[at][0][name], before_last[name], rtol=1e-5)


def test_no_gradient_is_no_direction():
    optimizer = salera(0.1)
    params = {"x": np.ones(3, np.float32)}
    zero = {"x": np.zeros(3, np.float32)}
    changes, state = optimizer.update(
        zero, optimizer.init(params), params, value=jnp.float32(1)
    )
    assert np.all(np.asarray(changes["x"]) == 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
