"""Paths as people write them, and file systems that refuse some calls."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from hyperdyn_jax.system.errors import in_words

if sys.platform != "win32":
    import fcntl

# What a call fails with where a file system does not have it. Network file systems and
# those of object stores refuse to sync a folder, for example.
REFUSED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}
REFUSED |= {errno.EBADF, errno.EPERM, errno.EACCES}


def expand(path: str | Path) -> Path:
    """The path with the home folder in place of ~.

    Raises:
      ValueError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home folder") from None


def absolute(path: str) -> str:
    """The one path of a place that can be written in several ways."""
    return os.path.realpath(os.path.expanduser(path))


def existing(folder: Path) -> Path:
    """A folder, or as much of its path as there is."""
    # Not Path.exists, which raises where a name is too long.
    return next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))


def unwritable(folder: Path) -> str:
    """Why a folder cannot be made or written to; "" if nothing speaks against it."""
    try:
        first = existing(folder)
    except OSError as error:
        return in_words(error)
    if first.is_dir() and os.access(first, os.W_OK | os.X_OK):
        return ""
    return f"{first} is not a writable folder"


def sync(descriptor: int) -> None:
    """Waits until a file or a folder is on the disk, where it can be waited for."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in REFUSED:
            raise


def sync_tree(folder: Path) -> None:
    """Waits until a folder and all that is in it are on the disk."""
    for path in (*folder.rglob("*"), folder):
        with _opened(path) as descriptor:
            sync(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The descriptor of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy(source: Path, target: Path) -> None:
    """Copies a folder, without modes and times, which not every file system takes.

    In the order of names: the last file is there only if all others are.
    """
    target.mkdir()
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir()
        else:
            shutil.copyfile(path, there)


def move(source: Path, target: Path) -> None:
    """Renames a folder; copies it where the file system renames none."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        copy(source, target)
        shutil.rmtree(source)


def lock(folder: Path) -> tuple[TextIO, bool]:
    """Makes a folder this process's until the file is closed, however that ends.

    Returns:
      The file, and whether it is locked: not every file system can.

    Raises:
      BlockingIOError: another process has it.
      OSError: the folder cannot be written.
    """
    file = (folder / ".lock").open("w")
    if sys.platform == "win32":
        return file, False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        return file, False
    return file, True


def free(folder: Path) -> float:
    """Bytes that are free there; without end where the file system does not tell."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return float("inf")
    return usage.free if usage.total else float("inf")


def lacks(folder: Path) -> list[str]:
    """What a folder's file system refuses to do, in words; it is tried."""
    probe, moved = folder / ".probe", folder / ".probed"

    def try_file() -> None:
        with (probe / "file").open("w") as file:
            os.fsync(file.fileno())

    def try_folder() -> None:
        with _opened(probe) as descriptor:
            os.fsync(descriptor)

    tries: dict[str, Callable[[], Any]] = {
        "sync files": try_file,
        "sync folders": try_folder,
        "rename folders": lambda: probe.rename(moved),
    }
    missing = []
    with contextlib.suppress(OSError):  # which is told when a checkpoint is written
        for path in (probe, moved):
            shutil.rmtree(path, ignore_errors=True)
        probe.mkdir()
        for what, call in tries.items():
            try:
                call()
            except OSError as error:
                if error.errno in REFUSED:
                    missing.append(what)
    for path in (probe, moved):
        shutil.rmtree(path, ignore_errors=True)
    return missing
