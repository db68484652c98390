"""Every strategy through the real loop, one flag away, counted alike."""

import json

import numpy as np
import pytest
from paths import ROOT

from hyperdyn_jax import loop
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.strategies.registry import STRATEGIES, Context
from hyperdyn_jax.tuner.search_space import LogUniform, SearchSpace, Uniform

pytestmark = pytest.mark.slow

STEPS = 10  # an epoch
# Optimizer steps in all for three epochs: the sum over decisions of branches x steps.
TOTAL = {
    "hyperdyn": (5 + 2 + 2) * STEPS,
    "epoch_bo": (5 + 2 + 2) * STEPS,
    "greedy": (5 + 2 + 2) * STEPS,
    "control": (5 + 2 + 2) * STEPS,
    "explore": 3 * STEPS,
    "random_search": 3 * 5 * STEPS,
    "hyperband": 3 * 5 * STEPS,
    "pb2": 3 * 4 * STEPS,
    # A stage of two epochs: ten probes of four segments of one step (2 / 10 / 4 epochs,
    # rounded); the second stage is cut off by the end of the run.
    "autolrs": 2 * 10 * 4 * 1 + 3 * STEPS,
    "autolrs_95": 2 * 10 * 4 * 1 + 3 * STEPS,
}


def settings(strategy, folder):
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(strategy=strategy, epochs=3, batch_size=128)
    config.model.width = 2
    config.hyperdyn.update(capacity=16, candidates=64)
    content = config.to_dict()
    if strategy.startswith("autolrs"):
        content[strategy] = {"stage": 2.0, "max_stage": 2.0}
    if strategy == "explore":
        content["explore"] |= {"max_overhead": 2.0, "probe": 0.04}
    if strategy == "replay":
        schedule = {
            "until_step": [12, 30],
            "hyperparams": {"learning_rate": [0.1, 0.01]},
        }
        (folder / "schedule.json").write_text(json.dumps(schedule))
        content["replay"] = {"run": str(folder)}
    if strategy == "pb2":
        content["pb2"] = {"capacity": 16}
    if strategy == "manual_large_batch":
        content["manual_large_batch"] = {"warmup": 1.0}
    return content


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_runs_and_is_counted(strategy, tmp_path):
    (earlier := tmp_path / "earlier").mkdir()
    tmp_path = tmp_path / "run"
    config = settings(strategy, earlier)
    metrics = loop.train_and_evaluate(config, tmp_path, Display(3))
    last = metrics[-1]
    if strategy == "explore":
        assert 10 <= last["step"] <= 3 * STEPS - 5
    else:
        assert last["step"] == 3 * STEPS
    assert last["total_steps"] == TOTAL.get(strategy, 3 * STEPS)
    assert np.isfinite(last["test_accuracy"])
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    decisions = [json.loads(line) for line in lines]
    steps = [row["step"] for row in metrics]
    extra = sum(row["extra_steps"] for row in decisions)
    assert steps[-1] + extra == last["total_steps"]
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("strategy", "settings", "kappa"),
    [
        ("autolrs", {}, 1e6),
        ("autolrs_95", {}, 1.96),
        ("autolrs_95", {"kappa": 3.0}, 3.0),
    ],
)
def test_autolrs_has_the_published_bound_and_that_of_an_interval(
    strategy, settings, kappa
):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    context = Context(space, {"learning_rate": 0.1}, 10, 32, 10, {strategy: settings})
    assert STRATEGIES[strategy](context).kappa == kappa


def explore(**changes):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0), momentum=Uniform(0, 0.9))
    base = {"learning_rate": 0.1, "momentum": 0.5}
    sections = {"explore": changes, "wsd": {"decay": 0.5}}
    return STRATEGIES["explore"](Context(space, base, 48, 128, 32, sections))


def test_explore_is_anchored_on_the_optimizers_own_values():
    tuner = explore()
    assert list(tuner.space) == ["learning_rate"]
    assert tuner.base.setting(40) == {"learning_rate": 0.1, "momentum": 0.5}
    tuner = explore(base="wsd", tune="learning_rate,momentum")
    assert list(tuner.space) == ["learning_rate", "momentum"]
    assert tuner.base.setting(36)["learning_rate"] == pytest.approx(0.1 * 23 / 48)
    assert explore(base="none").base is None


def test_space_is_widened_to_hold_the_base():
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    for rate in (30.0, 1e-5):
        context = Context(space, {"learning_rate": rate}, 48, 128, 32, {})
        tuner = STRATEGIES["explore"](context)
        axis = tuner.space["learning_rate"]
        assert axis.low <= np.float32(rate) <= axis.high
        assert (axis.low <= 1e-3, axis.high >= 1.0) == (True, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "cosin"}, "explore.base must be one of none, constant, cosine"),
        (
            {"tune": "b1"},
            "explore.tune must be among learning_rate, momentum, got 'b1'",
        ),
        ({"warm_start": "nowhere"}, "explore.warm_start: .*nowhere/decisions.jsonl"),
    ],
)
def test_what_explore_cannot_be_made_from_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        explore(**changes)


def test_replay_needs_a_run(tmp_path):
    space = SearchSpace(learning_rate=LogUniform(1e-3, 1.0))
    for sections, message in (
        ({}, "replay has one setting, run"),
        ({"replay": {"run": str(tmp_path / "x")}}, "replay.run: .*No such file"),
    ):
        context = Context(space, {"learning_rate": 0.1}, 3, 32, 10, sections)
        with pytest.raises(ValueError, match=message):
            STRATEGIES["replay"](context)


def test_pairs_train_on_data_of_their_own(tmp_path, monkeypatch):
    """Each of them on the stretch after the one before, from the untrained network."""
    config = settings("explore", tmp_path)
    config["explore"] |= {"base": "constant", "margin": 0.0}
    config["optimizer"] |= {"learning_rate": 1e-4}  # far too small
    begins, train = [], loop.Trainer.train

    def watch(trainer, progress, steps, *others):
        begins.append((progress.start, len(progress.states), steps))
        return train(trainer, progress, steps, *others)

    monkeypatch.setattr(loop.Trainer, "train", watch)
    loop.train_and_evaluate(config, tmp_path / "run", Display(3))
    lines = (tmp_path / "run" / "decisions.jsonl").read_text().splitlines()
    blocks = [json.loads(line)["block"] for line in lines]
    pairs = [begin for begin, block in zip(begins, blocks, strict=True) if block]
    assert len(pairs) >= 1
    assert pairs == [(2 * i, 2, 2) for i in range(1, len(pairs) + 1)]
    run = [begin for begin in begins if begin[1] == 1][-2:]
    assert [begin for begin, *_ in run] == [0, STEPS]  # not after what was skipped
