"""The race: its budget, its arms, its choice, on problems with answers."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdyn_jax import LogComplement, LogUniform, SearchSpace, tune
from hyperdyn_jax.strategies import Schedule, drift
from hyperdyn_jax.strategies.race import HORIZONS, RACE, RUN, CannotTellError, Race
from hyperdyn_jax.strategies.race_plan import wsd
from hyperdyn_jax.tuner import cpu_jit
from hyperdyn_jax.tuner.interface import TooShortError

RATE = SearchSpace(learning_rate=LogUniform(1e-4, 0.3))
BOTH = SearchSpace(
    learning_rate=LogUniform(1e-4, 0.3), momentum=LogComplement(0.0, 0.99)
)
START = -2.5


def race(space=RATE, epochs=40, steps=25, rate=None, **changes):
    base = None if rate is None else Schedule.constant(learning_rate=rate)
    return Race(space, epochs, steps, **{"base": base} | changes)


def valley(best, drift=0.0, width=1.5):
    """A score that falls off around a best rate of 1,000 steps, which drifts."""

    def score(setting, step):
        rate = np.log(setting["learning_rate"] / best)
        off = (rate + drift * np.log(step / 1000)) / width
        return -1 - 1 / np.log(10 + step) - 0.3 * off**2

    return score


def noisy(score, seed, deviation):
    rng = np.random.default_rng(seed)
    return lambda setting, step: score(setting, step) + rng.normal(0, deviation)


def during_a_warmup(best, steps):
    """A score whose best rate falls as one over the horizon, until three times the
    steps of a warm-up."""
    score = valley(best)

    def seen(setting, step):
        late = min(1.0, step / (3 * steps))
        return score(setting | {"learning_rate": setting["learning_rate"] * late}, step)

    return seen


class Played:
    """A run to its end: rows of (state before, trials, scores, decision), the last
    state, all steps, and the steps of the accepted path as `tune` counts them."""

    def __init__(self, tuner, score, seed=0):
        self.rows, self.total, self.path = [], 0, 0
        self.each = tuner.steps_per_epoch
        state, held = tuner.init(jax.random.key(seed), START), [0]
        while self.path < tuner.accepted_steps(state):
            trials, before = tuner.ask(state), state
            count = max(1, round(trials.epochs * tuner.steps_per_epoch))
            count = min(count, tuner.accepted_steps(state) - self.path)
            ends = [held[parent] + count for parent in trials.parents]
            scores = np.float32(
                [score(trials.setting(i), end) for i, end in enumerate(ends)]
            )
            state, decision = tuner.tell(state, trials, scores)
            self.rows.append((before, trials, scores, decision))
            held = [[*ends, *held][i] for i in decision.hold]
            self.total += count * len(ends)
            self.path = held[0]
            if before.phase == RACE and state.phase == RUN:
                self.horizon = held[0]
        self.state = state

    def steps(self, row):
        return round(row[1].epochs * self.each)

    def phase(self, which):
        return [row for row in self.rows if row[0].phase == which]

    @property
    def rate(self):
        setting = cpu_jit.from_unit(race(), self.state.chosen[None, :1])
        return float(setting["learning_rate"][0])


@pytest.mark.parametrize("drift", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_finds_the_rate_of_the_whole_run_past_its_drift(drift, seed):
    played = Played(race(), noisy(valley(3e-3, drift), seed, 1e-3), seed)
    assert abs(np.log(played.rate / 3e-3)) < np.log(2.2)


def test_the_choice_moves_with_the_drift_it_saw():
    steep, flat = (Played(race(), valley(3e-3, drift)) for drift in (0.5, 0.0))
    at_horizon = 3e-3 * (steep.horizon / 1000) ** -0.5  # best where the race ended
    assert abs(np.log(flat.rate / 3e-3)) < np.log(1.5)
    assert steep.rate < at_horizon / 2


@pytest.mark.parametrize("times", [0.1, 10.0])
def test_leaves_a_base_that_is_far_off(times):
    played = Played(race(rate=3e-3 * times), noisy(valley(3e-3, 0.2), 0, 1e-3))
    assert not played.state.kept
    assert abs(np.log(played.rate / 3e-3)) < np.log(3)


def test_stays_with_a_base_that_is_right():
    played = Played(race(rate=3e-3), noisy(valley(3e-3, 0.2), 1, 3e-3))
    kept = played.state.kept or abs(np.log(played.rate / 3e-3)) < np.log(1.6)
    assert kept


@pytest.mark.parametrize("staying", [0.0, 0.5, 0.95, 1.0])
def test_a_base_is_rarely_left_under_noise_alone(staying):
    """Also where the noise of an arm stays with it from one horizon to the next."""
    left = 0
    for seed in range(100):  # 400 rounds
        tuner, rng = race(rate=3e-3), np.random.default_rng(seed)
        state, held = tuner.init(jax.random.key(seed), START), [None]
        while state.phase == RACE:
            trials = tuner.ask(state)
            fresh = rng.normal(size=len(trials.parents))
            noise = [
                new if held[at] is None
                else staying * held[at] + np.sqrt(1 - staying**2) * new
                for at, new in zip(trials.parents, fresh, strict=True)
            ]  # fmt: skip
            scores = np.float32(-2 + 0.01 * np.array(noise))
            state, decision = tuner.tell(state, trials, scores)
            held = [[*noise, *held][i] for i in decision.hold]
        left += not state.kept
    assert left <= 5


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e4, 5e4), (1.0, 2.2)])
def test_nothing_depends_on_the_unit_or_the_zero_of_scores(scale, shift):
    score = noisy(valley(3e-3, 0.2), 0, 1e-2)
    known = {}

    def same(setting, step):
        key = (round(float(np.log(setting["learning_rate"])), 3), step)
        return known.setdefault(key, score(setting, step))

    one = Played(race(rate=1e-2), same)
    other = Played(race(rate=1e-2), lambda s, step: scale * same(s, step) + shift)
    assert one.rate == pytest.approx(other.rate, rel=0.05)
    assert one.state.kept == other.state.kept


@given(
    epochs=st.integers(4, 300),
    steps=st.integers(5, 300),
    overhead=st.floats(0.1, 0.5),
    anchored=st.booleans(),
    seed=st.integers(0, 50),
    deviation=st.sampled_from([0.0, 0.01, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_budget_is_kept_to_the_step(
    epochs, steps, overhead, anchored, seed, deviation
):
    rate = 1e-3 if anchored else None
    try:
        tuner = race(epochs=epochs, steps=steps, rate=rate, max_overhead=overhead)
    except TooShortError:
        return
    try:
        played = Played(tuner, noisy(valley(3e-3, 0.2), seed, deviation), seed)
    except CannotTellError:
        assert deviation > 0
        assert not anchored
        return
    assert played.total == epochs * steps
    extra = sum(  # of the race; stretches that are done again come on top
        played.steps(row) * (len(row[2]) - (row[3].branch >= 0))
        for row in played.phase(RACE)
    )
    assert extra <= overhead * (played.total - extra) + 1e-6


def test_every_round_goes_on_from_arms_of_one_length():
    tuner = race(rate=1e-2)
    played = Played(tuner, valley(3e-3, 0.2))
    rounds = played.phase(RACE)
    assert [row[0].following for row in rounds] == tuner.horizons
    assert set(rounds[0][1].parents) == {0}
    for (_, trials, scores, decision), (_, after, *_) in itertools.pairwise(rounds):
        assert decision.branch == decision.hold[0]
        kept = decision.hold[np.argmax(scores[decision.hold])]
        assert kept == decision.branch  # the run is the arm that leads
        assert list(after.parents) == list(range(len(decision.hold)))
        goes_on = trials.hparams["learning_rate"][decision.hold]
        np.testing.assert_array_equal(goes_on, after.hparams["learning_rate"])
    for _, trials, _, _ in rounds:  # the base takes part to the last round
        rates = trials.hparams["learning_rate"]
        assert np.isclose(rates, np.float32(1e-2), rtol=1e-3).any()


def test_a_base_that_leads_ends_the_race_early():
    played = Played(race(rate=3e-3), valley(3e-3))
    assert played.state.kept
    assert len(played.phase(RACE)) < len(race().horizons)
    assert played.total == 1000
    assert played.path > 1000 - 100


@pytest.mark.parametrize(("epochs", "kept"), [(28, True), (29, False)])
def test_a_run_too_short_for_six_arms_stays_with_its_base(epochs, kept):
    """However far off it is: five that are in order may be so by chance."""
    for seed in range(5):
        played = Played(race(epochs=epochs, steps=10, rate=1e-4), valley(1e-2), seed)
        assert played.state.kept == kept


def test_a_base_that_diverges_is_left():
    def cliff(setting, step):
        ruined = setting["learning_rate"] > 0.02 and step > 10
        return np.nan if ruined else valley(3e-3)(setting, step)

    played = Played(race(rate=0.1), cliff)
    assert not played.state.kept
    assert played.rate < 0.02


def test_a_base_far_off_is_left_in_a_narrow_range_too():
    narrow = SearchSpace(learning_rate=LogUniform(1e-3, 3e-2))
    score = valley(2e-3, width=0.7)
    played = Played(race(narrow, rate=2e-2), noisy(score, 0, 1e-3))
    setting = cpu_jit.from_unit(race(narrow), played.state.chosen[None])
    assert not played.state.kept
    assert setting["learning_rate"][0] < 6e-3


def test_a_shape_takes_the_rate_of_the_same_mean_square():
    cosine = Schedule.cosine(40, 0.1)
    flat = Played(race(rate=0.1), valley(3e-3))
    shaped = Played(race(base=cosine), valley(3e-3))
    assert not shaped.state.kept
    ratio = np.sqrt((0.8 + 0.2 / 6) / (3 / 8))  # of WSD and of a cosine
    assert shaped.rate / flat.rate == pytest.approx(ratio, rel=0.25)


def test_the_model_sees_the_rate_in_effect_and_is_read_back():
    tuner = race(base=Schedule.cosine(40, 0.1))
    place = np.array([0.3])
    whole = np.log((3 / 8) / (0.8 + 0.2 / 6)) / 2  # mean squares of a cosine and of WSD
    moved = tuner.moved(place, 1.0)
    assert moved[0] - place[0] * tuner.spans[0] == pytest.approx(whole, abs=0.01)
    assert tuner.moved(place, 0.01) == pytest.approx(place * tuner.spans, abs=1e-3)
    for share in (0.01, 0.3, 1.0):
        assert tuner.moved_back(tuner.moved(place, share), share) == pytest.approx(
            place
        )


def test_no_rate_beyond_the_largest_arm_is_chosen():
    for seed in range(5):
        rising = Played(race(), lambda s, _: np.log(s["learning_rate"]), seed)
        last = rising.phase(RACE)[-1][1].hparams["learning_rate"]
        assert rising.rate <= last.max() * (1 + 1e-4)


def test_the_end_of_a_race_says_what_it_came_to():
    def verdict(score, **changes):
        *before, (*_, decision) = Played(race(**changes), score).phase(RACE)
        assert all(row[3].verdict["leading"] for row in before)
        return decision.verdict

    found = verdict(valley(3e-3))
    assert found["following"]["learning_rate"] == pytest.approx(3e-3, rel=0.5)
    assert found["p_value"] < 0.05
    assert "end" not in found
    stays = verdict(noisy(valley(3e-3), 0, 1.0), rate=3e-3)
    assert set(stays) == {"p_value", "base"}
    few = verdict(valley(3e-3), rate=1e-2, epochs=5, steps=40)
    assert few["needed_steps"] == 288
    assert verdict(lambda s, _: np.log(s["learning_rate"]))["end"] == "upper"
    assert verdict(lambda s, _: -np.log(s["learning_rate"]))["end"] == "lower"


def test_arms_cover_the_range():
    first = race().ask(race().init(jax.random.key(0), START))
    gaps = np.diff(np.sort(np.log(first.hparams["learning_rate"])))
    assert len(gaps) >= 5
    assert gaps.max() < np.log(4)


def test_a_diverged_arm_is_never_chosen():
    def cliff(setting, step):
        if setting["learning_rate"] > 1e-2:
            return np.nan
        return valley(1e-2)(setting, step)

    for seed in range(5):
        played = Played(race(), cliff, seed)
        assert 5e-4 < played.rate < 2e-2
        for _, _, scores, decision in played.phase(RACE):
            assert np.isfinite(scores[decision.branch])
            assert np.isfinite(scores[decision.hold]).all()


def test_where_all_diverge_rates_are_lowered():
    space = SearchSpace(learning_rate=LogUniform(1e-6, 1.0))

    def cliff(setting, step):
        small = setting["learning_rate"] < 1.001e-6
        return valley(1e-6)(setting, step) if small else np.nan

    tuner = race(space)
    state = tuner.init(jax.random.key(0), START)
    tried = []
    for _ in range(4):
        trials = tuner.ask(state)
        tried.append(np.sort(trials.hparams["learning_rate"]))
        scores = [cliff(trials.setting(i), 1) for i in range(len(tried[-1]))]
        state, decision = tuner.tell(state, trials, np.float32(scores))
        if decision.branch >= 0:
            break
        assert list(decision.hold) == [len(scores)]
    assert len(tried) > 1
    assert tried[1].max() < 0.02 * tried[0].max()
    assert tried[-1].min() == pytest.approx(1e-6, rel=1e-3)


def test_arms_that_score_alike_train_longer_until_they_can_be_told_apart():
    def waits(setting, step):  # as gradients that accumulate over many steps do
        return -2.3 if step < 15 else valley(3e-3)(setting, step)

    played = Played(race(), waits)
    lengths = [row[0].following for row in played.phase(RACE)]
    first = race().horizons[0]
    assert lengths[:3] == [first, 2 * first, 4 * first]
    assert abs(np.log(played.rate / 3e-3)) < np.log(3)


def test_alike_to_the_end_the_base_stays():
    played = Played(race(rate=1e-2), lambda *_: -2.3)
    assert played.state.kept
    assert played.rate == pytest.approx(1e-2, rel=1e-4)
    assert played.total == 1000


def test_alike_to_the_end_without_a_base_is_an_error():
    with pytest.raises(CannotTellError, match="check that train uses hparams"):
        Played(race(), lambda *_: -2.3)


def test_ends_with_a_cooldown():
    played = Played(race(), valley(3e-3))
    run = played.phase(RUN)
    rates = [float(row[1].hparams["learning_rate"][0]) for row in run]
    assert rates[0] == pytest.approx(played.rate, rel=1e-4)
    assert rates[-1] < 0.1 * rates[0]
    steps = np.cumsum([round(row[1].epochs * 25) for row in run])
    falling = next(i for i, rate in enumerate(rates) if rate < 0.999 * rates[0])
    assert steps[falling - 1] / steps[-1] == pytest.approx(0.8, abs=0.02)
    assert (np.diff(rates) <= 1e-9).all()
    assert [wsd(x) for x in (0.8, 0.85, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_a_base_with_a_shape_keeps_it():
    def early(setting, step):  # only what is seen in the race depends on the rate
        return valley(3e-3)(setting, step) if step < 100 else -1.0

    base = Schedule.cosine(40, 0.05, momentum=0.9)
    played = Played(race(base=base), early)
    assert not played.state.kept
    run = played.phase(RUN)
    rates = np.array([row[1].hparams["learning_rate"][0] for row in run])
    assert {float(row[1].hparams["momentum"][0]) for row in run} == {np.float32(0.9)}
    at = np.cumsum([round(row[1].epochs * 25) for row in run]) / 25
    halfway = np.interp(20, at * 40 / at[-1], rates)
    assert rates[0] == pytest.approx(played.rate, rel=0.05)
    assert halfway == pytest.approx(0.5 * played.rate, rel=0.15)
    assert rates[-1] < 0.02 * rates[0]


CYCLED = {
    "cosine": lambda t: 0.05 * (1 + np.cos(np.pi * t / 40)) / 2,
    "constant": 0.05,
}


@pytest.mark.parametrize("rate", CYCLED.values(), ids=CYCLED)
def test_every_hyperparameter_of_a_base_keeps_its_shape(rate):
    def rising(time):  # begins below the range
        return -0.05 + 0.9 * time / 40

    plan = race(BOTH, base=Schedule({"learning_rate": rate, "momentum": rising}))
    shares = np.linspace(0, 1, 9)
    played = np.array([plan.setting(plan.base_point, x)["momentum"] for x in shares])
    assert played.tolist() == pytest.approx(rising(40 * shares).tolist())
    # Elsewhere 1 - momentum is multiplied by one factor, up to the ends of the range.
    other = plan.base_point - np.array([0.1, 0.2], np.float32)
    moved = np.array([plan.setting(other, x)["momentum"] for x in shares])
    factor = (1 - BOTH["momentum"].high) ** -0.2
    expected = 1 - (1 - np.maximum(played, 0)) * factor
    assert moved.tolist() == pytest.approx(np.maximum(expected, 0).tolist(), abs=1e-5)
    assert (moved > 0).any()
    lower = plan.setting(other, 0.5)["learning_rate"]
    ratio = lower / plan.setting(plan.base_point, 0.5)["learning_rate"]
    assert ratio == pytest.approx((0.3 / 1e-4) ** -0.1, rel=1e-4)


def test_a_base_that_stays_is_played_in_every_hyperparameter():
    momentum = [0.5, 0.95]
    base = {
        "learning_rate": 3e-3,
        "momentum": lambda t: float(np.interp(t, [0, 40], momentum)),
    }
    played = Played(race(BOTH, base=Schedule(base)), valley(3e-3))
    assert played.state.kept
    run = played.phase(RUN)
    seen = [float(row[1].hparams["momentum"][0]) for row in run]
    steps = np.array([played.steps(row) for row in run])
    before = played.path - steps.sum()  # in the race
    middles = (before + np.cumsum(steps) - steps / 2) / played.path
    expected = np.interp(middles, [0, 1], momentum).tolist()
    assert seen == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("bad", [-9.0, np.nan])
def test_a_stretch_that_is_far_behind_is_done_again_at_a_smaller_rate(bad):
    def ruined(setting, step):
        if step < 100:
            return valley(3e-3)(setting, step)
        return bad if step > 300 and setting["learning_rate"] > 1.5e-3 else -1.0

    played = Played(race(), ruined)
    run = played.phase(RUN)
    (again,) = (i for i, row in enumerate(run) if row[3].branch < 0)
    assert list(run[again][3].hold) == [1]  # where the stretch began
    assert run[again][3].undone
    after = run[again + 1][1].hparams["learning_rate"][0]
    assert after == pytest.approx(played.rate / 3, rel=1e-3)
    assert played.total == 1000
    assert run[-1][2][0] == -1.0


def test_a_run_that_overfits_goes_back_to_its_best_and_takes_less():
    def overfits(setting, step):
        if step < 100:
            return valley(3e-3)(setting, step)
        slope = 1e-3 if step < 300 else -1e-3
        return -1 + slope * (step - 300)

    played = Played(race(), overfits)
    (back, *_) = (row for row in played.phase(RUN) if row[3].branch < 0)
    before = back[0]
    assert before.best_done < before.done
    assert list(back[3].hold) == [2]  # behind the stretch and the run
    after = next(row[0] for row in played.rows if row[0].scale < 1)
    assert after.done == before.best_done
    assert after.spent == before.spent + before.done - before.best_done + 25
    assert played.total == 1000


def test_a_right_run_under_noise_goes_on():
    played = Played(race(rate=3e-3), noisy(valley(3e-3, 0.2), 0, 0.02))
    assert all(row[3].branch == 0 for row in played.phase(RUN))


@pytest.mark.parametrize("bad", [1.0, np.nan])
def test_every_step_that_is_trained_is_counted_once(bad):
    trained = []

    def train(state, hparams, steps):
        trained.extend(steps)
        rate = float(hparams["learning_rate"])
        lost = state["lost"] + (bad if len(trained) > 400 and rate > 1e-3 else 0.0)
        return {"lost": lost, "rate": rate, "taken": state["taken"] + len(steps)}

    def evaluate(state):
        off = np.log(state["rate"] / 3e-3)
        return -1 - 0.3 * off**2 - state["lost"]

    start = {"lost": 0.0, "rate": 1e-4, "taken": 0}
    tuner = race(averaging=None)
    result = tune(
        train, evaluate, start, tuner, epochs=40, steps_per_epoch=25,
        key=jax.random.key(0),
    )  # fmt: skip
    assert any(row["branch"] < 0 for row in result.decisions)
    last = result.metrics[-1]
    assert len(trained) == last["total_steps"] == 1000
    kept = sum(row["extra_steps"] for row in result.decisions)
    assert last["step"] == 1000 - kept
    if result.best_epoch == last["epoch"]:
        assert result.state["taken"] == last["step"]


def test_several_axes():
    def score(setting, step):
        memory = np.log((1 - setting["momentum"]) / 0.1)
        return valley(3e-3, 0.2)(setting, step) - 0.05 * memory**2

    played = Played(race(BOTH), score)
    setting = cpu_jit.from_unit(race(BOTH), played.state.chosen[None])
    assert abs(np.log(setting["learning_rate"][0] / 3e-3)) < np.log(4)
    assert played.total == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"max_overhead": 0.0}, "max_overhead must be a number"),
        ({"metric": "f1"}, "metric must be 'loss' or 'accuracy'"),
        ({"rate": 5.0}, "space must hold the base's learning_rate"),
        ({"epochs": 2, "steps": 5}, "give more epochs"),
    ],
)
def test_what_is_out_of_range_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        race(**changes)


@pytest.mark.parametrize("base", [1e-3, {"learning_rate": 1e-3}, lambda _: 1e-3])
def test_a_base_that_is_no_schedule_is_told(base):
    with pytest.raises(ValueError, match=r"base must be a Schedule, for example Sch"):
        Race(RATE, epochs=40, steps_per_epoch=25, base=base)


def chosen_rate(tuner, score):
    """The largest of the run after the race."""
    rows = Played(tuner, score).rows
    return max(
        float(trials.setting(0)["learning_rate"])
        for before, trials, _, _ in rows
        if before.phase == RUN
    )


@pytest.mark.parametrize("times", [0.1, 1.0, 10.0])
def test_a_warm_up_in_the_base_is_seen_through(times):
    """The rate that is best at the end is a tenth of what leads the race. A base is
    left for that or, if too little speaks for it, stays."""
    best, steps = 0.004, 80

    def ramp(epoch):
        return times * best * min(1.0, (25 * epoch + 1) / steps)

    tuner = Race(RATE, 40, 25, base=Schedule({"learning_rate": ramp}))
    assert tuner.warmup_steps == pytest.approx(steps, rel=0.03)
    rate = chosen_rate(tuner, during_a_warmup(best, steps))
    kept = rate == pytest.approx(times * best, rel=0.05)
    assert kept or best / 2.5 < rate < 2.5 * best
    # Without the base among the arms the same is found at once.
    free = dataclasses.replace(tuner, base=None, warmup=steps)
    assert best / 2.5 < chosen_rate(free, during_a_warmup(best, steps)) < 2.5 * best


@pytest.mark.parametrize("times", [None, 0.1, 1.0, 10.0])
def test_a_warm_up_that_a_race_is_told_of_is_seen_through(times):
    best, steps = 0.004, 80
    base = None if times is None else times * best
    score = during_a_warmup(best, steps)
    rate = chosen_rate(race(rate=base, warmup=steps), score)
    assert best / 2.5 < rate < 2.5 * best


def test_a_base_that_leads_while_rates_rise_does_not_end_the_race(monkeypatch):
    score, believe = valley(0.01), drift.believe

    def content(*args, **settings):  # nothing better is in sight
        return believe(*args, **settings)._replace(warming=0.0, ahead=0.1)

    def rounds(tuner):
        return sum(before.phase == RACE for before, *_ in Played(tuner, score).rows)

    monkeypatch.setattr(drift, "believe", content)
    assert rounds(race(rate=0.01)) == 2
    assert rounds(race(rate=0.01, warmup=3)) == 2  # risen by then
    assert rounds(race(rate=0.01, warmup=80)) == len(HORIZONS)


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        (lambda t: min(1.0, t / 10), 0.25),
        (lambda t: max(0.0, 1 - abs(t / 10 - 1)), 0.25),  # up and down
        (lambda t: 1 - t / 40, 0.0),
        (lambda t: 0.6 + 0.4 * min(1.0, t / 10), 0.0),  # it hardly rises
        (lambda t: 1.0 if t > 20 or t < 5 else 0.1, 0.0),  # it starts at its largest
    ],
)
def test_what_counts_as_a_warm_up_of_the_base(shape, share):
    base = Schedule({"learning_rate": lambda t: 0.01 * shape(t)})
    assert Race(RATE, 40, 25, base=base).base_warmup == pytest.approx(share, abs=0.002)


def test_a_warm_up_is_not_counted_twice():
    """The model knows how long it lasts; the shape that is left is a constant's."""
    base = Schedule({"learning_rate": lambda t: 0.01 * min(1.0, (t + 0.04) / 4)})
    warmed, point = Race(RATE, 40, 25, base=base), np.array([0.5])
    for share in (0.01, 0.05, 0.1, 0.5):
        there = warmed.moved(point, share)
        assert there == pytest.approx(race().moved(point, share), abs=0.01)


def test_a_warm_up_has_to_be_a_number_of_steps():
    with pytest.raises(ValueError, match=r"warmup must be a whole number .*-1"):
        race(warmup=-1)
