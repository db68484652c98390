"""A dry run: what it tells is what the run then does, and it writes nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from hyperdyn_jax import dry_run, strategies
from hyperdyn_jax.config import make_tuner

ROOT = Path(__file__).resolve().parents[1]
EACH = 20  # steps an epoch


def command(*words, cwd=ROOT):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def dry(tmp_path, *flags):
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    train = str(ROOT / "train.py")
    return command(train, config, "--dry_run", *flags, cwd=tmp_path)


def test_it_tells_size_cost_and_memory_and_writes_nothing(tmp_path):
    done = dry(tmp_path, "--config.strategy=hyperdyn", "--config.epochs=15")
    assert (done.returncode, done.stderr) == (0, "")
    config, _, rest = done.stdout.partition("\n}\n")
    assert '"strategy": "hyperdyn"' in config
    told = " ".join(rest.split())
    assert "run hyperdyn with sgd, 15 epochs" in told
    assert "digits: 1,280 train, 257 validation, 260 test examples" in told
    assert "32 examples, 40 batches an epoch" in told
    assert "parameters 75,002 in cifar_resnet, 0.3 MB" in told
    # 5 random settings, then 14 epochs of two branches.
    assert "600 accepted / 1,320 total (+120.0%), trials included" in told
    assert "devices 1 x cpu" in told
    assert float(re.search(r"memory ([\d.,]+) MB on a device", told)[1]) > 1
    assert list(tmp_path.iterdir()) == []


def test_it_tells_what_a_run_would_tell(tmp_path):
    done = dry(tmp_path, "--config.epochs=-1", "--dry_run=perhaps")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: --dry_run is true or false, got 'perhaps'",
        "error: config.epochs must be >= 1, got -1",
    ]
    assert list(tmp_path.iterdir()) == []


def setup(strategy, epochs=40, **sections):
    config = {
        "strategy": strategy,
        "epochs": epochs,
        "batch_size": 32,
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
        "search_space": {
            "learning_rate": {"kind": "log_uniform", "low": 1e-3, "high": 1.0}
        },
        "hyperdyn": {"candidates": 8, "ascent_steps": 1},
        **sections,
    }
    tuner = make_tuner(config, EACH)

    def accepted_steps(state):
        shortened = getattr(tuner, "accepted_steps", None)
        return shortened(state) if shortened else epochs * EACH

    dataset = SimpleNamespace(steps_per_epoch=EACH)
    return SimpleNamespace(
        tuner=tuner, epochs=epochs, dataset=dataset, accepted_steps=accepted_steps
    )


def test_hyperdyn_costs_what_a_rehearsal_says():
    made = setup("hyperdyn", epochs=4)
    accepted, total, bound = dry_run.count_steps(made)
    assert (accepted, total, bound) == (4 * EACH, (5 + 2 * 3) * EACH, "")
    assert dry_run._rehearse(made, accepted, EACH) == (accepted, total)


def test_schedules_cost_their_steps():
    for name in strategies.SCHEDULES:
        made = setup(name)
        assert dry_run.count_steps(made) == (40 * EACH, 40 * EACH, "")
    assert "nothing is tried" in dry_run.steps_in_words(setup("cosine"))


def test_explore_stays_within_what_is_told():
    made = setup("explore")
    fewest, total, _ = dry_run.count_steps(made)
    assert total == 40 * EACH
    assert (total - fewest) / fewest <= 0.2
    state = made.tuner.init(jax.random.key(0), -2.3)
    while state.phase != 2:
        trials = made.tuner.ask(state)
        scores = [-1.0 - 0.1 * i for i in range(len(trials.parents))]
        state, _ = made.tuner.tell(state, trials, scores)
    assert made.accepted_steps(state) >= fewest


@pytest.mark.parametrize(
    ("strategy", "times"), [("random_search", 5), ("hyperband", 5), ("pb2", 4)]
)
def test_others_are_rehearsed(strategy, times):
    made = setup(strategy, epochs=3)
    assert dry_run.count_steps(made) == (3 * EACH, times * 3 * EACH, "")


def test_every_help_fits_a_screen():
    programs = ["train.py", "study", "paper", "replay", "report", "prepare"]
    programs += ["compare", "doctor"]
    options = {}
    for name in programs:
        module = ["train.py"] if name == "train.py" else ["-m", f"hyperdyn_jax.{name}"]
        done = command(*module, "--help")
        assert (done.returncode, done.stderr) == (0, ""), name
        lines = done.stdout.splitlines()
        assert 10 <= len(lines) <= 36, name
        assert max(map(len, lines)) <= 90, name
        options[name] = dict(
            re.findall(r"^  --(\w+)[= ]([A-Z0-9,]+)", done.stdout, re.M)
        )
    for name in ("output", "workdir", "data_dir", "seeds"):
        values = {options[p][name] for p in programs if name in options[p]}
        assert len(values) == 1, (name, values)
