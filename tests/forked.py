"""Runs commands in odd environments, each in a process that is forked from this one.

    python forked.py [homeless]

To import JAX and Matplotlib takes seconds, a fork takes none. For each line of JSON on
its input, {"words": [...], "place": NAME, "here": FOLDER}, a command is run as its
user would: from its `__main__`, with descriptors, exits and the end of the interpreter
of its own. The answer is a line of JSON: {"code": 0, "out": TEXT, "err": TEXT}.
"""

import atexit
import errno
import fcntl
import gc
import json
import locale
import os
import pwd
import runpy
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def homeless(*_: Any) -> NoReturn:
    """Of a user id that no password file has."""
    raise KeyError("uid not found")


if "homeless" in sys.argv:  # what looks for a home while it is imported finds none
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        os.environ.pop(name, None)
    pwd.getpwuid = homeless

import jax  # noqa: E402
import matplotlib.figure  # noqa: E402, F401
import scipy.stats  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import tensorboardX  # noqa: E402, F401 (which brings torch, where there is one)
import tensorflow_datasets  # noqa: E402, F401

from hyperdyn_jax import loop, report  # noqa: E402, F401
from hyperdyn_jax.commands import cli  # noqa: E402, F401


def usual(_: Path) -> None:
    """Nothing is odd."""


def no_accelerator(_: Path) -> None:
    """What JAX_PLATFORMS=cuda sets where there is none."""
    jax.config.update("jax_platforms", "cuda")


def no_platform(_: Path) -> None:
    jax.config.update("jax_platforms", "gpus")


def ascii_only(_: Path) -> None:
    """LC_ALL=C and PYTHONIOENCODING=ascii."""
    locale.setlocale(locale.LC_ALL, "C")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")


def read_only(here: Path) -> None:
    """The folder of the case is on a file system that is mounted read-only."""
    access = os.access

    def may(path: Any, mode: int, **more: Any) -> bool:
        inside = str(path).startswith(str(here))
        return not (inside and mode & os.W_OK) and access(path, mode, **more)

    os.access = may
    refused(here)


def refused(here: Path) -> None:
    """It cannot be written, and nothing said so before: a server that says no."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def refuse(event: str, args: Any) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.truncate")
        writes = writes or (event == "open" and bool(args[2] & writing))
        if writes and str(args[0]).startswith(str(here)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))

    sys.addaudithook(refuse)


def network(_: Path) -> None:
    """A network file system that neither syncs folders nor locks files."""
    sync = os.fsync

    def fail(*_: Any) -> NoReturn:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    os.fsync = lambda file: (
        fail() if stat.S_ISDIR(os.fstat(file).st_mode) else sync(file)
    )
    fcntl.flock = fail


def unread(_: Path) -> None:
    """| head -0"""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def closed(_: Path) -> None:
    """>&-"""
    os.close(1)
    sys.stdout = sys.__stdout__ = None


def removed(here: Path) -> None:
    """The current folder is gone."""
    gone = here / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


PLACES: dict[str, Callable[[Path], None]] = {
    place.__name__: place
    for place in (
        *(usual, no_accelerator, no_platform, ascii_only, read_only, refused, network),
        *(unread, closed, removed),
    )
}
PLACES["homeless"] = usual


def tune(folder: str) -> None:
    """A user's own loop."""
    from hyperdyn_jax import Schedule
    from hyperdyn_jax import tune as tuned

    def train(w: float, hparams: Any, steps: Any) -> float:
        return w * (1 - float(hparams["learning_rate"])) ** len(steps)

    halving = Schedule({"learning_rate": lambda epoch: 0.5 ** (epoch + 0.5)})
    key = jax.random.key(0)
    settings: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 2, "key": key}
    tuned(train, lambda w: -abs(w), 1.0, halving, workdir=folder, **settings)


def run(words: list[str], place: str, here: Path) -> int:
    """A command, as `python -m hyperdyn_jax.NAME WORDS` runs it; its exit code."""
    os.chdir(here)
    if place != "homeless":
        os.environ["HOME"] = str(here)
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(f"{here}.{name}", os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    PLACES[place](here)
    name, sys.argv = words[0], words
    try:
        if name == "tune":
            tune(*words[1:])
        else:
            runpy.run_module(f"hyperdyn_jax.{name}", None, "__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> NoReturn:
    """What the interpreter does at its end, but for freeing every object, for which all
    memory that is shared with the first process would be copied."""
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except Exception:
        code = 120
    os._exit(code)


def serve() -> None:
    """Answers line by line."""
    gc.freeze()
    for line in sys.stdin:
        task = json.loads(line)
        task["here"] = Path(task["here"])
        if not (child := os.fork()):
            end(run(**task))
        _, status = os.waitpid(child, 0)
        texts = {
            name: Path(f"{task['here']}.{name}").read_bytes().decode(errors="replace")
            for name in ("out", "err")
        }
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, **texts}), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    serve()
