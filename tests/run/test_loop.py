"""Whole runs of the real command: what they write, and how they stop and go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from paths import ROOT

from hyperdyn_jax import loop
from hyperdyn_jax.run import config as config_lib
from hyperdyn_jax.run import engine, run_dir, state
from hyperdyn_jax.run.network import Network
from hyperdyn_jax.strategies import learned_schedule
from hyperdyn_jax.system import signals
from hyperdyn_jax.training.progress import Evaluation

SMALL = ["--config.model.width=2", "--config.epochs=10", "--config.batch_size=128"]
PAPER = "--config.strategy=hyperdyn"


@pytest.fixture(scope="module")
def environment():
    """One device."""
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def command(workdir, *flags):
    config = ROOT / "configs" / "digits.py"
    program = [sys.executable, str(ROOT / "train.py")]
    settings = [f"--config={config}", f"--workdir={workdir}", *SMALL, PAPER, *flags]
    return [*program, *settings]


def run(environment, workdir, *flags):
    return subprocess.run(
        command(workdir, *flags), env=environment, capture_output=True, text=True
    )


def rows(workdir, log):
    lines = (workdir / f"{log}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def final_arrays(workdir):
    folders = [f for f in (workdir / "checkpoints").iterdir() if f.name.isdigit()]
    newest = max(folders, key=lambda folder: int(folder.name))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(newest / "arrays")


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = run(environment, workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_rows_tell_the_whole_run(finished):
    workdir, _ = finished
    metrics, decisions = rows(workdir, "metrics"), rows(workdir, "decisions")
    assert [row["epoch"] for row in metrics] == list(range(10))
    assert [row["epoch"] for row in decisions] == list(range(10))
    # Ten steps an epoch; five trials at the random start and two in each epoch after.
    assert [row["step"] for row in metrics] == list(range(10, 101, 10))
    assert [row["total_steps"] for row in metrics] == list(range(50, 231, 20))
    assert [row["extra_steps"] for row in decisions] == [40] + [10] * 9
    assert "test_accuracy" in metrics[-1]
    assert not any("test_accuracy" in row for row in metrics[:-1])
    for metric, decision in zip(metrics, decisions, strict=True):
        branch = decision["branch"]
        assert metric["hyperparams"] == decision["trials"][branch]
        assert metric["validation_accuracy"] == pytest.approx(
            decision["scores"][branch]
        )
    for before, decision in zip(metrics, decisions[1:], strict=False):
        assert decision["trials"][0] == before["hyperparams"]
        assert decision["score_before"] == before["validation_accuracy"]


def test_noise_is_recorded_in_points_too(finished):
    """In units of the standardised gains it means nothing to a reader of the rows."""
    known = []
    for row in rows(finished[0], "decisions"):
        if row["gp"]:
            noise = np.sqrt(row["gp"]["noise"]) * np.std(known)
            assert row["gp"]["noise_stddev"] == pytest.approx(noise, rel=1e-4)
        known += [score - row["score_before"] for score in row["scores"]]
    assert len(known) == 5 + 9 * 2


def test_directory_has_everything(finished):
    workdir, _ = finished
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        ".lock",
        "config.json", "metrics.jsonl", "decisions.jsonl", "schedule.json",
        "checkpoints", "tensorboard", "trackers.json", "report.html", "figures",
    }  # fmt: skip
    assert json.loads((workdir / "config.json").read_text())["epochs"] == 10
    assert any((workdir / "tensorboard").glob("events.out.tfevents.*"))


def test_lines_say_what_happened_and_why(finished):
    workdir, done = finished
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(len(line) <= 100 for line in lines[:-1])
    told = done.stdout.replace("\n    ", "  ").splitlines()
    decided = [line for line in told if line.startswith("step")]
    assert lines[0].startswith("note: 257 validation examples hardly tell apart")
    assert told[1].startswith("compiling")
    assert len(decided) == 10
    assert decided[0].startswith("step  10/100  loss ")
    assert "best of 5" in decided[0]
    assert "ETA" not in decided[0]  # it would have the compilation in it
    for line in decided[1:]:
        assert re.search(
            r"loss \d.*validation [\d.]+%.* lr \S+ momentum \S+  .* img/s +ETA"
            r" .*  (kept|switched): "
            r"(random draw \S+ is (not )?below the keep probability \S+"
            r"|the score is higher than a few epochs ago)  challenger .*: "
            r"expected \S+ ± \S+ points, got \S+$",
            line,
        )
    spent = "100 accepted steps, 230 total steps with every trial (+130%)"
    assert lines[-3] == spent
    assert re.fullmatch(r"    trials added \d+% to the time, with compiling", lines[-2])
    assert lines[-1] == str(workdir / "report.html")


def test_schedule_replays_the_accepted_path(finished):
    workdir, _ = finished
    schedules = learned_schedule.load_schedule(workdir)
    for row in rows(workdir, "metrics"):
        for name, value in row["hyperparams"].items():
            for step in (row["step"] - 10, row["step"] - 1):
                assert float(schedules[name](step)) == np.float32(value)


def test_a_finished_run_says_so_and_stays_as_it_is(finished, environment):
    workdir, _ = finished
    before = {log: (workdir / log).read_bytes() for log in
              ("metrics.jsonl", "decisions.jsonl", "config.json")}  # fmt: skip
    done = run(environment, workdir)
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished already" in done.stdout
    assert {log: (workdir / log).read_bytes() for log in before} == before


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been(finished, environment, tmp_path):
    workdir = tmp_path / "killed"
    for epoch in (1, 4, 8):  # and it dies in the one after it
        process = subprocess.Popen(
            command(workdir), env=environment, stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:
            if line.startswith(f"step {10 * epoch + 10:>3}/"):
                break
        time.sleep(0.05)  # into the epoch after it
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        # Some of what was shown may not have been saved yet.
        assert 1 <= len(rows(workdir, "decisions")) <= epoch + 2
    done = run(environment, workdir)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    assert_same_run(workdir, finished[0])


@pytest.mark.slow
def test_a_stopped_run_exits_with_0_and_goes_on(finished, environment, tmp_path):
    workdir = tmp_path / "stopped"
    stops = [
        ("compiling", signal.SIGTERM),
        ("step  30/", signal.SIGHUP),
        ("step  60/", signal.SIGUSR1),
    ]
    for place, number in stops:
        process = subprocess.Popen(
            command(workdir), env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in process.stdout:
            if line.startswith(place):
                break
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate()
        assert time.monotonic() - began < 10
        assert (process.returncode, err) == (0, f"{signals.SAVED}\n")
    assert run(environment, workdir).returncode == 0
    assert_same_run(workdir, finished[0])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(
    finished, environment, tmp_path
):
    workdir = shutil.copytree(finished[0], tmp_path / "damaged")
    newest = workdir / "checkpoints" / "10"
    file = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = run(environment, workdir)
    assert (done.returncode, done.stderr) == (0, "")
    where = file.relative_to(newest).as_posix()
    assert f"warning: checkpoint 10 is damaged ({where} is not what" in done.stdout
    assert "at epoch 9" in done.stdout
    assert_same_run(workdir, finished[0])

    for number in ("9", "10"):
        shutil.rmtree(workdir / "checkpoints" / number / "arrays")
    done = run(environment, workdir)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --workdir={workdir}: every checkpoint is")
    assert done.stderr.count("\n") == 1


def assert_same_run(workdir, whole):
    """To the bit, but for the clock."""
    assert rows(workdir, "decisions") == rows(whole, "decisions")
    for mine, other in zip(
        rows(workdir, "metrics"), rows(whole, "metrics"), strict=True
    ):
        times = {"seconds": None, "trial_seconds": None}
        assert mine | times == other | times
    compare(final_arrays(workdir), final_arrays(whole))


@pytest.mark.slow
def test_killed_races_end_as_if_they_had_not_been(environment, tmp_path):
    """In the rounds and in the run of the recommended mode."""
    flags = [
        "--config.optimizer.learning_rate=0.001",
        "--config.race.max_overhead=1.0",
        "--config.epochs=12",
    ]
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    done = run(environment, whole, *flags)
    assert done.returncode == 0, done.stderr
    count = len(rows(whole, "decisions"))
    for decisions in (1, 3, count - 2):
        process = subprocess.Popen(
            command(workdir, *flags), env=environment, stdout=subprocess.DEVNULL
        )
        log = workdir / "decisions.jsonl"
        while not log.exists() or log.read_bytes().count(b"\n") < decisions:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = run(environment, workdir, *flags)
    assert done.returncode == 0, done.stderr
    assert rows(workdir, "decisions") == rows(whole, "decisions")
    compare(final_arrays(workdir), final_arrays(whole))


def compare(mine, other):
    """Equal to the bit, wherever in a tree of dicts and lists."""
    if isinstance(mine, dict):
        assert set(mine) == set(other)
        for key in mine:
            compare(mine[key], other[key])
    elif isinstance(mine, list | tuple):
        for a, b in zip(mine, other, strict=True):
            compare(a, b)
    elif mine is not None:
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
        assert np.asarray(mine).dtype == np.asarray(other).dtype


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_another(
    finished, environment, tmp_path
):
    again, other = tmp_path / "again", tmp_path / "other"
    run(environment, again, "--config.epochs=2")
    run(environment, other, "--config.epochs=2", "--config.seed=1")
    whole = rows(finished[0], "decisions")[:2]
    assert rows(again, "decisions") == whole
    assert rows(other, "decisions") != whole


@pytest.mark.slow
def test_a_diverging_branch_is_recorded_and_never_chosen(environment, tmp_path):
    done = run(
        environment,
        tmp_path / "run",
        "--config.epochs=6",
        "--config.search_space.learning_rate.high=1000000.0",
        "--config.search_space.momentum.high=0.99",
    )
    assert done.returncode == 0, done.stderr
    decisions = rows(tmp_path / "run", "decisions")
    assert any(None in row["scores"] for row in decisions)
    for row in decisions:
        assert row["branch"] < 0 or row["scores"][row["branch"]] is not None
    metrics = rows(tmp_path / "run", "metrics")
    assert [row["epoch"] for row in metrics] == list(range(6))
    assert all(np.isfinite(row["train_loss"]) for row in metrics)


@pytest.mark.slow
def test_a_run_in_which_everything_diverges_stops_with_its_cause(environment, tmp_path):
    flags = (
        "--config.search_space.learning_rate.low=1e30",
        "--config.search_space.learning_rate.high=1e32",
    )
    done = run(environment, tmp_path / "run", *flags)
    for attempt in range(2):  # the same command again has no other answer
        if attempt:
            done = run(environment, tmp_path / "run", *flags)
        assert done.returncode == 3
        assert done.stderr.startswith(
            "error: every branch of epoch 0 diverged, 4 times"
        )
        assert done.stderr.count("\n") == 1
        assert "float32" not in done.stderr
        decisions = rows(tmp_path / "run", "decisions")
        assert [row["branch"] for row in decisions] == [-1] * engine.ATTEMPTS
        back = [row["rollback"] for row in decisions]
        assert [each["attempt"] for each in back] == [1, 2, 3, 4]
        limits = [each["learning_rate_limit"] for each in back]
        assert limits[0] is None
        assert 1e31 > limits[1] > limits[2] >= limits[3] >= 1e30
        for row, limit in zip(decisions[2:], limits[1:], strict=False):
            assert all(t["learning_rate"] <= limit * 1.001 for t in row["trials"])


@pytest.mark.parametrize(
    ("examples", "strategy", "message"),
    [
        (257, "hyperdyn", "257 validation examples .* less than 4.6 points"),
        (5000, "hyperdyn", None),
        (257, "race", None),  # which goes by the loss
        (257, "cosine", None),
    ],
)
def test_small_validation_splits_are_noted(examples, strategy, message, monkeypatch):
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(strategy=strategy)
    setup = config_lib.build(config.to_dict())
    monkeypatch.setattr(setup.dataset, "size", lambda _: examples)
    note = loop.small_validation(setup)
    assert (note is None) == (message is None)
    assert message is None or re.search(message, note)


def test_what_a_race_cannot_do_is_noted():
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    assert loop.notes(config, config_lib.build(config.to_dict())) == []
    config.update(epochs=5, optimizer=dict(config.optimizer, learning_rate=2.0))
    few, outside = loop.notes(config, config_lib.build(config.to_dict()))
    assert few.startswith("200 steps are too few for a race to leave your own setting")
    assert few.endswith("that takes 288 steps or more")
    own = "your own learning_rate, 2, is outside of its range, 0.003 to 0.5"
    assert outside == f"{own}, so 0.003 to 2 is searched"


def in_process(workdir, **changes):
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update(batch_size=128, **changes)
    config.model.width = 2
    return loop.train_and_evaluate(config.to_dict(), workdir)


@pytest.mark.slow
def test_backtracking_ends_at_the_best_epoch(tmp_path):
    """The network that is kept is that of a run which had ended there."""
    rates = [0.05] * 7 + [3.0]  # what is learned is lost
    written = [
        {"step": 10 * (i + 1), "hyperparams": {"learning_rate": rate, "momentum": 0.5}}
        for i, rate in enumerate(rates)
    ]

    def play(name, epochs, **changes):
        plan = run_dir.dump(learned_schedule.to_schedule(written[:epochs]))
        (tmp_path / f"{name}_plan").mkdir()
        (tmp_path / f"{name}_plan" / "schedule.json").write_text(plan)
        changes |= {"replay": {"run": str(tmp_path / f"{name}_plan")}}
        return in_process(tmp_path / name, epochs=epochs, strategy="replay", **changes)

    metrics = play("back", 8, backtracking=True)
    accuracies = [row["validation_accuracy"] for row in metrics]
    best = max(range(8), key=lambda epoch: (accuracies[epoch], epoch))
    assert accuracies[best] > accuracies[-1] + 10
    assert metrics[-1]["best_epoch"] == best < 7
    assert not any("best_epoch" in row for row in metrics[:-1])

    (ended,) = play("short", best + 1)[-1:]
    assert metrics[-1]["test_accuracy"] == ended["test_accuracy"]
    assert "best_epoch" not in ended
    kept, short = (final_arrays(tmp_path / name)["held"] for name in ("back", "short"))
    compare(kept, short)

    (last,) = play("last", 8)[-1:]
    assert metrics[-1]["last_test_accuracy"] == last["test_accuracy"]
    assert last["test_accuracy"] < ended["test_accuracy"]


@pytest.mark.parametrize("schedule_name", ["constant", "cosine"])
def test_a_run_ends_at_the_better_of_average_and_end(tmp_path, schedule_name):
    """The trained network is the same; it is evaluated where its loss is smaller."""
    settings = {"epochs": 3, "strategy": schedule_name}
    (end,) = in_process(tmp_path / "end", **settings)[-1:]
    averages = []
    original = engine.Engine._average_or_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine.Engine,
            "_average_or_end",
            lambda self, last: averages.append(last) or original(self, last),
        )
        (both,) = in_process(tmp_path / "both", averaging=5.0, **settings)[-1:]
    (average,) = averages
    assert end["validation_loss"] != average.validation.loss
    if end["validation_loss"] < average.validation.loss:
        assert both["validation_loss"] == end["validation_loss"]
        assert both["test_loss"] == end["test_loss"]
    else:
        assert both["validation_loss"] == average.validation.loss
        assert both["test_loss"] != end["test_loss"]
    with_average, without = (
        final_arrays(tmp_path / name)["held"][0]["params"] for name in ("both", "end")
    )
    compare(with_average, without)


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        # 257 examples: chance is 5.47 points for the better of two earlier epochs.
        ([50.0, 60.0, 60.0 - 5.46], 2),
        ([50.0, 60.0, 60.0 - 5.48], 1),
        ([60.0, 60.0 - 4.60], 0),  # and 4.59 for the only one
        ([60.0, 60.0 - 4.58], 1),
        ([60.0, 60.0, 50.0], 1),  # the later of equals
        ([10.0, 20.0, 30.0], 2),
    ],
)
def test_backtracking_takes_more_than_chance(accuracies, kept):
    class Tester(Network):
        def __init__(self):
            """There is no network."""

        def test(self, state):
            return {"test_accuracy": float(state), "test_loss": 1.0}

    branches = [
        state.Branch(epoch, 0.0, Evaluation(accuracy, 1.0, 257), accuracy)
        for epoch, accuracy in enumerate(accuracies)
    ]
    run = state.Run([None], [], None, None, 0.0, 0.0, {})
    for epoch, branch in enumerate(branches):
        run = run._replace(epoch=epoch + 1, held=[branch.state])
        run = engine.remember(run, branch)
    run, tested = engine.Engine(None, Tester(), True).finish(run, branches[-1])
    assert (run.held, run.best) == ([kept], [])
    assert tested["test_accuracy"] == kept
    end = len(accuracies) - 1
    assert tested.get("best_epoch", end) == kept
    assert tested.get("last_test_accuracy", end) == end
