"""Verified replay: the same schedule from scratch, and the gap."""

import json
import math
import shutil

import numpy as np
import pytest
from paths import ROOT
from scipy import stats

from hyperdyn_jax import loop, replay
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.strategies import Replay

pytestmark = pytest.mark.slow


def digits(**changes):
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(epochs=3, batch_size=128, strategy="race")
    config.model.width = 2
    config.race.update(max_overhead=4.0, base="cosine")
    config.update(changes)
    return config.to_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    loop.train_and_evaluate(digits(), path, Display())
    return path


def metrics(path):
    return [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]


def test_replays_have_the_runs_schedule_and_no_trials(run, tmp_path, capsys):
    arguments = [str(run), "--seeds=1,2", f"--output={tmp_path}"]
    assert replay.main(arguments) == 0
    *_, line = capsys.readouterr().out.splitlines()
    original = metrics(run)
    accuracies = []
    for seed in (1, 2):
        rows = metrics(tmp_path / "replay" / f"seed{seed}")
        for name in ("step", "hyperparams"):
            assert [r[name] for r in rows] == [r[name] for r in original]
        assert rows[-1]["total_steps"] == rows[-1]["step"] < 30
        accuracies.append(rows[-1]["test_accuracy"])
        config = json.loads(
            (tmp_path / "replay" / f"seed{seed}/config.json").read_text()
        )
        assert (config["averaging"], config["seed"]) == (5.0, seed)
    gap = np.mean(accuracies) - original[-1]["test_accuracy"]
    assert f"over 2 seeds; gap {gap:+.2f} points, 95% interval" in line


def test_gap_is_the_prediction_interval_of_one_draw_and_a_mean():
    replays = [50.0, 51.0, 53.0, 50.5]
    gap = replay.replay_gap(52.0, replays)
    half = stats.t.ppf(0.975, 3) * np.std(replays, ddof=1) * math.sqrt(1 + 1 / 4)
    assert gap.gap == pytest.approx(np.mean(replays) - 52.0)
    assert (gap.low, gap.high) == pytest.approx((gap.gap - half, gap.gap + half))
    single = replay.replay_gap(52.0, [51.0])
    assert (single.gap, math.isnan(single.low)) == (-1.0, True)
    assert "takes at least 2 seeds" in replay.in_words(single, 1)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 6))
    gaps = [replay.replay_gap(row[0], row[1:]) for row in draws]
    covered = np.mean([gap.low <= 0 <= gap.high for gap in gaps])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_all_that_is_wrong_is_told_at_once(tmp_path, capsys):
    assert replay.main([f"{tmp_path}/none", "--seeds=x"]) == 2
    seeds, run = capsys.readouterr().err.splitlines()
    assert seeds == "error: --seeds must be whole numbers >= 0, got 'x'"
    assert run.startswith(f"error: {tmp_path}/none is not a run to replay: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--seeds=0,1"], "--seeds must not have the run's own, 0"),
        (["{run}", "--seeds=x"], "--seeds must be whole numbers >= 0, got 'x'"),
        (["{run}", "--seeds=1,2,1"], "--seeds has 1 more than once"),
        (["{run}", "--seeds="], "--seeds must be whole numbers >= 0, got ''"),
        (["{run}/nothing"], "nothing is not a run to replay"),
        (["{run}/config.json"], "config.json is not a run to replay"),
        (["{run}", "--output={run}/config.json"], "--output={run}/config.json cannot"),
    ],
)
def test_problems_in_one_line(run, arguments, message, capsys):
    assert replay.main([a.format(run=run) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message.format(run=run) in error


@pytest.mark.parametrize(
    ("log", "content", "message"),
    [
        ("metrics", "", "no accepted epoch in it yet"),
        ("metrics", "{1}\n{}\n", "row 1: not valid JSON"),
        ("decisions", None, "decisions.jsonl: missing"),
        ("metrics", -1, "is not finished: it has no test accuracy"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(
    run, tmp_path, log, content, message, capsys
):
    copy = shutil.copytree(run, tmp_path / "copy")
    file = copy / f"{log}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()
    if content is not None:
        file.write_text(content if isinstance(content, str) else lines[0])
    assert replay.main([str(copy)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert message in error
    assert not (copy / "replays").exists()


def test_steps_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="must increase from at least 1"):
        Replay({"learning_rate": lambda _: 0.1}, (3, 3), 10)
