"""The run directory: rows as they happen, checkpoints, and a resume that fits both."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from hyperdyn_jax.checkpoints import Checkpoints
from hyperdyn_jax.config import ConfigError, differences
from hyperdyn_jax.schedule import to_schedule

Row = Mapping[str, Any]
LOGS = ("decisions", "metrics")


class RunDirectory:
    """The files of one run.

    A row is on the disk before the checkpoint that counts it. On a resume, rows that
    no checkpoint counts are cut off; they happen again exactly as they did.

    Args:
      path: the directory; made if it is not there.
      config: of the run.

    Raises:
      ConfigError: the directory cannot be written or holds something else; what is in
        it has not been changed.
    """

    def __init__(self, path: Path, config: Row):
        self.path = path
        _claim(path, config)
        self.rows: dict[str, list[Row]] = {log: [] for log in LOGS}
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._facts = self.checkpoints.latest()
        self._board: SummaryWriter | None = None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpoints.close()
        if self._board is not None:
            self._board.close()

    def steps_done(self) -> int:
        """Accepted optimizer steps in the newest checkpoint."""
        return self._facts["step"] if self._facts else 0

    def resume(self) -> dict[str, Any] | None:
        """Cuts the rows back to the newest checkpoint and returns its facts."""
        counts = self._facts["rows"] if self._facts else {}
        for log in LOGS:
            file = self.path / f"{log}.jsonl"
            lines = file.read_bytes().splitlines() if file.exists() else []
            lines = lines[: counts.get(log, 0)]
            self.rows[log] = [json.loads(line) for line in lines]
            replace_bytes(file, b"".join(line + b"\n" for line in lines))
        return self._facts

    def record(self, rows: Mapping[str, Row]) -> None:
        """Appends a row to each log that is given one."""
        for log, row in rows.items():
            line = dump(row)
            with (self.path / f"{log}.jsonl").open("a") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.rows[log].append(json.loads(line))
        if "metrics" in rows:
            schedule = dump(to_schedule(self.rows["metrics"]), indent=1) + "\n"
            replace_bytes(self.path / "schedule.json", schedule.encode())
            self._show(self.rows["metrics"][-1], self.rows["decisions"][-1])

    def checkpoint(self, arrays: Any, facts: Mapping[str, Any]) -> None:
        """Saves the state that the rows written so far lead to."""
        counts = {log: len(rows) for log, rows in self.rows.items()}
        number = counts["decisions"]
        self.checkpoints.save(number, arrays, {**facts, "rows": counts})

    def _show(self, metrics: Row, decision: Row) -> None:
        """TensorBoard's copy of an epoch, over accepted optimizer steps."""
        step = metrics["step"]
        if self._board is None:
            folder = str(self.path / "tensorboard")
            self._board = SummaryWriter(folder, purge_step=step)
        scalars = {k: v for k, v in metrics.items() if k not in ("step", "hyperparams")}
        scalars |= {f"hyperparams/{k}": v for k, v in metrics["hyperparams"].items()}
        scalars |= {k: decision[k] for k in ("keep_probability", "extra_steps")}
        for name, value in scalars.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        self._board.flush()


def problems(path: Path, config: Row) -> list[str]:
    """Why a directory cannot be the run directory of a config; changes nothing."""
    file, where = path / "config.json", f"--workdir={path}"
    first = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not (first.is_dir() and os.access(first, os.W_OK | os.X_OK)):
        return [f"{where} cannot be written: {first} is no writable folder"]
    if not file.exists():
        rows = [f"{log}.jsonl" for log in LOGS if (path / f"{log}.jsonl").exists()]
        return [f"{where} holds {name} but no {file.name}" for name in rows]
    try:
        there = json.loads(file.read_text())
    except ValueError as error:
        return [f"{where}: {file.name} is damaged: {error}"]
    changes = "; ".join(differences(there, json.loads(dump(config))))
    advice = "choose another directory, or the same settings"
    message = f"{where} holds a run of another config; {advice}: {changes}"
    return [message] if changes else []


def _claim(path: Path, config: Row) -> None:
    """Makes the directory this config's."""
    if found := problems(path, config):
        raise ConfigError(found)
    try:
        path.mkdir(parents=True, exist_ok=True)
        content = dump(config, indent=2) + "\n"
        replace_bytes(path / "config.json", content.encode())
    except OSError as error:
        message = f"--workdir={path} cannot be written: {error.strerror}"
        raise ConfigError([message]) from None


def dump(value: Any, indent: int | None = None) -> str:
    """JSON of plain values and arrays; a number that is not finite becomes null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def replace_bytes(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    os.replace(part, file)
