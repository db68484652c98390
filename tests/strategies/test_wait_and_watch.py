"""The wait-and-watch test: probabilities worked out by hand, and its limits."""

import math

import jax
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdyn_jax import keep_probability

many = settings(max_examples=300, deadline=None, derandomize=True)
accuracies = st.floats(0, 100, width=32)


@pytest.mark.parametrize(
    ("history", "settings", "expected"),
    [
        # The paper's: Delta = 4, T = 1, b = 0.01.
        ([50, 51, 52, 53, 54], {}, 1.0),  # rising
        ([54, 10, 90, 0, 54], {}, math.exp(-0.01)),  # flat between the two ends
        ([54, 53, 52, 51, 50], {}, math.exp(-4.01)),
        ([50.5, 0, 0, 0, 50], {}, math.exp(-0.51)),
        ([0, 0, 54, 53, 52, 51, 50], {}, math.exp(-4.01)),  # looks no further back
        # One look-back epoch, and other units.
        ([50, 49], {"window": 1, "offset": 0.0}, 0.36788),
        ([99, 50, 49], {"window": 1, "offset": 0.0}, 0.36788),
        ([50, 49], {"window": 1, "temperature": 2.0, "offset": 0.0}, 0.60653),
        ([50, 49], {"window": 1, "temperature": 0.5, "offset": 0.0}, 0.13534),
        ([50, 49], {"window": 1, "offset": 1.0}, 0.13534),
        ([50, 49], {"window": 1, "offset": -1.0}, 1.0),
        ([50, 49], {"window": 1, "offset": -0.5}, 0.60653),
        ([50, 52], {"window": 1, "offset": 2.5}, 0.60653),  # rises less than b asks
    ],
)
def test_worked_by_hand(history, settings, expected):
    assert float(keep_probability(history, **settings)) == pytest.approx(
        expected, abs=2e-5
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_oldest_stands_in_while_the_run_is_young(count):
    history = [30.0, 29.5, 29.0, 28.5][:count]
    fall = history[0] - history[-1]
    assert float(keep_probability(history)) == pytest.approx(
        math.exp(-fall - 0.01), rel=1e-5
    )
    # Which is the same as a past in which nothing happened.
    padded = [30.0] * 4 + history
    assert float(keep_probability(padded[-5:])) == float(keep_probability(history))


@many
@given(
    history=st.lists(accuracies, min_size=1, max_size=12),
    window=st.integers(1, 14),
    temperature=st.floats(0.01, 100),
    offset=st.floats(-5, 5),
)
def test_agrees_with_the_oracle(history, window, temperature, offset):
    found = keep_probability(
        history, window=window, temperature=temperature, offset=offset
    )
    assert found.dtype == np.float32
    assert 0 <= float(found) <= 1
    expected = oracle.keep_probability(history, window, temperature, offset)
    # An exponent of size x is known to x float32 roundings, and so is its exponential;
    # below the normal numbers there is nothing but zero.
    roundings = (abs(offset) + 100 / temperature) * 2.0**-22 + 1e-6
    assert float(found) == pytest.approx(expected, rel=roundings, abs=1e-37)


@many
@given(st.lists(accuracies, min_size=1, max_size=12), st.integers(1, 14))
def test_infinite_offset_never_keeps(history, window):
    found = keep_probability(history, window=window, offset=math.inf)
    assert float(found) == 0.0  # not small: a draw of exactly 0 must switch too


@many
@given(st.lists(accuracies, min_size=2, max_size=12, unique=True), st.integers(1, 14))
def test_rising_accuracy_always_keeps(history, window):
    found = keep_probability(sorted(history), window=window, offset=0.0)
    assert float(found) == 1.0  # not nearly: no draw in [0, 1) may switch


@pytest.mark.parametrize("offset", [0.0, 0.01, math.inf, -math.inf])
def test_collapse_and_leap_stay_probabilities(offset):
    for history in ([0.0, 100.0], [100.0, 0.0], [1e30, -1e30], [-1e30, 1e30]):
        found = float(keep_probability(history, temperature=1e-3, offset=offset))
        assert 0 <= found <= 1


def test_works_under_jit():
    history = np.float32([52, 51, 50])
    compiled = jax.jit(keep_probability, static_argnames=("window",))
    assert float(compiled(history, window=2)) == float(
        keep_probability(history, window=2)
    )


@pytest.mark.parametrize("history", [[], 50.0, [[50.0, 49.0]]])
def test_history_must_be_a_list_of_accuracies(history):
    with pytest.raises(ValueError, match="at least one accuracy, got shape"):
        keep_probability(history)


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        *(("window", value, ">= 1") for value in (0, -1, 4.0, True, "4", None)),
        *(
            ("temperature", value, "> 0 and finite")
            for value in (0, 0.0, -1.0, math.nan, math.inf, "1", None, True)
        ),
        *(
            ("offset", value, "a number or infinity")
            for value in (math.nan, "0.01", None, False)
        ),
    ],
)
def test_settings_out_of_range(name, value, valid):
    with pytest.raises(ValueError, match=rf"{name} must be .*{valid}, got {value!r}"):
        keep_probability([50.0, 49.0], **{name: value})
