"""Several processes: they meet, agree, stop at one step and notice a lost one."""

import fcntl
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from paths import ROOT
from run_state import state

from hyperdyn_jax import hosts
from hyperdyn_jax.commands import cli
from hyperdyn_jax.data import dataset as data
from hyperdyn_jax.system import signals

pytestmark = pytest.mark.slow

HEARTBEAT = 5.0
FLAGS = (
    "--config=configs/characters.py",
    "--config.strategy=cosine",
    "--config.epochs=5",
    "--config.batch_size=512",
    "--config.model.width=32",
    "--config.save_minutes=0.005",  # inside epochs, when process 0 says so
)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def spawn(cache, *flags, devices=1, program=("train.py",)):
    """train.py, without what the tests ask of JAX in this process."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, *program, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Pair:
    """Two processes of one run; they end with the `with`.

    others: of `spawn`, for both. second: of process 1 alone.
    """

    def __init__(self, cache, workdir, *flags, second=(), **others):
        where = f"--coordinator=127.0.0.1:{free_port()}", f"--heartbeat={HEARTBEAT}"
        flags = (*FLAGS, f"--workdir={workdir}", *where, "--processes=2", *flags)
        self.each = [
            spawn(cache, *flags, f"--process={i}", **others | dict(second if i else ()))
            for i in (0, 1)
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
                return "".join(lines)
        pytest.fail("".join(lines) + self.each[0].stderr.read())

    def end(self, *numbers):
        """Codes, standard outputs and errors of processes that end by themselves."""
        texts = [self.each[i].communicate(timeout=90) for i in numbers or (0, 1)]
        codes = [self.each[i].returncode for i in numbers or (0, 1)]
        return codes, *zip(*texts, strict=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def cache(folder):
    return folder / "compiled"


@pytest.fixture(scope="module")
def whole(folder, cache):
    """A run of two processes that nothing disturbs."""
    with Pair(cache, folder / "whole") as pair:
        codes, outs, errs = pair.end()
    assert codes == [0, 0]
    assert errs == ("", "")
    assert "accepted steps" in outs[0]
    assert not [x for x in outs[1].splitlines() if not x.startswith("[Gloo]")]
    return folder / "whole"


def alone(cache, workdir, *flags, devices):
    """The same run by one process."""
    process = spawn(cache, *FLAGS, f"--workdir={workdir}", *flags, devices=devices)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return workdir


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


def test_two_processes_train_as_two_devices_of_one_do(folder, cache, whole):
    here = alone(cache, folder / "alone", devices=2)
    assert_alike(state(whole)[0], state(here)[0])


TUNED = (
    "--config.strategy=hyperdyn",
    "--config.epochs=2",
    "--config.hyperdyn.initial_points=2",
)
# A host whose every key is another than the config's seed gives.
CORRUPT = """
import runpy, sys
import jax
from hyperdyn_jax.run import state
state.keys = lambda setup: jax.random.split(jax.random.key(setup.seed + 1), 3)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def two_by_two(folder, cache):
    """Two processes of two devices each; incumbent and challenger on groups of one
    device of each process."""
    with Pair(cache, folder / "two_by_two", *TUNED, devices=2) as pair:
        codes, _, errs = pair.end()
    assert codes == [0, 0], errs
    return folder / "two_by_two"


def test_two_processes_of_two_devices_are_one_of_four(folder, cache, two_by_two):
    """Same parameters up to rounding, and one log of decisions: that of process 0."""
    here = alone(cache, folder / "four", *TUNED, devices=4)
    assert_alike(state(two_by_two)[0], state(here)[0])


def test_a_host_with_another_seed_cannot_part_from_the_others(
    folder, cache, two_by_two
):
    program = {"program": ("-c", CORRUPT)}
    with Pair(
        cache, folder / "corrupt", *TUNED, devices=2, second=program.items()
    ) as pair:
        codes, _, errs = pair.end()
    assert codes == [0, 0], errs
    assert state(folder / "corrupt") == state(two_by_two)


def test_faults_of_either_process_end_both_and_change_nothing(folder, cache, whole):
    workdir = folder / "disturbed"
    with Pair(cache, workdir) as pair:
        pair.until("epoch 0")
        pair.each[1].send_signal(signal.SIGTERM)
        began = time.monotonic()
        codes, _, errs = pair.end()
        assert time.monotonic() - began < 10
    assert codes == [0, 0]
    assert errs == (f"{signals.SAVED}\n",) * 2

    with Pair(cache, workdir) as pair:
        pair.until("resuming")
        pair.until("epoch")
        pair.each[0].kill()
        began = time.monotonic()
        codes, _, errs = pair.end(1)
        assert time.monotonic() - began < 5  # 2 s but for a machine that is busy
    assert codes == [hosts.TRY_AGAIN]
    closed = "error: process 0 was lost: its connection is closed; the same command"
    assert errs[0].startswith(closed)
    assert errs[0].count("\n") == 1

    with Pair(cache, workdir) as pair:
        pair.until("epoch")
        pair.each[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        codes, _, errs = pair.end(0)
        assert time.monotonic() - began < HEARTBEAT + 5
    assert codes == [hosts.TRY_AGAIN]
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


def test_a_config_that_only_one_process_has_ends_both(folder, cache):
    where = f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"
    flags = (*FLAGS, f"--workdir={folder / 'unlike'}", *where)
    both = [
        spawn(cache, *flags, f"--process={i}", f"--config.seed={i}") for i in (0, 1)
    ]
    for process in both:
        _, err = process.communicate(timeout=90)
        assert process.returncode == 2
        assert err.startswith("error: process 1 has another --processes or config")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ((None, "2", None, None), ["--processes=2 needs --coordinator"]),
        (("here", "2", "0", None), ["--coordinator must be auto or HOST:PORT, a port"]),
        (("a:0", "2", "0", None), ["port in [1, 65535], got 'a:0'"]),
        (("a:1", None, "0", None), ["--processes is missing; it must be a whole"]),
        (("a:1", "0", "0", None), ["--processes must be a whole number in [1, "]),
        (("a:1", "two", "0", None), ["got 'two'"]),
        (("a:1", "2", "2", None), ["--process must be a whole number in [0, 1], got"]),
        (("a:1", "2", "-1", None), ["got '-1'"]),
        (
            ("a:1", "2", "0", "1"),
            ["--heartbeat must be a number in [2, 3600], got '1'"],
        ),
        (("a:1", "2", "0", "nan"), ["got 'nan'"]),
        (("x", "2", "0", "y"), ["--heartbeat", "--coordinator"]),
    ],
)
def test_flags_that_are_wrong_are_told_of_in_a_line_each(values, problems):
    with pytest.raises(hosts.JoinError) as error:
        hosts.place(*values)
    assert error.value.code == 2
    assert len(error.value.problems) == len(problems)
    for line, part in zip(error.value.problems, problems, strict=True):
        assert part in line


ENDS_THREADS = pytest.mark.filterwarnings(  # where the program would end
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


def groups(monkeypatch, heartbeat):
    """Two ends of a connection, and a queue of the exit codes of both."""
    codes = queue.Queue()

    def end(code):
        codes.put(code)
        sys.exit()  # of the thread

    monkeypatch.setattr(hosts, "_end", end)
    monkeypatch.setattr(signals, "cut_off", None)
    place = hosts.Place("127.0.0.1", 1, 2, 0, heartbeat, "127.0.0.1")
    ends = socket.socketpair()
    both = [hosts._Group(place._replace(process=i), {1 - i: ends[i]}) for i in (0, 1)]
    return both, ends, codes


@ENDS_THREADS
def test_a_stuck_process_that_is_to_stop_ends_the_others(monkeypatch, capsys):
    _, ends, codes = groups(monkeypatch, 10.0)
    signals.cut_off()
    assert codes.get(timeout=30) == 0
    said = "stopped with process 1; the same command on every machine goes on\n"
    assert capsys.readouterr().err == said
    for end in ends:
        end.close()


@ENDS_THREADS
def test_an_exit_code_is_handed_on(monkeypatch, capsys):
    (_, one), ends, codes = groups(monkeypatch, 10.0)
    with pytest.raises(SystemExit):
        one.leave(3)
    assert {codes.get(timeout=30) for _ in range(2)} == {3}
    assert capsys.readouterr().err == "error: process 1 ended with exit code 3\n"
    for end in ends:
        end.close()


@ENDS_THREADS
def test_processes_leave_together(monkeypatch, capsys):
    both, ends, codes = groups(monkeypatch, 10.0)
    leaving = [threading.Thread(target=each.leave, args=(0,)) for each in both]
    leaving[1].start()
    leaving[1].join(timeout=0.2)
    assert leaving[1].is_alive()  # waits for process 0, which may be saving
    leaving[0].start()
    assert codes.get(timeout=30) == 0
    leaving[1].join()
    ends[1].shutdown(socket.SHUT_RDWR)  # what its end does
    assert codes.get(timeout=30) == 0
    leaving[0].join()
    assert capsys.readouterr().err == ""
    ends[1].close()


def test_a_process_alone_has_no_place():
    assert hosts.place() is None
    assert hosts.place("a:1", "1", "0", None) is None
    assert hosts.place("[::1]:80", "3", "2", "5") == ("::1", 80, 3, 2, 5.0, "::1")


def test_a_cluster_is_found(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "node1,node2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    place = hosts._detected(hosts.place("auto"))
    assert (place.host, place.processes, place.process) == ("node1", 2, 1)
    with pytest.raises(hosts.JoinError, match="--process is found by"):
        hosts.place("auto", process="1")


def test_no_cluster_is_found():
    with pytest.raises(hosts.JoinError, match="finds no cluster here"):
        hosts.join(hosts.place("auto"), {})


def test_processes_wait_for_each_other_and_not_for_strangers():
    place = hosts.Place("127.0.0.1", free_port(), 3, 0, 10.0, "127.0.0.1")
    found = {}

    def meet(number):
        mine = place._replace(process=number)
        found[number] = (hosts._visit if number else hosts._receive)(mine, HELLO)

    threads = [threading.Thread(target=meet, args=(i,)) for i in (2, 0, 1)]
    for thread in threads:
        thread.start()
    while not found:
        try:
            stranger = socket.create_connection((place.host, place.port), timeout=1)
        except OSError:
            continue
        stranger.sendall(b"GET / HTTP/1.1\n")
        stranger.close()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert found[0][0].keys() == {1, 2}
    assert {port for _, port in found.values()} == {found[0][1]}
    for peers, _ in found.values():
        for peer in peers.values():
            peer.close()


HELLO = "hyperdyn_jax 3 123"


def test_nobody_comes(monkeypatch):
    monkeypatch.setattr(hosts, "WAIT", 0.5)
    place = hosts.Place("127.0.0.1", free_port(), 3, 0, 10.0, "127.0.0.1")
    with pytest.raises(hosts.JoinError, match="process 1, 2 did not come") as error:
        hosts._receive(place, HELLO)
    assert error.value.code == hosts.TRY_AGAIN
    with pytest.raises(hosts.JoinError, match="no process 0 came") as error:
        hosts._visit(place._replace(process=1), HELLO)
    assert error.value.code == hosts.TRY_AGAIN


def test_a_port_in_use_is_told_of():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        place = hosts.Place("127.0.0.1", port, 2, 0, 10.0, "127.0.0.1")
        with pytest.raises(hosts.JoinError, match="process 0 cannot listen there"):
            hosts._receive(place, HELLO)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_hosts_share_every_batch(count):
    splits = {
        name: data.Split(np.zeros((n, 2, 2, 1), np.uint8), np.zeros(n, np.int32))
        for name, n in {"train": 21, "validation": 10, "test": 7}.items()
    }

    def dataset(**part):
        sizes = {"batch_size": 8, "eval_batch_size": 4, "devices": 4}
        return data.ArrayDataset(**splits, classes=1, seed=0, **sizes, **part)

    parts = [dataset(host=i, hosts=count) for i in range(count)]
    for step in range(6):
        batches = [part.train_batch(step) for part in parts]
        joined = map(np.concatenate, zip(*batches, strict=True))
        for one, other in zip(joined, dataset().train_batch(step), strict=True):
            np.testing.assert_array_equal(one, other)
    for split in splits:
        batches = zip(*(part.eval_batches(split) for part in parts), strict=True)
        for several, alone in zip(batches, dataset().eval_batches(split), strict=True):
            joined = map(np.concatenate, zip(*several, strict=True))
            for one, other in zip(joined, alone, strict=True):
                np.testing.assert_array_equal(one, other)


def test_what_one_process_asks_and_shares_is_its_own():
    tree = {"b": np.float32(1), "a": [2, None]}
    assert hosts.share_tree(tree) is tree
    assert hosts.share_json(tree) is tree
    assert hosts.any_of(True)
    assert not hosts.any_of(False)
    assert hosts.together(test_a_process_alone_has_no_place) is (
        test_a_process_alone_has_no_place
    )


def test_the_command_tells_of_all_flags_at_once(capsys):
    flags = ["--config=configs/digits.py", "--config.epochs=0", "--process=1"]
    with pytest.raises(SystemExit) as error:
        cli.parse_flags(["train.py", *flags])
    assert error.value.code == cli.BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: --process=1 needs --coordinator")
    assert lines[1].startswith("error: config.epochs must be >= 1")
