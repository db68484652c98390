"""The test bed's expectations against sampled runs and closed forms."""

import numpy as np
import pytest
import quadratic

CURVATURE, VARIANCE = np.array([1.0, 0.1, 0.01]), np.array([0.5, 0.2, 0.01])
PROBLEM = quadratic.NoisyQuadratic(CURVATURE, VARIANCE)


@pytest.mark.parametrize("power", [0.0, 3.0])
def test_moments_are_those_of_sampled_runs(power):
    rng, steps, rate = np.random.default_rng(0), 30, 0.7
    weights = np.ones((100_000, 3))
    average = weights.copy()
    now = PROBLEM.start()
    for t in range(1, steps + 1):
        noise = rng.normal(size=weights.shape) * np.sqrt(VARIANCE)
        weights = weights - rate * (CURVATURE * weights + noise)
        average += (power + 1) / (t + power) * (weights - average)
        now = PROBLEM.step(now, rate, t, power)
    np.testing.assert_allclose(now.path, (weights**2).mean(0), rtol=0.04)
    np.testing.assert_allclose(now.average, (average**2).mean(0), rtol=0.04)
    np.testing.assert_allclose(now.cross, (weights * average).mean(0), rtol=0.04)
    loss = 0.5 * (CURVATURE * weights**2).sum(1).mean()
    assert PROBLEM.loss(now.path) == pytest.approx(loss, rel=0.04)


def test_long_run_ends_at_the_stationary_variance():
    now = PROBLEM.start()
    for t in range(5000):
        now = PROBLEM.step(now, 0.5, t + 1, 0.0)
    shrink = 1 - 0.5 * CURVATURE
    np.testing.assert_allclose(now.path, 0.25 * VARIANCE / (1 - shrink**2), rtol=1e-6)


def test_rates_past_the_edge_are_infinite_and_the_tuner_stays_below():
    now = PROBLEM.start((2,))
    for step in range(500):
        now = PROBLEM.step(now, np.array([0.5, 3.0]), step + 1, 5.0)
    assert list(np.isfinite(PROBLEM.loss(now.average))) == [True, False]
    for seed in range(3):
        played = quadratic.play(PROBLEM, quadratic.tuner(seed), 0.02, seed)
        assert played.total == quadratic.EPOCHS * quadratic.STEPS_PER_EPOCH
        assert len(played.rates) * 1.2 >= played.total
        assert played.rates.max() < 2.0
        assert played.loss < 0.1 * float(PROBLEM.loss(PROBLEM.start().path))


def test_greedy_is_far_behind_where_the_horizon_is_long():
    curvature = np.logspace(-3, 0, 50)
    problem = quadratic.NoisyQuadratic(curvature, 0.01 * curvature)
    tuned = quadratic.cosine(problem, quadratic.RATES, 2000).min()
    assert quadratic.greedy(problem, 20, 100) > 5 * tuned
