"""The study command: a directory a run, finished runs skipped, problems told first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from hyperdyn_jax import study
from hyperdyn_jax.run.config_errors import ConfigError
from hyperdyn_jax.system import signals

pytestmark = pytest.mark.slow

SHORT = (
    "--config.epochs=2",
    "--config.batch_size=256",
    "--config.model.width=2",
    "--config.strategy=cosine",  # so short a run has no room for probes
)


def run(output, strategies, *flags, seeds="0", config="configs/digits.py"):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    program = [sys.executable, "-m", "hyperdyn_jax.study", f"--output={output}"]
    return subprocess.run(
        [
            *program,
            f"--config={config}",
            f"--strategies={strategies}",
            f"--seeds={seeds}",
            *SHORT,
            *flags,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_runs_are_made_once_each_and_not_again(tmp_path):
    strategies = "constant,schedule_free:constant"
    done = run(tmp_path, strategies, seeds="0,1")
    assert (done.returncode, done.stderr) == (0, "")
    names = {"constant": "sgd", "schedule_free_constant": "schedule_free"}
    written = {}
    for name, optimizer in names.items():
        for seed in (0, 1):
            folder = tmp_path / name / f"seed{seed}"
            config = json.loads((folder / "config.json").read_text())
            assert (config["seed"], config["epochs"]) == (seed, 2)
            assert config["optimizer"]["name"] == optimizer
            rows = (folder / "metrics.jsonl").read_text().splitlines()
            assert "test_accuracy" in json.loads(rows[-1])
            assert [json.loads(row)["step"] for row in rows] == [5, 10]
            written[folder] = (folder / "metrics.jsonl").stat().st_mtime_ns

    done = run(tmp_path, strategies, seeds="0,1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("is finished already") == 4
    for folder, time in written.items():
        assert (folder / "metrics.jsonl").stat().st_mtime_ns == time


@pytest.mark.parametrize(
    ("strategies", "flags", "messages"),
    [
        ("cosine,cosin", [], ["config.strategy must be one of", "'cosin'"]),
        ("cosine,rms:cosine", [], ["--strategies: 'rms:cosine': after the colon may"]),
        ("cosine", ["--seeds=-1"], ["--seeds must be whole numbers >= 0, got '-1'"]),
        ("cosine", ["--config.batch_size=9999"], ["batch_size must be at most"]),
        ("cosine", ["--config.epoch=9"], ["config.epoch is an unknown setting; did "]),
        ("cosine", ["--workdir=x"], ["'--workdir=x' is not a flag; there are"]),
        (
            "cosine,cosin",
            ["--seeds=0,x"],
            ["--seeds must be whole numbers", "config.strategy must be one of"],
        ),
        ("", [], ["--strategies must name at least one, for example race"]),
        (
            "cosine,cosine",
            ["--seeds=1,1"],
            ["--seeds has 1", "--strategies has cosine"],
        ),
        (
            "cosine,constant",
            ["--seeds=0,1,2", "--output=README.md"],
            ["--output=README.md cannot be written: README.md is not a writable"],
        ),
        (  # nothing of the race, for which two epochs are too few: it is not run
            "cosine,cosin",
            ["--config.strategy=race", "--seeds=0,x", "--config.epoch=9"],
            [
                "--config.epoch is an unknown setting; did you mean epochs?",
                "--seeds must be whole numbers >= 0, got 'x'",
                "config.strategy must be one of autolrs",
            ],
        ),
    ],
)
def test_problems_are_told_before_any_run(tmp_path, strategies, flags, messages):
    done = run(tmp_path / "study", strategies, *flags)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == (1 if "'cosin'" in messages else len(messages))
    for message in messages:
        assert message in done.stderr
    assert not list(tmp_path.glob("study/*/seed*"))


def test_a_stopped_study_exits_with_0_and_goes_on(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hyperdyn_jax.study", f"--output={tmp_path}"),
            *("--config=configs/digits.py", "--strategies=constant", *SHORT),
            "--config.epochs=40",
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.terminate()
    _, err = process.communicate()
    assert (process.returncode, err) == (0, f"{signals.SAVED}\n")
    done = run(tmp_path, "constant", "--config.epochs=40")
    assert (done.returncode, done.stderr) == (0, "")
    assert "resuming" in done.stdout


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_programs_of_finished_runs_do_not_pile_up(tmp_path):
    """A process may have 65,530 memory maps, and a run's programs take hundreds."""

    def maps():
        return len(Path("/proc/self/maps").read_text().splitlines())

    argv = ["study", "--config=configs/digits.py", *SHORT]
    configs = study.load_configs(["constant"], argv)
    counts = []
    study.run_all(configs, [0, 1, 2], tmp_path, lambda _: counts.append(maps()))
    assert maps() - counts[1] < 100


def test_arguments_join_those_of_the_config_file():
    argv = ["study", "--config=configs/cifar10_twin.py:adam", "--config.epochs=3"]
    configs = study.load_configs(["hyperdyn", "batch=1000:cosine"], argv)
    assert list(configs) == ["hyperdyn", "batch1000_cosine"]
    large = configs["batch1000_cosine"]
    assert (large["batch_size"], large["strategy"]) == (1000, "cosine")
    for config in configs.values():
        assert (config["optimizer"]["name"], config["epochs"]) == ("adam", 3)
    argv[1] = "--config=configs/cifar10_twin.py"
    (both,) = study.load_configs(["adam+batch=2000:cosine"], argv).values()
    assert (both["optimizer"]["name"], both["batch_size"]) == ("adam", 2000)
    with pytest.raises(ConfigError, match=r"'batch=7:cosine'.*batch=128"):
        study.load_configs(["batch=7:cosine"], argv)
