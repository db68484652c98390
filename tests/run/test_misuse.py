"""What a user's own loop hardly means to do is told, and what it may do is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperdyn_jax import LogUniform, Schedule, SearchSpace, tune
from hyperdyn_jax.optimizers import set_hyperparams
from hyperdyn_jax.run import misuse
from hyperdyn_jax.strategies import RandomSearch
from hyperdyn_jax.strategies.race import CannotTellError

SPACE = SearchSpace(learning_rate=LogUniform(1e-4, 1.5))
SIZE = {"epochs": 10, "steps_per_epoch": 40, "key": jax.random.key(0)}
START = np.float32(10)
SHORT = SIZE | {"epochs": 3, "steps_per_epoch": 4}
CONSTANT = Schedule({"learning_rate": 0.1})


def train(w, hparams, steps):
    """Gradient descent on w^2 / 2."""
    return w * (1 - hparams["learning_rate"]) ** len(steps)


def minus(w):
    return -float(abs(w))


def test_a_schedule_inside_the_optimizer_is_told_of():
    """Its warm-up hides what a rate is worth."""

    def optimizer(learning_rate):
        rising = optax.scale_by_schedule(optax.linear_schedule(0, 1, 50))
        return optax.chain(rising, optax.scale_by_learning_rate(learning_rate))

    def step(state, hparams, steps):
        w, moments = state
        for _ in steps:
            update, moments = optimizer(**hparams).update(w, moments)
            w = optax.apply_updates(w, update)
        return w, moments

    start = jnp.float32(10), optimizer(0.1).init(jnp.float32(10))

    def run(state=start, **given):
        return tune(step, lambda s: minus(s[0]), state, SPACE, **SIZE, **given)

    with pytest.warns(UserWarning, match=r"schedule of its own .*warmup=100") as told:
        run()
    assert told[0].filename == __file__
    told_of = run(warmup=50)  # and then nothing is
    assert told_of.schedule["learning_rate"](399) > 0
    with pytest.raises(ValueError, match="warmup goes with a SearchSpace"):
        tune(train, minus, START, CONSTANT, **SHORT, warmup=3)
    with pytest.raises(ValueError, match=r"warmup must be a whole number .*-3"):
        run(warmup=-3)


@pytest.mark.parametrize(
    "state",
    [
        START,
        {"w": jnp.ones(3), "key": jax.random.key(1), "name": "walk", "act": jnp.tanh},
        [jnp.ones((2, 2)), 1.0, 3],
    ],
)
def test_a_state_that_is_never_changed_is_told(state):
    with pytest.raises(ValueError, match="no number in it has changed") as error:
        tune(lambda s, *_: jax.tree.map(lambda x: x, s), lambda _: 1.0, state, SPACE,
             **SIZE)  # fmt: skip
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("train returned the state as it was: after ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": jnp.ones(3), "n": 0}, {"a": jnp.ones(3), "n": 1}),
        ([np.zeros(2)], [np.array([0, np.nan])]),
        ([jax.random.key(0)], [jax.random.key(1)]),
        ([1.0], [np.float32(1)]),
        ([jnp.ones(2)], [jnp.ones(3)]),
        ([], [jnp.ones(3)]),
    ],
)
def test_any_number_that_changes_is_a_change(before, after):
    assert misuse.is_unchanged(before, before)
    assert not misuse.is_unchanged(before, after)


def test_a_rate_of_zero_may_leave_the_state_as_it_is():
    warm_up = Schedule({"learning_rate": lambda epoch: 0.1 * int(epoch)})
    assert tune(train, minus, START, warm_up, **SHORT).state < START


SGD = optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.float32)


@jax.jit
def update(params, opt_state, rate):
    opt_state = set_hyperparams(opt_state, {"learning_rate": rate})
    updates, opt_state = SGD(learning_rate=0.1).update(params, opt_state)
    return optax.apply_updates(params, updates), opt_state


def with_optax(count):
    """A loop that takes `count(steps)` optimizer steps a call."""

    def train(state, hparams, steps):
        for _ in range(count(steps)):
            state = update(*state, hparams["learning_rate"])
        return state

    return train


def run_optax(count, strategy=CONSTANT):
    params = jnp.float32(10)
    state = params, SGD(learning_rate=0.1).init(params)
    return tune(with_optax(count), lambda s: minus(s[0]), state, strategy, **SHORT)


@pytest.mark.parametrize(
    ("count", "told"),
    [(lambda _: 45, "took 45 optimizer steps where `steps` had 4"),
     (lambda steps: len(steps) - 1, "took 3 optimizer steps where `steps` had 4"),
     (lambda steps: min(len(steps), max(0, 6 - steps.start)), "took 2 optimizer st")],
    ids=["an epoch a call", "one left out", "an iterator that ends"],
)  # fmt: skip
def test_other_steps_than_those_asked_for_are_told_once(count, told):
    with pytest.warns(UserWarning, match=told) as warned:
        run_optax(count)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_the_steps_asked_for_are_not_told():
    run_optax(len)
    run_optax(len, RandomSearch(SPACE, settings=2))


def test_an_accumulated_gradient_pauses_the_count():
    state = optax.MultiSteps(SGD(learning_rate=0.1), 3).init(jnp.float32(1))
    assert misuse.optimizer_steps((state, {"count": 3})) == []
    chained = optax.chain(optax.clip(1.0), optax.adam(0.1)).init(jnp.float32(1))
    assert misuse.optimizer_steps(chained) == [0]
    assert misuse.miscounted(chained, chained, 2) == 0


# Scores.


def run_scores(evaluate, tuner=SPACE, **options):
    return tune(train, evaluate, START, tuner, **SIZE | options)


def test_a_loss_in_place_of_a_score_is_told_in_the_first_round():
    rows = []
    with pytest.warns(UserWarning, match=r"as of a loss; .* give tune\(\.\.\., minim"):
        run_scores(abs, on_decision=rows.append)
    assert misuse.falls(rows[0])
    assert not any(map(misuse.falls, rows[-3:]))


@pytest.mark.parametrize("evaluate", [minus, lambda w: 100 / (1 + abs(w))])
def test_a_score_in_place_of_a_loss_is_told_in_the_first_round(evaluate):
    told = r"as of a score; .* give no minimize=True"
    with pytest.warns(UserWarning, match=told) as warned:
        run_scores(evaluate, minimize=True)
    assert len(warned) == 1  # nothing of a range that is not wide enough


def test_a_rate_at_an_end_of_the_range_is_told_once():
    with pytest.warns(UserWarning, match="widen the range at its lower end") as warned:
        run_scores(abs, minimize=False)
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("evaluate", "options"),
    [
        (minus, {}),
        (lambda w: 100 - abs(w), {}),
        (lambda w: 1 / (1 + abs(w)), {}),
        (abs, {"minimize": True}),
        (lambda w: abs(w) - 5, {"minimize": True}),
        (lambda w: -abs(w), {"minimize": False}),
    ],
)
def test_what_may_be_a_score_is_not_told(evaluate, options):
    result = run_scores(evaluate, **options)
    assert result.score == pytest.approx(evaluate(result.state), rel=1e-6)


def test_a_fraction_in_place_of_percentage_points_is_told_once():
    def fraction(w):
        return float(np.exp(-0.05 * abs(w)))

    size = {"epochs": 5, "steps_per_epoch": 4}
    with pytest.warns(UserWarning, match="accuracy in percentage points, .* 100 times"):
        run_scores(fraction, RandomSearch(SPACE, settings=2), **size)
    run_scores(lambda w: 100 * fraction(w), RandomSearch(SPACE, settings=2), **size)
    run_scores(lambda w: 0.5 * fraction(w), CONSTANT, **size)  # next to nothing, in %


def test_settings_that_make_no_difference_are_told():
    def ignoring(w, hparams, steps):  # noqa: ARG001
        return w * np.float32(0.9) ** len(steps)

    same = (
        "all [0-9]+ settings that were compared score -[0-9.]+, so that none is better"
    )
    with pytest.raises(CannotTellError, match="settings of learning_rate all score"):
        tune(ignoring, minus, START, SPACE, **SIZE)
    with pytest.warns(UserWarning, match=same):
        result = tune(ignoring, minus, START, SPACE, base=0.1, **SIZE)
    assert result.decisions[0]["kept"] or result.decisions[1]["kept"]


def test_the_base_is_said_to_stay_where_noise_is_all(capsys):
    """The key is in the state: all arms have one noise, which is no evidence."""

    def noisy(state, hparams, steps):  # noqa: ARG001
        key, own = jax.random.split(state["key"])
        return {"key": key, "w": state["w"] + float(jax.random.normal(own))}

    start = {"key": jax.random.key(3), "w": 0.0}
    with pytest.warns(UserWarning, match="settings that were compared score"):
        tune(noisy, lambda s: s["w"], start, SPACE, base=0.1, progress=True, **SIZE)
    lines = capsys.readouterr().out.splitlines()
    assert sum("the base stays: rates do not differ" in line for line in lines) == 1


def test_scores_that_differ_at_last_are_not_told():
    watch = misuse.Watch("loss", None)
    alike = {"trials": [{"x": 1.0}, {"x": 2.0}], "scores": [0.5, 0.5]}
    alike["score_before"] = 0.5
    for scores in ([0.5, 0.5], [0.5, 0.5], [0.5, 0.6], [0.5, 0.5]):
        assert watch.notes(alike | {"scores": scores}, ended=False) == []
    single = alike | {"trials": [{"x": 1.0}], "scores": [0.5]}
    assert watch.notes(single, ended=True) == []
    again = misuse.Watch("loss", None)
    told = [again.notes(alike, ended=False) for _ in range(misuse.PATIENCE + 2)]
    assert [len(notes) for notes in told] == [0, 0, 0, 1, 0, 0]
