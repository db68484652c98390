"""Hyperdyn, decision by decision against the oracle, and on what real runs bring."""

import dataclasses
import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from hyperdyn_jax import (
    Hyperdyn,
    HyperdynState,
    LogComplement,
    LogUniform,
    SearchSpace,
    Uniform,
)
from hyperdyn_jax.strategies import (
    DoNothingControl,
    GreedyBestOfTwo,
    hyperdyn,
)
from hyperdyn_jax.tuner import cpu_jit, gp
from hyperdyn_jax.tuner.interface import Trials

SGD = SearchSpace(learning_rate=LogUniform(1e-3, 1.0), momentum=Uniform(0.0, 0.99))
RATE = SearchSpace(learning_rate=LogUniform(1e-4, 10.0))
ADAM = SearchSpace(
    learning_rate=LogUniform(1e-5, 1e-1),
    b1=Uniform(0.0, 0.99),
    b2=LogComplement(0.9, 0.999),
)
# A tuner compiles for seconds, so the tests share a few. The paper's settings; all
# settings different; and a third kernel in three dimensions.
TUNERS = {
    "paper": Hyperdyn(SGD, capacity=80),
    "other": Hyperdyn(
        RATE,
        initial_points=3,
        window=2,
        temperature=2.0,
        offset=0.1,
        kernel="rbf",
        alpha=2.0,
        beta=3.0,
        capacity=72,
    ),
    "adam": Hyperdyn(ADAM, window=1, kernel="matern32", capacity=72),
}
SMALL = Hyperdyn(SGD, capacity=16)
FUNCTIONS = (
    hyperdyn._sample,
    hyperdyn._propose,
    hyperdyn._learn,
)
EPOCHS = 32


# ------------------------------------------------------------------- recorded runs


def rising(rng, accuracy, epoch, units):
    """Learns ever more slowly, best in the middle of the axes."""
    away = np.sum((units - 0.5) ** 2, axis=1)
    return accuracy + 20 / (1 + epoch) - 8 * away + rng.normal(0, 0.3, len(units))


def falling(rng, accuracy, epoch, units):
    """Loses about as much as the test forgives; the best setting moves away."""
    away = np.sum((units - 0.9 + 0.02 * epoch) ** 2, axis=1)
    gain = 40.0 if epoch == 0 else -0.1
    return accuracy + gain - away + rng.normal(0, 0.4, len(units))


def diverging(rng, accuracy, epoch, units):
    """Falls and rises, and diverges at high rates and now and then anywhere."""
    scores = falling(rng, accuracy, epoch, units) + 0.5 * math.sin(epoch)
    lost = (units[:, 0] > 0.8) | (rng.random(len(units)) < 0.15)
    lost[rng.integers(len(units))] = False  # one branch always ends
    return np.where(lost, rng.choice([np.nan, np.inf, -np.inf], len(units)), scores)


RUNS = [
    ("paper", falling, 0),
    ("paper", diverging, 1),
    ("paper", rising, 2),
    ("other", falling, 3),
    ("other", diverging, 4),
    ("adam", falling, 5),
    ("adam", diverging, 6),
]
every_run = pytest.mark.parametrize(
    "run", RUNS, ids=[f"{name} {score.__name__}" for name, score, _ in RUNS]
)
first_runs = {}  # of each tuner: compilations by function, and epochs they fell in


def count_compilations():
    return {function: function.compilations() for function in FUNCTIONS}


@functools.cache
def record(run):
    """Plays a run and writes everything down: (states before, trials, scores,
    decisions), the last state one longer."""
    name, score, seed = run
    tuner, rng = TUNERS[name], np.random.default_rng(seed)
    before, epochs = count_compilations(), []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            epochs.append(len(decisions))

    state = tuner.init(jax.random.key(seed), score=11.0)
    states, asked, told, decisions = [state], [], [], []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for epoch in range(EPOCHS):
            trials = tuner.ask(state)
            units = unit_points(tuner.space, trials)
            scores = np.float32(score(rng, state.history[-1], epoch, units))
            state, decision = tuner.tell(state, trials, scores)
            states.append(state)
            asked.append(trials)
            told.append(scores)
            decisions.append(decision)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    counts = {n: count - before[n] for n, count in count_compilations().items()}
    first_runs.setdefault(name, (counts, epochs))
    return states, asked, told, decisions


def axes_of(space):
    kinds = {
        Uniform: "uniform",
        LogUniform: "log_uniform",
        LogComplement: "log_complement",
    }
    return {
        name: (kinds[type(axis)], axis.low, axis.high) for name, axis in space.items()
    }


def settings_of(trials):
    """The trials as a log would hold them: a list of settings in plain numbers."""
    return [
        {name: float(x) for name, x in trials.setting(i).items()}
        for i in range(len(trials.parents))
    ]


def unit_points(space, trials):
    return oracle.settings_to_unit(axes_of(space), settings_of(trials))


def parameters_of(trials):
    if not trials.model:
        return None
    scales = tuple(float(x) for x in trials.model["length_scale"])
    return oracle.GPParameters(
        scales, float(trials.model["amplitude"]), float(trials.model["noise"])
    )


def replay(run):
    """What the oracle makes of the record alone."""
    tuner = TUNERS[run[0]]
    _, asked, told, decisions = record(run)
    rows = [
        oracle.Decision(
            settings_of(trials),
            [float(score) for score in scores],
            None if math.isnan(decision.draw) else decision.draw,
            parameters_of(trials),
        )
        for trials, scores, decision in zip(asked, told, decisions, strict=True)
    ]
    return oracle.replay(
        axes_of(tuner.space),
        11.0,
        rows,
        window=tuner.window,
        temperature=tuner.temperature,
        offset=tuner.offset,
        kind=tuner.kernel,
        alpha=tuner.alpha,
        beta=tuner.beta,
    )


def tree_equal(tree, other):
    """The same structure, types and bits, NaN for NaN."""
    leaves, structure = jax.tree.flatten(tree)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.array_equal(
            np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f"
        )
        for a, b in zip(leaves, others, strict=True)
    )


# ------------------------------------------------------------------ oracle's replay


@every_run
def test_replay_reproduces_every_decision(run):
    states, asked, _, decisions = record(run)
    for i, (trials, decision, found) in enumerate(
        zip(asked, decisions, replay(run), strict=True)
    ):
        assert (decision.epoch, decision.branch) == (found.epoch, found.branch)
        assert decision.kept == (i > 0 and found.branch == 0)
        assert decision.hold.tolist() == [found.branch]
        if i == 0:
            assert math.isnan(decision.keep_probability)
            assert np.all(np.isnan(trials.posterior_mean))
            continue
        # The scale of a mean is its deviation's: a mean may be zero.
        np.testing.assert_allclose(
            trials.posterior_mean,
            found.mean,
            rtol=1e-4,
            atol=1e-4 * np.max(found.stddev),
        )
        np.testing.assert_allclose(trials.posterior_stddev, found.stddev, rtol=1e-4)
        np.testing.assert_allclose(
            trials.expected_improvement, found.expected_improvement, rtol=1e-3
        )
        assert decision.keep_probability == pytest.approx(
            found.keep_probability, rel=1e-5
        )
        incumbent = {name: float(x) for name, x in states[i].incumbent.items()}
        assert settings_of(trials)[0] == incumbent


@every_run
def test_replay_reproduces_every_state(run):
    states, _, _, _ = record(run)
    window = TUNERS[run[0]].window
    for state, found in zip(states[1:], replay(run), strict=True):
        assert int(state.epoch) == found.epoch + 1
        assert {n: float(x) for n, x in state.incumbent.items()} == found.incumbent
        history = [11.0] * window + list(found.history)
        np.testing.assert_array_equal(state.history, np.float32(history[-window - 1 :]))
        data, after = state.data, found.after
        rows = data.feasible | data.infeasible
        assert np.sum(rows) == len(after.gains)
        assert np.all(rows[-len(after.gains) :])  # the newest are at the end
        np.testing.assert_array_equal(data.feasible[rows], after.feasible)
        np.testing.assert_array_equal(data.epochs[rows], np.float32(after.epochs))
        np.testing.assert_allclose(data.points[rows], after.units, atol=2e-6)
        gains = data.gains[data.feasible]
        np.testing.assert_allclose(gains, after.gains[after.feasible], rtol=1e-6)
        assert np.all(data.gains[~data.feasible] == 0)


def test_runs_keep_and_switch_by_chance_and_by_force():
    """The replays above say something: every way a decision can go occurs."""
    decisions = [
        (decision, np.isfinite(scores))
        for run in RUNS
        for decision, scores in itertools.islice(
            zip(record(run)[3], record(run)[2], strict=True), 1, None
        )
    ]
    seen = {(d.draw < d.keep_probability, d.branch, *finite) for d, finite in decisions}
    by_chance = {(True, 0, True, True), (False, 1, True, True)}
    by_force = {(True, 1, False, True), (False, 0, True, False)}
    assert by_chance | by_force <= seen
    kept = [d.kept for d, _ in decisions]
    assert 0.2 < np.mean(kept) < 0.8
    undecided = [0.05 < d.keep_probability < 0.95 for d, _ in decisions]
    assert np.sum(undecided) > 50


@every_run
def test_rule_of_every_decision(run):
    """The draw against the probability, unless one of the two diverged."""
    _, _, told, decisions = record(run)
    for decision, scores in zip(decisions[1:], told[1:], strict=True):
        wanted = 0 if decision.draw < decision.keep_probability else 1
        assert 0 <= decision.draw < 1
        finite = np.isfinite(scores)
        assert decision.branch == (wanted if finite[wanted] else 1 - wanted)


# ----------------------------------------------------------- quality of the decisions


@pytest.mark.parametrize(
    "run", [RUNS[1], RUNS[4], RUNS[6]], ids=["paper", "other", "adam"]
)
def test_challenger_beats_ten_thousand_random_points(run):
    """Its EI, weighted by the chance not to diverge, by the oracle's arithmetic."""
    tuner = TUNERS[run[0]]
    _, asked, _, _ = record(run)
    rng = np.random.default_rng(0)
    for trials, found in itertools.islice(
        zip(asked, replay(run), strict=True), 1, None
    ):
        points = rng.random((10_000, len(tuner.space)))
        values = oracle.weighted_log_expected_improvement(
            np.concatenate([found.units[1:], points]),
            found.epoch,
            found.before,
            parameters_of(trials),
            kind=tuner.kernel,
            alpha=tuner.alpha,
            beta=tuner.beta,
        )
        assert values[0] > np.max(values[1:]) + math.log(0.99), found.epoch


@pytest.mark.parametrize(
    "run", [RUNS[0], RUNS[3], RUNS[5]], ids=["paper", "other", "adam"]
)
def test_warm_started_fit_follows_the_optimum(run):
    """Four steps an epoch, against all that the oracle finds from four starts."""
    tuner = TUNERS[run[0]]
    _, asked, _, _ = record(run)
    kernel = {"kind": tuner.kernel, "alpha": tuner.alpha, "beta": tuner.beta}
    short = []
    found = replay(run)
    for epoch in (1, 2, 3, 5, 8, 12, 18, 24, 31):
        rows = found[epoch].before.finite()
        best, _ = oracle.map_fit(*rows, **kernel, starts=4)
        ours = parameters_of(asked[epoch]).to_log()
        short.append(best - oracle.log_posterior_density(ours, *rows, **kernel))
    # Where the density has two tops the fit may be on the lower one for a while.
    assert np.median(short) < 1e-3
    assert np.mean(np.array(short) < 0.05) >= 0.75
    assert np.max(short) < 5.0


@every_run
def test_all_trials_are_inside_the_box(run):
    tuner = TUNERS[run[0]]
    for trials in record(run)[1]:
        inside_the_box(tuner, trials)


def inside_the_box(tuner, trials):
    for name, axis in tuner.space.items():
        assert trials.hparams[name].dtype == np.float32
        for value in trials.hparams[name]:
            assert axis.low <= float(value) <= axis.high, (name, value)


# ---------------------------------------------------------------- compiled only once


@pytest.mark.parametrize("name", TUNERS)
def test_run_compiles_once(name):
    record(next(run for run in RUNS if run[0] == name))
    counts, epochs = first_runs[name]
    once = dict.fromkeys(FUNCTIONS, 1)
    # Its settings are as many as there are trials: k, then two.
    assert counts == {**once, hyperdyn._learn: 2}
    assert max(epochs) <= 1, "something compiles after the first decision"


def test_state_keeps_its_form():
    """Or the compiled functions would not fit the next epoch."""
    for run in RUNS:
        forms = {
            str(jax.tree.map(lambda x: (x.shape, x.dtype), state))
            for state in record(run)[0]
        }
        assert len(forms) == 1


# ------------------------------------------------------------------- the random start


def begin(tuner=SMALL, seed=0, score=10.0):
    return tuner.init(jax.random.key(seed), score)


def middle(tuner=SMALL, seed=0):
    """A state after the random start."""
    state = begin(tuner, seed)
    trials = tuner.ask(state)
    scores = np.linspace(30, 50, len(trials.parents), dtype=np.float32)
    return tuner.tell(state, trials, scores)[0]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_random_start_draws_k_settings(count):
    tuner = Hyperdyn(SGD, initial_points=count, capacity=16)
    seen = set()
    for seed in range(5):
        trials = tuner.ask(begin(tuner, seed))
        assert trials.parents.tolist() == [0] * count
        assert trials.epochs == 1.0
        assert trials.model == {}
        inside_the_box(tuner, trials)
        seen |= set(trials.hparams["learning_rate"].tolist())
    assert len(seen) == 5 * count


def test_random_start_is_uniform_in_the_cube():
    tuner = Hyperdyn(SGD, initial_points=1000, capacity=1002)
    units = unit_points(SGD, tuner.ask(begin(tuner)))
    counts = np.histogramdd(units, bins=4, range=[(0, 1)] * 2)[0]
    chi_square = np.sum((counts - 1000 / 16) ** 2) / (1000 / 16)
    assert chi_square < 37.7  # 99.9% of 15 degrees of freedom


@pytest.mark.parametrize(
    ("scores", "branch"),
    [
        ([30, 20, 50, 40, 10], 2),
        ([math.nan, 20, 10, 5, math.inf], 1),
        ([-math.inf, math.nan, math.nan, math.inf, 0], 4),
        ([7, 7, 7, 7, 7], 0),
        ([5, 6, 9, 9, 1], 2),  # the first of equals
        ([9.5, 9, 8, 7, 6], 0),  # even below the untrained network's 10
    ],
)
def test_random_start_keeps_the_best_finite(scores, branch):
    state = begin()
    trials = SMALL.ask(state)
    after, decision = SMALL.tell(state, trials, scores)
    assert (decision.epoch, decision.branch, decision.kept) == (0, branch, False)
    assert decision.hold.tolist() == [branch]
    assert int(after.epoch) == 1
    assert after.incumbent == trials.setting(branch)
    assert after.history.tolist() == [10, 10, 10, 10, scores[branch]]
    # D holds gains over the untrained network, at epoch 0.
    finite = np.isfinite(scores)
    np.testing.assert_array_equal(after.data.feasible[-5:], finite)
    gains = after.data.gains[-5:][finite]
    np.testing.assert_array_equal(gains, np.float32(scores)[finite] - 10)
    assert not np.any(after.data.epochs)


@pytest.mark.parametrize("started", [False, True], ids=["epoch 0", "epoch 1"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nothing_moves_when_every_trial_diverges(started, number):
    state = middle() if started else begin()
    trials = SMALL.ask(state)
    count = len(trials.parents)
    after, decision = SMALL.tell(state, trials, np.full(count, number))
    assert (decision.branch, decision.kept) == (-1, False)
    # The state held from before, which comes after the branches.
    assert decision.hold.tolist() == [count]
    for field in ("epoch", "incumbent", "history"):
        assert tree_equal(getattr(after, field), getattr(state, field))
    assert np.sum(after.data.infeasible) == count
    assert np.sum(after.data.feasible) == np.sum(state.data.feasible)
    again = SMALL.ask(after)
    for name in SGD:
        # The incumbent is tried again, as it may have been bad luck; the rest is new.
        fresh = again.hparams[name][1 if started else 0 :]
        assert not np.intersect1d(
            fresh, trials.hparams[name][1 if started else 0 :]
        ).size


def test_five_diverged_decisions_do_not_stop_a_run():
    state, seen = middle(), []
    for _ in range(5):
        trials = SMALL.ask(state)
        seen.append(unit_points(SGD, trials)[1])
        state, decision = SMALL.tell(state, trials, [math.nan, math.nan])
        assert decision.branch == -1
    # It looks elsewhere each time, and comes back to a corner at the earliest after
    # the others have failed it too.
    gaps = [np.max(np.abs(a - b)) for a, b in itertools.pairwise(seen)]
    assert min(gaps) > 0.1
    assert len({tuple(point.round(2)) for point in seen}) >= 4
    state, decision = SMALL.tell(state, SMALL.ask(state), [51.0, 52.0])
    assert decision.branch in (0, 1)
    assert int(state.epoch) == 2


# ---------------------------------------------------------------- the draw of the test


COUNT = 20_000
FALLS = [0.0, 0.05, 0.5, 1.0, 3.0]  # percentage points lost in four epochs


def falling_histories():
    return [np.float32([60 + fall, 1, 2, 3, 60]) for fall in FALLS]


@functools.cache
def keys_of_a_long_run():
    """The keys of successive decisions, as `tell` splits one off the other."""

    def advance(key, _):
        return cpu_jit.next_key(key), key

    first = cpu_jit.key_data(jax.random.key(7))
    return np.asarray(jax.lax.scan(advance, jnp.asarray(first), length=COUNT)[1])


def decide(tuner, state, scores):
    """The decision alone, as `tell` makes it."""
    hparams = {name: np.float32([0.1, 0.1]) for name in tuner.space}
    _, test, _ = hyperdyn._learn(tuner, state.key, hparams, state.history)
    return tuner._decide(state, scores, test)


def test_keys_are_those_of_tell():
    state, keys = begin(seed=7), keys_of_a_long_run()
    for key in keys[:4]:
        np.testing.assert_array_equal(state.key, key)
        trials = SMALL.ask(state)
        state, _ = SMALL.tell(state, trials, np.ones(len(trials.parents)))


@pytest.mark.parametrize("index", range(len(FALLS)), ids=[str(fall) for fall in FALLS])
def test_keeps_with_the_stated_probability(index):
    """20,000 draws over the keys of one run, by the function that `tell` calls."""
    history = falling_histories()[index]
    expected = oracle.keep_probability(history, 4, 1.0, 0.01)
    test = jax.jit(
        jax.vmap(lambda key: hyperdyn._trend_test(SMALL, key, jnp.asarray(history)))
    )
    probability, draws = map(np.asarray, test(keys_of_a_long_run()))
    assert probability[0] == pytest.approx(expected, rel=1e-5)
    kept = np.mean(draws < probability)
    deviation = math.sqrt(expected * (1 - expected) / COUNT)
    assert abs(kept - expected) < 4 * deviation
    assert np.all((draws >= 0) & (draws < 1))


def test_decisions_keep_with_the_stated_probability():
    """As above through the decision itself, 4,000 for each of five histories."""
    state, kept = middle(), np.zeros(len(FALLS))
    draws = np.zeros(COUNT)
    for i, key in enumerate(keys_of_a_long_run()):
        history = falling_histories()[i % len(FALLS)]
        state = state._replace(key=key, history=history)
        decision = decide(SMALL, state, np.float32([60, 60]))
        assert decision.kept == (decision.draw < decision.keep_probability)
        kept[i % len(FALLS)] += decision.kept
        draws[i] = decision.draw
    count = COUNT / len(FALLS)
    for fall, found in zip(FALLS, kept / count, strict=True):
        expected = math.exp(-fall - 0.01)
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    # One decision says nothing about the next.
    correlation = np.corrcoef(draws[:-1], draws[1:])[0, 1]
    assert abs(correlation) < 4 / math.sqrt(COUNT)


def test_rising_accuracy_always_keeps_and_infinite_offset_never():
    state = middle()._replace(history=np.float32([10, 20, 30, 40, 50]))
    never = dataclasses.replace(SMALL, offset=math.inf)
    for key in keys_of_a_long_run()[:500]:
        at_key = state._replace(key=key)
        sound = np.float32([50, 60])
        assert decide(SMALL, at_key, sound).branch == 0
        assert decide(never, at_key, sound).branch == 1
    # But not into a diverged branch.
    assert decide(SMALL, state, np.float32([math.nan, 60])).branch == 1
    assert decide(never, state, np.float32([50, math.inf])).branch == 0


def test_search_and_test_draw_from_streams_of_their_own():
    """Which point is tried must not say whether it will be taken."""
    state = middle()
    key = jax.random.wrap_key_data(state.key)
    expected = jax.random.uniform(jax.random.fold_in(key, 2), (), jnp.float32)
    decision = decide(SMALL, state, np.float32([50, 60]))
    assert decision.draw == float(expected)
    assert hyperdyn._SEARCH != hyperdyn._TREND


# -------------------------------------------------------------------- pure functions


def play(tuner, state, epochs, score=falling, seed=3):
    """Trials and decisions of a run from a state on."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(epochs):
        trials = tuner.ask(state)
        units = unit_points(tuner.space, trials)
        scores = score(rng, float(state.history[-1]), int(state.epoch), units)
        state, decision = tuner.tell(state, trials, scores)
        rows.append((trials, decision))
    return rows, state


def test_same_seed_same_run_and_another_seed_another():
    first, other = (play(SMALL, begin(seed=4), 6) for _ in range(2))
    assert tree_equal(first, other)
    different = play(SMALL, begin(seed=5), 6)
    settings, others = (
        [trials.hparams["learning_rate"].tolist() for trials, _ in rows]
        for rows, _ in (first, different)
    )
    assert not set(settings[0]) & set(others[0])
    assert settings[1:] != others[1:]
    draws, others = ([d.draw for _, d in rows[1:]] for rows, _ in (first, different))
    assert not set(draws) & set(others)


def test_raw_key_is_as_good():
    typed = SMALL.init(jax.random.key(3), 1.0)
    assert tree_equal(typed, SMALL.init(jax.random.PRNGKey(3), 1.0))
    assert tree_equal(typed, SMALL.init(cpu_jit.key_data(jax.random.key(3)), 1.0))


@pytest.mark.parametrize("started", [False, True], ids=["epoch 0", "epoch 1"])
def test_ask_and_tell_change_nothing(started):
    state = middle() if started else begin()
    copy = jax.tree.map(np.array, state)
    trials = SMALL.ask(state)
    assert tree_equal(SMALL.ask(state), trials)
    trials_copy = jax.tree.map(np.array, trials)
    scores = np.ones(len(trials.parents), np.float32)
    told = SMALL.tell(state, trials, scores)
    assert tree_equal(SMALL.tell(state, trials, scores), told)
    assert tree_equal(jax.tree.map(np.array, state), copy)
    assert tree_equal(jax.tree.map(np.array, trials), trials_copy)
    assert np.all(scores == 1)


def test_state_is_numpy_only():
    _, last = play(SMALL, begin(), 3)
    for state in (begin(), middle(), last):
        for leaf in jax.tree.leaves(state):
            assert isinstance(leaf, np.ndarray | np.generic)
            assert leaf.dtype in (np.float32, np.int32, np.uint32, bool)


def through_json(state):
    leaves, structure = jax.tree.flatten(state)
    text = json.dumps([[str(x.dtype), x.shape, x.ravel().tolist()] for x in leaves])
    return jax.tree.unflatten(
        structure,
        [np.array(x, dtype).reshape(shape) for dtype, shape, x in json.loads(text)],
    )


def through_tree(state):
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))


def through_device(state):
    """As a checkpoint that is restored onto a device."""
    return jax.tree.map(jnp.asarray, state)


@pytest.mark.parametrize("way", [through_json, through_tree, through_device])
def test_state_survives(way):
    """Stored after any epoch and read back, it goes on with the same decisions; as
    NumPy arrays, which it was, without compiling anew."""
    play(SMALL, begin(), 2)
    before = count_compilations()
    for epochs in (0, 1, 5):
        _, state = play(SMALL, begin(seed=8), epochs)
        restored = way(state)
        assert isinstance(restored, HyperdynState)
        rows, after = play(SMALL, state, 3)
        other_rows, other_after = play(SMALL, restored, 3)
        assert tree_equal(rows, other_rows)
        assert tree_equal(after, other_after)
    assert way is through_device or count_compilations() == before


def test_callers_float64_setting_does_not_matter():
    runs, counts = [], []
    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            runs.append(play(SMALL, begin(seed=9), 5))
            counts.append(count_compilations())
            assert jax.config.jax_enable_x64 == x64  # and left as it was
    assert tree_equal(runs[0], runs[1])
    assert tree_equal(runs[0], runs[2])
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("kind", [list, tuple, np.float64, jnp.asarray])
def test_scores_of_any_kind(kind):
    state = begin()
    trials, scores = SMALL.ask(state), [30, 20, 50, 40, 10]
    expected = SMALL.tell(state, trials, np.float32(scores))
    assert tree_equal(SMALL.tell(state, trials, kind(scores)), expected)


def test_oldest_observations_go_when_the_set_is_full():
    """The model is then that of the newest 16: the oracle's, given them."""
    _, state = play(SMALL, begin(), 12, diverging)
    data, trials = state.data, SMALL.ask(state)
    assert np.all(data.feasible | data.infeasible)
    assert data.epochs.tolist() == sorted(data.epochs)
    assert data.epochs[0] == 4
    parameters = parameters_of(trials)
    mean, stddev = oracle.posterior(
        data.points[data.feasible],
        data.epochs[data.feasible],
        data.gains[data.feasible],
        unit_points(SGD, trials),
        12.0,
        length_scales=parameters.length_scales,
        amplitude=parameters.amplitude,
        noise=parameters.noise,
    )
    np.testing.assert_allclose(trials.posterior_stddev, stddev, rtol=1e-4)
    np.testing.assert_allclose(
        trials.posterior_mean, mean, rtol=1e-4, atol=1e-4 * np.max(stddev)
    )


def test_model_of_the_trials_is_in_natural_units_and_handed_on():
    """`ask` fits, from where the last fit ended; `tell` only notes what came of it."""
    state = middle()
    assert tree_equal(state.model, gp.prior_mean(2))  # nothing is fitted in epoch 0
    trials = SMALL.ask(state)
    after, _ = SMALL.tell(state, trials, [50.0, 51.0])
    model, params = trials.model, after.model
    natural = np.exp(params.log_length_scale), np.exp(params.log_amplitude)
    np.testing.assert_allclose(model["length_scale"], natural[0], rtol=1e-6)
    assert model["amplitude"] == pytest.approx(natural[1], rel=1e-6)
    assert model["noise_stddev"] == pytest.approx(
        np.std(state.data.gains[-5:]) * math.exp(0.5 * params.log_noise), rel=1e-5
    )
    # From there on, and not from the mode, the next fit goes.
    moved = after._replace(model=gp.prior_mean(2))
    assert not tree_equal(SMALL.ask(after).model, SMALL.ask(moved).model)
    # Trials that nothing predicted leave the parameters as they were.
    unpredicted = Trials.of(trials.hparams)
    assert SMALL.tell(after, unpredicted, [50.0, 51.0])[0].model is after.model


@pytest.mark.parametrize(
    "tuner",
    [
        SMALL,
        dataclasses.replace(SMALL, offset=math.inf),
        GreedyBestOfTwo(SGD, capacity=16),
        DoNothingControl(SMALL),
    ],
    ids=["hyperdyn", "epoch_bo", "greedy", "control"],
)
def test_incumbent_is_the_first_trial_of_every_decision(tuner):
    """Before anything is searched, and after every kind of decision."""
    state = tuner.init(jax.random.key(1), 10.0)
    assert tuner.incumbent(state) is None
    lost = [math.nan] * 5, [math.nan, math.nan]
    scores = [lost[0], [1, 2, 3, 4, 5], [9, 8], [7, math.nan], lost[1], [math.nan, 6]]
    for told in scores:
        known = tuner.incumbent(state)
        trials = tuner.ask(state)
        assert (known is None) == (state.epoch == 0)
        if known is not None:
            assert known == trials.setting(0)
            assert all(type(x) is np.float32 for x in known.values())
        state, _ = tuner.tell(state, trials, told)
    assert tuner.incumbent(state) == tuner.ask(state).setting(0)


# --------------------------------------------------------------- several challengers


SEVERAL = dataclasses.replace(SMALL, suggestions=3)


def test_several_challengers_are_apart_and_in_the_box():
    before = count_compilations()
    rows, state = play(SEVERAL, begin(SEVERAL), 12, diverging)
    for trials, decision in rows[1:]:
        assert trials.parents.tolist() == [0] * 4
        inside_the_box(SEVERAL, trials)
        assert np.all(np.isfinite(trials.expected_improvement))
        points = unit_points(SGD, trials)[1:]
        for i, j in itertools.combinations(range(3), 2):
            assert np.max(np.abs(points[i] - points[j])) > 0.02
        assert -1 <= decision.branch < 4
    assert {decision.branch for _, decision in rows[1:]} >= {0, 1, 2, 3}
    counts = count_compilations()
    once = {f: counts[f] - before[f] for f in (hyperdyn._propose, hyperdyn._sample)}
    assert set(once.values()) == {1}
    assert np.all(state.data.epochs[-4:] == state.data.epochs[-1])


def test_first_of_several_is_the_challenger_alone():
    """What the others are believed to bring comes after it."""
    _, state = play(SMALL, begin(), 5)
    one, several = SMALL.ask(state), SEVERAL.ask(state)
    for name in SGD:
        np.testing.assert_allclose(several.hparams[name][:2], one.hparams[name], 1e-5)
    for found, expected in zip(several[3:6], one[3:6], strict=True):
        np.testing.assert_allclose(found[:2], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("fall", "scores", "branch"),
    [
        (0, [50, 60, 70, 65], 0),  # a rising run keeps
        (99, [50, 40, 45, 44], 2),  # the best of the challengers, if worse than 0
        (99, [50, math.nan, math.inf, 44], 3),
        (99, [50, math.nan, math.nan, -math.inf], 0),  # no challenger is left
        (0, [math.nan, 40, 41, math.nan], 2),
        (0, [math.nan] * 4, -1),
        (99, [50, 45, 45, 45], 1),  # the first of equals
    ],
)
def test_best_challenger_becomes_the_run(fall, scores, branch):
    state = middle(SEVERAL)
    state = state._replace(history=np.float32([60 + fall, 60, 60, 60, 60.1]))
    trials = SEVERAL.ask(state)
    after, decision = SEVERAL.tell(state, trials, scores)
    assert (decision.branch, decision.kept) == (branch, branch == 0)
    assert branch == oracle.choose_branch(
        decision.draw < decision.keep_probability, scores
    )
    incumbent = trials.setting(branch) if branch >= 0 else state.incumbent
    assert after.incumbent == incumbent
    assert np.array_equal(after.data.feasible[-4:], np.isfinite(scores))


def test_more_challengers_an_epoch_leave_less_regret():
    """On a noisy peak, after as many epochs; means over seeds."""

    def regret(tuner, seed):
        rng, state = np.random.default_rng(seed), begin(tuner, seed)
        left = []
        for _ in range(12):
            trials = tuner.ask(state)
            away = unit_points(SGD, trials) - np.array([0.8, 0.3])
            gains = 5 * np.exp(-8 * np.sum(away**2, axis=1))
            left.append(5 - np.max(gains))
            noisy = gains + rng.normal(0, 0.3, len(gains))
            state, _ = tuner.tell(state, trials, state.history[-1] + noisy)
        return np.mean(left[1:])

    one, three = ([regret(t, seed) for seed in range(8)] for t in (SMALL, SEVERAL))
    assert np.mean(three) < 0.8 * np.mean(one)


# --------------------------------------------------------------------- bad settings


WHOLE = ("initial_points", "suggestions", "capacity")


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        *((name, value, ">= ") for name in WHOLE for value in (0, -1, 2.0, True, "3")),
        *((name, None, ">= ") for name in WHOLE),
        ("capacity", 6, ">= 7"),
        *(("window", value, ">= 1") for value in (0, -4, 1.5, True, None)),
        *(
            ("temperature", value, "> 0 and finite")
            for value in (0, 0.0, -1.0, math.nan, math.inf, "1", None)
        ),
        *(("offset", v, "a number or infinity") for v in (math.nan, None, "0")),
        *(
            ("kernel", value, r"\['matern32', 'matern52', 'rbf'\]")
            for value in ("matern", "RBF", "", None, 52)
        ),
        *(
            (name, value, "> 0 and finite")
            for name in ("alpha", "beta")
            for value in (0, -0.5, math.nan, math.inf, None, "1")
        ),
    ],
)
def test_settings_out_of_range(name, value, valid):
    with pytest.raises(ValueError, match=rf"\b{name}\b.*{valid}.*got {value!r}"):
        Hyperdyn(SGD, **{name: value})


@pytest.mark.parametrize(
    "key",
    [
        0,
        None,
        "key",
        np.zeros(2, np.float32),
        np.zeros(3, np.uint32),
        jax.random.split(jax.random.key(0)),
        jax.random.key(0, impl="rbg"),
    ],
)
def test_key_must_be_one_key(key):
    with pytest.raises(ValueError, match="key must be one PRNG key"):
        SMALL.init(key, 10.0)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_untrained_score_must_be_finite(score):
    with pytest.raises(ValueError, match="score must be finite"):
        SMALL.init(jax.random.key(0), score)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0] * 6, 1.0, [[1.0] * 5]])
def test_one_score_for_each_trial(scores):
    state = begin()
    with pytest.raises(ValueError, match="one score for each of 5 trials, got shape"):
        SMALL.tell(state, SMALL.ask(state), scores)


# ----------------------------------------------------------------------------- fuzz


CLUSTERS = Hyperdyn(RATE, kernel="rbf", capacity=44)


def fuzzed_points(rng, shape):
    """Settings in the unit cube, most of them in one another's way."""
    spread = 10.0 ** -rng.uniform(0, 9)
    center = rng.random((1, shape[1]))
    ways = [
        lambda: rng.random(shape),
        lambda: center + spread * (rng.random(shape) - 0.5),  # a cluster
        lambda: np.repeat(center, shape[0], axis=0),  # one setting
        lambda: rng.choice(rng.random(3), shape),  # duplicates
        lambda: rng.integers(0, 2, shape).astype(float),  # corners
    ]
    return np.clip(ways[rng.integers(len(ways))](), 0, 1)


def fuzzed_gains(rng, count):
    """Gains in points, over sixty magnitudes."""
    noise = rng.normal(size=count)
    ways = [
        lambda: 5 * noise,
        lambda: np.full(count, noise.sum()),  # constant
        lambda: np.zeros(count),
        lambda: 1e30 * noise,
        lambda: 1e-30 * noise,
        lambda: np.where(rng.random(count) < 0.5, 1e30, 1e-30) * noise,
        lambda: np.where(rng.random(count) < 0.1, 90.0, 0.0),  # outliers
        lambda: 1e6 + 1e-3 * noise,
        lambda: 10.0 ** rng.uniform(-30, 30) * noise,
    ]
    return ways[rng.integers(len(ways))]()


from_unit = jax.jit(SearchSpace.from_unit, static_argnums=0)


def fuzzed_state(rng, tuner, model):
    """A state with anything in D, and a model left over from other data."""
    capacity, dimensions = tuner.capacity, len(tuner.space)
    count = int(rng.choice([0, 1, 2, capacity, rng.integers(capacity)]))
    diverged = rng.choice([0.0, 0.0, 0.3, 1.0])
    epoch = int(rng.choice([1, 30, 100_000]))
    points = fuzzed_points(rng, (count, dimensions))
    gains = np.float32(fuzzed_gains(rng, count))
    gains[rng.random(count) < diverged] = rng.choice([np.nan, np.inf, -np.inf])
    empty = gp.Observations.empty(capacity, dimensions)
    data = empty.append(np.float32(points), 0, gains)
    if rng.random() < 0.8:
        data.epochs[capacity - count :] = np.sort(rng.integers(0, epoch, count))
    unit = points[-1] if count and rng.random() < 0.5 else rng.random(dimensions)
    incumbent = from_unit(tuner.space, np.float32(unit))
    return HyperdynState(
        key=rng.integers(0, 2**32, 2, np.uint32),
        epoch=np.int32(epoch),
        incumbent={name: np.float32(value) for name, value in incumbent.items()},
        history=np.float32(rng.uniform(0, 100, tuner.window + 1)),
        data=data,
        model=model,
    )


def check_proposal(tuner, state, model, trials):
    """Everything finite, everything in its bounds."""
    flat = np.concatenate([np.ravel(leaf) for leaf in model])
    lower, upper = oracle.parameter_box(len(tuner.space))
    assert np.all((flat >= lower - 1e-5) & (flat <= upper + 1e-5))
    inside_the_box(tuner, trials)
    for name in tuner.space:
        assert trials.hparams[name][0] == state.incumbent[name]
    for numbers in (
        trials.posterior_mean,
        trials.posterior_stddev,
        trials.expected_improvement,
        *trials.model.values(),
    ):
        assert np.all(np.isfinite(numbers))
    assert np.all(trials.posterior_stddev >= 0)
    assert np.all(trials.expected_improvement >= 0)


@pytest.mark.parametrize(
    ("tuner", "count"),
    [
        (SMALL, 1_500),
        (CLUSTERS, 500),
        pytest.param(SMALL, 9_500, marks=pytest.mark.slow),
    ],
    ids=["small", "clusters", "many"],
)
def test_fuzzed_observations(tuner, count):
    """Sets of any kind, ten thousand in all, through the functions that a run calls."""
    model = gp.prior_mean(len(tuner.space))
    for case in range(count):
        rng = np.random.default_rng(case)
        state = fuzzed_state(rng, tuner, model)
        trials = tuner.ask(state)
        model = hyperdyn._fitted(trials, model)
        try:
            check_proposal(tuner, state, model, trials)
        except AssertionError as error:
            raise AssertionError(f"case {case}: {state}, {trials}") from error
