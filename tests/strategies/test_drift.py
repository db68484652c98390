"""The model of a race: against the Gaussian process of `gp`, and what it says."""

import jax.numpy as jnp
import numpy as np
import pytest

from hyperdyn_jax.strategies import drift
from hyperdyn_jax.strategies.race import MOVING
from hyperdyn_jax.tuner import cpu_jit, gp


def believe(points, times, scores, base=None, **changes):
    given = {"axis": 0, "spans": np.array([8.0]), "end": np.log(900.0), "seed": 0}
    given |= {"base_leads": False}
    return drift.believe(
        np.array(points)[:, None],
        np.array(times),
        np.array(scores),
        base=None if base is None else np.array([base]),
        **given | changes,
    )


def rows(score, horizons=(10, 20, 40)):
    places = np.arange(0.5, 8, 1.2)
    points, steps = (x.ravel() for x in np.meshgrid(places, horizons))
    return points, np.log(steps), score(points, np.log(steps))


def test_kernels_are_those_of_gp():
    distance = np.linspace(0, 3, 7)
    with cpu_jit.on_host():
        kernel = gp.SPATIAL_KERNELS["matern52"]
        spatial = [kernel(jnp.zeros((1, 1)), jnp.array([[d]]))[0, 0] for d in distance]
        time = gp.TimeKernel(1.0, drift.FORGETTING)
        temporal = [time.evaluate(jnp.float64(0), jnp.float64(d)) for d in distance]
    assert drift._matern52(distance) == pytest.approx(np.array(spatial), abs=1e-9)
    assert drift._time_kernel(distance) == pytest.approx(np.array(temporal))


def test_evidence_is_the_density_of_a_student_distribution():
    from scipy import stats

    rng = np.random.default_rng(0)
    factor = rng.normal(size=(2, 5, 5))
    covariances = factor @ np.swapaxes(factor, 1, 2) + np.eye(5)
    gains = rng.normal(size=5)
    found, _, squares = drift._evidence(covariances, gains)
    shape, scale = drift.AMPLITUDE_PRIOR
    expected = [
        stats.multivariate_t(
            np.zeros(5), covariance * scale / shape, df=2 * shape
        ).logpdf(gains)
        for covariance in covariances
    ]
    assert np.diff(found) == pytest.approx(np.diff(expected), abs=1e-9)
    assert squares[0] == pytest.approx(gains @ np.linalg.solve(covariances[0], gains))


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.4])
def test_the_drift_is_found(slope):
    best = lambda t: 4 + slope * (np.log(900) - t)  # noqa: E731
    belief = believe(*rows(lambda x, t: -((x - best(t)) ** 2)))
    assert belief.drifts.mean() == pytest.approx(slope, abs=0.12)
    assert belief.told_apart
    assert belief.best[0] == pytest.approx(4, abs=0.8)


def test_a_base_that_leads_is_left_only_where_another_is_surely_better():
    falling = rows(
        lambda x, t: -0.3 * (x - 4 - 0.25 * (np.log(900) - t)) ** 2, horizons=(10, 20)
    )
    behind = believe(*falling, base=5.2)
    assert 0.5 < behind.ahead < drift.SURE
    assert behind.leaves_base
    assert not believe(*falling, base=5.2, base_leads=True).leaves_base
    assert believe(*falling, base=6.2, base_leads=True).leaves_base


def test_while_rates_are_known_to_rise_a_base_is_left_only_for_what_is_surely_better():
    """Until four times the warm-up; it need not lead."""

    def during(warmup):
        def score(x, t):
            later = np.minimum(t - np.log(1.5 * warmup), 0)
            return -0.3 * (x - 4 + later - 0.1 * (np.log(900) - t)) ** 2

        return believe(*rows(score), base=4.8, warmup=warmup)

    rising, risen = during(12.0), during(8.0)
    assert (rising.rising, risen.rising) == (True, False)  # after 40 steps
    for belief in (rising, risen):
        assert 0.5 < belief.ahead < drift.SURE
    assert (rising.leaves_base, risen.leaves_base) == (False, True)


@pytest.mark.parametrize(("slope", "warming"), [(0.2, False), (1.0, True)])
def test_a_fast_drift_is_taken_for_a_warm_up(slope, warming):
    best = lambda t: 3 + slope * (np.log(900) - t)  # noqa: E731
    found = believe(*rows(lambda x, t: -((x - best(t)) ** 2)))
    assert (found.warming > 0.9) if warming else (found.warming < MOVING)


def test_few_rows_say_little_and_the_prior_stands():
    unsure = believe(*rows(lambda x, _: -((x - 4) ** 2), horizons=(10,)))
    sure = believe(*rows(lambda x, _: -((x - 4) ** 2)))
    assert unsure.drifts.std() > 1.5 * sure.drifts.std()


def test_levels_of_horizons_do_not_count():
    one = believe(*rows(lambda x, _: -((x - 4) ** 2)), base=1.0)
    other = believe(*rows(lambda x, t: 50 * t - ((x - 4) ** 2)), base=1.0)
    assert one.best == pytest.approx(other.best)
    assert one.leaves_base
    assert other.leaves_base


def test_noise_is_told_from_a_signal():
    rng = np.random.default_rng(1)
    noise = believe(*rows(lambda x, _: rng.normal(size=x.shape)), base=1.0)
    assert not noise.told_apart
    assert not noise.leaves_base
    alike = believe(*rows(lambda x, _: np.full(x.shape, -2.0)), base=1.0)
    assert not alike.differ
    assert not alike.told_apart
    assert not alike.leaves_base


def test_the_test_for_a_signal_has_its_level_and_power():
    places, times = np.arange(7.0), np.zeros(7)
    shapes = [
        -np.abs(places - 4.2),
        np.array([0, 1, 2, 3, -np.inf, -np.inf, -np.inf]),  # a cliff
        places,
    ]
    for seed, shape in enumerate(shapes):
        found = drift.order_by_chance(places, times, shape, np.random.default_rng(seed))
        assert found <= drift.LEVEL
    by_chance = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        noise = rng.standard_cauchy(7)
        by_chance.append(drift.order_by_chance(places, times, noise, rng))
    assert np.mean(np.array(by_chance) <= drift.LEVEL) <= 1.5 * drift.LEVEL
    assert np.mean(np.array(by_chance) <= 0.2) <= 0.25


def test_diverged_rows_are_bad_and_no_worse_than_bad():
    def cliff(x, _):
        return np.where(x > 5, -np.inf, -((x - 4.5) ** 2))

    belief = believe(*rows(cliff))
    assert np.isfinite(belief.best).all()
    assert 3 < belief.best[0] < 5.4
    gains, _ = drift.standardized(np.zeros(4), np.array([0, -1, -2, -np.inf]))
    assert gains[-1] == -drift.SATURATION
    assert gains[0] == 0


@pytest.mark.parametrize("times", [1.5, 4.0])
def test_how_long_a_known_warm_up_lowers_the_best_rate_is_inferred(times):
    """It falls as one over the horizon until so many times the warm-up."""
    warmup, best = 80.0, 2.0

    def score(x, log_horizon):
        later = np.maximum(np.log(times * warmup) - log_horizon, 0)
        return -((x - best - later) ** 2)

    belief = believe(*rows(score, (9, 18, 36, 54)), warmup=warmup)
    assert belief.best[0] == pytest.approx(best, abs=0.8)
    if times == 4:
        assert np.exp(belief.falls).mean() > 2.5 * warmup
    # And where it is at another horizon.
    there = np.log(36)
    optima = belief.optima(there)[:, 0].mean()
    assert optima == pytest.approx(best + np.log(times * warmup) - there, abs=0.8)


def test_the_noise_is_in_the_unit_of_the_scores():
    rng = np.random.default_rng(1)
    points, times, scores = rows(lambda x, _: -((x - 4) ** 2))
    scores = scores + rng.normal(0, 0.3, scores.shape)
    one = believe(points, times, scores)
    thousand = believe(points, times, 1000 * scores)
    assert thousand.noise == pytest.approx(1000 * one.noise)
    assert 0.05 < one.noise < 2
