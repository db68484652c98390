"""Checkpoints of a run, through Orbax: whole, checked, written in the background."""

import errno
import functools
import glob
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hyperdyn_jax.run.config_errors import ConfigError
from hyperdyn_jax.system import files
from hyperdyn_jax.system.errors import first_line
from hyperdyn_jax.system.pytrees import Shaped, digest

FULL = (errno.ENOSPC, errno.EDQUOT)
FACTS, PART = "facts.json", ".part"  # PART ends the name of an unfinished one
KEEP = 2  # of the newest
MARGIN = 2**20  # bytes that a checkpoint leaves free, for rows and Orbax's metadata
SHOWN = 5  # of the arrays that are not as they should be
MISSES = 3  # in a row, before a run that cannot save its state gives up


class SaveError(RuntimeError):
    """The state of a run cannot be written; the newest checkpoint is as it was.

    full: True if the disk is full.
    """

    def __init__(self, problem: str, full: bool):
        super().__init__(problem)
        self.full = full


class Checkpoints:
    """The newest states of a run, each written whole or not at all.

    Digests of every file, every array and the facts are written with them, and a
    checkpoint that differs from them is never used: Orbax restores most damage in
    silence.

    Args:
      folder: the folder that holds them; made by the first if it is not there.
      say: is told, in a line, of each that could not be written.
      plain: True if their file system can do what Orbax asks of it (`files.lacks`);
        else it writes to a temporary folder, whose files are then copied.

    Attributes:
      damaged: a few words on each that `latest` passed over, by its number.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], Any] = print,
        plain: bool = True,
    ):
        self._folder, self._say = folder.resolve(), say
        # Orbax takes a name with [ in it for a pattern, and misses its own parts.
        self._plain = plain and not glob.has_magic(str(self._folder))
        self._writer = ThreadPoolExecutor(1)  # one: in order, and Orbax from one thread
        self._future: Future[None] | None = None
        self._number = 0  # of the last, written or not
        self._misses, self._miss, self._full = 0, "", False
        self._missed: Callable[[], None] | None = None  # the last one's second chance
        self._arrays: dict[str, np.ndarray] = {}
        self.damaged: dict[int, str] = {}

    @functools.cached_property
    def _orbax(self) -> Any:
        """Its checkpointer, made at the first use: the import takes a quarter of a
        second, which the first training step need not wait for."""
        import orbax.checkpoint as ocp

        # Of several processes one writes, and the others do not wait for it.
        alone = {jax.process_index()} if jax.process_count() > 1 else None
        options = ocp.options.MultiprocessingOptions(
            active_processes=alone, barrier_sync_key_prefix=alone and "checkpoints"
        )
        return ocp.Checkpointer(
            ocp.StandardCheckpointHandler(multiprocessing_options=options),
            multiprocessing_options=options,
        )

    def save(
        self,
        arrays: Any,
        facts: dict[str, Any],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins to write a checkpoint.

        One that is still waiting for the one before it to be written is dropped: this
        one is newer. The very first is waited for, so that a run which has come
        further than that can always be resumed.

        Args:
          arrays: a pytree of arrays, which may be on devices.
          facts: plain numbers and text, for JSON.
          then: called in the background as soon as it is on the disk; it is not
            written if this fails.

        Raises:
          SaveError: the last ones could not be written.
        """
        self._check()
        if self._future is not None:
            self._future.cancel()
        host = jax.device_get(arrays)
        self._number = max([self._number, *self._numbers()]) + 1
        write = functools.partial(self._write, self._number, host, facts, then)
        self._future = self._writer.submit(write)
        if not self._numbers():
            self._future.result()
            self._check()

    def latest(self) -> dict[str, Any] | None:
        """The facts of the newest checkpoint that is undamaged, or None."""
        self.damaged = {}
        for number in reversed(self._numbers()):
            try:
                facts, self._arrays = self._read(number)
            except Exception as error:  # there is no end to what damage makes it raise
                self.damaged[number] = first_line(error)[:200]
            else:
                return facts
        return None

    def restore(self, like: Any) -> Any:
        """The arrays of the checkpoint that `latest` found, as NumPy arrays.

        Those that it passed over are removed: the run will come to them again.

        Args:
          like: a pytree of the same structure, shapes and dtypes.

        Raises:
          ConfigError: the checkpoint is of another network or tuner.
        """
        found, self._arrays = self._arrays, {}
        restored = self._matched(like, found)
        for number in self.damaged:
            shutil.rmtree(self._folder / str(number))
        return restored

    def pick(self, like: Any, where: str) -> Any:
        """Some of the arrays of the checkpoint that `latest` found; changes nothing.

        Args:
          like: a pytree of the same structure, shapes and dtypes as what is there.
          where: its path in the pytree that was saved, as "held/0".

        Raises:
          ConfigError: another tree is there.
        """
        start = f"{where}/"
        found = {
            name.removeprefix(start): array
            for name, array in self._arrays.items()
            if name.startswith(start)
        }
        return self._matched(like, found)

    def _matched(self, like: Any, found: dict[str, np.ndarray]) -> Any:
        """Arrays by name as a pytree, unless they are not like it in every leaf."""
        wanted = _by_name(like)
        changes = [
            f"{name} is {_kind(wanted.get(name))} here, {_kind(found.get(name))} there"
            for name in sorted(wanted | found)
            if not _alike(wanted.get(name), found.get(name))
        ]
        if changes:
            more = len(changes) - SHOWN
            text = "; ".join(changes[:SHOWN]) + f"; and {more} more" * (more > 0)
            where = f"{self._folder} is of another state or strategy"
            raise ConfigError([f"{where}: {text}"])
        return jax.tree.unflatten(jax.tree.structure(like), map(found.get, wanted))

    def close(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
          SaveError: it could not be.
        """
        self._writer.shutdown()
        while self._missed is not None and self._misses < MISSES:
            self._missed()
        if "_orbax" in vars(self):
            self._orbax.close()
        self._check()

    def _check(self) -> None:
        """Ends the run when it has not been able to save its state for some time.

        Raises:
          SaveError: that is so.
          Exception: what the last write did not catch, which nobody would see.
        """
        last = self._future
        if last is not None and last.done() and not last.cancelled():
            last.result()
        if self._misses >= (MISSES if self._numbers() else 1):
            where = f"{self._folder} takes no checkpoint"
            raise SaveError(f"{where}: {self._miss}", self._full)

    def _write(
        self,
        number: int,
        arrays: Any,
        facts: dict[str, Any],
        then: Callable[[], None],
    ) -> None:
        """Writes a checkpoint, or says why not; it then has another try as a newer one.

        In the background, where nobody would see what it raised.
        """

        def store() -> None:
            if not (self._folder / str(number)).exists():
                self._store(number, arrays, facts)
            then()

        try:
            try:
                store()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._prune(1)
                store()
                self._say(f"warning: the disk is full but for checkpoint {number}")
            self._misses, self._missed = 0, None
        except Exception as error:
            self._misses, self._miss = self._misses + 1, first_line(error)[:200]
            self._full = isinstance(error, OSError) and error.errno in FULL
            self._missed = functools.partial(self._write, number, arrays, facts, then)
            times = f"{self._misses} of {MISSES} misses in a row"
            self._say(
                f"warning: checkpoint {number} not written, {times}: {self._miss}"
            )
        self._prune(KEEP)

    def _store(self, number: int, arrays: Any, facts: dict[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)  # in a run directory that is still there
        # Asked beforehand: on a full disk Orbax prints tracebacks from its threads.
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(arrays))
        if files.free(self._folder) < size + MARGIN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = self._folder / f"{number}{PART}"
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        self._save(part / "arrays", arrays)
        sealed = {
            "facts": facts,
            "arrays": {name: digest(array) for name, array in _by_name(arrays).items()},
            "files": _digest_files(part),
        }
        text = json.dumps(sealed | {"digest": _digest_json(sealed)}, indent=1)
        (part / FACTS).write_text(text + "\n")
        files.sync_tree(part)  # older ones are removed after that
        files.move(part, self._folder / str(number))

    def _save(self, folder: Path, arrays: Any) -> None:
        if self._plain:
            self._orbax.save(folder, arrays)
            return
        with tempfile.TemporaryDirectory() as elsewhere:
            written = Path(elsewhere, "arrays")
            self._orbax.save(written, arrays)
            folder.parent.mkdir()
            files.copy(written, folder)

    def _read(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The facts, and the arrays by name.

        Files are checked before Orbax reads them, for some damage it takes for arrays
        and of other it complains from threads of its own; and the arrays afterwards,
        without the shapes and dtypes that they should have: Orbax would cast to them.

        Raises:
          ValueError: naming what is damaged.
        """
        folder = self._folder / str(number)
        try:
            sealed = json.loads((folder / FACTS).read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{FACTS} is missing") from None
        except ValueError:
            sealed = {}
        if sealed.pop("digest", None) != _digest_json(sealed):
            raise ValueError(f"{FACTS} is not what was written")
        _compare(_digest_files(folder), sealed["files"])
        arrays = _by_name(self._orbax.restore(folder / "arrays"))
        _compare({k: digest(v) for k, v in arrays.items()}, sealed["arrays"])
        return sealed["facts"], arrays

    def _numbers(self) -> list[int]:
        """Of the checkpoints that are there, ascending."""
        names = (path.name for path in self._folder.glob("*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _prune(self, keep: int) -> None:
        """Removes all but the newest checkpoints, and what others left unfinished."""
        old = [self._folder / str(number) for number in self._numbers()[:-keep]]
        for path in [*old, *self._folder.glob(f"*{PART}")]:
            shutil.rmtree(path, ignore_errors=True)


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, alike for tuples and for dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf for path, leaf in leaves}


def _kind(array: Any) -> str:
    """Dtype and shape of an array."""
    if isinstance(array, Shaped):
        return "text" if array.shape is None else f"an array {list(array.shape)}"
    return "missing" if array is None else f"{array.dtype}{list(np.shape(array))}"


def _alike(wanted: Any, found: np.ndarray | None) -> bool:
    """Whether an array is what is wanted."""
    if isinstance(wanted, Shaped) and found is not None:
        return wanted.shape in (None, found.shape)
    return _kind(wanted) == _kind(found)


def _digest_json(value: Any) -> int:
    """CRC-32 of plain values, as text."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _digest_files(folder: Path) -> dict[str, int]:
    """CRC-32 of every file but that of the facts, by its path in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    names.pop(FACTS, None)
    return {name: _digest_file(path) for name, path in names.items()}


def _digest_file(path: Path) -> int:
    """CRC-32, a part that fits the processor's cache at a time."""
    digest = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest = zlib.crc32(part, digest)
    return digest


def _compare(found: dict[str, int], written: dict[str, int]) -> None:
    """Raises ValueError with the first name whose digest is another."""
    if wrong := sorted(name for name, _ in found.items() ^ written.items()):
        state = "not what was written" if wrong[0] in found else "missing"
        raise ValueError(f"{wrong[0]} is {state}")
