"""What SECURITY.md says: nothing is executed but configs in Python, and no network."""

import json
import os
import socket
import subprocess
import sys

import bounds
import pytest

from hyperdyn_jax.system import signals


@pytest.mark.parametrize("file", bounds.SOURCES, ids=lambda path: path.name)
def test_sources_have_nothing_that_runs_data_or_reaches_out(file):
    assert bounds.suspicious(file) == set()


def test_the_search_finds_what_it_should(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "import os, pickle\nfrom urllib import request\nos.system('x')\n"
        "eval('1')\nnumpy.load(f, allow_pickle=True)\nre.compile('x')\n"
    )
    assert bounds.suspicious(file) == {
        "pickle",
        "urllib",
        "system",
        "eval",
        "allow_pickle",
    }


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_a_pickle_in_a_checkpoint_is_not_executed(tmp_path, replace, forged):
    """Neither beside the files of a checkpoint nor in place of them."""
    found = bounds.tamper(tmp_path, replace=replace, forged=forged)
    assert not found.executed
    # Digests catch it, or Orbax does; who forges both has made a checkpoint, not code.
    assert found.number == (1 if forged and not replace else 0)


@pytest.mark.slow
def test_a_run_and_its_resume_stay_within_their_bounds(tmp_path):
    """From a JSON config with code in it: nothing of that is run, nothing but what the
    process itself has pickled is unpickled, no YAML, no network, no port."""
    flags = bounds.marked_config(tmp_path)
    for stop in (True, False):
        run = bounds.guarded(tmp_path, *flags, stop=stop)
        assert (run.code, run.ports) == (0, []), run.errors
        assert run.errors == (f"{signals.SAVED}\n" if stop else "")
        others = {what for what in run.did if not what.startswith("process ")}
        assert others <= bounds.OWN_PICKLES
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3


def test_the_guard_sees_what_it_should(tmp_path):
    (tmp_path / "bad.py").write_text(
        "import fractions, pickle, socket, yaml\n"
        "pickle.loads(pickle.dumps(fractions.Fraction(1, 2)))\n"
        "yaml.safe_load('a: 1')\n"
        "eval('MARKED_CODE or 1', {'MARKED_CODE': 0})\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), 1)\n"
        "except PermissionError:\n    pass\n"
    )
    guard = bounds.ROOT / "tests" / "guard.py"
    subprocess.run(
        [sys.executable, guard, tmp_path / "log", tmp_path / "bad.py"],
        env=os.environ | {"GUARD_MARK": bounds.MARK},
        check=True,
    )
    did = set(json.loads((tmp_path / "log").read_text()))
    assert {"YAML", "ran the marked code", "unpickled fractions.Fraction"} <= did
    assert any(what.startswith("network: ") for what in did)


@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="needs Linux")
def test_a_port_would_be_seen():
    before = set(bounds.listening(os.getpid()))  # of tests with several processes
    with socket.create_server(("127.0.0.1", 0)) as server:
        (place,) = set(bounds.listening(os.getpid())) - before
        assert int(place.partition(":")[2], 16) == server.getsockname()[1]
