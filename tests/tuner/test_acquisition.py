"""Expected improvement against closed forms, and its maximiser against known optima."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from hyperdyn_jax import expected_improvement, log_expected_improvement
from hyperdyn_jax.system import compiler
from hyperdyn_jax.tuner import acquisition, bounded_bfgs

many = settings(max_examples=300, deadline=None, derandomize=True)
DOUBLE = pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
# As in the tuner.
compiled = functools.partial(
    jax.jit, compiler_options=compiler.options(**compiler.ONE_THREAD)
)


# ------------------------------------------------------------- expected improvement


@DOUBLE
@pytest.mark.parametrize(
    ("mean", "stddev", "best", "expected"),
    [
        (0.0, 1.0, 0.0, 0.39894),  # z = 0: phi(0)
        (7.0, 2.5, 7.0, 2.5 * 0.39894),
        (0.0, 1.0, 0.5, 0.19780),  # z = -0.5
        (10.0, 3.0, 11.5, 3 * 0.19780),
        (0.5, 1.0, 0.0, 0.69780),  # z = 0.5: EI(z) - EI(-z) = z
        (0.0, 1.0, 1.0, 0.08332),
        (-3.0, 1.0, -4.0, 1.08332),
        (0.0, 1.0, 3.0, 0.00038),
        (5.0, 1.0, -5.0, 10.0),
    ],
)
def test_closed_form(mean, stddev, best, expected, x64):
    with jax.enable_x64(x64):
        found = expected_improvement(mean, stddev, best)
        assert found.dtype == (np.float64 if x64 else np.float32)
        assert float(found) == pytest.approx(expected, abs=1e-5 * max(1, stddev))


@DOUBLE
def test_no_uncertainty(x64):
    with jax.enable_x64(x64):
        found = expected_improvement([3.0, 2.0, 1.0], 0.0, 2.0)
        np.testing.assert_array_equal(found, [1.0, 0.0, 0.0])
        # So small that the quotient of mean and deviation overflows.
        tiny = float(np.finfo(found.dtype).tiny) * 1.1
        found = expected_improvement([30.0, 2.0, -30.0], tiny, 2.0)
        np.testing.assert_allclose(found, [28.0, 0.0, 0.0], atol=1e-30)
        slopes = jax.grad(expected_improvement, argnums=(0, 1))(3.0, 0.0, 2.0)
        assert [float(slope) for slope in slopes] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("mean", "stddev", "best"),
    [(0, 1, 0), (1.0, 2.0, 3.0), (-20, 5, -30), (50.0, 0.1, 50.2), (0, 10, 25)],
)
def test_monte_carlo(mean, stddev, best):
    estimate, error = oracle.expected_improvement_monte_carlo(
        mean, stddev, best, n=400_000, seed=0
    )
    found = float(expected_improvement(mean, stddev, best))
    assert abs(found - estimate) < 4 * error
    assert error < 0.02 * found or found < 0.01 * stddev  # the estimate says something


improvement = jax.jit(expected_improvement)


@many
@given(
    mean=st.floats(-100, 100, width=32),
    stddev=st.floats(2.0**-100, 2.0**100, width=32),
    best=st.floats(-100, 100, width=32),
)
def test_bounds_of_expected_improvement(mean, stddev, best):
    found = float(improvement(mean, stddev, best))
    sure = max(mean - best, 0.0)
    assert sure * (1 - 1e-5) <= found <= (sure + 0.3990 * stddev) * (1 + 1e-5)


@many
@given(z=st.floats(-30, 30), exponent=st.floats(-30, 30), best=st.floats(-100, 100))
def test_expected_improvement_equals_the_oracle(z, exponent, best):
    """Over sixty magnitudes of the deviation; where z is, so is the relative error."""
    stddev = 10.0**exponent
    mean = best + z * stddev
    with jax.enable_x64(True):
        found = float(improvement(mean, stddev, best))
    expected = float(oracle.expected_improvement(mean, stddev, best))
    # Both round z = (mean - best) / stddev, and EI is exp(-z^2 / 2) of it.
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-300)


def test_shapes_broadcast():
    mean = np.float32([[0.0, 1.0], [2.0, 3.0]])
    found = expected_improvement(mean, 1.0, 1)
    assert found.shape == (2, 2)
    np.testing.assert_allclose(
        found, oracle.expected_improvement(mean, 1.0, 1.0), rtol=1e-5
    )


MAGNITUDES = np.concatenate(
    [
        np.linspace(-100, 30, 2601),
        acquisition._TAIL + np.array([-1e-3, -1e-6, 0, 1e-6, 1e-3]),
        -np.logspace(2, 6, 9),
        np.logspace(1, 6, 6),
        [0.0, -1e-12, 1e-12],
    ]
)


@DOUBLE
@pytest.mark.parametrize("stddev", [2.0**-60, 2.0**-7, 1.0, 2.0**50])
def test_log_expected_improvement_equals_the_oracle(stddev, x64):
    dtype, tolerance = (np.float64, 2e-13) if x64 else (np.float32, 1e-6)
    mean = (MAGNITUDES.astype(dtype) * dtype(stddev)).astype(dtype)
    with jax.enable_x64(x64):
        found = np.asarray(log_expected_improvement(mean, dtype(stddev), dtype(0)))
    assert found.dtype == dtype
    expected = oracle.log_expected_improvement(mean, stddev, 0.0)
    # Next to z = -2 phi(z) + z Phi(z) loses a digit to cancellation.
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=10 * tolerance)


@DOUBLE
def test_log_expected_improvement_keeps_its_slope_in_the_tail(x64):
    """By mean and by deviation, down to z = -100 where EI itself is exp(-5000)."""
    dtype, tolerance = (np.float64, 1e-11) if x64 else (np.float32, 2e-5)
    z = np.linspace(-100, 10, 1101).astype(dtype)
    stddev = np.full_like(z, 0.5)
    with jax.enable_x64(x64):
        slope = jax.vmap(jax.grad(log_expected_improvement, argnums=(0, 1, 2)))
        by_mean, by_stddev, by_best = slope(0.5 * z, stddev, np.zeros_like(z))
    exact = z.astype(np.float64)
    log_h = oracle.log_expected_improvement(exact, 1.0, 0.0)
    ratio = np.exp(special.log_ndtr(exact) - log_h)  # h' / h, h' = Phi
    assert np.all(np.isfinite([by_mean, by_stddev, by_best]))
    np.testing.assert_allclose(by_mean, ratio / 0.5, rtol=tolerance)
    np.testing.assert_allclose(by_best, -ratio / 0.5, rtol=tolerance)
    expected = (1 - exact * ratio) / 0.5  # 1 - 1 for a large z
    np.testing.assert_allclose(by_stddev, expected, rtol=tolerance, atol=4 * tolerance)


def test_log_expected_improvement_ranks_where_expected_improvement_is_zero():
    mean = np.float32([-40, -20, -30])
    assert np.all(np.asarray(expected_improvement(mean, 1.0, 0.0)) == 0)
    assert int(jnp.argmax(log_expected_improvement(mean, 1.0, 0.0))) == 1


# ---------------------------------------------------------------- climbing the cube


@functools.cache
def climber(function, max_steps):
    return compiled(
        lambda start: bounded_bfgs.climb(
            function, start, max_steps=max_steps, curvature=4.0
        )
    )


def tilted(x):
    """Highest at (1, 0.3), on a face that it meets at a slope."""
    return 2.0 * x[0] - 3.0 * (x[1] - 0.3) ** 2


def half_blind(x, beyond):
    """Highest at 0.6, not finite beyond 0.7, and steep enough to overshoot."""
    return jnp.where(x[0] < 0.7, -20 * (x[0] - 0.6) ** 2, beyond)


@pytest.mark.parametrize("start", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (1.0, 0.3)])
def test_climb_reaches_a_face_from_anywhere(start):
    with jax.enable_x64(True):
        found = np.asarray(climber(tilted, 50)(np.array(start)))
    np.testing.assert_allclose(found, [1.0, 0.3], atol=1e-5)
    assert np.all((found >= 0) & (found <= 1))


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_climb_passes_over_what_is_not_finite(beyond):
    with jax.enable_x64(True):
        climb = climber(functools.partial(half_blind, beyond=beyond), 50)
        for start in (0.05, 0.2, 0.4, 0.65):
            found = np.asarray(climb(np.array([start])))
            np.testing.assert_allclose(found, [0.6], atol=1e-3)


@given(start=st.tuples(*[st.floats(0, 1)] * 2), steps=st.sampled_from([1, 3]))
@settings(many, max_examples=60)
def test_climb_is_never_worse_than_its_start(start, steps):
    with jax.enable_x64(True):
        start = np.array(start)
        found = np.asarray(climber(camel, steps)(start))
        assert np.all((found >= 0) & (found <= 1))
        assert float(camel(found)) >= float(camel(start)) - 1e-12  # rounding


# -------------------------------------------------------------------- the maximiser


def quadratic(x, peak, sharpness):
    return -jnp.sum(jnp.array(sharpness) * (x - jnp.array(peak)) ** 2)


def slope(x, corner, steepness):
    """Falls from a corner of the cube along all axes with a steepness."""
    return -jnp.sum(jnp.array(steepness) * jnp.abs(x - jnp.array(corner)))


def ripples(x, peak, periods):
    """Waves over a hill: many local maxima, the highest at the peak."""
    distance = x - jnp.array(peak)
    waves = jnp.sin(math.pi * periods * distance) ** 2
    return -jnp.sum(8 * distance**2 + 1.5 * waves)


def needle(x, peak, width, decoy):
    """A narrow peak of height 0 and a broad hill of height -3 far from it."""
    near = jnp.sum((x - jnp.array(peak)) ** 2) / (2 * width**2)
    far = jnp.sum((x - jnp.array(decoy)) ** 2) / (2 * 0.3**2)
    return jnp.logaddexp(-near, -3.0 - far)


def valley(x):
    """A quadratic whose axes are turned by 30 degrees, with condition 100."""
    a, b = x[0] - 0.62, x[1] - 0.28
    along, across = 0.866 * a + 0.5 * b, -0.5 * a + 0.866 * b
    return -(along**2) - 100 * across**2


def gramacy_lee(x):
    t = 0.5 + 2.0 * x[0]
    return -(jnp.sin(10 * math.pi * t) / (2 * t) + (t - 1) ** 4)


def forrester(x):
    return -((6 * x[0] - 2) ** 2) * jnp.sin(12 * x[0] - 4)


def branin(x):
    a, b = 15 * x[0] - 5, 15 * x[1]
    hollow = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return -(hollow**2 + 10 * (1 - 1 / (8 * math.pi)) * jnp.cos(a) + 10) / 10


def camel(x):
    """Six humps, two of them highest."""
    a, b = 4 * x[0] - 2, 2 * x[1] - 1
    return -((4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2)


def hartmann(x):
    sharpness = [[3.0, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]]
    peaks = [
        [0.3689, 0.1170, 0.2673],
        [0.4699, 0.4387, 0.7470],
        [0.1091, 0.8732, 0.5547],
        [0.0381, 0.5743, 0.8828],
    ]
    squares = jnp.array(sharpness) * (x[None, :] - jnp.array(peaks)) ** 2
    return jnp.array([1.0, 1.2, 3.0, 3.2]) @ jnp.exp(-jnp.sum(squares, axis=1))


def at(function, *settings):
    return lambda x: function(x, *settings)


# By dimension: (name, surface, its highest points).
SURFACES = {
    1: [
        ("inside", at(quadratic, [0.37], [20.0]), [[0.37]]),
        ("low face", at(slope, [0.0], [30.0]), [[0.0]]),
        ("flat at high face", at(quadratic, [1.0], [20.0]), [[1.0]]),
        ("ripples", at(ripples, [0.71], 8), [[0.71]]),
        ("needle", at(needle, [0.3], 0.01, [0.8]), [[0.3]]),
        ("gramacy-lee", gramacy_lee, [[(0.548563 - 0.5) / 2]]),
        ("forrester", forrester, [[0.757249]]),
    ],
    2: [
        ("turned valley", valley, [[0.62, 0.28]]),
        ("face", at(quadratic, [-0.2, 0.45], [5.0, 9.0]), [[0.0, 0.45]]),
        ("corner", at(slope, [1.0, 0.0], [0.5, 20.0]), [[1.0, 0.0]]),
        ("ripples", at(ripples, [0.3, 0.8], 4), [[0.3, 0.8]]),
        ("needle", at(needle, [0.85, 0.15], 0.04, [0.2, 0.7]), [[0.85, 0.15]]),
        (
            "branin",
            branin,
            [
                [(5 - math.pi) / 15, 12.275 / 15],
                [(5 + math.pi) / 15, 2.275 / 15],
                [(5 + 9.42478) / 15, 2.475 / 15],
            ],
        ),
        (
            "camel",
            camel,
            [[(2 + s * 0.0898) / 4, (1 - s * 0.7126) / 2] for s in (-1, 1)],
        ),
    ],
    3: [
        (
            "inside",
            at(quadratic, [0.2, 0.9, 0.55], [1.0, 30.0, 8.0]),
            [[0.2, 0.9, 0.55]],
        ),
        ("edge", at(quadratic, [-1.0, 1.3, 0.4], [1.0, 9.0, 4.0]), [[0.0, 1.0, 0.4]]),
        ("corner", at(slope, [1.0, 1.0, 0.0], [9.0, 2.0, 0.3]), [[1.0, 1.0, 0.0]]),
        ("ripples", at(ripples, [0.25, 0.6, 0.75], 2), [[0.25, 0.6, 0.75]]),
        (
            "needle",
            at(needle, [0.2, 0.8, 0.3], 0.06, [0.8, 0.3, 0.6]),
            [[0.2, 0.8, 0.3]],
        ),
        ("hartmann", hartmann, [[0.114614, 0.555649, 0.852547]]),
    ],
}


def test_there_are_twenty_surfaces():
    assert sum(len(surfaces) for surfaces in SURFACES.values()) == 20


@functools.cache
def maximizer(dimensions):
    """With the tuner's own settings, compiled once for all surfaces of a dimension."""
    surfaces = [surface for _, surface, _ in SURFACES[dimensions]]

    def maximize(index, key, known):
        return acquisition.maximize(
            lambda x: jax.lax.switch(index, surfaces, x),
            key,
            known,
        )

    return compiled(maximize)


@pytest.mark.parametrize(
    ("dimensions", "index"),
    [(d, i) for d, surfaces in SURFACES.items() for i in range(len(surfaces))],
    ids=[f"{d}d {row[0]}" for d, surfaces in SURFACES.items() for row in surfaces],
)
def test_maximizer_finds_the_planted_optimum(dimensions, index):
    _, surface, optima = SURFACES[dimensions][index]
    with jax.enable_x64(True):
        for seed in range(5):
            # Two known points, as in a run, at random: they give nothing away.
            known = np.random.default_rng(seed).random((2, dimensions))
            point, height = map(
                np.asarray, maximizer(dimensions)(index, jax.random.key(seed), known)
            )
            assert np.all((point >= 0) & (point <= 1))
            miss = np.max(np.abs(point - np.array(optima)), axis=1)
            assert np.min(miss) < 0.01, f"seed {seed}: {point}, {miss} off"
            assert height == pytest.approx(float(surface(jnp.asarray(point))))
            assert height >= max(float(surface(jnp.asarray(row))) for row in known)


def test_maximizer_climbs_from_a_known_point():
    """A peak of a thousandth of the axis, beside the data, which no candidate hits."""

    def peak(x):
        return -jnp.sum(jnp.abs(x - 0.12345)) - jnp.where(
            jnp.max(jnp.abs(x - 0.12345)) < 1e-3, 0.0, 100.0
        )

    with jax.enable_x64(True):
        known = np.array([[0.12345 + 4e-4, 0.12345 - 4e-4], [0.5, 0.5]])
        point, height = compiled(
            lambda key: acquisition.maximize(
                peak, key, known, candidates=16, starts=1, max_steps=5
            )
        )(jax.random.key(0))
    assert float(height) > -1e-3
    np.testing.assert_allclose(point, [0.12345, 0.12345], atol=1e-3)


def test_maximizer_takes_any_number_of_candidates():
    """Not only the powers of two that the Sobol sequence comes in."""
    for count in (1, 2, 3, 5, 100, 512):
        points = acquisition.sobol(count, 3)
        assert points.shape == (count, 3)
        assert len(np.unique(points, axis=0)) == count
