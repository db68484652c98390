"""Axes and the unit cube: exact to float32 rounding, and never out of bounds."""

import math

import jax
import numpy as np
import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, Uniform

KINDS = {
    Uniform: "uniform",
    LogUniform: "log_uniform",
    LogComplement: "log_complement",
}
EPS = 2.0**-23  # spacing of the float32 numbers at one
ROUNDINGS = 8  # of a map of five operations, or of two maps of four each

many = settings(max_examples=200, deadline=None, derandomize=True)
units = st.floats(0, 1, width=32)


@st.composite
def axes(draw):
    """An axis of any kind, from everyday bounds to absurd ones."""
    kind = draw(st.sampled_from(list(KINDS)))
    if kind is LogUniform:
        bound = st.floats(-36.9, 36.9).map(lambda exponent: 10.0**exponent)
    elif kind is LogComplement:
        near_one = st.floats(-6.9, 0).map(lambda exponent: 1 - 10.0**exponent)
        bound = near_one | st.floats(-1e37, 0.999)
    else:
        bound = st.floats(-1e37, 1e37) | st.floats(-10, 10)
    low, high = sorted((draw(bound), draw(bound)))
    try:
        return kind(low, high)
    except ValueError:  # empty, subnormal or touching one; tested on their own below
        assume(False)


def oracle_axis(axis):
    return KINDS[type(axis)], axis.low, axis.high


def slack(axis, value):
    """(in the unit, in the value): what float32 rounding may change of either.

    The value costs its own rounding, the logarithm is as wrong as its largest number,
    and the map divides by the span.
    """
    largest = max(abs(axis.low), abs(axis.high))
    if isinstance(axis, Uniform):
        unit, size = largest / (axis.high - axis.low), largest
    else:
        bounds = np.array([axis.low, axis.high])
        if isinstance(axis, LogUniform):
            logs, slope, bend = np.log(bounds), value, 0.0
        else:
            logs, slope = np.log1p(-bounds), 1 - value
            bend = abs(value) / slope
        span, log = abs(logs[1] - logs[0]), 1 + np.max(np.abs(logs))
        unit, size = (log + bend) / span, log * slope + abs(value)
    return ROUNDINGS * EPS * (1 + unit), ROUNDINGS * EPS * size


def inside(axis, value):
    return axis.low <= float(value) <= axis.high


@many
@given(axes(), units)
def test_unit_survives_the_way_there_and_back(axis, unit):
    value = float(axis.from_unit(unit))
    assert inside(axis, value)
    assert float(axis.to_unit(value)) == pytest.approx(
        unit, abs=slack(axis, value)[0], rel=0
    )


@many
@given(axes(), units)
def test_value_survives_the_way_there_and_back(axis, unit):
    value = float(np.float32(oracle.from_unit(*oracle_axis(axis), unit)))
    assume(inside(axis, value))
    there = axis.to_unit(value)
    assert 0 <= float(there) <= 1
    assert float(axis.from_unit(there)) == pytest.approx(
        value, abs=slack(axis, value)[1], rel=0
    )


@many
@given(axes(), units)
def test_axis_agrees_with_the_oracle(axis, unit):
    value = float(axis.from_unit(unit))
    expected = float(oracle.from_unit(*oracle_axis(axis), unit))
    assert value == pytest.approx(expected, abs=slack(axis, expected)[1], rel=0)
    expected = float(oracle.to_unit(*oracle_axis(axis), value))
    assert float(axis.to_unit(value)) == pytest.approx(
        expected, abs=slack(axis, value)[0], rel=0
    )


@pytest.mark.parametrize(
    ("axis", "middle"),
    [
        (Uniform(0.0, 0.99), 0.495),
        (LogUniform(1e-4, 1.0), 1e-2),
        (LogComplement(0.9, 0.999), 0.99),
        (LogComplement(0.0, 0.99), 0.9),
    ],
)
def test_everyday_axis(axis, middle):
    # The geometric mean of a rate, of 1 - momentum: what the axis is for.
    assert float(axis.from_unit(0.5)) == pytest.approx(middle, rel=1e-5)
    grid = np.linspace(0, 1, 1001, dtype=np.float32)
    values = axis.from_unit(grid)
    np.testing.assert_allclose(axis.to_unit(values), grid, atol=2e-5)
    expected = oracle.from_unit(*oracle_axis(axis), grid)
    np.testing.assert_allclose(values, expected, rtol=2e-6)
    assert np.all(np.diff(values) > 0)


@settings(many, max_examples=50)  # each compiles
@given(axes(), st.lists(st.floats(-1, 2, width=32), min_size=8, max_size=8))
def test_compiled_map_stays_inside_the_bounds_as_written(axis, points):
    """The bounds are doubles: float32(0.99) is above 0.99, and out of bounds."""
    points = np.float32([*points, 0.0, 1.0])
    values = jax.jit(axis.from_unit)(points)
    assert values.dtype == np.float32
    assert all(inside(axis, value) for value in values)


@pytest.mark.parametrize("high", [0.99, 0.1, 0.7, 0.999])
def test_bound_that_float32_rounds_up_is_not_exceeded(high):
    assert float(np.float32(high)) != high
    for axis in (Uniform(0.0, high), LogUniform(1e-3, high), LogComplement(0.0, high)):
        assert float(axis.from_unit(1.0)) <= high
        assert float(axis.from_unit(1.0)) == pytest.approx(high, rel=1e-6)
    for axis in (Uniform(high, 2.0), LogUniform(high, 2.0)):
        assert float(axis.from_unit(0.0)) >= high


@pytest.mark.parametrize(
    "axis", [Uniform(-2, 3), LogUniform(1e-3, 10), LogComplement(0.5, 0.99)]
)
def test_value_outside_lands_on_the_nearest_face(axis):
    below = np.float32([-1e30, -5, axis.low])
    above = np.float32([axis.high, 50, 1e30])
    np.testing.assert_allclose(axis.to_unit(below), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(axis.to_unit(above), np.ones(3), atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.5, 0.5, "empty"),
        (0.5, 0.5 + 1e-12, "empty"),  # one number in float32
        (0.6, 0.5, "reversed"),
        (math.nan, 0.5, "finite"),
        (0.1, math.nan, "finite"),
        (0.1, math.inf, "finite"),
        (-math.inf, 0.5, "finite"),
        (0.1, 1e300, "finite"),
        (0.1, 10**400, "finite"),
        (1e-40, 0.5, "at least 1e-37"),
        (False, 0.5, "numbers, got False"),
        (0.1, True, "numbers, got True"),
        ("0.1", 0.5, "numbers, got '0.1'"),
        (None, 0.5, "numbers, got None"),
    ],
)
def test_bounds_that_make_no_axis(kind, low, high, message):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\b.*{message}"):
        kind(low, high)


@pytest.mark.parametrize("low", [0, 0.0, -0.0, -1.0, -1e-3])
def test_log_uniform_needs_a_positive_low(low):
    with pytest.raises(ValueError, match=rf"low > 0 .*got low={low}"):
        LogUniform(low, 1.0)


@pytest.mark.parametrize("high", [1, 1.0, 1 - 1e-9, 2.0])
def test_log_complement_needs_a_high_below_one(high):
    with pytest.raises(ValueError, match=rf"high < 1 .*got high={high}"):
        LogComplement(0.0, high)


def test_narrowest_axes_work():
    """At the limits of the checks the maps are still numbers: no 0 / 0."""
    limits = (
        Uniform(0.0, 1e-37),
        Uniform(-1e37, 1e37),
        Uniform(9e36, 1e37),
        LogUniform(1e-37, 1e37),
        LogUniform(1.0, 1 + 2 * EPS),
        LogComplement(-1e37, 0.99999994),
        LogComplement(0.0, 1e-37),
    )
    for axis in limits:
        values = axis.from_unit(np.linspace(0, 1, 9, dtype=np.float32))
        assert all(inside(axis, value) for value in values)
        found = np.asarray(axis.to_unit(values))
        assert np.all((found >= 0) & (found <= 1))
        assert found[-1] > found[0]


@pytest.fixture
def space():
    return SearchSpace(
        learning_rate=LogUniform(1e-3, 1.0),
        momentum=Uniform(0.0, 0.99),
        b2=LogComplement(0.9, 0.9999),
    )


def test_space_is_a_mapping_in_the_order_of_the_axes(space):
    assert list(space) == ["learning_rate", "momentum", "b2"]
    assert len(space) == 3
    assert space["momentum"] == Uniform(0.0, 0.99)
    with pytest.raises(KeyError, match="beta"):
        space["beta"]


@many
@given(points=st.lists(st.tuples(units, units, units), min_size=1, max_size=5))
def test_space_maps_every_axis_by_itself(points):
    space = SearchSpace(
        a=LogUniform(1e-3, 1.0), b=Uniform(0.0, 0.99), c=LogComplement(0.9, 0.9999)
    )
    points = np.float32(points)
    hparams = space.from_unit(points)
    table = {name: oracle_axis(axis) for name, axis in space.items()}
    rows = [{name: hparams[name][i] for name in space} for i in range(len(points))]
    found = np.asarray(space.to_unit(hparams))
    assert found.dtype == np.float32
    # Near b2 = 0.9999 a rounding of b2 is 6e-4 of 1 - b2.
    np.testing.assert_allclose(found, points, atol=2e-4)
    np.testing.assert_allclose(found, oracle.settings_to_unit(table, rows), atol=2e-4)


def test_space_takes_points_of_any_leading_shape(space):
    points = np.zeros((2, 4, 3), np.float32)
    hparams = space.from_unit(points)
    assert {x.shape for x in hparams.values()} == {(2, 4)}
    assert space.to_unit(hparams).shape == (2, 4, 3)


@pytest.mark.parametrize(
    "names",
    [
        ("learning_rate", "momentum"),
        ("learning_rate", "momentum", "b2", "b1"),
        ("lr", "momentum", "b2"),
        (),
    ],
)
def test_unknown_and_missing_names(space, names):
    with pytest.raises(ValueError, match=r"expected hyperparameters \['b2', .*got"):
        space.to_unit(dict.fromkeys(names, 0.5))


def test_space_without_axes():
    with pytest.raises(ValueError, match="at least one axis"):
        SearchSpace()


@pytest.mark.parametrize("axis", [(0.0, 1.0), 0.1, None, Uniform])
def test_space_of_something_else(axis):
    with pytest.raises(TypeError, match="'learning_rate' must be Uniform, LogUniform"):
        SearchSpace(learning_rate=axis)


def test_equal_spaces_hash_alike():
    def build(**axes):
        return SearchSpace(**axes)

    a, b = Uniform(0.0, 1.0), LogUniform(0.1, 1.0)
    space = build(a=a, b=b)
    assert space == build(a=Uniform(0, 1), b=LogUniform(0.1, 1))
    assert hash(space) == hash(build(a=Uniform(0, 1), b=LogUniform(0.1, 1)))
    different = (
        build(b=b, a=a),  # the order is that of the cube's coordinates
        build(a=a),
        build(a=a, c=b),
        build(a=a, b=LogUniform(0.1, 2.0)),
        build(a=LogUniform(0.1, 1.0), b=Uniform(0.0, 1.0)),
    )
    assert all(space != other for other in different)
    assert len({space, *different}) == 1 + len(different)
    assert space != {"a": a, "b": b}


def test_equal_spaces_share_one_compilation():
    compiled = jax.jit(lambda space, u: space.from_unit(u), static_argnums=0)
    for _ in range(2):
        compiled(SearchSpace(a=Uniform(0.0, 1.0)), np.zeros(1, np.float32))
    assert compiled._cache_size() == 1


def test_repr_is_what_one_would_type():
    space = SearchSpace(a=Uniform(0.0, 0.5), b=LogUniform(0.1, 1.0))
    assert repr(space) == (
        "SearchSpace(a=Uniform(low=0.0, high=0.5), b=LogUniform(low=0.1, high=1.0))"
    )


def test_sample_is_uniform_in_the_cube(space):
    hparams = space.sample(jax.random.key(3), 20_000)
    points = np.asarray(space.to_unit(hparams))
    for name, column in zip(space, points.T, strict=True):
        assert all(inside(space[name], value) for value in hparams[name])
        # Kolmogorov-Smirnov at a level that a fixed seed passes once for all.
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(points.T) - np.eye(3)
    assert np.max(np.abs(correlation)) < 4 / math.sqrt(20_000)
