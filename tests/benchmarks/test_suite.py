"""The race on recorded learning curves: what it has to see through on real networks."""

import pytest
from archive import RESULTS

from benchmarks.suite import offline
from benchmarks.suite.curves import load


@pytest.fixture(scope="module")
def warmup():
    """A transformer whose optimizer warms up over the first 8% of the run."""
    return load(RESULTS / "suite" / "transformer_warmup-0.npz")


def test_a_base_that_leads_while_something_warms_up_does_not_end_the_race(warmup):
    """A rate ten times too large is the best for as long as that."""
    played = offline.play(warmup, 10 * warmup.best_rate, 0)
    assert not played.kept
    assert played.ratio < 1.06


def test_nor_where_it_is_only_possible_that_something_warms_up():
    """The best rate is the same after 30 and 60 steps, and then falls."""
    warmup = load(RESULTS / "suite" / "transformer_warmup-1.npz")
    played = offline.play(warmup, 10 * warmup.best_rate, 0)
    assert not played.kept
    assert played.ratio < 1.1


def test_a_right_base_is_within_the_budget_and_near_the_best_of_the_sweep(warmup):
    played = offline.play(warmup, warmup.best_rate, 0)
    assert played.kept
    assert played.ratio < 1.03
    assert played.overhead <= 0.2
