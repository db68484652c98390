"""Explore-then-commit: its budget, its probes, its choice, on problems with answers."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, Uniform, explore
from hyperdyn_jax.explore import ExploreThenCommit

RATE = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
BOTH = SearchSpace(
    learning_rate=LogUniform(1e-3, 1.0), momentum=LogComplement(0.0, 0.99)
)
START = -2.5  # minus nats


def progress(setting):
    """Best at a rate of 0.05 and a momentum of 0.9: 0 to 1 nats."""
    value = np.exp(-((np.log(setting["learning_rate"] / 0.05) / 1.5) ** 2))
    if "momentum" in setting:
        value *= np.exp(-((np.log((1 - setting["momentum"]) / 0.1) / 3) ** 2))
    return value


def play(tuner, score, seed=0, decisions=20):
    """-> rows of (state before, trials, scores, decision), the last state."""
    state, rows = tuner.init(jax.random.key(seed), START), []
    for _ in range(decisions):
        trials = tuner.ask(state)
        count = len(trials.parents)
        scores = np.float32([score(trials.setting(i)) for i in range(count)])
        before = state
        state, decision = tuner.tell(state, trials, scores)
        rows.append((before, trials, scores, decision))
    return rows, state


def noisy(seed, deviation=0.02):
    rng = np.random.default_rng(seed)
    return lambda s: START + progress(s) + rng.normal(0, deviation)


@pytest.mark.parametrize("space", [RATE, BOTH], ids=["rate", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_finds_the_best_setting_and_keeps_it(space, seed):
    rows, state = play(ExploreThenCommit(space, epochs=48), noisy(seed), seed)
    chosen = {name: float(value) for name, value in state.chosen.items()}
    assert progress(chosen) > 0.9
    settings = [trials.setting(0) for _, trials, _, decision in rows[5:]]
    assert all(setting == settings[0] for setting in settings)
    for name in space:
        assert settings[0][name] == state.chosen[name]


def test_probes_are_counted_and_leave_the_run_where_it_was():
    tuner = ExploreThenCommit(RATE, epochs=48, probes=9, initial=6)
    rows, _ = play(tuner, noisy(0))
    probes, run = rows[:4], rows[4:]
    assert [len(trials.parents) for _, trials, _, _ in probes] == [6, 1, 1, 1]
    for _, trials, _, decision in probes:
        assert trials.epochs == pytest.approx(48 * 0.1 / 1.1 / 9)
        assert (decision.branch, list(decision.hold)) == (-1, [len(trials.parents)])
        assert set(trials.parents) == {0}
    for i, (_, trials, _, decision) in enumerate(run):
        assert (trials.epochs, len(trials.parents)) == (1.0, 1)
        assert (decision.branch, decision.epoch, decision.kept) == (0, i, i > 0)


@given(
    epochs=st.integers(1, 500),
    overhead=st.floats(0.01, 1.0),
    probes=st.integers(6, 40),
)
@settings(max_examples=50)
def test_overhead_is_what_was_asked_for(epochs, overhead, probes):
    tuner = ExploreThenCommit(RATE, epochs, max_overhead=overhead, probes=probes)
    accepted = epochs - tuner.extra_epochs
    assert tuner.extra_epochs / accepted == pytest.approx(overhead)
    assert tuner.shortest_trial * probes == pytest.approx(tuner.extra_epochs)


@pytest.mark.parametrize("space", [RATE, BOTH], ids=["rate", "both"])
def test_first_probes_cover_the_space(space):
    for seed in range(10):
        tuner = ExploreThenCommit(space, epochs=48, probes=16, initial=16)
        trials = tuner.ask(tuner.init(jax.random.key(seed), START))
        units = np.asarray(space.to_unit(trials.hparams))
        for axis in units.T:
            gaps = np.diff(np.sort(np.append(axis, axis.min() + 1)))
            assert gaps.max() < 3.5 / 16
    first, second = (
        tuner.ask(tuner.init(jax.random.key(seed), START)) for seed in (0, 1)
    )
    assert not np.array_equal(
        first.hparams["learning_rate"], second.hparams["learning_rate"]
    )


def test_what_makes_no_progress_is_no_worse_than_nothing():
    """A loss of millions does not hide the differences between good settings."""

    def score(setting):
        bold = setting["learning_rate"] > 0.3
        return -1e6 if bold else START + progress(setting)

    for seed in range(4):
        _, state = play(ExploreThenCommit(RATE, epochs=48), score, seed)
        assert progress({"learning_rate": float(state.chosen["learning_rate"])}) > 0.9
        assert state.data.gains.min() >= 0


def test_diverged_probes_are_kept_away_from():
    def score(setting):
        bold = setting["learning_rate"] > 0.1
        return np.nan if bold else START + progress(setting)

    for seed in range(4):
        _, state = play(ExploreThenCommit(RATE, epochs=48), score, seed)
        assert state.data.infeasible.any()
        assert 0.01 < float(state.chosen["learning_rate"]) < 0.1


def test_everything_diverging_is_tried_again_elsewhere():
    tuner = ExploreThenCommit(RATE, epochs=48, probes=6)
    rows, state = play(tuner, lambda _: np.nan, decisions=3)
    assert all(decision.branch == -1 for *_, decision in rows)
    tried = [tuple(trials.hparams["learning_rate"]) for _, trials, _, _ in rows]
    assert len(set(tried)) == 3
    assert np.isnan(state.chosen["learning_rate"])


def test_a_run_that_diverges_goes_on_with_the_next_best_setting():
    tuner = ExploreThenCommit(RATE, epochs=48)
    rows, state = play(tuner, noisy(0, 0.0), decisions=6)
    epoch, tried = state.epoch, {float(state.chosen["learning_rate"])}
    for _ in range(tuner.probes - 1):
        state, decision = tuner.tell(state, tuner.ask(state), np.float32([np.nan]))
        assert (decision.branch, list(decision.hold)) == (-1, [1])
        chosen = float(state.chosen["learning_rate"])
        if np.isnan(chosen):  # two probes were within rounding of each other
            break
        assert chosen not in tried
        tried.add(chosen)
    assert len(tried) >= tuner.probes - 3
    assert state.epoch == epoch == rows[-1][0].epoch + 1


def test_when_no_setting_is_left_the_search_begins_anew():
    tuner = ExploreThenCommit(RATE, epochs=48, probes=6)
    _, state = play(tuner, noisy(0), decisions=2)
    for _ in range(6):
        state, _ = tuner.tell(state, tuner.ask(state), np.float32([np.nan]))
        if np.isnan(state.chosen["learning_rate"]):
            break
    assert len(tuner.ask(state).parents) == 6
    assert not (state.data.feasible | state.data.infeasible).any()


def test_state_survives_json_and_the_run_repeats():
    tuner = ExploreThenCommit(BOTH, epochs=48)
    rows, last = play(tuner, noisy(3), decisions=9)
    rng_free = {i: scores for i, (_, _, scores, _) in enumerate(rows)}
    leaves, tree = jax.tree.flatten(rows[2][0])
    copied = [
        np.array(json.loads(json.dumps(np.nan_to_num(leaf, nan=-7).tolist())))
        for leaf in leaves
    ]
    state = tree.unflatten(
        np.where(copy == -7, np.nan, copy).astype(leaf.dtype)
        for copy, leaf in zip(copied, leaves, strict=True)
    )
    for i in range(2, 9):
        state, _ = tuner.tell(state, tuner.ask(state), rng_free[i])
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_predictions_are_logarithms_turned_into_the_scores_unit():
    """gain = loss at the start x (1 - exp(-logarithm)), spreads by its slope."""
    tuner = ExploreThenCommit(RATE, epochs=48)
    _, state = play(tuner, noisy(0), decisions=2)
    trials = tuner.ask(state)
    _, (mean, *spreads), _ = explore._propose(tuner, state)
    mean = float(mean[0])

    def gain(logarithm):
        return -START * (1 - np.exp(-logarithm))

    slope = (gain(mean + 1e-5) - gain(mean - 1e-5)) / 2e-5
    assert trials.posterior_mean[0] == pytest.approx(gain(mean), rel=1e-4)
    found = (trials.posterior_stddev[0], trials.expected_improvement[0])
    assert found == pytest.approx([slope * x[0] for x in spreads], rel=1e-4)


def test_predictions_are_in_the_scores_unit():
    """On average over runs, what is predicted of a probe is near what comes."""
    errors, spreads = [], []
    for seed in range(12):
        tuner = ExploreThenCommit(RATE, epochs=48, probes=12)
        rows, _ = play(tuner, noisy(seed), seed, decisions=7)
        for _, trials, scores, _ in rows[3:]:
            errors.append(scores[0] - START - trials.posterior_mean[0])
            noise = trials.model["noise_stddev"]
            spreads.append(np.hypot(trials.posterior_stddev[0], noise))
    assert np.abs(np.mean(errors)) < 0.15
    inside = np.abs(errors) <= 1.645 * np.array(spreads)
    assert 0.75 <= np.mean(inside) <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_overhead": 0.0},
            r"max_overhead must be a number in \(0, inf\), got 0.0",
        ),
        ({"averaging": -1.0}, r"averaging must be a number in \[0, inf\), got -1.0"),
        ({"probes": 5}, "probes must be a whole number >= 6, got 5"),
        ({"initial": 1}, "initial must be a whole number >= 2, got 1"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ExploreThenCommit(**{"space": RATE, "epochs": 48} | change)


def test_mixed_axes():
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0), momentum=Uniform(0.0, 0.9))
    _, state = play(ExploreThenCommit(space, epochs=10), noisy(1), decisions=6)
    assert 0.0 <= state.chosen["momentum"] <= 0.9


@pytest.mark.parametrize("score", [0.0, 10.0, np.nan, -np.inf])
def test_scores_that_are_not_minus_a_loss_are_refused(score):
    tuner = ExploreThenCommit(RATE, epochs=48)
    with pytest.raises(ValueError, match=r"score must be (minus a loss > 0|finite)"):
        tuner.init(jax.random.key(0), score)
