"""The run directory: rows as they happen, checkpoints, and a resume that fits both."""

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hyperdyn_jax.run import jsonl, trackers
from hyperdyn_jax.run import rows as row_lib
from hyperdyn_jax.run.checkpoints import Checkpoints
from hyperdyn_jax.run.config_errors import ConfigError
from hyperdyn_jax.run.config_schema import current, differences, with_folders
from hyperdyn_jax.run.jsonl import Row, dump, dump_config, replace_bytes
from hyperdyn_jax.run.rows import LOGS
from hyperdyn_jax.strategies.learned_schedule import to_schedule
from hyperdyn_jax.system import files

# Settings that may differ when a run is resumed.
MAY_CHANGE = ("save_minutes", "skip_bad_records", "trackers")
FORMAT = 2  # of what checkpoints hold: runs before it had no version


class RunDirectory:
    """The files of one run.

    A row is written once the checkpoint that counts it is on the disk, so a row that
    can be read never has to be computed again. That checkpoint holds the row as well,
    for a process may end between the two.

    Args:
      path: the directory; made if it is not there.
      config: the settings of the run.
      say: is told, in a line, of checkpoints that are damaged or cannot be written.
      names: the trackers that rows are sent to.
      flag: the name that messages have for the directory.

    Raises:
      ConfigError: the directory cannot be written or holds something else; what is in
        it has not been changed.
    """

    keeps = True

    def __init__(
        self,
        path: Path,
        config: Row,
        say: Callable[[str], Any] = print,
        names: Sequence[str] = (),
        flag: str = "--workdir",
    ):
        self.path, self._where = path, f"{flag}={path}"
        self._lock, locked = _claim(path, config, flag)
        missing = files.lacks(path)
        self.checkpoints = Checkpoints(path / "checkpoints", say, plain=not missing)
        missing += [] if locked else ["lock files"]
        if missing:
            line = f"the file system of {path} cannot {', '.join(missing)}"
            say(f"warning: {line}{'' if locked else '; start no second run there'}")
        self._trackers = trackers.Trackers(path, list(names), config, say)
        self._saved = time.monotonic()
        try:
            self._facts = self._newest(say)
            facts = self._facts or {"rows": dict.fromkeys(LOGS)}
            newest = facts.get("last_rows", {})
            self.rows: dict[str, list[dict[str, Any]]] = {}
            self._written: dict[str, int] = {}
            for log in LOGS:
                last = newest.get(log, [])
                there = self._read(log, facts["rows"][log], len(last))
                self.rows[log], self._written[log] = there + last, len(there)
            if self._facts is not None:
                self._check_format(self._facts)
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
            raise ConfigError([f"{self._where}: {found}"])
        for number, why in damaged:
            found = f"checkpoint {number} is damaged ({why})"
            say(f"warning: {found}; going on from an older one")
        return facts

    def _check_format(self, facts: Row) -> None:
        """Raises ConfigError where another version of the program saved an unfinished
        run, in a form that this one does not know."""
        theirs = facts.get("format", 1)
        if theirs != FORMAT and not self.is_finished():
            found = f"unfinished run of another version, format {theirs}, not {FORMAT}"
            advice = "finish it with that version, or choose another directory"
            raise ConfigError([f"{self._where} holds an {found}; {advice}"])

    def _read(self, log: str, count: int | None, last: int) -> list[dict[str, Any]]:
        """The rows in a log file, except the newest ones, which are inside the
        checkpoint.

        Raises:
          ConfigError: there are fewer, or one is damaged, or there are rows, but no
            checkpoint.
        """
        file = self.path / f"{log}.jsonl"
        lines = file.read_bytes().splitlines() if file.exists() else []
        if count is None and lines:
            found = f"{file.name} has {len(lines)} rows, but no checkpoint"
            raise ConfigError([f"{self._where}: {found}"])
        needed = (count or 0) - last
        if len(lines) < needed:
            found = f"{file.name} has {len(lines)} rows"
            raise ConfigError(
                [f"{self._where}: {found}, but the checkpoint comes after {count}"]
            )
        rows = []
        for number, line in enumerate(lines[:needed], start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                found = f"{file.name}, row {number}, is damaged: {error}"
                raise ConfigError([f"{self._where}: {found}"]) from None
        return rows

    def is_finished(self) -> bool:
        """Whether the run has ended."""
        ended = self._facts is not None and self._facts.get("ended", False)
        return ended or row_lib.is_finished(self.rows)

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
            raise ConfigError([f"trackers: {error}"]) from None

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
        row_lib.add(self.rows, rows)
        counts = {log: len(rows) for log, rows in self.rows.items()}
        last = {log: self.rows[log][self._written[log] :] for log in LOGS}
        facts = {**facts, "rows": counts, "last_rows": last, "format": FORMAT}
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


def problems(path: Path, config: Row, flag: str = "--workdir") -> list[str]:
    """Why a directory cannot be the run directory of a config; changes nothing."""
    file, where = path / "config.json", f"{flag}={path}"
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError:
        problem = "its name is not text in UTF-8, which checkpoints need"
        return [f"{where}: {problem}; choose another, or a locale such as C.UTF-8"]
    if why := files.unwritable(path):
        return [f"{where} cannot be written: {why}"]
    if not os.path.exists(file):
        parts = ["checkpoints", *(f"{log}.jsonl" for log in LOGS)]
        found = [name for name in parts if os.path.exists(path / name)]
        return [f"{where} holds {name} but no {file.name}" for name in found]
    try:
        there = json.loads(file.read_text())
        if not isinstance(there, dict):
            raise ValueError("it is not an object of settings")
    except (ValueError, RecursionError) as error:
        return [f"{where}: {file.name} is damaged: {error}"]
    then, now = map(_comparable, (there, jsonl.config_as_read(config)))
    changes = "; ".join(differences(then, now))
    advice = "choose the same settings, or another directory"
    if flag.startswith("--"):  # of a command, which can fork
        advice += f", where --fork={path} starts anew from its weights"
    message = f"{where} holds a run of another config; {advice}: {changes}"
    return [message] if changes else []


def _comparable(config: Row) -> Row:
    """A config as it is compared: in the settings of this version, without what may
    change, and each folder written in one way."""
    config = current(config)
    config = {name: x for name, x in config.items() if name not in MAY_CHANGE}
    return with_folders(config, files.absolute)


def _claim(path: Path, config: Row, flag: str) -> tuple[TextIO, bool]:
    """Makes the directory this config's and, until the file is closed, this process's.

    The lock goes with the process, however it ends.

    Returns:
      The file, and True if it is locked: not every file system can.
    """
    if found := problems(path, config, flag):
        raise ConfigError(found)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock, locked = files.lock(path)
    except BlockingIOError:
        message = f"{flag}={path} is in use by another process"
        raise ConfigError([message]) from None
    except OSError as error:
        message = f"{flag}={path} cannot be written: {error.strerror}"
        raise ConfigError([message]) from None
    replace_bytes(path / "config.json", dump_config(config).encode())
    return lock, locked
