"""The gap of two accuracies that a validation split can tell, against simulations."""

import numpy as np
import pytest
from scipy import stats

from hyperdyn_jax.run.network import smallest_gap


def test_it_is_that_of_simulated_answers():
    """At that gap, a one-sided test of the level finds it every other time."""
    rng, examples, differing = np.random.default_rng(2), 2000, 0.2
    gap = smallest_gap(examples, 0.05, differing) / 100
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
    gap = smallest_gap(examples, comparisons=epochs - 1)
    assert np.mean(fallen > gap) < 0.055
    if epochs > 2:
        assert np.mean(fallen > smallest_gap(examples)) > 0.3
