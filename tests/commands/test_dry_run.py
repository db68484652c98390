"""A dry run: what it tells is what the run then does, and it writes nothing."""

import dataclasses
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import archive
import pytest
from paths import ROOT

from hyperdyn_jax import compare, doctor, loop, paper, prepare, replay, report
from hyperdyn_jax.commands import cli, dry_run
from hyperdyn_jax.run.config_strategy import make_tuner

CONFIG = f"--config={ROOT / 'configs' / 'digits.py'}"


def test_it_tells_size_cost_and_memory_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "small_validation", lambda _: "few examples")
    words = ["train.py", CONFIG, "--config.strategy=hyperdyn", "--config.epochs=15"]
    assert cli.run(cli.load_config(words), None, dry=True) == 0
    out, err = capsys.readouterr()
    assert err == ""
    config, _, rest = out.partition("\n}\n")
    assert '"strategy": "hyperdyn"' in config
    told = " ".join(rest.split())
    assert "run hyperdyn with sgd, 15 epochs data" in told
    assert "digits: 1,280 train, 257 validation, 260 test examples" in told
    assert "32 examples, 40 batches an epoch" in told
    assert "parameters 75,002 in cifar_resnet, 0.3 MB" in told
    # 5 random settings, then 14 epochs of two branches.
    assert "600 accepted / 1,320 total (+120.0%), trials included" in told
    assert "devices 8 x cpu" in told
    assert float(re.search(r"memory ([\d.,]+) MB on a device", told)[1]) > 1
    assert told.endswith("note few examples")
    assert list(tmp_path.iterdir()) == []


def test_it_tells_what_a_run_would_tell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train.py", CONFIG, "--config.epochs=-1", "--dry_run=perhaps"]
    with pytest.raises(SystemExit) as left:
        cli.parse_flags(words)
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --dry_run must be true or false, got 'perhaps'",
        "error: config.epochs must be >= 1, got -1",
    ]
    assert list(tmp_path.iterdir()) == []


def recorded(strategy):
    """A setup of a run that was made, as far as its steps go; and its last row."""
    run = report.load_run(archive.unpacked("twin") / strategy / "seed0")
    each = run.metrics[0]["step"]
    config = dict(run.config)
    if strategy in ("random_search", "hyperband"):  # the default of that time
        config[strategy] = {"settings": 5}
    tuner = make_tuner(config, each)
    dataset = SimpleNamespace(steps_per_epoch=each)
    setup = SimpleNamespace(tuner=tuner, epochs=config["epochs"], dataset=dataset)
    return setup, run.metrics[-1]


def test_every_challenger_is_counted():
    setup, _ = recorded("hyperdyn")
    each, epochs = setup.dataset.steps_per_epoch, setup.epochs
    setup.tuner = dataclasses.replace(setup.tuner, suggestions=3)
    assert dry_run.count_steps(setup)[1] == (5 + 4 * (epochs - 1)) * each


MADE = "hyperdyn greedy control epoch_bo random_search hyperband batch1000_hyperdyn"


@pytest.mark.parametrize("strategy", [*MADE.split(), "cosine", "manual_sgd"])
def test_steps_are_those_of_runs_that_were_made(strategy):
    setup, last = recorded(strategy)
    counted = (last["step"], last["total_steps"], "")
    assert dry_run.count_steps(setup) == counted
    assert f"{last['step']:,} accepted" in dry_run.steps_in_words(setup)
    assert f"{last['total_steps']:,} total" in dry_run.steps_in_words(setup)


def test_a_race_stays_within_what_is_told():
    run = report.load_run(archive.unpacked("decisions") / "race" / "seed0")
    tuner = make_tuner(run.config, 40)
    dataset = SimpleNamespace(steps_per_epoch=40)
    epochs, last = run.config["epochs"], run.metrics[-1]
    setup = SimpleNamespace(tuner=tuner, epochs=epochs, dataset=dataset)
    fewest, total, bound = dry_run.count_steps(setup)
    assert total == last["total_steps"]
    assert fewest <= last["step"] <= total
    assert (
        bound == f"{total - fewest:,} steps, {total / fewest - 1:+.1%} of the accepted"
    )
    assert total / fewest - 1 <= 0.2


PROGRAMS = {"paper": paper, "replay": replay, "report": report, "prepare": prepare}
PROGRAMS |= {"compare": compare, "doctor": doctor}


@pytest.mark.slow
def test_every_help_fits_a_screen_in_the_same_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    helps = {}
    for name, program in PROGRAMS.items():
        with pytest.raises(SystemExit) as left:
            program.main(["--help"])
        assert left.value.code == 0
        helps[name] = capsys.readouterr().out
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    modules = ("hyperdyn_jax.study", "hyperdyn_jax.train")
    for words in (["train.py"], *(["-m", module] for module in modules)):
        done = subprocess.run(
            [sys.executable, *words, "--help"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        helps[words[-1]] = done.stdout
    assert helps["train.py"] == helps["hyperdyn_jax.train"]
    options = {}
    for name, text in helps.items():
        assert 10 <= len(text.splitlines()) <= 36, name
        assert max(map(len, text.splitlines())) <= 90, name
        for option, value in re.findall(r"^  --(\w+)[= ]([A-Z0-9,]+)", text, re.M):
            options.setdefault(option, set()).add(value)
    for name in ("output", "workdir", "data_dir", "seeds"):
        assert len(options[name]) == 1, name
