"""Every config file, run by the real command on data in the real on-disk format."""

import json
import os
import subprocess
import sys

import pytest
import tfds_fixture
from paths import ROOT

from hyperdyn_jax.commands import cli

PROGRAM = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert "tensorflow" not in sys.modules
"""


def train(workdir, *flags):
    """One device, and no TensorFlow."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    program = [sys.executable, "-c", PROGRAM, str(ROOT / "train.py")]
    return subprocess.run(
        [*program, *flags, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_quick_start_is_as_good_as_it_says(tmp_path):
    done = train(tmp_path, "--config=configs/digits.py")
    assert (done.returncode, done.stderr) == (0, "")
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation_accuracy"] >= 97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "write", "batches", "rows"),
    [
        # 270 training images: two batches of 128 and one of 14.
        ("cifar10.py:smoke", tfds_fixture.write_cifar10, 3, 2),
        # 119 training images: fourteen batches of 8 and one of 7.
        ("imagenet.py:smoke", tfds_fixture.write_imagenet, 15, 1),
    ],
)
def test_smoke(tmp_path, config, write, batches, rows):
    write(tmp_path / "data")
    done = train(
        tmp_path / "run",
        f"--config=configs/{config}",
        f"--config.data_dir={tmp_path / 'data'}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [row["step"] for row in metrics] == [batches * (i + 1) for i in range(rows)]
    assert 0 <= metrics[-1]["test_accuracy"] <= 100


@pytest.mark.parametrize("config", ["cifar10.py", "cifar10_twin.py", "imagenet.py"])
def test_missing_data_says_how_to_prepare_it(tmp_path, capsys, config):
    words = ["train.py", f"--config={ROOT / 'configs' / config}"]
    words.append(f"--config.data_dir={tmp_path / 'data'}")
    assert cli.run(cli.load_config(words), str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    name = "imagenet" if config.startswith("imagenet") else "cifar10"
    command = f"python -m hyperdyn_jax.prepare {name} --data_dir={tmp_path / 'data'}"
    assert command in err
    assert not (tmp_path / "run").exists()
