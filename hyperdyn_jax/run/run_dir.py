"""The run directory: rows as they happen, checkpoints, and a resume that fits both."""

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hyperdyn_jax.run import jsonl, trackers
from hyperdyn_jax.run.checkpoints import Checkpoints
from hyperdyn_jax.run.config import ConfigError, differences, with_folders
from hyperdyn_jax.run.jsonl import Row, dump, dump_config, replace_bytes
from hyperdyn_jax.strategies.learned_schedule import to_schedule
from hyperdyn_jax.system import files

LOGS = ("decisions", "metrics")
# Settings without which a run is the same, as far as it comes.
MAY_CHANGE = ("save_minutes", "skip_bad_records", "trackers")


class RunDirectory:
    """The files of one run.

    A row is written once the checkpoint that counts it is on the disk, so what can be
    read has never to happen again. That checkpoint holds the row as well, for a process
    may end between the two.

    Args:
      path: the directory; made if it is not there.
      config: of the run.
      say: is told, in a line, of checkpoints that are damaged or cannot be written.

    Raises:
      ConfigError: the directory cannot be written or holds something else; what is in
        it has not been changed.
    """

    def __init__(self, path: Path, config: Row, say: Callable[[str], Any] = print):
        self.path = path
        self._lock, locked = _claim(path, config)
        missing = files.lacks(path)
        self.checkpoints = Checkpoints(path / "checkpoints", say, plain=not missing)
        missing += [] if locked else ["lock files"]
        if missing:
            line = f"the file system of {path} cannot {', '.join(missing)}"
            say(f"warning: {line}{'' if locked else '; start no second run there'}")
        names = ["tensorboard", *trackers.parse(config.get("trackers", ""))]
        self._trackers = trackers.Trackers(
            path, list(dict.fromkeys(names)), config, say
        )
        self._saved = time.monotonic()
        try:
            self._facts = self._newest(say)
            facts = self._facts or {"rows": dict.fromkeys(LOGS)}
            newest = facts.get("last_rows", {})
            self.rows, self._written = {}, {}
            for log in LOGS:
                last = newest.get(log, [])
                there = _read(path, log, facts["rows"][log], len(last))
                self.rows[log], self._written[log] = there + last, len(there)
        except ConfigError:
            self.__exit__()
            raise

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.checkpoints.close()
        finally:
            self._trackers.close()
            self._lock.close()

    def _newest(self, say: Callable[[str], Any]) -> dict[str, Any] | None:
        """The facts of the newest good checkpoint; says which are damaged.

        Raises:
          ConfigError: there are checkpoints, but none is good.
        """
        facts = self.checkpoints.latest()
        damaged = self.checkpoints.damaged.items()
        if damaged and facts is None:
            each = ", ".join(f"{number} ({why})" for number, why in damaged)
            found = f"every checkpoint is damaged: {each}; take another directory"
            raise ConfigError([f"--workdir={self.path}: {found}"])
        for number, why in damaged:
            found = f"checkpoint {number} is damaged ({why})"
            say(f"warning: {found}; going on from an older one")
        return facts

    def is_finished(self) -> bool:
        """Whether the run has ended: its last epoch was tested."""
        return _is_finished(self.rows)

    def resume(self) -> dict[str, Any] | None:
        """Makes the rows fit the newest checkpoint and returns its facts."""
        counts = {log: len(rows) for log, rows in self.rows.items()}
        for log, rows in self.rows.items():
            file = self.path / f"{log}.jsonl"
            if file.exists() and file.read_bytes() == jsonl.lines(rows):
                self._written[log] = counts[log]
            else:
                replace_bytes(file, jsonl.lines(rows[: self._written[log]]))
        if not self.is_finished():
            self._start_trackers()
        if counts != self._written or self._trackers.lack(counts["metrics"]):
            self._publish(counts)
        return self._facts

    def _start_trackers(self) -> None:
        try:
            self._trackers.start()
        except ValueError as error:
            raise ConfigError([f"config.trackers: {error}"]) from None

    def restore(self, like: Any) -> Any:
        """The arrays of that checkpoint, as `Checkpoints.restore` does."""
        return self.checkpoints.restore(like)

    def seconds_since_save(self) -> float:
        """Since the last checkpoint was begun, or the directory was opened."""
        return time.monotonic() - self._saved

    def commit(
        self, rows: Mapping[str, Row], arrays: Any, facts: Mapping[str, Any]
    ) -> None:
        """Begins to save the state of a run, and to write the rows that led to it.

        Args:
          rows: for each log at most one.
          arrays, facts: as `Checkpoints.save` takes them.

        Raises:
          SaveError: the last states could not be saved.
        """
        _add(self.rows, rows)
        counts = {log: len(rows) for log, rows in self.rows.items()}
        last = {log: self.rows[log][self._written[log] :] for log in LOGS}
        facts = {**facts, "rows": counts, "last_rows": last}
        publish = functools.partial(self._publish, counts)
        self.checkpoints.save(arrays, facts, publish)
        self._saved = time.monotonic()

    def _publish(self, counts: Mapping[str, int]) -> None:
        """Appends the rows up to these numbers of them, all that are not there yet."""
        for log, count in counts.items():
            rows = self.rows[log][self._written[log] : count]
            jsonl.append(self.path / f"{log}.jsonl", jsonl.lines(rows))
            self._written[log] = count
        metrics = self.rows["metrics"][: counts["metrics"]]
        if metrics:
            schedule = dump(to_schedule(metrics), indent=1) + "\n"
            replace_bytes(self.path / "schedule.json", schedule.encode())
        self._trackers.follow(metrics, self.rows["decisions"])


class Follower:
    """The run directory of a process that is not the one that writes it.

    It holds the rows in memory and leaves the disk alone.

    Args:
      path: the directory.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[str, list[Row]] = {log: [] for log in LOGS}

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def is_finished(self) -> bool:
        return _is_finished(self.rows)

    def resume(self) -> None:
        """The process that writes has the facts."""

    def restore(self, like: Any) -> Any:
        """Something of the shape; the process that writes has the numbers."""
        return like

    def seconds_since_save(self) -> float:
        """The process that writes knows when to save."""
        return 0.0

    def commit(
        self,
        rows: Mapping[str, Row],
        arrays: Any,  # noqa: ARG002 (as a RunDirectory's)
        facts: Mapping[str, Any],  # noqa: ARG002
    ) -> None:
        _add(self.rows, rows)


def _is_finished(rows: Mapping[str, Sequence[Row]]) -> bool:
    return "test_accuracy" in (rows["metrics"] or [{}])[-1]


def _add(there: Mapping[str, list[Row]], rows: Mapping[str, Row]) -> None:
    """Adds rows as they will be read."""
    for log, row in rows.items():
        there[log].append(jsonl.as_read(row))


def problems(path: Path, config: Row) -> list[str]:
    """Why a directory cannot be the run directory of a config; changes nothing."""
    file, where = path / "config.json", f"--workdir={path}"
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError:
        problem = "its name is no text in UTF-8, which checkpoints need"
        return [f"{where}: {problem}; choose another, or a locale such as C.UTF-8"]
    # Not Path.exists, which raises where a name is too long.
    first = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    if not (first.is_dir() and os.access(first, os.W_OK | os.X_OK)):
        return [f"{where} cannot be written: {first} is no writable folder"]
    if not os.path.exists(file):
        parts = ["checkpoints", *(f"{log}.jsonl" for log in LOGS)]
        found = [name for name in parts if os.path.exists(path / name)]
        return [f"{where} holds {name} but no {file.name}" for name in found]
    try:
        there = json.loads(file.read_text())
        if not isinstance(there, dict):
            raise ValueError("it is no object of settings")
    except (ValueError, RecursionError) as error:
        return [f"{where}: {file.name} is damaged: {error}"]
    then, now = map(_comparable, (there, json.loads(dump_config(config))))
    changes = "; ".join(differences(then, now))
    advice = (
        f"choose the same settings, or another directory, where --fork={path} starts"
    )
    advice += " anew from its weights"
    message = f"{where} holds a run of another config; {advice}: {changes}"
    return [message] if changes else []


def _comparable(config: Row) -> Row:
    """A config as it is compared: without what may change, and each folder written in
    one way."""
    config = {name: x for name, x in config.items() if name not in MAY_CHANGE}
    return with_folders(config, files.absolute)


def _claim(path: Path, config: Row) -> tuple[TextIO, bool]:
    """Makes the directory this config's and, until the file is closed, this process's.

    The lock goes with the process, however it ends.

    Returns:
      The file, and whether it is locked: not every file system can.
    """
    if found := problems(path, config):
        raise ConfigError(found)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock, locked = files.lock(path)
    except BlockingIOError:
        message = f"--workdir={path} is in use by another process"
        raise ConfigError([message]) from None
    except OSError as error:
        message = f"--workdir={path} cannot be written: {error.strerror}"
        raise ConfigError([message]) from None
    replace_bytes(path / "config.json", dump_config(config).encode())
    return lock, locked


def _read(path: Path, log: str, count: int | None, last: int) -> list[Row]:
    """The rows of a log that a checkpoint counts, but for the last, which it holds.

    Raises:
      ConfigError: there are fewer, or one is damaged, or there are rows, but no
        checkpoint.
    """
    file = path / f"{log}.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else []
    if count is None and lines:
        raise ConfigError(
            [f"--workdir={path}: {file.name} has {len(lines)} rows, but no checkpoint"]
        )
    needed = (count or 0) - last
    if len(lines) < needed:
        found = f"{file.name} has {len(lines)} rows"
        raise ConfigError(
            [f"--workdir={path}: {found}, but the checkpoint comes after {count}"]
        )
    rows = []
    for number, line in enumerate(lines[:needed], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ConfigError(
                [f"--workdir={path}: {file.name}, row {number}, is damaged: {error}"]
            ) from None
    return rows
