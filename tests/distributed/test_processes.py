"""Runs of two processes: as one process, and stopped, killed or frozen."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_state import state

from hyperdyn_jax.distributed.place import TRY_AGAIN
from hyperdyn_jax.system import signals

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT = 5.0
FLAGS = (
    "--config=configs/characters.py",
    "--config.strategy=cosine",
    "--config.epochs=4",
    "--config.batch_size=512",
    "--config.model.width=8",
    "--config.save_minutes=0.005",  # inside epochs, when process 0 says so
)
TUNED = (
    "--config.strategy=hyperdyn",
    "--config.epochs=2",
    "--config.hyperdyn.initial_points=2",
    "--config.hyperdyn.capacity=16",
)
# A host whose every key is another than the config's seed gives.
CORRUPT = """
import runpy, sys
from hyperdyn_jax.system import streams
of_run = streams.of_run
streams.of_run = lambda seed: of_run(seed + 1)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def spawn(cache, *flags, devices, program=("train.py",)):
    """train.py, without what the tests ask of JAX in this process."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "NPROC": "8",  # threads, or collectives may wait for each other for ever
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, *program, *FLAGS, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Pair:
    """Two processes of one run; they end with the `with`.

    devices: of each. second: the program of process 1.
    """

    def __init__(self, cache, workdir, *flags, devices=1, second=("train.py",)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            where = f"--coordinator=127.0.0.1:{server.getsockname()[1]}"
        flags += f"--workdir={workdir}", where, f"--heartbeat={HEARTBEAT}"
        flags += ("--processes=2",)
        programs = ("train.py",), second
        self.each = [
            spawn(cache, *flags, f"--process={i}", devices=devices, program=program)
            for i, program in enumerate(programs)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.each:
            process.kill()
            process.communicate()

    def until(self, start):
        """Reads what process 0 prints up to a line."""
        lines = []
        for line in self.each[0].stdout:
            lines.append(line)
            if line.startswith(start):
                return
        pytest.fail("".join(lines) + self.each[0].stderr.read())

    def end(self, *numbers):
        """Codes, standard outputs and errors of processes that end by themselves."""
        texts = [self.each[i].communicate(timeout=300) for i in numbers or (0, 1)]
        codes = [self.each[i].returncode for i in numbers or (0, 1)]
        return codes, *zip(*texts, strict=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def cache(folder):
    return folder / "compiled"


@pytest.fixture(scope="module")
def whole(folder, cache):
    """A run that nothing disturbs."""
    with Pair(cache, folder / "whole") as pair:
        codes, outs, errs = pair.end()
    assert codes == [0, 0], errs
    assert errs == ("", "")
    assert "accepted steps" in outs[0]
    assert not [x for x in outs[1].splitlines() if not x.startswith("[Gloo]")]
    return folder / "whole"


def assert_alike(one, other):
    """Rows, whose numbers may be rounded differently."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_alike(one[name], other[name])
    elif isinstance(one, list):
        for pair in zip(one, other, strict=True):
            assert_alike(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3, nan_ok=True)
    else:
        assert one == other


def test_two_processes_of_two_devices_are_one_of_four(folder, cache):
    """Same numbers up to rounding: incumbent and challenger on groups of one device of
    each process, and a second host with another seed, which cannot part from the first.
    """
    one, two = folder / "one", folder / "two"
    corrupt = "-c", CORRUPT
    with Pair(cache, two, *TUNED, devices=2, second=corrupt) as pair:
        codes, _, errs = pair.end()
    assert codes == [0, 0], errs
    with spawn(cache, *TUNED, f"--workdir={one}", devices=4) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert_alike(state(two)[0], state(one)[0])


def test_faults_end_both_and_change_nothing(folder, cache, whole):
    workdir = folder / "disturbed"
    with Pair(cache, workdir) as pair:
        pair.until("step")
        pair.each[1].send_signal(signal.SIGTERM)
        began = time.monotonic()
        codes, _, errs = pair.end()
        assert time.monotonic() - began < 10
    assert codes == [0, 0]
    assert errs == (f"{signals.SAVED}\n",) * 2

    with Pair(cache, workdir) as pair:
        pair.until("resuming")
        pair.each[0].kill()
        began = time.monotonic()
        codes, _, errs = pair.end(1)
        assert time.monotonic() - began < HEARTBEAT  # 0.2 s where nothing else runs
    assert codes == [TRY_AGAIN]
    closed = "error: process 0 was lost: its connection is closed; the same command"
    assert errs[0].startswith(closed)
    assert errs[0].count("\n") == 1

    with Pair(cache, workdir) as pair:
        pair.until("resuming")
        pair.each[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        codes, _, errs = pair.end(0)
        assert time.monotonic() - began < HEARTBEAT + 5
    assert codes == [TRY_AGAIN]
    silent = f"error: process 1 was lost: nothing heard of it for {HEARTBEAT:g} s"
    assert errs[0].startswith(silent)
    assert errs[0].count("\n") == 1

    with Pair(cache, workdir) as pair:
        assert pair.end()[0] == [0, 0]
    assert state(workdir) == state(whole)


def test_a_directory_in_use_ends_both(folder, cache):
    workdir = folder / "used"
    workdir.mkdir()
    with (workdir / ".lock").open("w") as lock, Pair(cache, workdir) as pair:
        fcntl.flock(lock, fcntl.LOCK_EX)
        codes, _, errs = pair.end()
    assert codes == [2, 2]
    assert errs[0] == f"error: --workdir={workdir} is in use by another process\n"
    assert errs[1] == "error: process 0 ended with exit code 2\n"
