"""What `test_security` and `benchmarks/faults_boundary.py` look for, and how."""

import ast
import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paths import ROOT

from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import checkpoints, run_dir

SOURCES = [
    ROOT / "train.py",
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "hyperdyn_jax").rglob("*.py")),
]
# Of the standard library and of others: what turns data into code or reaches out.
BANNED = {
    "cloudpickle", "dill", "ftplib", "http", "marshal", "pickle", "requests", "shelve",
    "subprocess", "tarfile", "telnetlib", "urllib", "yaml", "zipfile",
}  # fmt: skip
CALLS = {"__import__", "compile", "eval", "exec", "system", "unpack_archive"}
ARGUMENTS = {"allow_pickle"}
# TensorBoard's writer hands events from thread to thread through a pipe of the process.
OWN_PICKLES = {
    "unpickled tensorboardX.proto.event_pb2.Event",
    "unpickled builtins.object",  # the last of them
}


def suspicious(file: Path) -> set[str]:
    """Imports, calls and arguments of a module that ours must not have."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & BANNED
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0]} & BANNED
        elif isinstance(node, ast.Call):
            *owner, name = ast.unparse(node.func).split(".")
            if owner in ([], ["os"], ["shutil"], ["builtins"]):
                found |= {name} & CALLS
            found |= {keyword.arg for keyword in node.keywords} & ARGUMENTS
    return found


class _Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def evil(folder: Path) -> tuple[bytes, Callable[[], bool]]:
    """A pickle that runs code, and whether it has."""
    mark = folder / "executed"
    content = pickle.dumps(_Evil(mark))
    pickle.loads(content)
    if not mark.exists():
        raise RuntimeError("it would not be seen")
    mark.unlink()
    return content, mark.exists


class Tampered(NamedTuple):
    """What comes of a checkpoint with pickles in it.

    executed: whether code in one ran. number: of the checkpoint that was taken; 1 is
      the one that was tampered with, 0 the one before.
    """

    executed: bool
    number: int


def tamper(folder: Path, *, replace: bool, forged: bool) -> Tampered:
    """Makes two checkpoints, puts pickles into the newest and reads what is there.

    Args:
      folder: an empty one.
      replace: the files of the checkpoint too, and not only others beside them.
      forged: the digests fit them, as those of a forger would.
    """
    content, executed = evil(folder)
    config = cli.load_config(["train.py", f"--config={ROOT / 'configs/digits.py'}"])
    for number in range(2):
        with run_dir.RunDirectory(folder / "run", config.to_dict()) as directory:
            directory.resume()
            row = {"decisions": {"epoch": number, "branch": -1}}
            directory.commit(row, {"x": np.arange(100.0)}, {"number": number})
    store = folder / "run" / "checkpoints"
    newest = max(store.iterdir(), key=lambda path: int(path.name))
    if replace:
        for file in newest.rglob("*"):
            if file.is_file() and file.name != checkpoints.FACTS:
                file.write_bytes(content)
    for name in ("checkpoint", "state.pkl", "arrays/data.pkl", "arrays/x", "x.yaml"):
        (newest / name).write_bytes(content)
    if forged:
        _seal(newest)
    found = checkpoints.Checkpoints(store)
    facts = found.latest()
    found.close()
    return Tampered(executed(), facts["number"])


def _seal(step: Path) -> None:
    """Makes the digests of a checkpoint fit what is in it."""
    facts = step / checkpoints.FACTS
    sealed = json.loads(facts.read_text())
    del sealed["digest"]
    sealed["files"] = checkpoints._digest_files(step)
    digest = checkpoints._digest_json(sealed)
    facts.write_text(json.dumps(sealed | {"digest": digest}))


def listening(pid: int) -> Iterator[str]:
    """Where a process listens: addresses and ports in hexadecimal."""
    mine: set[str] = set()
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it was closed in the meantime
            mine.add(os.readlink(file))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # the process has ended
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, address, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in mine:
                    yield address


def without_network() -> list[str]:
    """What runs a command where there is no network, not even loopback; empty where
    that is not permitted."""
    command = ["unshare", "-rn"]
    tried = shutil.which("unshare") and subprocess.run([*command, "true"], check=False)
    return command if tried and tried.returncode == 0 else []


class Guarded(NamedTuple):
    """A run of train.py under guard.

    code, errors: its exit code and standard error. did: as `guard` notes it. ports:
    where it listened.
    """

    code: int
    errors: str
    did: list[str]
    ports: list[str]


MARK = "MARKED_CODE"


def guarded(folder: Path, *flags: str, stop: bool = False) -> Guarded:
    """Runs train.py under guard in a folder, without a network where it can be had.

    Args:
      folder: to run in.
      flags: of train.py.
      stop: whether it is sent a SIGTERM after its first epoch.
    """
    program = [sys.executable, str(ROOT / "tests" / "guard.py"), str(folder / "log")]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.Popen(
        [*without_network(), *program, str(ROOT / "train.py"), *flags],
        cwd=folder,
        env=environment | {"GUARD_MARK": MARK},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ports: list[str] = []
    for line in process.stdout:
        if line.startswith("step"):
            ports += listening(process.pid)
            if stop:
                process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    did = json.loads((folder / "log").read_text())
    return Guarded(process.returncode, errors, did, ports)


def marked_config(folder: Path) -> list[str]:
    """Flags of a short run from a JSON config with code in it."""
    argv = ["train.py", f"--config={ROOT / 'configs/digits.py'}"]
    config = cli.load_config(argv).to_dict()
    name = f"__import__('os').system('{MARK}')"
    config |= {"name": name, "epochs": 3, "batch_size": 256, "strategy": "constant"}
    config["model"]["width"] = 1
    (folder / "config.json").write_text(run_dir.dump_config(config))
    return ["--config=config.json", "--workdir=run"]
