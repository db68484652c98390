"""`tune`: any training state, any strategy, decisions as of the bare ask and tell.

The problem is gradient descent on w^2 / 2, whose step is w -> (1 - rate) w.
"""

import itertools
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hyperdyn_jax import (
    DivergedError,
    Hyperdyn,
    LogUniform,
    Race,
    Schedule,
    SearchSpace,
    load_schedule,
    report,
    tune,
)
from hyperdyn_jax import strategies as baselines
from hyperdyn_jax.optimizers import set_hyperparams
from hyperdyn_jax.run import checkpoints
from hyperdyn_jax.strategies.learned_schedule import to_schedule

SPACE = SearchSpace(learning_rate=LogUniform(1e-4, 1.5))
KEY = jax.random.key(0)
START = np.float32(10)
SIZE = {"epochs": 6, "steps_per_epoch": 20, "key": KEY}
LONG = {"epochs": 25, "steps_per_epoch": 16, "key": KEY}  # as a race needs


# A race scored at the end of its path, as the other strategies are.
AT_THE_END = Race(
    SPACE, 25, 16, base=Schedule.constant(learning_rate=1e-3),
    averaging=None, backtracking=False,
)  # fmt: skip


class Loop:
    """A training loop that remembers what it was asked to do."""

    def __init__(self):
        self.calls, self.scores, self.last = [], 0, None

    def train(self, w, hparams, steps):
        self.calls.append((float(hparams["learning_rate"]), steps))
        for step in steps:
            shake = np.float32(1e-3 * math.sin(step))  # the batch of that number
            w = w * (1 - hparams["learning_rate"]) + shake
        self.last = w
        return w

    def loss(self, w):
        self.scores += 1
        return -float(abs(w)) - 1e-3

    def percent(self, w):
        return 100 * math.exp(-0.1 * float(abs(w)))


@pytest.fixture(scope="module")
def raced():
    """A race without an average, and the loop that it drove."""
    loop = Loop()
    return loop, tune(loop.train, loop.loss, START, AT_THE_END, **LONG)


@pytest.fixture(scope="module")
def averaged():
    """A search space alone: a race, whose trials are in pieces of a step or two."""
    loop, base = Loop(), {"learning_rate": 1e-3}
    return loop, tune(loop.train, loop.loss, START, SPACE, base=base, **LONG)


def accepted_path(loop, result):
    """The state that the accepted settings lead to."""
    w, rate = START, result.schedule["learning_rate"]
    for step in range(result.metrics[-1]["step"]):
        setting = {"learning_rate": np.float32(rate(step))}
        w = loop.train(w, setting, range(step, step + 1))
    return w


def of_its_path(metrics):
    """Rows of the arm that won: those before the last with a path are of others."""
    paths = [i for i, row in enumerate(metrics) if "path" in row]
    return metrics[max(paths, default=0) :]


def test_own_setting_is_left_for_a_better_one_within_the_budget(raced):
    loop, result = raced
    last = result.metrics[-1]
    assert max(row["hyperparams"]["learning_rate"] for row in result.metrics) > 0.01
    assert last["total_steps"] == sum(len(steps) for _, steps in loop.calls) == 400
    assert 400 / 1.2 <= last["step"] < 400  # max_overhead = 0.2
    plain = Loop().train(START, {"learning_rate": 1e-3}, range(400))
    assert abs(result.state) < 0.1 * abs(plain)
    assert result.score == loop.loss(result.state) == -last["validation_loss"]
    assert last["validation_accuracy"] is None


def test_scores_are_of_the_average_of_every_step_so_far(averaged):
    _, result = averaged
    end = average = np.float64(START)
    steps = {row["step"]: row for row in of_its_path(result.metrics)}
    rate = result.schedule["learning_rate"]
    for t in range(1, max(steps) + 1):
        end = end * (1 - np.float64(rate(t - 1))) + 1e-3 * math.sin(t - 1)
        average = average + 6 / (t + 5) * (end - average)  # as optimizers.averaged
        if t in steps:
            # The last epoch is that of the end of the path, where that is better.
            last = t == max(steps)
            best = min(abs(end), abs(average)) if last else abs(average)
            found = steps[t]["validation_loss"] - 1e-3
            np.testing.assert_allclose(found, best, rtol=1e-4, atol=2e-6)
    assert len(steps) >= 20


def test_pieces_do_not_change_the_training(averaged):
    loop, result = averaged
    assert max(len(steps) for _, steps in loop.calls) == 1
    assert sum(len(steps) for _, steps in loop.calls) == 400
    assert result.metrics[-1]["total_steps"] == 400
    assert loop.last == accepted_path(Loop(), result)


def test_a_piece_of_several_steps_weighs_as_all_of_them():
    """As one step after the other, where the path is at the end of its piece."""
    loop, scored = Loop(), []

    def evaluate(w):
        scored.append(w)
        return loop.loss(w)

    constant = Averaged({"learning_rate": 0.02})
    size = {"epochs": 3, "steps_per_epoch": 37, "key": KEY}
    tune(loop.train, evaluate, np.float64(START), constant, **size)
    pieces = [steps for _, steps in loop.calls]
    assert {len(steps) for steps in pieces} == {3, 1}
    w, average, expected = np.float64(START), 0.0, []
    for steps in pieces:
        w = Loop().train(w, {"learning_rate": np.float32(0.02)}, steps)
        for step in steps:
            average += 6 / (step + 1 + 5) * (w - average)  # as optimizers.averaged
        if steps.stop % 37 == 0:
            expected.append(average)
    np.testing.assert_allclose(scored[1:4], expected, rtol=1e-6)


class Averaged(Schedule):
    averaging = 5.0


def test_a_trial_is_in_sixteen_pieces_at_most():
    loop, size = Loop(), {"epochs": 4, "steps_per_epoch": 150, "key": KEY}
    result = tune(loop.train, loop.loss, START, SPACE, **size)
    ranges = [steps for _, steps in loop.calls]
    trials, ends = [[ranges[0]]], {row["step"] for row in result.metrics}
    for before, steps in itertools.pairwise(ranges):
        begins = steps.start != before.stop or steps.start in ends
        trials += [[steps]] if begins else [[*trials.pop(), steps]]
    assert [10] * 15 in [[len(steps) for steps in trial] for trial in trials]
    assert max(map(len, trials)) <= 16
    assert loop.last == accepted_path(Loop(), result)


@pytest.mark.parametrize("going_back", [True, False])
def test_the_best_epoch_is_the_result_where_the_strategy_goes_back(going_back):
    """A state that counts its steps, and is best after some 60 of them."""

    class Plays(Schedule):
        backtracking = going_back

    tuner = Plays.constant(learning_rate=0.1)
    result = tune(
        lambda state, _, steps: state + len(steps),
        lambda state: 200.0 - abs(state - 60), 0.0, tuner, **SIZE,
    )  # fmt: skip
    scores = [row["validation_accuracy"] for row in result.metrics]
    assert len(scores) == result.metrics[-1]["epoch"] + 1 == 6
    assert result.best_epoch == (np.argmax(scores) if going_back else 5)
    assert result.state == result.metrics[result.best_epoch]["step"]
    assert result.score == scores[result.best_epoch]
    assert scores[5] < max(scores)


def test_branches_that_are_compared_have_the_same_steps(raced):
    loop, result = raced
    calls = iter(loop.calls)
    ranges = [{next(calls)[1] for _ in row["trials"]} for row in result.decisions]
    assert max(len(row["trials"]) for row in result.decisions) >= 3
    assert all(len(each) == 1 for each in ranges)
    assert next(calls, None) is None


def test_state_is_that_of_the_accepted_path(raced):
    loop, result = raced
    assert accepted_path(loop, result) == result.state


def test_schedule_of_the_result_is_the_accepted_path(raced):
    _, result = raced
    rows = of_its_path(result.metrics)
    rate, step = result.schedule["learning_rate"], rows[0]["step"] - 1
    for row in rows:
        for step in (step, row["step"] - 1):  # noqa: B020 (both ends of the epoch)
            assert rate(step) == np.float32(row["hyperparams"]["learning_rate"])
        step = row["step"]


def test_replay_has_the_same_setting_at_every_step(raced):
    _, result = raced
    ends = tuple(to_schedule(result.metrics)["until_step"])
    replay, loop = baselines.Replay(result.schedule, ends, 16), Loop()
    again = tune(loop.train, loop.percent, START, replay, **LONG)
    played = [rate for rate, steps in loop.calls for _ in steps]
    assert len(played) == ends[-1]
    assert played == [
        float(result.schedule["learning_rate"](i)) for i in range(ends[-1])
    ]
    assert again.state == result.state


@pytest.mark.parametrize(
    "strategy",
    [
        baselines.RandomSearch(SPACE),
        baselines.HyperbandVariant(SPACE),
        baselines.ReduceOnPlateau({"learning_rate": 0.5}, patience=0),
        Schedule.cosine(6, 0.3),
        baselines.AutoLRS(SPACE, stage=2, max_stage=2, probes=2, segments=3),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_every_strategy(strategy):
    loop = Loop()
    evaluate = loop.loss if strategy.metric == "loss" else loop.percent
    result = tune(loop.train, evaluate, START, strategy, **SIZE)
    assert result.metrics[-1]["step"] == 120
    assert result.score == evaluate(result.state)
    assert accepted_path(Loop(), result) == result.state


def test_decisions_are_those_of_the_bare_tuner():
    """A population, which holds several states, against a loop written by hand."""
    tuner, loop = baselines.PB2(SPACE, population=3, capacity=16), Loop()
    size = SIZE | {"epochs": 3}
    result = tune(loop.train, loop.percent, START, tuner, **size)
    held = [START]
    state = tuner.init(KEY, loop.percent(held[0]))
    for epoch in range(3):
        trials = tuner.ask(state)
        steps = range(20 * epoch, 20 * epoch + 20)
        branches = [
            loop.train(held[parent], trials.setting(i), steps)
            for i, parent in enumerate(trials.parents)
        ]
        state, decision = tuner.tell(state, trials, [loop.percent(b) for b in branches])
        held = [(branches + held)[i] for i in decision.hold]
        assert result.decisions[epoch]["branch"] == decision.branch
    assert result.state == held[0]
    assert result.score == loop.percent(held[0])
    assert [row["total_steps"] for row in result.metrics] == [60, 120, 180]


def test_diverged_branches_are_never_taken():
    def train(state, hparams, steps):
        rate = hparams["learning_rate"]
        return {
            "w": state["w"] + len(steps),
            "bad": np.float32(np.nan if rate > 0.01 else 0),
        }

    result = tune(
        train, lambda state: state["w"], {"w": 0.0, "bad": np.float32(0)},
        baselines.RandomSearch(SPACE), **SIZE
    )  # fmt: skip
    rates = [row["hyperparams"]["learning_rate"] for row in result.metrics]
    assert max(rates) <= 0.01
    assert any(None in row["scores"] for row in result.decisions)
    assert result.state["w"] == 120


@pytest.mark.parametrize(
    "tuner", [SPACE, baselines.RandomSearch(SPACE)], ids=["race", "random"]
)
def test_where_everything_diverges_the_run_gives_up(tuner):
    loop, size = Loop(), SIZE | {"epochs": 10}
    with pytest.raises(DivergedError, match=r"every branch of epoch 0 diverged, 4 tim"):
        tune(lambda *a: loop.train(*a) * np.nan, lambda _: -1.0, 1.0, tuner, **size)
    # Four times the ten settings of random search, or fewer and shorter probes.
    assert sum(len(steps) for _, steps in loop.calls) <= 4 * 10 * 20


def test_state_must_be_left_as_it_was():
    def in_place(state, hparams, _):
        state["w"] = state["w"] - hparams["learning_rate"]
        return state

    donating = jax.jit(lambda w, rate: w - rate, donate_argnums=0)
    strategy = Schedule.constant(learning_rate=0.1)
    with pytest.raises(ValueError, match="train changes the state that it is given"):
        tune(in_place, lambda _: 1.0, {"w": jnp.ones(3)}, strategy, **SIZE)
    with pytest.raises(ValueError, match="train donates the state that it is given"):
        tune(
            lambda w, hparams, _: donating(w, hparams["learning_rate"]),
            lambda _: 1.0, jnp.float32(1), strategy, **SIZE,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"must return the new .* returned None"):
        tune(lambda *_: None, lambda _: 1.0, 1.0, strategy, **SIZE)
    told = r"it was given {'w': \*} and returned \({'w': \*}, {'loss': \*}\)$"
    with pytest.raises(ValueError, match=told):
        tune(lambda s, *_: (s, {"loss": 1.0}), lambda _: 1.0, {"w": 1.0}, SPACE, **LONG)


def rows(path, log):
    return [
        json.loads(line) for line in (path / f"{log}.jsonl").read_text().splitlines()
    ]


def without_seconds(metrics):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in metrics]


def full_state():
    return {
        "w": jnp.asarray(START),
        "half": jnp.ones(2, jnp.bfloat16) / 3,
        "key": jax.random.key(7),
        "count": 0,
        "act": jnp.tanh,
    }


def full_train(state, hparams, steps):
    new = Loop().train(state["w"], hparams, steps)
    key, _ = jax.random.split(state["key"])
    noise = 1e-3 * jax.random.normal(key, (), jnp.float32)
    count = state["count"] + len(steps)
    return {**state, "w": new + noise, "key": key, "count": count}


@pytest.mark.parametrize(
    ("tuner", "stops"),
    [
        (baselines.RandomSearch(SPACE, settings=3), [1]),
        (baselines.RandomSearch(SPACE, settings=3), [4, 9, 10]),
        (SPACE, [3, 14, 15, 17]),
    ],
    ids=["once", "often", "averaged"],
)
def test_stopped_run_goes_on_and_ends_as_it_would_have(tmp_path, tuner, stops):
    score = Loop().loss if tuner is SPACE else Loop().percent
    size = SIZE | {"epochs": 20} if tuner is SPACE else SIZE
    evaluations = 0

    def evaluate(state):
        nonlocal evaluations
        evaluations += 1
        if evaluations in stops:
            raise KeyboardInterrupt
        return score(state["w"])

    def attempt(path):
        return tune(full_train, evaluate, full_state(), tuner, workdir=path, **size)

    told = []
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "stopped")
    stopped, stops = attempt(tmp_path / "stopped"), []
    whole = tune(
        full_train, evaluate, full_state(), tuner, **size,
        workdir=tmp_path / "whole", callback=lambda _, row: told.append(row),
    )  # fmt: skip
    assert whole.metrics == told
    assert (stopped.score, stopped.best_epoch) == (whole.score, whole.best_epoch)
    for a, b in zip(
        jax.tree.leaves(stopped.state), jax.tree.leaves(whole.state), strict=True
    ):
        assert a is b or np.all(a == b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
    assert stopped.state["half"].dtype == jnp.bfloat16
    metrics, decisions = (
        rows(tmp_path / "stopped", n) for n in ("metrics", "decisions")
    )
    assert metrics == stopped.metrics
    assert without_seconds(metrics) == without_seconds(whole.metrics)
    assert decisions == whole.decisions
    rate = load_schedule(tmp_path / "stopped")["learning_rate"]
    last = max((i for i, row in enumerate(metrics) if "path" in row), default=0)
    assert [float(rate(row["step"] - 1)) for row in metrics[last:]] == [
        row["hyperparams"]["learning_rate"] for row in metrics[last:]
    ]


def test_a_module_and_an_optimizer_of_nnx_are_a_state(tmp_path):
    """As docs/howto/own_loop.md has it: copied first, and saved as they are."""
    data = jax.random.normal(jax.random.key(0), (8, 4))

    def loss(model):
        return jnp.mean((model(data) - data.sum(1, keepdims=True)) ** 2)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss)(model))

    def train(state, hparams, steps):
        model, optimizer = nnx.clone(state)
        optimizer.opt_state = set_hyperparams(optimizer.opt_state, hparams)
        for _ in steps:
            step(model, optimizer)
        return model, optimizer

    def run(**more):
        model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
        sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
        state = model, nnx.Optimizer(model, sgd, wrt=nnx.Param)
        rates, size = Schedule.cosine(4, learning_rate=0.1), SIZE | {"epochs": 4}
        return tune(train, lambda x: -loss(x[0]), state, rates, **size, **more)

    def stop(_, row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workdir=tmp_path, callback=stop)
    resumed, whole = run(workdir=tmp_path), run()
    assert without_seconds(resumed.metrics) == without_seconds(whole.metrics)
    model, optimizer = whole.state
    assert whole.score == -loss(model) > -0.1
    assert optimizer.step[...] == 80
    for a, b in zip(*map(jax.tree.leaves, (resumed.state, whole.state)), strict=True):
        assert np.array_equal(a, b)


def test_states_of_trials_that_were_dropped_are_not_held():
    """In memory are at most the states that the trials of a decision start from and
    those that they have reached, with their averages, and the one in hand."""
    shape, rows, most = (1237,), [], {}

    def train(w, hparams, steps):
        here = sum(array.shape == shape for array in jax.live_arrays())
        most[len(rows)] = max(here, most.get(len(rows), 0))
        return w * (1 - hparams["learning_rate"] / 1000 * len(steps))

    def evaluate(w):
        return -float(w.mean())

    tune(train, evaluate, jnp.ones(shape), SPACE, on_decision=rows.append, **LONG)
    trials = [len(row["trials"]) for row in rows]
    assert trials[0] > trials[1] > trials[-1] == 1
    for decision, count in enumerate(trials):
        assert most[decision] <= 2 * (count + count) + 3, (decision, trials, most)


@pytest.fixture
def finished(tmp_path):
    loop, strategy = Loop(), Schedule.constant(learning_rate=0.1)

    def again(state=START, strategy=strategy, **changes):
        size = {"epochs": 2, "steps_per_epoch": 3, "key": KEY} | changes
        return tune(loop.train, loop.loss, state, strategy, workdir=tmp_path, **size)

    again()
    return tmp_path, again, loop


def test_finished_run_is_read(finished):
    _, again, loop = finished
    before = len(loop.calls), loop.scores
    result = again()
    assert (len(loop.calls), loop.scores) == before
    assert len(result.metrics) == 2


def test_another_run_is_refused(finished):
    path, again, _ = finished
    for changes in (
        {"epochs": 3},
        {"key": jax.random.key(1)},
        {"strategy": Schedule.constant(learning_rate=0.2)},
    ):
        with pytest.raises(ValueError, match="holds a run of another config; choose"):
            again(**changes)
    with pytest.raises(ValueError, match=r"of another state .* is an array \[3\] here"):
        again(state=np.zeros(3, np.float32))
    for folder in (path / "checkpoints").iterdir():
        (folder / "facts.json").write_text("{}")
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        again()


def test_another_first_state_is_told(finished):
    """As in a loop over seeds of the weights that all have one workdir."""
    path, again, _ = finished
    before = again()
    with pytest.warns(UserWarning, match="began with another state; it goes on from"):
        result = again(state=np.nextafter(START, np.float32(9)))
    assert result.score == before.score
    saved = path / "checkpoints"
    for facts in saved.glob("*/facts.json"):  # of a version that did not keep it
        sealed = json.loads(facts.read_text())
        del sealed["digest"], sealed["facts"]["first_state"]
        digest = checkpoints._digest_json(sealed)
        facts.write_text(json.dumps(sealed | {"digest": digest}))
    assert again(state=np.nextafter(START, np.float32(9))).score == before.score


def test_schedules_that_are_functions_are_told_apart(tmp_path):
    """They have no text of their own; the values that they give are kept."""
    loop = Loop()
    size = {"epochs": 2, "steps_per_epoch": 4, "key": KEY, "workdir": tmp_path}

    def cosine(rate):
        strategy = Schedule.cosine(2, learning_rate=rate)
        return tune(loop.train, loop.loss, START, strategy, **size)

    cosine(0.1)
    trained = len(loop.calls)
    cosine(0.1)
    assert len(loop.calls) == trained
    with pytest.raises(ValueError, match="holds a run of another config; choose"):
        cosine(0.2)


@pytest.mark.parametrize("strategy", [Schedule.cosine(6, 0.3), None])
def test_report_makes_a_page_of_it(tmp_path, strategy):
    loop = Loop()
    evaluate = loop.percent if strategy else loop.loss
    strategy = strategy or baselines.ReduceOnPlateau({"learning_rate": 0.1})
    tune(loop.train, evaluate, np.float32(3), strategy, workdir=tmp_path, **SIZE)
    page = report.write_report([tmp_path]).read_text()
    assert "120 accepted / 120 total" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"steps_per_epoch": 2.5}, "steps_per_epoch must be a whole number"),
        ({"epochs": 1, "steps_per_epoch": 9}, "1 x 9 steps are too few"),
        ({"tuner": "adam"}, "must be a SearchSpace or a strategy: .*'adam' lacks m"),
        ({"base": {"learning_rate": 9.0}}, "the space must hold the base's learning"),
        ({"base": {"momentum": 0.9}}, "base must have the search space's hyperparame"),
        ({"tuner": Hyperdyn(SPACE), "base": {}}, "base goes with a SearchSpace"),
        ({"tuner": baselines.AutoLRS(SPACE), "steps_per_epoch": 8}, "of 0.2 steps"),
        ({"minimize": 1, "epochs": 10}, "minimize must be True, False or None, got 1"),
        ({"minimize": True, "tuner": Hyperdyn(SPACE)}, "Hyperdyn takes an accuracy in"),
        ({"evaluate": lambda _: math.nan, "epochs": 10}, "score must be finite"),
        ({"key": 3, "epochs": 10}, "key must be one PRNG key such as jax.random.key"),
    ],
)  # fmt: skip
def test_problems_in_one_line_before_anything_is_trained(changes, message):
    loop = Loop()
    arguments = {"evaluate": loop.loss, "state": 1.0, "tuner": SPACE} | SIZE | changes
    with pytest.raises(ValueError, match=message) as error:
        tune(loop.train, **arguments)
    assert str(error.value).count("\n") == 0
    assert not loop.calls


def test_neither_networks_nor_data_nor_figures_are_imported(tmp_path):
    program = f"""
import sys, numpy as np, jax, hyperdyn_jax as h
from hyperdyn_jax import optimizers
heavy = "flax orbax tensorflow tensorflow_datasets grain sklearn matplotlib torch"
heavy += " ml_collections tensorboardX wandb mlflow"
for workdir in (None, {str(tmp_path)!r}):
    h.tune(lambda w, hparams, steps: w * (1 - hparams["learning_rate"]), lambda w: -w,
           np.float32(1), h.Schedule.constant(learning_rate=0.1), epochs=2,
           steps_per_epoch=1, key=jax.random.key(0), workdir=workdir)
    print([name for name in heavy.split() if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "['orbax']"]  # with a workdir


def test_the_command_starts_without_what_it_needs_later():
    """Half of the time that imports took; decisions and the report need them."""
    program = """
import sys
from hyperdyn_jax import training
from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import config
print([x for x in ("scipy.stats", "scipy.optimize", "matplotlib") if x in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def shrink(w, hparams, steps):
    return w * (1 - hparams["learning_rate"]) ** len(steps)


def minus(w):
    return -float(abs(w)) - 1e-3


SHORT = {"epochs": 10, "steps_per_epoch": 16, "key": KEY}


@pytest.mark.parametrize(
    "base",
    [
        1e-3,
        np.float32(1e-3),
        {"learning_rate": np.float64(1e-3)},
        Schedule.constant(learning_rate=1e-3),
    ],
    ids=["number", "float32", "mapping", "schedule"],
)  # fmt: skip
def test_arguments_are_taken_as_people_give_them(base, averaged):
    size = {"epochs": np.int64(25), "steps_per_epoch": np.int32(16), "key": KEY}
    space = SearchSpace(learning_rate=LogUniform(np.float64(1e-4), np.float64(1.5)))
    loop = Loop()
    result = tune(loop.train, loop.loss, START, space, base=base, **size)
    wanted = averaged[1]
    assert result.metrics[-1]["hyperparams"] == pytest.approx(
        wanted.metrics[-1]["hyperparams"], rel=1e-5
    )
    assert result.metrics[-1]["total_steps"] == 400


def test_a_schedule_of_optax_counts_steps():
    """It ends at the end of the run, and not of as many epochs."""
    steps = 10 * 16
    base = {"learning_rate": optax.cosine_decay_schedule(0.1, steps)}
    with (
        pytest.warns(UserWarning, match="all 3 settings that were compared score -1,"),
        pytest.warns(UserWarning, match=TOO_FEW),
    ):
        result = tune(shrink, lambda _: -1.0, START, SPACE, base=base, **SHORT)
    rates = [row["hyperparams"]["learning_rate"] for row in result.metrics]
    assert rates[0] > 0.095
    assert rates[-1] < 0.02
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "0.1"}, "base must be numbers or schedules by name, for learning_r"),
        ({"base": {"momentum": 0.9}}, "hyperparameters, learning_rate; got momentum"),
        ({"base": [0.1]}, r"or a Schedule; got \[0.1\]"),
        ({"epochs": 2.5}, "epochs must be a whole number >= 1, got 2.5"),
        ({"epochs": 3, "steps_per_epoch": 2}, "3 x 2 steps are too few for a race"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_told_in_a_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        tune(shrink, minus, START, SPACE, **{"base": 1e-3, **SHORT, **changes})
    assert "\n" not in str(error.value)


def test_a_run_that_is_too_short_is_told_what_tune_can_be_given():
    with pytest.raises(ValueError, match="too few") as error:
        tune(
            shrink, minus, START, SPACE, **{**SHORT, "epochs": 2, "steps_per_epoch": 2}
        )
    assert "probe" not in str(error.value)
    for advice in ("epochs", "steps_per_epoch", "Race(space, 2, 2"):
        assert advice in str(error.value)


@pytest.mark.parametrize(
    "score", [None, (0.1, 0.9), {"loss": 1.0}, "0.1", np.ones(3), jnp.ones((2, 2))]
)
def test_what_is_no_score_is_told(score):
    with pytest.raises(ValueError, match="evaluate must return one number, a score"):
        tune(shrink, lambda _: score, START, SPACE, **SHORT)


@pytest.mark.parametrize("kind", [np.float32, jnp.float32, lambda x: jnp.bfloat16([x])])
def test_scores_of_every_type_of_number_are_taken(kind):
    halving = Schedule({"learning_rate": 0.5})
    size = {"epochs": 1, "steps_per_epoch": 1, "key": KEY}
    result = tune(shrink, lambda w: kind(-float(w)), 4.0, halving, **size)
    assert result.score == -2.0


def test_a_state_that_is_changed_in_place_is_told_how_to_copy_it():
    def train(state, hparams, _):
        state["w"] = state["w"] * (1 - hparams["learning_rate"])
        return state

    with pytest.raises(ValueError, match=r"jax\.tree\.map\(jnp\.copy.*nnx\.clone"):
        tune(train, lambda s: minus(s["w"]), {"w": START}, SPACE, **SHORT)


def test_an_array_that_is_changed_in_place_is_told_too():
    """Its caller's array is as it was."""

    def train(state, hparams, _):
        state["w"] *= 1 - hparams["learning_rate"]
        return state

    start = {"w": np.full(3, START)}
    with pytest.raises(ValueError, match=r"train changes the state.*jax\.tree\.map"):
        tune(train, lambda s: minus(s["w"].sum()), start, SPACE, **SHORT)
    np.testing.assert_array_equal(start["w"], np.full(3, START))


def test_another_error_of_train_is_left_as_it_is():
    def train(*_):
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match=r"^of the caller$"):
        tune(train, minus, START, SPACE, **SHORT)


def test_the_arrays_of_the_result_can_be_written_to():
    def train(state, hparams, steps):
        return {**state, "w": shrink(state["w"], hparams, steps)}

    start = {"w": np.full(3, START), "fixed": np.zeros(2)}
    halving = Schedule({"learning_rate": 0.5})
    size = {"epochs": 2, "steps_per_epoch": 1, "key": KEY}
    result = tune(train, lambda s: minus(s["w"].sum()), start, halving, **size)
    result.state["fixed"] += 1
    np.testing.assert_array_equal(start["fixed"], 0)


def test_a_workdir_is_one_process_s(tmp_path):
    def inside(_, row):
        if row["epoch"] == 0:
            with pytest.raises(ValueError, match="is in use by another process"):
                tune(shrink, minus, START, SPACE, workdir=tmp_path / "run", **SHORT)

    with pytest.warns(UserWarning, match="widen the range at its") as warned:
        tune(shrink, minus, START, SPACE, workdir=tmp_path / "run", callback=inside,
             **SHORT)  # fmt: skip
    assert len(warned) == 1
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"workdir=.*file cannot be written: "):
        tune(shrink, minus, START, SPACE, workdir=tmp_path / "file", **SHORT)


def test_a_workdir_is_free_again_where_a_tracker_cannot_start(tmp_path, monkeypatch):
    """Also while somebody holds on to the error, as a notebook does."""
    size = {"epochs": 1, "steps_per_epoch": 1, "key": KEY, "workdir": tmp_path}
    halving = Schedule({"learning_rate": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr("hyperdyn_jax.run.trackers.Trackers.start", _refuse)
        with pytest.raises(ValueError, match="no tracker") as held:
            tune(shrink, minus, START, halving, **size)
    assert tune(shrink, minus, START, halving, **size).metrics
    assert held.traceback


def _refuse(_):
    raise ValueError("no tracker")


def test_it_speaks_when_it_is_asked_to(capsys, averaged):
    result = averaged[1]
    assert len(repr(result)) < 120
    assert "total_steps=400" in repr(result)
    assert "400 total steps with every trial" in result.summary()
    assert all(len(line) <= 110 for line in result.summary().splitlines())
    assert capsys.readouterr().out == ""
    loop = Loop()
    base = {"learning_rate": 1e-3}
    with pytest.warns(UserWarning, match=TOO_FEW) as warned:
        spoken = tune(
            loop.train, loop.loss, START, SPACE, base=base, progress=True, **SHORT
        )
    assert [w.filename for w in warned] == [__file__]
    lines = capsys.readouterr().out.replace("\n    ", "  ").splitlines()
    assert len(lines) == len(spoken.decisions) == len(spoken.metrics)
    assert all("  score -" in line for line in lines)
    for line, row in zip(lines, spoken.metrics, strict=True):
        assert line.startswith(f"step {row['step']:>3}/")
    step = spoken.metrics[-1]["step"]
    assert lines[-1].startswith(f"step {step}/{step}  score ")
    best = "leads so far  race: the best of 3 settings, trained from the same start"
    assert lines[0].endswith(best)
    assert [row.get("leading") for row in spoken.metrics[:3]] == [True, True, None]
    can = "another rate can only be chosen in a run of 288 steps or more"
    assert f"race: the base stays: {can}" in lines[2]
    assert sum("cooldown" in line for line in lines) > 5


TOO_FEW = "160 steps are too few for a race to leave your own setting, .* 288 steps"


def test_a_loss_can_be_returned_as_it_is(tmp_path, capsys, averaged):
    """The same run, in the unit of what is returned."""
    loop, base = Loop(), {"learning_rate": 1e-3}
    size = LONG | {"workdir": tmp_path, "minimize": True, "progress": True}
    result = tune(loop.train, lambda w: -loop.loss(w), START, SPACE, base=base, **size)
    _, wanted = averaged
    assert without_seconds(result.metrics) == without_seconds(wanted.metrics)
    assert result.decisions == wanted.decisions
    assert result.score == -wanted.score > 0
    lines = capsys.readouterr().out.splitlines()
    loss = result.metrics[0]["validation_loss"]
    assert lines[0].startswith("step   ")
    assert f"  loss {loss:.6g}  " in lines[0]
    with pytest.raises(ValueError, match="holds a run of another config"):
        tune(loop.train, loop.loss, START, SPACE, base=base, workdir=tmp_path, **LONG)
