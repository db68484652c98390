"""What SECURITY.md says: nothing is executed but configs in Python, and no network."""

import ast
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hyperdyn_jax import checkpoints, cli, rundir
from hyperdyn_jax.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    ROOT / "train.py",
    *(ROOT / "configs").glob("*.py"),
    *(ROOT / "hyperdyn_jax").rglob("*.py"),
]
# Of the standard library and of others: what turns data into code or reaches out.
BANNED = {
    "cloudpickle", "dill", "ftplib", "http", "marshal", "pickle", "requests", "shelve",
    "subprocess", "tarfile", "telnetlib", "urllib", "yaml", "zipfile",
}  # fmt: skip
CALLS = {"__import__", "compile", "eval", "exec", "system", "unpack_archive"}


def calls_and_imports(file):
    """Names that a module imports, and that it calls."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (("import", alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "import", (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            plain = isinstance(function, ast.Name) or ast.unparse(function).startswith(
                ("os.", "shutil.", "builtins.")
            )
            if plain:
                yield "call", name
            for keyword in node.keywords:
                yield "keyword", keyword.arg


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.name)
def test_sources_have_nothing_that_runs_data_or_reaches_out(file):
    found = set(calls_and_imports(file))
    assert not {name for kind, name in found if kind == "import"} & BANNED
    assert not {name for kind, name in found if kind == "call"} & CALLS
    assert "allow_pickle" not in {name for kind, name in found if kind == "keyword"}


def test_the_search_finds_what_it_should(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("import os, pickle\nfrom urllib import request\nos.system('x')\n"
                    "eval('1')\nnumpy.load(f, allow_pickle=True)\n")  # fmt: skip
    found = set(calls_and_imports(file))
    assert {("import", "pickle"), ("import", "urllib")} <= found
    assert {("call", "system"), ("call", "eval"), ("keyword", "allow_pickle")} <= found


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def evil(tmp_path):
    """A pickle, and a function that says whether it was read as one."""
    mark = tmp_path / "executed"
    content = pickle.dumps(Evil(mark))
    pickle.loads(content)
    assert mark.exists()  # it would be seen
    mark.unlink()
    return content, mark.exists


def seal(step):
    """Makes the digests of a checkpoint fit what is in it now, as a forger would."""
    facts = step / checkpoints.FACTS
    sealed = json.loads(facts.read_text())
    del sealed["digest"]
    sealed["files"] = checkpoints._digest_files(step)
    facts.write_text(json.dumps(sealed | {"digest": checkpoints._digest_json(sealed)}))


@pytest.fixture
def store(tmp_path):
    """Two checkpoints, 1 and 2, of a run directory."""
    config = cli.load_config(["train.py", f"--config={ROOT / 'configs/digits.py'}"])
    for number in range(2):
        with rundir.RunDirectory(tmp_path / "run", config.to_dict()) as directory:
            directory.resume()
            row = {"decisions": {"epoch": number, "branch": -1}}
            directory.commit(row, {"x": np.arange(100.0)}, {"number": number})
    return tmp_path / "run" / "checkpoints"


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_a_pickle_in_a_checkpoint_is_not_executed(store, evil, replace, forged):
    """Neither beside the files of a checkpoint nor in place of them."""
    content, executed = evil
    newest = max(store.iterdir(), key=lambda path: int(path.name))
    if replace:
        for file in newest.rglob("*"):
            if file.is_file() and file.name != checkpoints.FACTS:
                file.write_bytes(content)
    for name in ("checkpoint", "state.pkl", "arrays/data.pkl", "arrays/x", "yaml.yaml"):
        (newest / name).write_bytes(content)
    if forged:
        seal(newest)
    found = Checkpoints(store)
    facts = found.latest()
    found.close()
    assert not executed()
    # Digests catch it, or Orbax does; whoever forges both has a checkpoint, not code.
    assert facts["number"] == (1 if forged and not replace else 0)


def listening(pid):
    """Ports that a process listens on: lines of its network's tables."""
    open_files = Path(f"/proc/{pid}/fd")
    try:
        mine = {os.readlink(file) for file in open_files.iterdir()}
        tables = [
            Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")
        ]
    except OSError:  # it has ended
        return []
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]


def without_network():
    """What runs a command where there is no network, not even loopback."""
    command = ["unshare", "-rn"]
    tried = shutil.which("unshare") and subprocess.run([*command, "true"], check=False)
    return command if tried and tried.returncode == 0 else []


def guarded(folder, *flags, stop=False):
    """Runs train.py guarded; says what it did, and where it listened at each epoch."""
    program = [sys.executable, str(ROOT / "tests" / "guard.py"), str(folder / "log")]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.Popen(
        [*without_network(), *program, str(ROOT / "train.py"), *flags],
        cwd=folder,
        env=environment | {"GUARD_MARK": "MARKED_CODE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ports = []
    for line in process.stdout:
        if line.startswith("epoch"):
            ports += listening(process.pid)
            if stop:
                process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    return process.returncode, err, json.loads((folder / "log").read_text()), ports


# TensorBoard's writer hands events from thread to thread through a pipe of the process.
OWN_PICKLES = {
    "unpickled tensorboardX.proto.event_pb2.Event",
    "unpickled builtins.object",  # the last of them
}


def test_a_run_and_its_resume_stay_within_their_bounds(tmp_path):
    """From a JSON config with code in it: nothing of that, no pickle, no YAML, no
    network, no port."""
    argv = ["train.py", f"--config={ROOT / 'configs/digits.py'}"]
    config = cli.load_config(argv).to_dict()
    name = "__import__('os').system('MARKED_CODE')"
    config |= {"name": name, "epochs": 3, "batch_size": 256, "strategy": "hyperdyn"}
    config["model"]["width"] = 1
    config["hyperdyn"]["initial_points"] = 2
    (tmp_path / "config.json").write_text(rundir._dump_config(config))
    flags = ["--config=config.json", "--workdir=run"]
    for stop in (True, False):
        code, err, did, ports = guarded(tmp_path, *flags, stop=stop)
        assert (code, ports) == (0, []), err
        assert err == ("stopped; the same command goes on\n" if stop else "")
        others = {what for what in did if not what.startswith("process ")}
        assert others <= OWN_PICKLES
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3
    page = (tmp_path / "run/report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_the_guard_sees_what_it_should(tmp_path):
    (tmp_path / "bad.py").write_text(
        "import pathlib, pickle, socket, yaml\n"
        "pickle.loads(pickle.dumps(pathlib.PurePosixPath('x')))\n"
        "yaml.safe_load('a: 1')\n"
        "eval('MARKED_CODE or 1', {'MARKED_CODE': 0})\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), 1)\n"
        "except PermissionError:\n    pass\n"
    )
    subprocess.run(
        [
            sys.executable,
            ROOT / "tests" / "guard.py",
            tmp_path / "log",
            tmp_path / "bad.py",
        ],
        env=os.environ | {"GUARD_MARK": "MARKED_CODE"},
        check=True,
    )
    did = json.loads((tmp_path / "log").read_text())
    assert "unpickled pathlib.PurePosixPath" in did
    assert {"YAML", "ran the marked code"} <= {*did}
    assert any(what.startswith("network: ") for what in did)
    assert listening(os.getpid()) == []
