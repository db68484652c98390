"""Every baseline against its definition, in a loop whose networks are numbers."""

import json
import math
from typing import NamedTuple

import jax
import numpy as np
import optax
import oracle
import pytest
from scipy import optimize, stats

from hyperdyn_jax import (
    Hyperdyn,
    LogComplement,
    LogUniform,
    SearchSpace,
    Uniform,
    strategies,
)
from hyperdyn_jax.strategies import Schedule, autolrs, pb2, search
from hyperdyn_jax.tuner.interface import Trials

KEY = jax.random.key(0)
LINE = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
# Not in alphabetical order: JAX sorts the names of a dict, the cube must not.
PLANE = SearchSpace(momentum=Uniform(0.0, 0.99), learning_rate=LogUniform(1e-3, 1.0))
SMALL = {"capacity": 16}
GREEDY = strategies.GreedyBestOfTwo(LINE, **SMALL)
RANDOM = strategies.RandomSearch(PLANE)
HYPERBAND = strategies.HyperbandVariant(PLANE)
FIVE = strategies.RandomSearch(PLANE, settings=5)
BRACKET = strategies.HyperbandVariant(PLANE, settings=5)
AUTOLRS = strategies.AutoLRS(LINE, max_stage=4.0)
BROKEN = strategies.AutoLRS(LINE, stage=1.5, max_stage=1.5, kappa=1.96)
PB2 = strategies.PB2(LINE, capacity=32)
STRATEGIES = {
    "schedule": Schedule.cosine(10, 0.1, warmup=2, momentum=0.9),
    "plateau": strategies.ReduceOnPlateau({"learning_rate": 0.1}, patience=1),
    "random": RANDOM,
    "hyperband": HYPERBAND,
    "greedy": GREEDY,
    "control": strategies.DoNothingControl(GREEDY),
    "autolrs": AUTOLRS,
    "pb2": PB2,
}
RATES = LogUniform(1e-3, 1.0)


# ------------------------------------------------------------------ a loop of numbers


class Network(NamedTuple):
    """Its loss, its age in epochs, and all that it was trained with."""

    loss: float = 2.3
    age: float = 0.0
    path: tuple = ()


def train(network, setting, epochs):
    """The loss falls exponentially to a floor that depends on the learning rate, and
    rates of 0.7 and above diverge."""
    rate = float(setting["learning_rate"])
    if rate >= 0.7:
        loss = math.nan
    else:
        floor = 0.1 + 0.2 * (math.log10(rate) + 1) ** 2
        loss = floor + (network.loss - floor) * math.exp(-0.8 * epochs)
    step = (rate, round(epochs, 9))
    return Network(loss, network.age + epochs, (*network.path, step))


def score(network, metric):
    if metric == "loss":
        return np.float32(-network.loss)
    return np.float32(100 * math.exp(-network.loss))


class Row(NamedTuple):
    state: object
    trials: Trials
    scores: np.ndarray
    decision: object
    run: Network
    total: float


def run(strategy, decisions, *, key=KEY, train=train, state=None, held=None):
    """What the real loop does, with the rules every strategy must keep to."""
    held = held or [Network()]
    if state is None:
        state = strategy.init(key, score(held[0], strategy.metric))
    rows, total, accepted = [], 0.0, 0
    for _ in range(decisions):
        trials = strategy.ask(state)
        count = len(trials.parents)
        assert trials.parents.dtype == np.int32
        assert set(trials.parents) <= set(range(len(held)))
        assert all(len(x) == count for x in trials.hparams.values())
        branches = [
            train(held[parent], trials.setting(i), trials.epochs)
            for i, parent in enumerate(trials.parents)
        ]
        scores = np.array([score(b, strategy.metric) for b in branches])
        told, decision = strategy.tell(state, trials, scores)
        assert decision.epoch == accepted
        pool = branches + held
        assert decision.hold.dtype == np.int32
        first = decision.hold[0]
        if decision.branch >= 0:
            assert np.isfinite(scores[decision.branch])
            assert first == decision.branch
            accepted += 1
        else:
            assert pool[first] is held[0]
        held = [pool[i] for i in decision.hold]
        assert not any(math.isnan(network.loss) for network in held)
        total += count * trials.epochs
        rows.append(Row(state, trials, scores, decision, held[0], total))
        state = told
    return rows, state, held


def tell(strategy, state, scores):
    """Answers the next trials with scores given beforehand."""
    trials = strategy.ask(state)
    return *strategy.tell(state, trials, np.float32(scores)), trials


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", STRATEGIES)
def test_state_survives_json_and_the_run_repeats(name):
    strategy = STRATEGIES[name]
    steps = 10 if name == "autolrs" else 3
    rows, state, held = run(strategy, steps)
    leaves, structure = jax.tree.flatten(state)
    text = json.dumps([[str(x.dtype), np.asarray(x).tolist()] for x in leaves])
    restored = jax.tree.unflatten(
        structure, [np.array(x, dtype)[()] for dtype, x in json.loads(text)]
    )
    again, repeated, _ = run(strategy, steps)
    assert_same(repeated, state)
    assert_same([r.trials for r in again], [r.trials for r in rows])
    trials = strategy.ask(state)
    assert_same(strategy.ask(restored), trials)
    assert_same(strategy.ask(state), trials)  # ask has changed nothing
    scores = np.arange(len(trials.parents), dtype=np.float32) - 9
    before = jax.tree.map(np.copy, state)
    assert_same(
        strategy.tell(restored, trials, scores), strategy.tell(state, trials, scores)
    )
    assert_same(state, before)  # nor has tell
    assert held[0].age > 0 or name == "autolrs"


@pytest.mark.parametrize("name", ["random", "hyperband", "greedy", "autolrs", "pb2"])
def test_other_seeds_try_other_settings(name):
    strategy = STRATEGIES[name]
    first, second = (
        strategy.ask(strategy.init(jax.random.key(seed), -1.0)).hparams
        for seed in (0, 1)
    )
    assert not np.array_equal(first["learning_rate"], second["learning_rate"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_number_of_scores_and_start_are_checked(name):
    strategy = STRATEGIES[name]
    state = strategy.init(KEY, -1.0)
    with pytest.raises(ValueError, match="expected one score for each of"):
        strategy.tell(state, strategy.ask(state), np.zeros(7, np.float32))
    with pytest.raises(ValueError, match="must be finite: nan"):
        strategy.init(KEY, math.nan)


@pytest.mark.parametrize(
    ("name", "decisions", "accepted", "total"),
    [
        ("schedule", 6, 6, 6),
        ("plateau", 6, 6, 6),
        ("random", 6, 6, 6 * 10),  # five times an incumbent and a challenger
        ("hyperband", 6, 6, 6 * 10),
        ("greedy", 6, 6, 5 + 2 * 5),
        ("control", 6, 6, 5 + 2 * 5),
        ("pb2", 6, 6, 24),
    ],
)
def test_accepted_and_total_epochs(name, decisions, accepted, total):
    def tame(network, setting, epochs):
        rate = min(setting["learning_rate"], 0.6)  # nothing diverges
        return train(network, {"learning_rate": rate}, epochs)

    rows, _, _ = run(STRATEGIES[name], decisions, train=tame)
    assert rows[-1].run.age == accepted
    assert rows[-1].total == total
    assert all(r.trials.epochs == 1.0 for r in rows)


# ------------------------------------------------------------------ schedules


def rates(schedule, epochs):
    """What a run is trained with."""
    rows, _, _ = run(schedule, epochs)
    return np.array([r.trials.hparams["learning_rate"][0] for r in rows])


def means(schedule, epochs):
    """An Optax schedule's mean over every epoch, of 20 steps each."""
    times = (np.arange(20 * epochs, dtype=np.float32) + 0.5) / 20
    values = np.asarray(jax.vmap(schedule)(times))
    return values.reshape(epochs, 20).mean(1)


@pytest.mark.parametrize(
    ("epochs", "first", "second"), [(160, 80, 120), (24, 12, 18), (182, 91, 136)]
)
def test_manual_sgd_is_divided_at_half_and_at_three_quarters(epochs, first, second):
    played = rates(Schedule.manual_sgd(epochs), epochs)
    expected = [0.1] * first + [0.01] * (second - first) + [0.001] * (epochs - second)
    if epochs == 182:  # three quarters are in the middle of an epoch
        expected[136] = (0.01 + 0.001) / 2
    np.testing.assert_allclose(played, expected, rtol=1e-6)


def test_manual_adam_starts_at_a_thousandth():
    played = rates(Schedule.manual_adam(8, b1=0.9, b2=0.999), 8)
    np.testing.assert_allclose(played, [1e-3] * 4 + [1e-4] * 2 + [1e-5] * 2, rtol=1e-6)
    setting = Schedule.manual_adam(8, b1=0.9, b2=0.999).setting(0)
    assert setting == {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999}


def test_large_batch_scales_warms_up_and_drops():
    # Batch 512 against 128: from 0.1 to 0.4 in 5 epochs, read in the middle of each.
    played = rates(Schedule.manual_large_batch(90, 512), 90)
    np.testing.assert_allclose(played[:6], [0.13, 0.19, 0.25, 0.31, 0.37, 0.4], 1e-6)
    np.testing.assert_allclose(played[6:30], 0.4, 1e-6)
    np.testing.assert_allclose(played[30:60], 0.04, 1e-6)
    np.testing.assert_allclose(played[60:80], 0.004, 1e-6)
    np.testing.assert_allclose(played[80:], 0.0004, 1e-6)


def test_large_batch_at_the_reference_is_the_plain_schedule():
    plain = rates(Schedule.manual_sgd(16), 16)
    same = Schedule.manual_large_batch(16, 128, drops=(0.5, 0.75))
    np.testing.assert_allclose(rates(same, 16), plain, rtol=1e-6)
    smaller = Schedule.manual_large_batch(16, 64, drops=(0.5, 0.75))
    np.testing.assert_allclose(rates(smaller, 16), plain / 2, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 0.5, 3])
def test_cosine_is_optax_over_each_epoch(warmup):
    peer = optax.warmup_cosine_decay_schedule(0.0, 0.3, warmup, 24)
    if warmup == 0:
        peer = optax.cosine_decay_schedule(0.3, 24)
    schedule = Schedule.cosine(24, 0.3, warmup=warmup)
    np.testing.assert_allclose(rates(schedule, 24), means(peer, 24), rtol=2e-3)
    # Epoch 0 by hand, and the mean of the step-by-step schedule.
    if warmup == 0.5:  # half of it on the way up
        first = 0.3 * (0.25 + 0.5)
        assert schedule.setting(0)["learning_rate"] == pytest.approx(first, rel=1e-3)
    if warmup == 0:
        sine = math.sin(math.pi / 24) / (math.pi / 24)
        first = 0.15 * (1 + sine)
        assert schedule.setting(0)["learning_rate"] == pytest.approx(first, rel=1e-5)
        assert np.mean(rates(schedule, 24)) == pytest.approx(0.15, rel=1e-6)
        assert schedule.setting(24)["learning_rate"] == 0.0


def test_wsd_is_a_trapezoid():
    peer = optax.join_schedules(
        [
            optax.linear_schedule(0.0, 0.2, 4),
            optax.constant_schedule(0.2),
            optax.linear_schedule(0.2, 0.0, 8),
        ],
        [4, 32],
    )
    played = rates(Schedule.wsd(40, 0.2, warmup=4), 40)
    np.testing.assert_allclose(played, means(peer, 40), rtol=1e-5)
    np.testing.assert_allclose(played[[0, 4, 31, 39]], [0.025, 0.2, 0.2, 0.0125], 1e-6)


def test_one_cycle_is_optax_over_each_epoch():
    peer = optax.cosine_onecycle_schedule(50, 0.6)
    with jax.numpy_dtype_promotion("standard"):
        expected = means(peer, 50)
    np.testing.assert_allclose(rates(Schedule.one_cycle(50, 0.6), 50), expected, 1e-3)


def test_a_schedule_takes_constants_and_optax_schedules():
    schedule = Schedule(
        {"learning_rate": optax.linear_schedule(1.0, 0.0, 4), "momentum": 0.9}
    )
    assert schedule.setting(0) == {"learning_rate": 0.875, "momentum": 0.9}
    assert Schedule.constant(learning_rate=0.1).setting(99) == {"learning_rate": 0.1}


def test_a_diverged_epoch_is_tried_again_and_the_run_stays():
    schedule = Schedule.manual_sgd(4)
    state = schedule.init(KEY, 10.0)
    state, decision, trials = tell(schedule, state, [20.0])
    assert (decision.branch, decision.epoch, decision.kept) == (0, 0, False)
    state, decision, trials = tell(schedule, state, [np.nan])
    assert (decision.branch, decision.epoch, decision.hold.tolist()) == (-1, 1, [1])
    assert_same(schedule.ask(state), trials)
    state, decision, _ = tell(schedule, state, [30.0])
    assert (decision.branch, decision.epoch, decision.kept) == (0, 1, True)


# ------------------------------------------------------------------ plateau


def plateau_rates(strategy, scores):
    state, played = strategy.init(KEY, -5.0), []
    for value in scores:
        state, _, trials = tell(strategy, state, [value])
        played.append(trials.hparams["learning_rate"][0])
    return np.array(played)


def noisy_losses(count=80):
    rng = np.random.default_rng(3)
    return np.float32(1.0 / np.sqrt(1 + np.arange(count)) + 0.1 * rng.random(count))


@pytest.mark.parametrize("patience", [0, 2, 5])
def test_plateau_is_optax_with_one_more_epoch_of_patience(patience):
    losses = noisy_losses()
    peer = optax.contrib.reduce_on_plateau(factor=0.5, patience=patience + 1)
    state, expected = peer.init(np.float32(1)), []
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(lambda state, value: peer.update(1.0, state, value=value)[1])
        for loss in losses:
            expected.append(float(state.scale))
            state = update(state, loss)
    strategy = strategies.ReduceOnPlateau(
        {"learning_rate": 0.3}, factor=0.5, patience=patience
    )
    played = plateau_rates(strategy, -losses)
    np.testing.assert_allclose(played, 0.3 * np.array(expected), rtol=1e-5)
    assert len(set(played)) > 3


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_plateau_is_torch(metric):
    torch = pytest.importorskip("torch")
    values = noisy_losses() if metric == "loss" else 100 * (1 - noisy_losses())
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    optimizer.step()
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="min" if metric == "loss" else "max", patience=3, factor=0.3
    )
    expected = []
    for value in values:
        expected.append(optimizer.param_groups[0]["lr"])
        peer.step(float(value))
    strategy = strategies.ReduceOnPlateau(
        {"learning_rate": 0.3}, patience=3, factor=0.3, metric=metric
    )
    played = plateau_rates(strategy, -values if metric == "loss" else values)
    # PyTorch ignores changes below 1e-8.
    np.testing.assert_allclose(played, expected, rtol=1e-5, atol=2e-8)


def test_plateau_by_hand():
    accuracies = [50, 60, 60, 59, 58, 61, 61.005, 61, 61, 61.1]
    strategy = strategies.ReduceOnPlateau(
        {"learning_rate": 1.0, "momentum": 0.9}, patience=2, metric="accuracy"
    )
    # 60, 59, 58 are the third in a row not above 60: reduced before epoch 5. 61.005 is
    # above 61 by less than 1e-4 of it.
    played = plateau_rates(strategy, accuracies)
    np.testing.assert_allclose(played, [1] * 5 + [0.1] * 4 + [0.01], rtol=1e-6)
    first = strategy.ask(strategy.init(KEY, 10.0)).hparams
    assert first["momentum"] == np.float32(0.9)


def test_plateau_reduces_at_once_when_the_run_diverges():
    strategy = strategies.ReduceOnPlateau({"learning_rate": 10.0})
    rows, _, _ = run(strategy, 5)
    played = [r.trials.hparams["learning_rate"][0] for r in rows]
    np.testing.assert_allclose(played, [10, 1, 0.1, 0.1, 0.1], rtol=1e-6)
    assert [r.decision.branch for r in rows] == [-1, -1, 0, 0, 0]
    assert rows[-1].run.age == 3


# ------------------------------------------------------------------ random, Hyperband


def test_random_search_tries_five_times_as_many_settings_as_hyperdyn():
    trained = 1 + Hyperdyn(PLANE).suggestions  # the incumbent and its challenger
    trials = RANDOM.ask(RANDOM.init(KEY, 10.0))
    assert len(trials.parents) == 5 * trained


def test_random_search_draws_five_uniform_settings_and_keeps_the_best():
    state, units = FIVE.init(KEY, 10.0), []
    rng = np.random.default_rng(0)
    for epoch in range(60):
        scores = rng.normal(size=5)
        state, decision, trials = tell(FIVE, state, scores)
        assert decision.branch == np.argmax(scores)
        assert decision.hold.tolist() == [np.argmax(scores)]
        assert (decision.epoch, decision.kept) == (epoch, False)
        log_rates = np.log10(trials.hparams["learning_rate"]) / 3 + 1
        units.append(np.stack([log_rates, trials.hparams["momentum"] / 0.99], 1))
    units = np.concatenate(units)
    assert units.shape == (300, 2)
    assert len(np.unique(units)) == units.size
    for axis in units.T:
        assert stats.kstest(axis, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(units.T)[0, 1]) < 0.15


@pytest.mark.parametrize("strategy", [FIVE, BRACKET])
def test_infeasible_branches_never_win_and_all_of_them_are_redrawn(strategy):
    state = strategy.init(KEY, 10.0)
    state, decision, first = tell(strategy, state, [np.nan] * 4 + [-np.inf])
    assert (decision.branch, decision.hold.tolist()) == (-1, [5])
    state, decision, second = tell(strategy, state, [np.nan, 1, np.inf, 2, np.nan])
    assert (decision.epoch, decision.branch, decision.hold.tolist()) == (0, 3, [3])
    assert not np.intersect1d(
        first.hparams["learning_rate"], second.hparams["learning_rate"]
    ).size


def test_hyperband_variant_divides_the_range_by_ten_around_the_best():
    state, lengths = BRACKET.init(KEY, 10.0), []
    rng = np.random.default_rng(1)
    low, high = -3.0, 0.0  # decades
    for epoch in range(30):
        scores = rng.normal(size=5)
        state, decision, trials = tell(BRACKET, state, scores)
        decades = np.log10(trials.hparams["learning_rate"].astype(float))
        assert np.all((decades >= low - 1e-5) & (decades <= high + 1e-5))
        lengths.append((decades - low) / (high - low))
        assert decision.branch == np.argmax(scores)
        width = 3.0 * 0.1 ** ((epoch + 1) % 3)
        middle = decades[np.argmax(scores)]
        low = min(max(middle - width / 2, -3.0), -width)
        high = low + width
    # The draws fill the range that is left, and momentum always has all of its own.
    assert stats.kstest(np.concatenate(lengths), "uniform").pvalue > 0.01


def test_hyperband_variant_leaves_other_axes_alone():
    state, momenta = BRACKET.init(KEY, 10.0), []
    for _ in range(40):
        state, _, trials = tell(BRACKET, state, np.arange(5))
        momenta.append(trials.hparams["momentum"] / 0.99)
    assert stats.kstest(np.concatenate(momenta), "uniform").pvalue > 0.01


def test_hyperband_variant_starts_again_when_a_round_gave_nothing():
    state = BRACKET.init(KEY, 10.0)
    state, _, _ = tell(BRACKET, state, np.arange(5))
    round_, low = state.round, state.low
    state, decision, _ = tell(BRACKET, state, [np.nan] * 5)
    assert decision.branch == -1
    assert (state.round, state.low) == (round_, low)


# ------------------------------------------------------------------ two branches


def test_greedy_best_of_two_takes_the_better_score():
    state = GREEDY.init(KEY, 10.0)
    state, decision, trials = tell(GREEDY, state, [1, 9, 4, np.nan, 3])
    assert decision.branch == 1
    incumbent = trials.hparams["learning_rate"][1]
    for scores, branch in [
        ((20, 21), 1),
        ((30, 25), 0),
        ((30, 30), 0),  # a tie is no reason to switch
        ((np.nan, 1), 1),
        ((50, np.nan), 0),
        ((np.nan, np.inf), -1),
        ((51, 52), 1),
    ]:
        state, decision, trials = tell(GREEDY, state, scores)
        assert decision.branch == branch
        assert decision.kept == (branch == 0)
        assert decision.hold.tolist() == [branch if branch >= 0 else 2]
        assert trials.hparams["learning_rate"][0] == incumbent
        if branch >= 0:
            incumbent = trials.hparams["learning_rate"][branch]
    assert math.isnan(decision.keep_probability)


def test_greedy_best_of_two_proposes_what_hyperdyn_does():
    for method in ("init", "ask", "tell"):
        assert getattr(strategies.GreedyBestOfTwo, method) is getattr(Hyperdyn, method)


def test_do_nothing_control_trains_the_incumbent_twice():
    control = STRATEGIES["control"]
    state = control.init(KEY, 10.0)
    state, decision, start = tell(control, state, [1, 2, 9, 4, 5])
    assert len(set(start.hparams["learning_rate"])) == 5
    rng = np.random.default_rng(0)
    branches = []
    for _ in range(20):
        scores = rng.normal(size=2)
        state, decision, trials = tell(control, state, scores)
        assert (
            trials.hparams["learning_rate"].tolist()
            == [start.hparams["learning_rate"][2]] * 2
        )
        assert len(set(trials.posterior_mean)) == 1
        assert decision.branch == np.argmax(scores)  # the greedy tuner's own decision
        branches.append(decision.branch)
    assert set(branches) == {0, 1}


def test_do_nothing_control_of_equal_branches_never_switches():
    rows, _, _ = run(STRATEGIES["control"], 6)
    assert all(r.decision.kept for r in rows[1:])
    assert len({rate for rate, _ in rows[-1].run.path}) == 1


# ------------------------------------------------------------------ AutoLRS


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.98])
def test_forecast_continues_an_exponential(decay):
    times = np.arange(1, 6)
    losses = 1.7 * decay**times + 0.4
    expected = 1.7 * decay**50.0 + 0.4
    assert autolrs.forecast_loss(losses, 50.0) == pytest.approx(expected, abs=2e-3)


def test_forecast_is_the_least_squares_fit():
    rng = np.random.default_rng(0)
    times = np.arange(1, 17)
    for _ in range(5):
        losses = 2 * 0.8**times + 0.5 + 0.02 * rng.normal(size=16)
        (a, rate, c), _ = optimize.curve_fit(
            lambda t, a, rate, c: a * np.exp(-rate * t) + c, times, losses, (1, 0.1, 0)
        )
        expected = a * math.exp(-rate * 160) + c
        assert autolrs.forecast_loss(losses, 160.0) == pytest.approx(expected, abs=1e-4)


def test_forecast_of_a_constant_is_the_constant():
    assert autolrs.forecast_loss(np.full(4, 2.3), 40.0) == pytest.approx(2.3)


def floor_of(rate):
    return 0.1 + 0.2 * (math.log10(rate) + 1) ** 2


def test_autolrs_stage_by_stage():
    """Losses in this world are exponentials, so forecasts are exact, and the stage is
    trained with the setting whose true loss after it is the least."""
    rows, _, _ = run(AUTOLRS, 160 + 11)
    position, start, age, lengths = 0, Network(), 0.0, []
    for stage in range(4):
        tau = min(2.0**stage, 4.0)
        ends = {}
        for _ in range(10):
            probe = []
            while len(probe) < 4:
                row = rows[position]
                position += 1
                assert row.decision.branch == -1
                assert row.run.age == pytest.approx(age)
                assert row.trials.epochs == pytest.approx(tau / 40)
                assert row.trials.parents.tolist() == [1 if probe else 0]
                probe.append(row)
                if math.isnan(row.scores[0]):
                    break
            (rate,) = {r.trials.hparams["learning_rate"][0] for r in probe}
            if np.isfinite(probe[-1].scores[0]):
                # A probe goes on from where its last segment ended.
                tenth = train(start, {"learning_rate": rate}, tau / 10)
                assert -probe[-1].scores[0] == pytest.approx(tenth.loss, rel=1e-5)
                floor = floor_of(rate)
                ends[rate] = floor + (start.loss - floor) * math.exp(-0.8 * tau)
        assert len(ends) >= 7
        best = min(ends, key=ends.get)
        for epoch in range(int(tau)):
            row = rows[position]
            position += 1
            assert row.decision.branch == 0
            assert row.trials.hparams["learning_rate"][0] == best
            assert row.trials.parents.tolist() == [0]
            assert row.trials.epochs == 1.0
            assert row.decision.kept == (epoch > 0)
        start, age = row.run, age + tau
        assert start.age == pytest.approx(age)
        lengths.append(tau)
    assert lengths == [1, 2, 4, 4]
    # Searching costs at most what training does: ten probes of a tenth.
    searched = rows[position - 1].total - age
    assert 0.7 * age < searched <= age * (1 + 1e-6)


def test_autolrs_trains_a_stage_of_broken_length_in_epochs():
    rows, _, _ = run(BROKEN, 86)
    lengths = [r.trials.epochs for r in rows if r.decision.branch == 0]
    assert lengths[:4] == [1.0, 0.5, 1.0, 0.5]
    assert BROKEN.shortest_trial == pytest.approx(min(r.trials.epochs for r in rows))


def lower_bound(kappa, tried, losses, model):
    """Published bound in standardised units on a fine grid, by NumPy alone."""
    grid = np.linspace(0, 1, 2001)[:, None]
    mean, stddev = oracle.posterior(
        tried[:, None], np.zeros(len(tried)), losses, grid, 0.0, **model
    )
    return grid[:, 0], (mean - losses.mean() - kappa * stddev) / losses.std()


@pytest.mark.parametrize("strategy", [AUTOLRS, BROKEN])
def test_autolrs_probes_the_least_lower_confidence_bound(strategy):
    kappa = 1e6 if strategy is AUTOLRS else 1.96
    state = strategy.init(KEY, -20.0)
    tried, losses, checked = [], [], 0
    for probe in range(10):
        for segment in range(4):
            trials = strategy.ask(state)
            rate = float(trials.hparams["learning_rate"][0])
            assert 1e-3 <= rate <= 1.0
            loss = 0.5 + (math.log10(rate) + 1) ** 2 + 1.5 * math.exp(-1 - segment)
            state, decision = strategy.tell(state, trials, [-loss])
            assert decision.hold.tolist() == ([1] if segment == 3 else [1, 0])
            if segment == 0 and probe >= 2:
                model = {k: np.asarray(v, float) for k, v in trials.model.items()}
                model["length_scales"] = model.pop("length_scale")
                grid, bound = lower_bound(
                    kappa, np.array(tried), np.array(losses), model
                )
                unit = math.log10(rate) / 3 + 1
                here = np.interp(unit, grid, bound)
                assert here <= bound.min() + 1e-3 * np.ptp(bound)
                checked += 1
        tried.append(math.log10(rate) / 3 + 1)
        losses.append(0.5 + (math.log10(rate) + 1) ** 2)  # what it decays to
        assert state.forecasts[probe] == pytest.approx(losses[-1], abs=1e-3)
    assert checked == 8


def test_autolrs_ends_a_diverged_probe_and_counts_it_as_the_worst():
    state = AUTOLRS.init(KEY, -2.3)
    for losses in ([2.2, 2.1, 2.05, 2.04], [2.2, math.nan], [2.0, 1.6, 1.4, 1.3]):
        for loss in losses:
            state, decision, _ = tell(AUTOLRS, state, [-loss])
        assert decision.hold.tolist() == [1]  # the run, and no probe to go on with
    assert (state.probe, state.segment) == (3, 0)
    assert decision.verdict == {"probe": "3 of 10, part 4 of 4"}
    first, diverged, third = state.forecasts[:3]
    assert first > third
    assert math.isnan(diverged)
    data = autolrs._observations(LINE, state.settings, state.forecasts, state.probe)
    assert np.asarray(data.feasible).tolist() == [True] * 3 + [False] * 7
    np.testing.assert_array_equal(data.gains[:3], [-first, -first, -third])
    assert AUTOLRS.ask(state).parents.tolist() == [0]


def test_autolrs_does_not_extrapolate_a_probe_that_lost_all_gains():
    state = AUTOLRS.init(KEY, -2.3)
    for value in (-2.4, -2.2, -2.1, -2.05):
        state, _, _ = tell(AUTOLRS, state, [value])
    assert state.forecasts[0] == np.float32(2.05)


def test_autolrs_searches_again_when_all_or_the_chosen_one_diverges():
    state, first = AUTOLRS.init(KEY, -2.3), set()
    for _ in range(2):  # every probe of two searches diverges
        first.add(float(AUTOLRS.ask(state).hparams["learning_rate"][0]))
        for _ in range(10):
            state, decision, _ = tell(AUTOLRS, state, [np.nan])
            assert (decision.branch, decision.hold.tolist()) == (-1, [1])
        assert (state.probe, state.stage) == (0, 0)
    assert len(first) == 2
    for value in (-2.0, -1.9, -1.8, -1.7) * 10:
        state, decision, _ = tell(AUTOLRS, state, [value])
    assert state.probe == 10
    state, decision, trials = tell(AUTOLRS, state, [np.nan])
    assert trials.epochs == 1.0
    assert (decision.branch, decision.epoch, decision.hold.tolist()) == (-1, 0, [1])
    assert (state.probe, state.stage) == (0, 0)


# ------------------------------------------------------------------ PB2


def test_forgetting_is_the_time_varying_kernel():
    kernel = pb2.Forgetting(np.float32(0.19))
    lags = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
    expected = [1.0, 0.9, 0.81, 0.9**5]
    np.testing.assert_allclose(kernel(np.zeros(1, np.float32), lags)[0], expected, 1e-6)


def test_pb2_drops_the_worst_and_copies_the_best():
    state = PB2.init(KEY, 10.0)
    trials = PB2.ask(state)
    assert trials.parents.tolist() == [0, 0, 0, 0]
    rate = trials.hparams["learning_rate"]
    assert len(set(rate)) == 4
    state, decision = PB2.tell(state, trials, np.float32([20, 40, 10, 30]))
    assert (decision.branch, decision.hold.tolist()) == (1, [1, 3, 0])
    trials = PB2.ask(state)
    assert trials.parents.tolist() == [0, 1, 2, 0]  # the last one copies the best
    assert trials.hparams["learning_rate"][:3].tolist() == rate[[1, 3, 0]].tolist()
    assert trials.hparams["learning_rate"][3] not in rate
    assert state.start.tolist() == [40, 30, 20, 40]
    np.testing.assert_array_equal(state.data.gains[-4:], [10, 30, 0, 20])
    state, decision = PB2.tell(state, trials, np.float32([45, 33, 25, 52]))
    np.testing.assert_array_equal(state.data.gains[-4:], [5, 3, 5, 12])
    np.testing.assert_array_equal(state.data.epochs[-8:], [0] * 4 + [1] * 4)
    assert (decision.branch, decision.hold.tolist()) == (3, [3, 0, 1])
    assert not decision.kept


def test_pb2_members_keep_their_own_past():
    rows, _, held = run(PB2, 12)
    assert all(network.age == 12 for network in held)
    assert len(held) == 3
    assert all(r.decision.branch >= 0 for r in rows)
    for network in held:  # every held state is what its own path leads to
        again = Network()
        for rate, epochs in network.path:
            again = train(again, {"learning_rate": rate}, epochs)
        assert again == network
    assert held[0].loss == min(network.loss for network in held)
    assert rows[-1].total == 48
    explored = [r.trials.hparams["learning_rate"][3] for r in rows[1:]]
    assert all(1e-3 <= rate <= 1.0 for rate in explored)


def pb2_covariance(model, a, s, b, t, epsilon=None):
    epsilon = model["epsilon"] if epsilon is None else epsilon
    distance = (a[:, None] - b[None, :]) / model["length_scale"]
    lag = np.abs(s[:, None] - t[None, :])
    forgotten = (1 - epsilon) ** (lag / 2)
    return model["amplitude"] * np.exp(-(distance**2) / 2) * forgotten


def pb2_bound(model, data, extra, epoch, grid):
    """Upper confidence bound in standardised units, by NumPy alone.

    The mean knows the gains, the deviation also the settings without one: those that
    diverged and `extra`, which other members try in this epoch.
    """
    known, tried = data.feasible, data.feasible | data.infeasible
    points, epochs = data.points[:, 0].astype(float), data.epochs.astype(float)
    u, t, y = points[known], epochs[known], data.gains[known].astype(float)
    now = np.full(len(grid), float(epoch))
    covariance = pb2_covariance(model, u, t, u, t) + model["noise"] * np.eye(len(u))
    cross = pb2_covariance(model, u, t, grid, now)
    mean = cross.T @ np.linalg.solve(covariance, (y - y.mean()) / y.std())
    v = np.append(points[tried], extra)
    s = np.append(epochs[tried], np.full(len(extra), float(epoch)))
    covariance = pb2_covariance(model, v, s, v, s) + model["noise"] * np.eye(len(v))
    cross = pb2_covariance(model, v, s, grid, now)
    explained = np.sum(cross * np.linalg.solve(covariance, cross), 0)
    deviation = np.sqrt(model["amplitude"] - explained)
    similar = pb2_covariance(model | {"amplitude": 1.0}, points, epochs, grid, now)
    sound = similar[known].sum(0)
    weight = (1 + sound) / (1 + sound + similar[data.infeasible].sum(0))
    beta = 0.2 + max(0.0, math.log(0.4 * len(u)))
    return mean + math.sqrt(beta) * deviation + np.log(weight)


def test_pb2_explores_the_greatest_upper_confidence_bound():
    state = PB2.init(KEY, 10.0)
    rng, grid, checked = np.random.default_rng(0), np.linspace(0, 1, 2001), []
    for epoch in range(8):
        trials = PB2.ask(state)
        units = np.log10(trials.hparams["learning_rate"].astype(float)) / 3 + 1
        new = np.flatnonzero(np.isnan(state.settings["learning_rate"]))
        for member in new if epoch else ():
            model = {k: np.asarray(v, float) for k, v in trials.model.items()}
            bound = pb2_bound(model, state.data, units[:member], epoch, grid)
            here = np.interp(units[member], grid, bound)
            assert here >= bound.max() - 1e-3 * np.ptp(bound)
            checked.append(len(new))
        scores = 40 - 20 * (units - 0.6) ** 2 + 5 * epoch + rng.normal(size=4)
        scores[rng.permutation(4)[: (epoch % 4)]] = np.nan
        state, _ = PB2.tell(state, trials, np.float32(scores))
    assert set(checked) == {1, 2, 3}  # some members chosen after others


def test_pb2_forgets_as_the_likelihood_says():
    chosen = set()
    for drift in (0.0, 6.0):  # gains that stay, and gains that change with the epoch
        rng = np.random.default_rng(1)
        state = PB2.init(KEY, 10.0)
        for epoch in range(8):
            trials = PB2.ask(state)
            before = state.model
            units = np.log10(trials.hparams["learning_rate"].astype(float)) / 3 + 1
            gains = 3 * np.sin(4 * units + drift * epoch) + 0.1 * rng.normal(size=4)
            state, _ = PB2.tell(state, trials, np.float32(state.start + gains))
        known = state.data.feasible
        u, t = state.data.points[known, 0].astype(float), state.data.epochs[known]
        y = state.data.gains[known].astype(float)
        y = (y - y.mean()) / y.std()
        model = {
            "length_scale": np.exp(before.log_length_scale.astype(float)),
            "amplitude": np.exp(float(before.log_amplitude)),
        }
        noise = np.exp(float(before.log_noise)) * np.eye(len(u))
        likelihoods = [
            stats.multivariate_normal(
                cov=pb2_covariance(model, u, t, u, t, epsilon) + noise
            ).logpdf(y)
            for epsilon in pb2._EPSILONS
        ]
        best = pb2._EPSILONS[int(np.argmax(likelihoods))]
        assert state.epsilon == pytest.approx(best)
        chosen.add(best)
    assert len(chosen) == 2


def test_pb2_replaces_every_diverged_member():
    state = PB2.init(KEY, 10.0)
    state, decision, _ = tell(PB2, state, [np.nan, np.inf, 12, np.nan])
    assert (decision.branch, decision.hold.tolist()) == (2, [2])
    trials = PB2.ask(state)
    assert trials.parents.tolist() == [0, 0, 0, 0]
    assert np.isnan(state.settings["learning_rate"]).tolist() == [False] + [True] * 3
    assert state.data.infeasible.sum() == 3
    assert np.all(np.isfinite(state.data.gains))


@pytest.mark.parametrize("healthy", [0, 2])
def test_pb2_holds_what_it_had_when_all_diverge(healthy):
    state, held = PB2.init(KEY, 10.0), 1
    for _ in range(healthy):
        state, _, _ = tell(PB2, state, [4, 3, 2, 1])
        held = 3
    state, decision, trials = tell(PB2, state, [np.nan] * 4)
    assert decision.branch == -1
    assert decision.hold.tolist() == [4 + i for i in range(held)]
    again = PB2.ask(state)
    np.testing.assert_array_equal(again.parents, trials.parents)
    # Others than those that diverged, but for the ends of the axis.
    common = np.intersect1d(
        again.hparams["learning_rate"], trials.hparams["learning_rate"]
    )
    assert set(common) <= set(np.float32([1e-3, 1.0]))
    assert len(set(again.hparams["learning_rate"]) - set(common)) >= 2


def test_pb2_of_eight_copies_each_of_the_two_best(monkeypatch):
    monkeypatch.setattr(pb2, "_fit", lambda *args: (args[2], np.float32(0)))
    monkeypatch.setattr(pb2, "_propose", lambda *_: {"learning_rate": np.float32(0.1)})
    strategy = strategies.PB2(LINE, population=8)
    state = strategy.init(KEY, 10.0)
    parents = []
    for epoch in range(8):
        scores = np.roll(np.arange(8.0), epoch)
        state, decision, _ = tell(strategy, state, scores)
        np.testing.assert_array_equal(decision.hold, np.argsort(-scores)[:6])
        assert state.parents[:6].tolist() == list(range(6))
        assert (
            np.isnan(state.settings["learning_rate"]).tolist()
            == [False] * 6 + [True] * 2
        )
        parents += state.parents[6:].tolist()
    assert set(parents) == {0, 1}


# ------------------------------------------------------------------ one compilation


@pytest.mark.parametrize(
    ("strategy", "functions", "steps"),
    [
        (AUTOLRS, (autolrs._propose, autolrs._random), 130),
        (PB2, (pb2._propose, pb2._fit, pb2._first, pb2._uniform), 20),
        (RANDOM, (search._draw,), 5),
        (HYPERBAND, (search._draw,), 5),
    ],
)
def test_compiles_once(strategy, functions, steps):
    run(strategy, 50 if strategy is AUTOLRS else 3)
    before = [function.compilations() for function in functions]
    run(strategy, steps, key=jax.random.key(5))
    assert [function.compilations() for function in functions] == before


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule({}), "at least one hyperparameter"),
        (
            lambda: Schedule.constant(momentum=-0.1),
            r"momentum .*>= 0 and finite.* -0.1",
        ),
        (lambda: Schedule.constant(momentum="x"), r"momentum .*'x'"),
        (lambda: Schedule.manual_sgd(0), "epochs must be a whole number >= 1, got 0"),
        (
            lambda: Schedule.manual_sgd(9, math.nan),
            r"learning_rate .*> 0 and finite.* nan",
        ),
        (lambda: Schedule.manual_large_batch(9, 0), "batch_size .* >= 1, got 0"),
        (lambda: Schedule.manual_large_batch(9, 1, drops=(1.5,)), r"drops .* got 1.5"),
        (
            lambda: Schedule.manual_large_batch(4, 256),
            r"warmup .*>= 0 and < 4, got 5.0",
        ),
        (lambda: Schedule.cosine(4, 0.1, warmup=4), r"warmup .*>= 0 and < 4, got 4"),
        (lambda: Schedule.cosine("4", 0.1), "epochs must be a whole number"),
        (lambda: Schedule.wsd(4, 0.1, decay=1.1), r"decay .*> 0 and <= 1, got 1.1"),
        (lambda: Schedule.one_cycle(4, 0.1, rise=1), r"rise .*> 0 and < 1, got 1"),
        (lambda: strategies.ReduceOnPlateau({}), "must have a learning_rate"),
        (
            lambda: strategies.ReduceOnPlateau({"learning_rate": 1.0}, factor=1),
            r"factor .*> 0 and < 1, got 1",
        ),
        (
            lambda: strategies.ReduceOnPlateau({"learning_rate": 1.0}, patience=-1),
            "patience must be a whole number >= 0, got -1",
        ),
        (
            lambda: strategies.ReduceOnPlateau({"learning_rate": 1.0}, metric="f1"),
            "metric must be 'loss' or 'accuracy', got 'f1'",
        ),
        (lambda: strategies.RandomSearch(LINE, settings=0), "settings .* >= 1, got 0"),
        (
            lambda: strategies.HyperbandVariant(SearchSpace(b1=LogComplement(0, 0.99))),
            "must have a learning_rate axis",
        ),
        (lambda: strategies.HyperbandVariant(LINE, shrink=1.0), r"shrink .* got 1.0"),
        (lambda: strategies.HyperbandVariant(LINE, rounds=0), "rounds .* got 0"),
        (lambda: strategies.AutoLRS(LINE, stage=0), r"stage .*> 0 and finite, got 0"),
        (
            lambda: strategies.AutoLRS(LINE, max_stage=0.5),
            r"max_stage .*>= 1 and finite",
        ),
        (lambda: strategies.AutoLRS(LINE, segments=2), "segments .* >= 3, got 2"),
        (
            lambda: strategies.AutoLRS(LINE, kappa=0.0),
            r"kappa .*> 0 and finite, got 0.0",
        ),
        (lambda: strategies.AutoLRS(LINE, probes=True), "probes .* got True"),
        (lambda: strategies.PB2(LINE, population=1), "population .* >= 2, got 1"),
        (
            lambda: strategies.PB2(LINE, quantile=0.6),
            r"quantile .*> 0 and <= 0.5, got 0.6",
        ),
        (lambda: strategies.PB2(LINE, capacity=3), "capacity .* >= 4, got 3"),
        (lambda: strategies.GreedyBestOfTwo(LINE, capacity=3), "capacity .* got 3"),
    ],
)
def test_bad_settings_are_named_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_strategy_says_what_its_scores_are():
    losses = {name for name, s in STRATEGIES.items() if s.metric == "loss"}
    assert losses == {"plateau", "autolrs"}
    assert all(s.metric in ("loss", "accuracy") for s in STRATEGIES.values())
