"""Explore-then-commit: its budget, its probes, its choice, on problems with answers."""

import contextlib
import json

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, Uniform
from hyperdyn_jax.strategies import Schedule, explore_then_commit, probing
from hyperdyn_jax.strategies.explore_then_commit import (
    COMMIT,
    CONFIRM,
    EXPLORE,
    ExploreThenCommit,
)
from hyperdyn_jax.tuner import gp

RATE = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
BOTH = SearchSpace(
    learning_rate=LogUniform(1e-3, 1.0), momentum=LogComplement(0.0, 0.99)
)
START = -2.5  # minus nats
SHARE = 8 / (48 * 32)  # of a probe


def tuner(space=RATE, epochs=48, **changes):
    return ExploreThenCommit(space, epochs, 32, **changes)


def anchored(rate, space=RATE, **changes):
    changes = {"base": Schedule.cosine(48, rate, momentum=0.9)} | changes
    return tuner(space, **changes)


def progress(setting):
    """Best at a rate of 0.05 and a momentum of 0.9: 0 to 1 nats."""
    value = np.exp(-((np.log(setting["learning_rate"] / 0.05) / 1.5) ** 2))
    if "momentum" in setting:
        value *= np.exp(-((np.log((1 - setting["momentum"]) / 0.1) / 3) ** 2))
    return value


def play(tuner, score, seed=0, decisions=1000):
    """To the end of the run, or so many decisions.

    -> rows of (state before, trials, scores, decision), the last state.
    """
    state, rows, steps = tuner.init(jax.random.key(seed), START), [], 0
    while steps < tuner.accepted_steps(state) and len(rows) < decisions:
        trials = tuner.ask(state)
        count = len(trials.parents)
        scores = np.float32([score(trials.setting(i)) for i in range(count)])
        before = state
        state, decision = tuner.tell(state, trials, scores)
        rows.append((before, trials, scores, decision))
        if decision.branch >= 0:
            steps += round(trials.epochs * tuner.steps_per_epoch)
    return rows, state


def noisy(seed, deviation=0.02):
    rng = np.random.default_rng(seed)
    return lambda s: START + progress(s) + rng.normal(0, deviation)


def phase(rows, which):
    return [row for row in rows if row[0].phase == which]


@pytest.mark.parametrize("space", [RATE, BOTH], ids=["rate", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_finds_a_good_setting_and_keeps_it(space, seed):
    rows, state = play(tuner(space, initial=6), noisy(seed), seed)
    chosen = {name: float(value) for name, value in state.chosen.items()}
    assert progress(chosen) > 0.75
    for _, trials, _, _ in phase(rows, COMMIT):
        for name in space:
            assert trials.setting(0)[name] == state.chosen[name]


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.9])
def test_phases_are_counted_and_leave_the_run_where_it_was(rate):
    rows, state = play(anchored(rate), noisy(0, 0.01))
    searches, pairs, run = (phase(rows, p) for p in (EXPLORE, CONFIRM, COMMIT))
    assert len(searches[0][1].parents) == 5
    first = float(searches[0][1].setting(0)["learning_rate"])
    assert first == pytest.approx(rate, rel=1e-3)
    for i, (_, trials, _, decision) in enumerate(searches + pairs):
        confirms = i >= len(searches)
        assert trials.epochs == (16 if confirms else 8) / 32
        assert trials.block == (1 + i - len(searches) if confirms else 0)
        assert (decision.branch, list(decision.hold)) == (-1, [len(trials.parents)])
        assert set(trials.parents) == {0}
    spent = sum(
        len(trials.parents) * round(trials.epochs * 32)
        for _, trials, _, _ in searches + pairs
    )
    assert state.spent == spent
    assert len(run) == -(-(48 * 32 - spent) // 32)
    for i, (_, trials, _, decision) in enumerate(run):
        assert (trials.epochs, len(trials.parents)) == (1.0, 1)
        assert (decision.branch, decision.epoch, decision.kept) == (0, i, i > 0)


@given(
    epochs=st.integers(2, 200),
    steps=st.integers(10, 400),
    overhead=st.floats(0.1, 1.0),
    seed=st.integers(0, 100),
    anchor=st.booleans(),
    deviation=st.sampled_from([0.0, 0.05, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_overhead_is_never_more_than_was_agreed(
    epochs, steps, overhead, seed, anchor, deviation
):
    """Whatever the scores are; not one step."""
    base = Schedule.cosine(epochs, 0.01) if anchor else None
    settings = {"base": base, "max_overhead": overhead}
    contract = None
    with contextlib.suppress(ValueError):  # too short a run
        contract = ExploreThenCommit(RATE, epochs, steps, **settings)
    assume(contract is not None)
    _, state = play(contract, noisy(seed, deviation), seed, decisions=30)
    accepted = contract.accepted_steps(state)
    assert state.phase == COMMIT
    assert state.spent <= overhead * accepted + 1e-6
    assert state.spent + accepted == epochs * steps


def test_base_that_is_good_is_played_as_it_stands():
    """Cosine, shrunk in time to the steps that are left, and no test is needed."""
    rows, state = play(anchored(0.05), noisy(0, 0.01))
    assert not phase(rows, CONFIRM)
    run = phase(rows, COMMIT)
    length = (48 * 32 - state.spent) / 32
    for i, (_, trials, _, _) in enumerate(run):
        middle = (i + 0.5 * min(1, length - i)) / length
        expected = 0.025 * (1 + np.cos(np.pi * middle))
        setting = trials.setting(0)
        assert setting["learning_rate"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert setting["momentum"] == np.float32(0.9)


@pytest.mark.parametrize("rate", [0.0015, 0.005, 0.6])
def test_base_that_is_far_off_is_replaced(rate):
    rows, state = play(anchored(rate), noisy(1, 0.01))
    pairs, run = phase(rows, CONFIRM), phase(rows, COMMIT)
    assert len(pairs) in (3, 6)
    assert pairs[-1][3].p_value <= 0.025
    assert all(np.isnan(decision.p_value) for *_, decision in rows[:-1][: len(rows)]
               if decision is not pairs[-1][3])  # fmt: skip
    chosen = float(state.chosen["learning_rate"])
    assert progress({"learning_rate": chosen}) > 0.6
    assert {float(trials.hparams["learning_rate"][0]) for _, trials, *_ in run} == {
        chosen
    }
    assert all(
        trials.setting(0)["momentum"] == np.float32(0.9) for _, trials, *_ in run
    )


def test_challengers_that_are_no_better_seldom_win():
    """The placebo: every setting is as good as the base's, up to noise."""
    switched = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        _, state = play(
            anchored(0.05),
            lambda _, rng=rng: START + 0.5 + rng.normal(0, 0.05),
            seed,
            decisions=20,
        )
        assert state.phase == COMMIT
        switched += state.chosen["learning_rate"] != np.float32(0.05)
    assert switched <= 6  # of 60, at a level of 5%: one in a hundred draws has more


def test_other_axes_are_replaced_and_the_rest_is_the_bases():
    base = Schedule.wsd(48, 0.002, momentum=0.5, weight_decay=1e-4)
    rows, state = play(tuner(BOTH, base=base, initial=6), noisy(2, 0.01))
    setting = phase(rows, COMMIT)[0][1].setting(0)
    assert setting["weight_decay"] == np.float32(1e-4)
    assert setting["momentum"] == state.chosen["momentum"]
    assert progress({k: float(v) for k, v in state.chosen.items()}) > 0.4


@pytest.mark.parametrize("space", [RATE, BOTH], ids=["rate", "both"])
def test_first_probes_cover_the_space(space):
    for seed in range(10):
        wide = tuner(space, probes=16, initial=16)
        trials = wide.ask(wide.init(jax.random.key(seed), START))
        units = np.asarray(space.to_unit(trials.hparams))
        for axis in units.T:
            gaps = np.diff(np.sort(np.append(axis, axis.min() + 1)))
            assert gaps.max() < 3.5 / 16
    first, second = (
        tuner(space).ask(tuner(space).init(jax.random.key(seed), START))
        for seed in (0, 1)
    )
    assert not np.array_equal(
        first.hparams["learning_rate"], second.hparams["learning_rate"]
    )


def test_probes_end_when_they_are_not_worth_their_steps():
    counts = {}
    for worth in (0.0, 1.0, 1e6):
        rows, _ = play(tuner(worth=worth), noisy(0), decisions=20)
        counts[worth] = sum(len(t.parents) for _, t, _, _ in phase(rows, EXPLORE))
    assert counts[0.0] == 12
    assert counts[1e6] == 4
    assert 4 <= counts[1.0] <= 12


def posterior_means(data, points):
    """Of a process fitted as `explore` does, by NumPy: f64[n]."""
    mode = gp.prior_mean(points.shape[1])
    with jax.enable_x64(True):
        model = jax.tree.map(
            np.asarray,
            gp.fit(
                jax.tree.map(lambda x: np.float64(x) if x.dtype == "f4" else x, data),
                jax.tree.map(np.float64, mode),
                gp.SPATIAL_KERNELS["matern52"],
                gp.TimeKernel(),
                max_steps=16,
            ),
        )
    rows = data.feasible
    x, y = np.float64(data.points[rows]), np.float64(data.gains[rows])
    lag = np.abs(np.float64(data.epochs[rows]))

    def kernel(a, b, lags):
        r = np.sqrt(
            (((a[:, None] - b[None]) / np.exp(model.log_length_scale)) ** 2).sum(-1)
        )
        matern = (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r)
        return np.exp(model.log_amplitude) * matern / (1 + 2 * lags)

    between = np.abs(lag[:, None] - lag[None])
    cov = kernel(x, x, between) + np.exp(model.log_noise) * np.eye(len(x))
    mean, scale = y.mean(), y.std()
    weights = np.linalg.solve(cov, (y - mean) / scale)
    return mean + scale * kernel(points, x, lag[None]) @ weights


@pytest.mark.parametrize("probes", [12, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", range(3))
def test_choice_is_that_of_an_independent_process(probes, seed):
    """With these numbers of rows jaxlib 0.10.2's fusion emitters compile the choice to
    one with wrong posterior means (`host.compiled`)."""
    free = tuner(probes=probes, worth=0.0, max_overhead=1.0)
    rows, state = play(free, noisy(seed, 0.05), seed, decisions=probes - 3)
    data = state.data
    tried = np.flatnonzero(data.feasible)
    means = posterior_means(data, np.float64(data.points[tried]))
    enough = 0.8 * means.max()
    grid = np.linspace(0, 1, 4001)[:, None]
    good = posterior_means(data, grid) >= enough
    distance = np.abs(data.points[tried, 0] - grid[good, 0].mean())
    nearest = distance[means >= enough].min()
    point = np.asarray(RATE.to_unit(state.chosen))[0]
    (chosen,) = np.flatnonzero(np.abs(data.points[tried, 0] - point) < 1e-5)[:1]
    # The middle is taken over 1,024 settings there, and over more here.
    assert means[chosen] >= enough - 1e-3
    assert distance[chosen] == pytest.approx(nearest, abs=0.01)
    assert rows[-1][3].branch in (-1, 0)


def test_what_makes_no_progress_is_no_worse_than_nothing():
    """A loss of millions does not hide the differences between good settings."""

    def score(setting):
        bold = setting["learning_rate"] > 0.3
        return -1e6 if bold else START + progress(setting)

    for seed in range(4):
        _, state = play(tuner(), score, seed, decisions=15)
        assert progress({"learning_rate": float(state.chosen["learning_rate"])}) > 0.6
        assert state.data.gains.min() >= 0


def test_diverged_probes_are_kept_away_from():
    def score(setting):
        bold = setting["learning_rate"] > 0.1
        return np.nan if bold else START + progress(setting)

    for seed in range(4):
        _, state = play(tuner(), score, seed, decisions=15)
        assert state.data.infeasible.any()
        assert 0.005 < float(state.chosen["learning_rate"]) < 0.1


def test_everything_diverging_is_tried_elsewhere_while_there_is_room():
    free = tuner()
    rows, state = play(free, lambda _: np.nan, decisions=6)
    assert all(decision.branch == -1 for *_, decision in rows)
    tried = [tuple(trials.hparams["learning_rate"]) for _, trials, _, _ in rows]
    assert len(set(tried[:3])) == 3  # 12 probes in three sets of four
    assert [len(t) for t in tried] == [4, 4, 4, 1, 1, 1]
    assert state.spent == 12 * 8

    _, state = play(anchored(0.05), lambda _: np.nan, decisions=6)
    assert state.chosen["learning_rate"] == np.float32(0.05)


def test_base_that_diverges_is_left_without_a_test():
    def score(setting):
        bold = setting["learning_rate"] > 0.1
        return np.nan if bold else START + progress(setting)

    rows, state = play(anchored(0.5), score)
    assert not phase(rows, CONFIRM)
    assert 0.005 < float(state.chosen["learning_rate"]) < 0.1


def test_challenger_that_diverges_in_a_pair_is_dropped():
    base = anchored(0.002)
    rows, state = play(base, noisy(0, 0.01), decisions=12)
    before = phase(rows, CONFIRM)[0]
    state, decision = base.tell(before[0], before[1], np.float32([-2.4, np.nan]))
    assert (decision.p_value, int(state.phase)) == (1.0, COMMIT)
    assert state.chosen["learning_rate"] == np.float32(0.002)
    state, decision = base.tell(before[0], before[1], np.float32([np.nan, -2.0]))
    assert (decision.p_value, int(state.phase)) == (0.0, COMMIT)
    assert state.chosen["learning_rate"] != np.float32(0.002)


def test_a_run_that_diverges_goes_back_to_the_base():
    base = anchored(0.002)
    _, state = play(base, noisy(0, 0.01), decisions=20)
    assert state.phase == COMMIT
    assert state.chosen["learning_rate"] != np.float32(0.002)
    epoch = state.epoch
    state, decision = base.tell(state, base.ask(state), np.float32([np.nan]))
    assert (decision.branch, list(decision.hold)) == (-1, [1])
    assert state.chosen["learning_rate"] == np.float32(0.002)
    assert state.epoch == epoch


def test_a_run_without_a_base_that_diverges_takes_another_setting():
    free = tuner(worth=0.0)
    _, state = play(free, noisy(0, 0.0), decisions=11)
    tried = {float(state.chosen["learning_rate"])}
    for _ in range(3):
        state, decision = free.tell(state, free.ask(state), np.float32([np.nan]))
        assert (decision.branch, list(decision.hold)) == (-1, [1])
        tried.add(float(state.chosen["learning_rate"]))
    assert len(tried) == 4


def test_state_survives_json_and_the_run_repeats():
    both = tuner(BOTH, base=Schedule.constant(learning_rate=0.002, momentum=0.5))
    rows, last = play(both, noisy(3), decisions=9)
    leaves, tree = jax.tree.flatten(rows[2][0])
    copied = [
        np.array(json.loads(json.dumps(np.nan_to_num(leaf, nan=-7).tolist())))
        for leaf in leaves
    ]
    state = tree.unflatten(
        np.where(copy == -7, np.nan, copy).astype(leaf.dtype)
        for copy, leaf in zip(copied, leaves, strict=True)
    )
    for _, _, scores, _ in rows[2:]:
        state, _ = both.tell(state, both.ask(state), scores)
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_predictions_are_logarithms_turned_into_the_scores_unit():
    """gain = loss at the start x (1 - exp(-logarithm)), spreads by its slope; those of
    five observations as Student's t with three degrees of freedom has them."""
    free = tuner(worth=0.0)
    _, state = play(free, noisy(0), decisions=2)
    trials = free.ask(state)
    _, (mean, *spreads), _ = probing.propose(RATE, state.key, state.data)
    assert state.data.feasible.sum() == 5
    spreads[0] = spreads[0] * 2.353 / 1.645  # 3 degrees, 95%: any table
    mean = float(mean[0])

    def gain(logarithm):
        return -START * (1 - np.exp(-logarithm))

    slope = (gain(mean + 1e-5) - gain(mean - 1e-5)) / 2e-5
    assert trials.posterior_mean[0] == pytest.approx(gain(mean), rel=1e-4)
    found = (trials.posterior_stddev[0], trials.expected_improvement[0])
    assert found == pytest.approx([slope * x[0] for x in spreads], rel=3e-4)


def rows_of(run):
    """As decisions.jsonl has them."""
    return [
        {
            "branch": decision.branch,
            "block": trials.block,
            "trials": [trials.setting(i) for i in range(len(trials.parents))],
            "scores": [None if np.isnan(s) else float(s) for s in scores],
            "score_before": START,
        }
        for _, trials, scores, decision in run
    ]


def test_an_earlier_run_takes_the_place_of_the_cover():
    earlier_run, _ = play(tuner(worth=0.0), noisy(0), decisions=14)
    earlier = explore_then_commit.earlier_probes(RATE, rows_of(earlier_run))
    assert len(earlier) == 12
    best = max(earlier, key=lambda probe: probe[1])
    cold, warm = [], []
    for seed in range(5):
        rows, state = play(anchored(0.003, earlier=earlier), noisy(seed), seed, 20)
        first = rows[0][1].hparams["learning_rate"]
        np.testing.assert_allclose(first, [0.003, best[0][0]], rtol=1e-5)
        assert progress({"learning_rate": float(state.chosen["learning_rate"])}) > 0.6
        warm.append(int(state.spent))
        cold.append(int(play(anchored(0.003), noisy(seed), seed, 20)[1].spent))
    assert np.mean(warm) < np.mean(cold)


def test_an_earlier_run_of_another_space_is_refused():
    earlier_run, _ = play(tuner(), noisy(0), decisions=3)
    with pytest.raises(ValueError, match="no probe within this run's search space"):
        explore_then_commit.earlier_probes(BOTH, rows_of(earlier_run))
    with pytest.raises(ValueError, match="must have the space's hyperparameters"):
        tuner(BOTH, earlier=(((0.1,), 1.0),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_overhead": 0.0},
            r"max_overhead must be a number > 0 and finite, got 0.0",
        ),
        (
            {"max_overhead": 0.01},
            "is room for 15 steps of probes, and it takes 32: more",
        ),
        ({"averaging": -1.0}, r"averaging must be a number >= 0 and finite, got -1.0"),
        ({"probes": 3}, "probes must be a whole number >= 4, got 3"),
        ({"initial": 1}, "initial must be a whole number >= 2, got 1"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"probe": 1.0}, r"probe must be a number > 0 and < 1, got 1.0"),
        ({"plateau": 0.0}, r"plateau must be a number > 0 and < 1, got 0.0"),
        ({"margin": 1.0}, r"margin must be a number >= 0 and < 1, got 1.0"),
        ({"level": 0.0}, r"level must be a number > 0 and < 1, got 0.0"),
        ({"confirmations": 1}, "confirmations must be a whole number >= 2, got 1"),
        ({"pair": 0}, "pair must be a whole number >= 1, got 0"),
        ({"worth": -1}, r"worth must be a number >= 0 and finite, got -1"),
        ({"base": Schedule.constant(momentum=0.9)}, "a schedule of learning_rate too"),
        (
            {"base": Schedule.constant(learning_rate=3.0)},
            "the space must hold the base's learning_rate, 3, got 0.001 to 1",
        ),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tuner(**change)


def test_mixed_axes():
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0), momentum=Uniform(0.0, 0.9))
    _, state = play(tuner(space, epochs=10), noisy(1), decisions=20)
    assert 0.0 <= state.chosen["momentum"] <= 0.9


@pytest.mark.parametrize("score", [0.0, 10.0, np.nan, -np.inf])
def test_scores_that_are_not_minus_a_loss_are_refused(score):
    with pytest.raises(ValueError, match=r"score must be (minus a loss > 0|finite)"):
        tuner().init(jax.random.key(0), score)


@pytest.mark.parametrize("best", range(5))
def test_first_epoch_is_tried_with_settings_from_the_base_to_the_chosen(best):
    tuner = anchored(0.002, finalists=5)
    rows, _ = play(tuner, noisy(0, 0.01))
    state, trials, _, _ = phase(rows, COMMIT)[0]
    rates = np.log(trials.hparams["learning_rate"][1:])
    # The base's own first epoch is that of its cosine, a little below its peak.
    steps = np.diff([np.log(np.float32(0.002)), *rates])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert trials.setting(4)["learning_rate"] == state.chosen["learning_rate"]
    assert 0.0019 < trials.setting(0)["learning_rate"] <= 0.002
    assert (trials.epochs, trials.probe) == (1.0, False)
    new, decision = tuner.tell(
        state, trials, -1.0 - np.abs(np.arange(5, dtype=np.float32) - best)
    )
    assert (decision.branch, list(decision.hold), decision.kept) == (
        best,
        [best],
        False,
    )
    assert new.spent == state.spent + 4 * 32
    follows = tuner.ask(new)
    assert len(follows.parents) == 1
    if best:
        assert follows.setting(0) == trials.setting(best)
    else:
        assert follows.setting(0)["learning_rate"] < trials.setting(0)["learning_rate"]


def test_finalists_that_diverge_are_left_and_none_is_tried_twice():
    tuner = anchored(0.002, finalists=5)
    rows, state = play(tuner, noisy(0, 0.01))
    (final, *_) = phase(rows, COMMIT)
    state, trials = final[:2]
    assert len(trials.parents) == 5
    new, decision = tuner.tell(state, trials, np.float32([np.nan] * 4 + [-3.0]))
    assert (decision.branch, list(decision.hold)) == (4, [4])
    new, decision = tuner.tell(state, trials, np.full(5, np.nan, np.float32))
    assert (decision.branch, list(decision.hold)) == (-1, [5])
    assert len(tuner.ask(new).parents) == 1
    assert tuner.ask(new).setting(0)["learning_rate"] > 0.002


def test_base_that_stays_has_no_rivals():
    rows, state = play(anchored(0.05, finalists=5), noisy(0, 0.01))
    assert state.chosen == anchored(0.05).anchor
    assert {len(trials.parents) for _, trials, _, _ in phase(rows, COMMIT)} == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finalists": 0}, "finalists must be a whole number >= 1, got 0"),
        ({"finalists": 41}, "finalists=41 take an epoch each, and probes leave 1280"),
    ],
)
def test_finalists_that_a_run_has_no_room_for(changes, message):
    with pytest.raises(ValueError, match=message):
        anchored(0.05, **changes)
