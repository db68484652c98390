"""Every strategy by its name, through the loop of every run, counted alike."""

import json
import math

import jax
import numpy as np
import pytest
from paths import ROOT

from hyperdyn_jax import (
    DivergedError,
    Hyperdyn,
    Race,
    Schedule,
    loop,
    strategies,
    tune,
)
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.strategies.registry import STRATEGIES, Context
from hyperdyn_jax.training.trainer import Trainer
from hyperdyn_jax.tuner.search_space import (
    LogComplement,
    LogUniform,
    SearchSpace,
    Uniform,
)

STEPS = 10  # an epoch
SPACE = SearchSpace(
    learning_rate=LogUniform(1e-3, 1.0), momentum=LogComplement(0.0, 0.99)
)
STAGE = {"stage": 2.0, "max_stage": 2.0}
SECTIONS = {
    "hyperdyn": {"capacity": 16},
    "autolrs": STAGE,
    "race": {"max_overhead": 4.0},  # it has 30 steps
    "pb2": {"capacity": 16},
    "manual_large_batch": {"warmup": 1.0},
}
# Optimizer steps in all for three epochs: the sum over decisions of branches x steps.
TOTAL = {
    "hyperdyn": (5 + 2 + 2) * STEPS,
    "epoch_bo": (5 + 2 + 2) * STEPS,
    "greedy": (5 + 2 + 2) * STEPS,
    "control": (5 + 2 + 2) * STEPS,
    "race": 3 * STEPS,
    "random_search": 3 * 10 * STEPS,
    "hyperband": 3 * 10 * STEPS,
    "pb2": 3 * 4 * STEPS,
    # A stage of two epochs: ten probes of four segments of one step (2 / 10 / 4 epochs,
    # rounded); the second stage is cut off by the end of the run.
    "autolrs": 2 * 10 * 4 * 1 + 3 * STEPS,
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def make(strategy, folder):
    """A strategy by its name, for three epochs; it may replay what is in a folder."""
    schedule = {
        "until_step": [12, 30],
        "hyperparams": {"learning_rate": [0.1, 0.01]},
    }
    (folder / "schedule.json").write_text(json.dumps(schedule))
    sections = SECTIONS | {"replay": {"run": str(folder)}}
    base = {"learning_rate": 0.1, "momentum": 0.9}
    return STRATEGIES[strategy](Context(SPACE, base, 3, 128, STEPS, sections))


class Weight:
    """Training of a weight, which counts the steps that it is asked for.

    A state is (weight, steps on its path). Every loss is finite, or none is.
    """

    def __init__(self, metric, finite=True):
        self.metric, self.finite, self.steps = metric, finite, 0

    def train(self, state, hparams, steps):
        self.steps += len(steps)
        weight, count = state
        weight *= (1 - 0.1 * hparams["learning_rate"]) ** len(steps)
        return (weight if self.finite else np.float32(np.nan)), count + len(steps)

    def evaluate(self, state):
        loss = float(abs(state[0])) + 1e-3
        return -loss if self.metric == "loss" else 100 / (1 + loss)


def play(strategy, folder, finite=True, **more):
    tuner = make(strategy, folder)
    loop = Weight(tuner.metric, finite)
    size = {"epochs": 3, "steps_per_epoch": STEPS, "key": jax.random.key(0)}
    start = (np.float32(10), 0)
    return loop, lambda: tune(loop.train, loop.evaluate, start, tuner, **size, **more)


SHORT_RACE = pytest.mark.filterwarnings("ignore:30 steps are too few for a race")


@SHORT_RACE
@every_strategy
def test_a_strategy_counts_the_steps_that_were_trained(strategy, tmp_path):
    loop, run = play(strategy, tmp_path)
    result = run()
    last = result.metrics[-1]
    if strategy == "race":
        assert 5 <= last["step"] <= 3 * STEPS - 5
    else:
        assert last["step"] == 3 * STEPS
    assert result.state[1] == result.metrics[result.best_epoch]["step"]
    assert loop.steps == last["total_steps"] == TOTAL.get(strategy, 3 * STEPS)
    extra = sum(row["extra_steps"] for row in result.decisions)
    assert extra == loop.steps - last["step"]


@SHORT_RACE
@every_strategy
def test_where_everything_diverges_a_strategy_gives_up(strategy, tmp_path):
    """After four attempts, each of which is counted, and with finite settings."""
    loop, run = play(strategy, tmp_path, finite=False, workdir=tmp_path / "run")
    with pytest.raises(DivergedError, match="every branch of epoch 0 diverged, 4 tim"):
        run()
    lines = (tmp_path / "run" / "decisions.jsonl").read_text().splitlines()
    decisions = [json.loads(line) for line in lines]
    assert {row["branch"] for row in decisions} == {-1}
    # A probe that diverges is no attempt: the run would not have gone on as it.
    attempts = [row["rollback"]["attempt"] for row in decisions if row["rollback"]]
    assert attempts == [1, 2, 3, 4]
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
    assert sum(row["extra_steps"] for row in decisions) == loop.steps
    for row in decisions:
        assert all(math.isfinite(x) for t in row["trials"] for x in t.values())


def settings(strategy):
    """The digits with a tiny network, for three epochs."""
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(strategy=strategy, epochs=3, batch_size=128)
    config.model.width = 2
    content = config.to_dict() | {"autolrs": STAGE}
    content["hyperdyn"] |= SECTIONS["hyperdyn"]
    content["race"] |= SECTIONS["race"]
    return content


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["hyperdyn", "autolrs", "race"])
def test_a_network_is_trained_for_the_steps_that_are_told(
    strategy, tmp_path, monkeypatch
):
    """Scored by its accuracy, by its loss, and by that of an average."""
    trained, train = [], Trainer.train

    def counting(trainer, progress, steps, *others, **more):
        after = train(trainer, progress, steps, *others, **more)
        trained.append(np.isfinite(after.losses[:, progress.steps :]).sum())
        return after

    monkeypatch.setattr(Trainer, "train", counting)
    metrics = loop.train_and_evaluate(settings(strategy), tmp_path, Display())
    last = metrics[-1]
    assert sum(trained) == last["total_steps"] == TOTAL[strategy]
    assert np.isfinite(last["test_accuracy"])
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("strategy", "settings", "kappa"),
    [
        ("autolrs", {}, 1e6),
        ("autolrs", {"kappa": 1.96}, 1.96),
    ],
)
def test_autolrs_has_the_published_bound_and_that_of_an_interval(
    strategy, settings, kappa
):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    context = Context(space, {"learning_rate": 0.1}, 10, 32, 10, {strategy: settings})
    assert STRATEGIES[strategy](context).kappa == kappa


def race(**changes):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0), momentum=Uniform(0, 0.9))
    base = {"learning_rate": 0.1, "momentum": 0.5}
    sections = {"race": changes, "wsd": {"decay": 0.5}}
    return STRATEGIES["race"](Context(space, base, 48, 128, 32, sections))


def test_race_is_anchored_on_the_optimizers_own_values():
    tuner = race()
    assert list(tuner.space) == ["learning_rate"]
    assert tuner.base.setting(40) == {"learning_rate": 0.1, "momentum": 0.5}
    tuner = race(base="wsd", tune="learning_rate,momentum")
    assert list(tuner.space) == ["learning_rate", "momentum"]
    assert tuner.base.setting(36)["learning_rate"] == pytest.approx(0.1 * 23 / 48)
    assert race(base="none").base is None


def test_space_is_widened_to_hold_the_base():
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    for rate in (30.0, 1e-5):
        context = Context(space, {"learning_rate": rate}, 48, 128, 32, {})
        tuner = STRATEGIES["race"](context)
        axis = tuner.space["learning_rate"]
        assert axis.low <= np.float32(rate) <= axis.high
        assert (axis.low <= 1e-3, axis.high >= 1.0) == (True, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "cosin"}, "race.base must be one of none, constant, cosine"),
        (
            {"tune": "b1"},
            "race.tune must be one or more of learning_rate, momentum, got 'b1'",
        ),
    ],
)
def test_what_a_race_cannot_be_made_from_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        race(**changes)


def test_replay_needs_a_run(tmp_path):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    for sections, message in (
        ({}, "replay has one setting, run"),
        ({"replay": {"run": str(tmp_path / "x")}}, "replay.run: .*No such file"),
    ):
        context = Context(space, {"learning_rate": 0.1}, 3, 32, 10, sections)
        with pytest.raises(ValueError, match=message):
            STRATEGIES["replay"](context)


@pytest.mark.parametrize(
    "make",
    [
        Hyperdyn,
        lambda space: Race(space, epochs=40, steps_per_epoch=25),
        strategies.GreedyBestOfTwo,
        strategies.RandomSearch,
        strategies.HyperbandVariant,
        strategies.AutoLRS,
        strategies.PB2,
    ],
)
@pytest.mark.parametrize("space", [None, dict(SPACE), SPACE["learning_rate"], "sgd"])
def test_a_space_must_be_a_search_space(make, space):
    with pytest.raises(ValueError, match="space must be a SearchSpace, got"):
        make(space)


@pytest.mark.parametrize("make", [Schedule, strategies.ReduceOnPlateau])
@pytest.mark.parametrize("hparams", [None, 0.1, lambda _: 0.1, ["learning_rate"]])
def test_hyperparameters_must_have_names(make, hparams):
    with pytest.raises(ValueError, match=r"hparams must be values by the names.* got"):
        make(hparams)
