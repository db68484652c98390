"""What XLA's compiler does with our programs, on every version of it."""

import functools

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from hyperdyn_jax.system import compiler
from hyperdyn_jax.tuner import acquisition, cpu_jit, gp

# All options that programs here are compiled with, and those of a bare `jax.jit`.
OPTIONS = [{}, compiler.ONE_THREAD, compiler.ONE_THREAD | compiler.RUNS_ONCE]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=len)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def jit(function, options):
    return jax.jit(function, compiler_options=compiler.options(**options))


def test_an_option_that_is_not_known_is_left_out():
    wanted = {"xla_an_option_of_another_version": True, **compiler.ONE_THREAD}
    assert compiler.options(**wanted) == compiler.ONE_THREAD


def test_a_program_is_compiled_without_an_option_that_is_not_known():
    @functools.partial(
        cpu_jit.compiled, options={"xla_an_option_of_another_version": 1}
    )
    def double(tuner, x):
        return tuner * x

    assert double(2, np.float32(3)) == 6
    assert double.compilations() == 1


# With this select a point can be itself where it is compared, and not where it is
# used: the smallest program in which XLA:CPU gives another number than NumPy.
def selected(scaled):
    difference = scaled[:, None] - scaled[None]
    same = difference == 0
    value = jnp.exp(jnp.where(same, 1.0, difference))
    return jnp.where(same, 0.0, value), value.sum()


POINTS = np.random.default_rng(0).random(3)
WRONG = ("0.10.2", "0.12.0.1")  # versions in which that was seen


def test_a_select_on_a_difference_is_compiled_wrongly_by_versions_that_we_know():
    """That this fails on a new version is good news: nothing here relies on it."""
    found = jax.jit(lambda points: selected(points * 1.1))(POINTS)
    with jax.disable_jit():
        right = selected(jnp.asarray(POINTS) * 1.1)
    wrong = not np.allclose(found[1], right[1], rtol=1e-3)
    assert wrong == (jaxlib.__version__ in WRONG)


def numpy_kernel(name, a, b, scale):
    """K1 between points f64[n, d] and f64[m, d], by NumPy."""
    lag = np.sqrt((((a[:, None] - b[None]) * scale) ** 2).sum(-1))
    if name == "rbf":
        return np.exp(-0.5 * lag**2)
    s = np.sqrt({"matern32": 3, "matern52": 5}[name]) * lag
    return (1 + s + (s**2 / 3 if name == "matern52" else 0)) * np.exp(-s)


def covariances(kernel, points, others, scale):
    """As a posterior takes them: between observations, and with other points."""

    def quadratic(scale):
        return jnp.sum(kernel(points * scale[None], points * scale[None]))

    value, slope = jax.value_and_grad(quadratic)(scale)
    scaled = points * scale[None]
    return kernel(scaled, scaled), kernel(others * scale[None], scaled), value, slope


@with_options
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(gp.SPATIAL_KERNELS))
def test_kernels_are_numpys_at_the_observations_and_elsewhere(
    name, dimensions, options
):
    """One program and a scale that is a constant: XLA then fuses the most."""
    rng, step = np.random.default_rng(dimensions), 1e-5
    scale = np.full(dimensions, 1.1)
    kernel = gp.SPATIAL_KERNELS[name]
    for count in (3, 17):
        points, others = rng.random((count, dimensions)), rng.random((7, dimensions))
        program = jit(lambda x, y: covariances(kernel, x, y, scale), options)
        found = jax.device_get(program(points, others))
        among, between, total, slope = found
        np.testing.assert_allclose(
            among, numpy_kernel(name, points, points, scale), atol=1e-12
        )
        np.testing.assert_allclose(
            between, numpy_kernel(name, others, points, scale), atol=1e-12
        )
        assert total == pytest.approx(np.sum(among), rel=1e-12)
        for axis, at in enumerate(np.eye(dimensions) * step):
            sides = [
                numpy_kernel(name, points, points, scale + sign * at).sum()
                for sign in (1, -1)
            ]
            estimate = (sides[0] - sides[1]) / (2 * step)
            assert slope[axis] == pytest.approx(estimate, rel=1e-6, abs=1e-8)


@with_options
def test_the_acquisition_is_smooth_over_its_border(options):
    """Around z = -4, where one formula takes over from another, nothing hangs on how
    the comparison is rounded."""
    border = acquisition._TAIL * (1 + np.arange(-40, 41) * 1e-16)
    value = jit(
        lambda z: acquisition.log_expected_improvement(z * 1.1, 1.1, 0.0), options
    )(border)
    np.testing.assert_allclose(value, value[40], rtol=1e-12)
    slope = jit(
        jax.vmap(jax.grad(acquisition.log_expected_improvement), (0, None, None)),
        options,
    )(border, 1.0, 0.0)
    np.testing.assert_allclose(slope, slope[40], rtol=1e-6)
