"""What the model believed, computed again, against what the tuner itself had said."""

import json
import math

import jax
import numpy as np
import pytest

from hyperdyn_jax.report import belief_model, numbers
from hyperdyn_jax.run import run_dir
from hyperdyn_jax.run.config_strategy import make_tuner
from hyperdyn_jax.strategies import registry
from hyperdyn_jax.strategies.hyperdyn import Hyperdyn

STEPS = 40  # an epoch
CONFIG = {
    "epochs": 8,
    "batch_size": 32,
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    "search_space": {
        "learning_rate": {"kind": "log_uniform", "low": 1e-3, "high": 1.0},
        "momentum": {"kind": "log_complement", "low": 0.0, "high": 0.99},
    },
    "hyperdyn": {"initial_points": 2, "capacity": 16},
}


def score(trials, i, before, rng):
    """Of a trial on a surface with a ridge; above a rate of 0.7 it diverges."""
    setting = trials.setting(i)
    if setting["learning_rate"] > 0.7:
        return math.nan
    ridge = abs(math.log10(setting["learning_rate"]) + 1.3)
    if before < 0:
        return before * (0.4 + 0.2 * ridge)
    return before + 5 - 3 * ridge - setting["momentum"] + rng.normal()


def play(folder, strategy, start, epochs=8, **sections):
    """A run of a tuner without a network: its directory, and its rows as read."""
    config = CONFIG | {"strategy": strategy, "epochs": epochs, **sections}
    tuner = make_tuner(config, STEPS)
    state, before, rows, metrics = tuner.init(jax.random.key(1), start), start, [], []
    rng = np.random.default_rng(0)
    while len(metrics) < 5:
        trials = tuner.ask(state)
        scores = [score(trials, i, before, rng) for i in range(len(trials.parents))]
        if len(rows) == 2 and start > 0:  # an epoch in which everything diverges
            scores = [math.nan] * len(scores)
        scores = np.float32(scores)
        state, decision = tuner.tell(state, trials, scores)
        model = dict(trials.model)
        if "length_scale" in model:
            lengths = model.pop("length_scale")
            names = getattr(tuner, "space", CONFIG["search_space"])
            model["length_scales"] = dict(zip(names, lengths, strict=True))
        row = {
            "epoch": decision.epoch,
            "trials": [trials.setting(i) for i in range(len(scores))],
            "scores": scores,
            "score_before": before,
            "branch": decision.branch,
            "posterior_mean": trials.posterior_mean,
            "posterior_stddev": trials.posterior_stddev,
            "gp": model or None,
        }
        rows.append(row)
        if decision.branch >= 0:
            before = float(scores[decision.branch])
            step = STEPS * (len(metrics) + 1)
            values = (len(metrics), step, step, 1.0, 50.0)
            row = dict(zip(numbers.METRICS.split(), values, strict=False))
            metrics.append({**row, "hyperparams": trials.setting(0), "seconds": 1.0})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name, log in (("metrics", metrics), ("decisions", rows)):
        text = "".join(run_dir.dump(row) + "\n" for row in log)
        (folder / f"{name}.jsonl").write_text(text)
    return numbers.load_run(folder)


OTHER = {"initial_points": 2, "capacity": 5, "kernel": "rbf"}


@pytest.mark.parametrize(
    ("strategy", "section"),
    [("hyperdyn", CONFIG["hyperdyn"]), ("control", OTHER | {"beta": 2.0})],
)
def test_hyperdyn_had_said_the_same(tmp_path, strategy, section):
    run = play(tmp_path / "run", strategy, 10.0, hyperdyn=section)
    beliefs = belief_model.recompute(run)
    modelled = [i for i, row in enumerate(run.decisions) if row["gp"]]
    assert [step.row for step in beliefs.steps] == modelled
    assert len(modelled) >= 5
    assert any(None in row["scores"] for row in run.decisions)
    for step in beliefs.steps:
        row = run.decisions[step.row]
        told = np.array([row["posterior_mean"], row["posterior_stddev"]]).T
        # To a thousandth of a deviation: the row's parameters are rounded to float32.
        assert np.abs(step.trials - told).max() < 1e-3 * told[:, 1].min()
        assert step.noise[0, 0] == pytest.approx(row["gp"]["noise_stddev"], rel=1e-4)


def test_the_slices_go_through_the_first_trial(tmp_path):
    run = play(tmp_path / "run", "hyperdyn", 10.0)
    beliefs = belief_model.recompute(run)
    step = beliefs.steps[-1]
    setting = run.decisions[step.row]["trials"][0]
    units = np.linspace(0, 1, belief_model.GRID)
    for i, name in enumerate(beliefs.space):
        place = float(beliefs.space[name].to_unit(setting[name]))
        mean = np.interp(place, units, step.mean[i])
        assert mean == pytest.approx(step.trials[0, 0], abs=0.05)


def test_rows_that_say_something_else_are_not_believed(tmp_path):
    run = play(tmp_path / "run", "hyperdyn", 10.0)
    rows = [dict(row) for row in run.decisions]
    rows[-1]["posterior_mean"] = [x + 1 for x in rows[-1]["posterior_mean"]]
    changed = numbers.Run(run.path, run.label, run.config, run.metrics, tuple(rows))
    assert belief_model.recompute(run) is not None
    assert belief_model.recompute(changed) is None


def test_runs_without_a_model_or_with_a_damaged_config_have_none(tmp_path):
    run = play(tmp_path / "run", "hyperdyn", 10.0)
    bare = numbers.Run(run.path, run.label, {}, run.metrics, run.decisions)
    assert belief_model.recompute(bare) is None
    rows = tuple(row | {"gp": None} for row in run.decisions)
    plain = numbers.Run(run.path, run.label, run.config, run.metrics, rows)
    assert belief_model.recompute(plain) is None


def test_every_strategy_with_predictions_is_known():
    """One that is added has to be computed again too, or its page says nothing."""
    config = CONFIG | {"epochs": 40}
    models = ["hyperdyn", "epoch_bo", "greedy", "control"]
    for name in set(registry.STRATEGIES) - {"replay"}:
        tuner = make_tuner(config | {"strategy": name}, STEPS)
        tuner = getattr(tuner, "tuner", tuner)
        assert isinstance(tuner, Hyperdyn) == (name in models)
