"""The switch test: its level, its power, its limits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hyperdyn_jax.strategies import paired_test
from hyperdyn_jax.strategies.paired_test import Verdict


@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=8).filter(
        lambda values: np.std(values) > 1e-3
    )
)
def test_p_value_is_scipys(values):
    expected = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    assert paired_test.p_value(np.array(values)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5, 0.5], 0.0), ([0.0, 0.0, 0.0], 1.0), ([-0.5, -0.5], 1.0)],
)
def test_pairs_without_spread_leave_no_doubt(values, expected):
    assert paired_test.p_value(np.array(values)) == expected


def test_one_pair_is_not_enough():
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        paired_test.p_value(np.array([1.0]))


def play(pairs, first, last, level):
    """-> the verdict, and how many pairs it took."""
    for count in range(1, last + 1):
        verdict = paired_test.look(pairs[:count], first, last, level)
        if verdict is not Verdict.CONTINUE:
            return verdict, count
    raise AssertionError("no verdict after the last pair")


@pytest.mark.parametrize(("first", "last"), [(3, 3), (3, 6), (3, 4), (2, 4)])
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_false_switches_are_no_more_than_the_level(first, last, level):
    """20,000 challengers that are no better; the bound leaves three deviations."""
    rng, draws = np.random.default_rng(0), 20_000
    pairs = rng.normal(size=(draws, last))
    switched = sum(play(row, first, last, level)[0] is Verdict.SWITCH for row in pairs)
    allowed = level + 3 * math.sqrt(level * (1 - level) / draws)
    assert 0.3 * level < switched / draws <= allowed


@pytest.mark.parametrize(("first", "last", "margin"), [(3, 6, 0.1), (3, 3, 0.0)])
def test_power_is_that_of_the_test_that_is_run(first, last, margin):
    """Pair by pair, as the tuner plays it: two looks, the margin, early giving up."""
    rng, draws, base, deviation = np.random.default_rng(1), 5000, 0.28, 0.018
    for gap in (0.02, 0.04, 0.06):
        pairs = (1 - margin) * (base + gap) - base
        pairs = pairs + rng.normal(0, deviation, size=(draws, last))
        played = [play(row, first, last, 0.05)[0] for row in pairs]
        found = np.mean([verdict is Verdict.SWITCH for verdict in played])
        assert paired_test.power(
            gap, deviation, first=first, last=last, level=0.05, margin=margin, base=base
        ) == pytest.approx(found, abs=0.025)


def test_power_of_one_look_is_that_of_the_noncentral_t():
    for gap, deviation, pairs in ((0.02, 0.02, 3), (0.05, 0.03, 6)):
        critical = stats.t.isf(0.05, pairs - 1)
        shift = gap / deviation * math.sqrt(pairs)
        one = paired_test.power(gap, deviation, first=pairs, last=pairs, level=0.05)
        # Those that are behind after a pair are given up, and so never found.
        assert one <= stats.nct.sf(critical, pairs - 1, shift) + 0.005
        assert one == pytest.approx(stats.nct.sf(critical, pairs - 1, shift), abs=0.05)


def test_at_the_margin_the_power_is_no_more_than_the_level():
    base, margin = 0.28, 0.1
    edge = margin * base / (1 - margin)  # where the margin is met and no more
    looks = {"first": 3, "last": 6, "level": 0.05, "margin": margin, "base": base}
    assert 0.02 < paired_test.power(edge, 0.018, **looks) <= 0.05
    assert paired_test.power(0.0, 0.018, **looks) < 0.001  # no better than the base


@given(
    pairs=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    first=st.integers(2, 3),
    last=st.integers(3, 6),
)
@settings(max_examples=200)
def test_there_is_always_a_verdict_and_never_a_switch_to_what_is_behind(
    pairs, first, last
):
    pairs = np.array(pairs)
    verdict, count = play(pairs, first, last, 0.05)
    if verdict is Verdict.SWITCH:
        assert count in (first, last)
        assert pairs[:count].mean() > 0
    if pairs[0] <= 0:
        assert (verdict, count) == (Verdict.KEEP, 1)


def test_smallest_gap_is_that_of_simulated_answers():
    """At that gap, a one-sided test of the level finds it every other time."""
    rng, examples, differing = np.random.default_rng(2), 2000, 0.2
    gap = paired_test.smallest_gap(examples, 0.05, differing) / 100
    wins = rng.binomial(examples, (differing + gap) / 2, size=20_000)
    losses = rng.binomial(examples, (differing - gap) / 2, size=20_000)
    z = (wins - losses) / np.sqrt(wins + losses)
    assert np.mean(z > stats.norm.isf(0.05)) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("epochs", [2, 24, 48])
def test_a_run_of_equal_epochs_seldom_has_one_that_beats_the_last_by_the_gap(epochs):
    rng, examples, runs = np.random.default_rng(3), 2000, 20_000
    deviation = 100 * np.sqrt(0.2 / examples / 2)  # of an epoch's accuracy
    accuracies = rng.normal(60, deviation, (runs, epochs))
    fallen = accuracies.max(1) - accuracies[:, -1]
    gap = paired_test.smallest_gap(examples, comparisons=epochs - 1)
    assert np.mean(fallen > gap) < 0.055
    if epochs > 2:
        assert np.mean(fallen > paired_test.smallest_gap(examples)) > 0.3
