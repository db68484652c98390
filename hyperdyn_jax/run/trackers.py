"""Trackers: where the numbers of a run can be watched, beside its own files.

A row is sent once it is on the disk, so that a row that is seen never has to be
computed again. How far each tracker has come is kept in the run directory: a run that
is resumed goes on with the first row that a tracker lacks, in the same run there, and
one that is switched on late gets all that came before.
"""

import importlib.util
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hyperdyn_jax.run import jsonl
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.system.errors import in_a_line

PROJECT = "hyperdyn_jax"  # of W&B and MLflow, unless their own variables say another


class Tracker(Protocol):
    """Something that numbers of a run are sent to."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Takes the numbers of an accepted epoch, which ended at an optimizer step."""
        ...

    def close(self) -> None:
        """Ends the connection; the run may go on later."""
        ...


class Place(NamedTuple):
    """What a tracker starts from.

    path: the run directory.
    config: the settings of the run.
    memory: the notes that it keeps between processes, for JSON; it may add to it.
    step: optimizer steps at the end of the next row that it will be sent.
    """

    path: Path
    config: Row
    memory: dict[str, Any]
    step: int

    @property
    def name(self) -> str:
        """Of the run, for people."""
        return f"{self.config.get('name', PROJECT)}: {self.path.name}"


class TensorBoard:
    """Event files in the run directory."""

    def __init__(self, place: Place):
        from tensorboardX import SummaryWriter

        folder = str(place.path / "tensorboard")
        self._board = SummaryWriter(folder, purge_step=place.step)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_MODE, WANDB_PROJECT and so on count.

    Offline, every process writes a file of its own under `wandb/` in the run directory;
    all have one id, and `wandb sync` makes one run of them.
    """

    def __init__(self, place: Place):
        import wandb

        identity = place.memory.setdefault("id", uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=place.name,
            id=identity,
            resume="allow",
            dir=place.path,
            config=jsonl.config_as_read(place.config),
            settings=wandb.Settings(console="off", quiet=True, disable_git=True),
        )

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or else in a database of the run
    directory, mlflow.db."""

    def __init__(self, place: Place):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        local = _sqlite(place.path / "mlflow.db")
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", local))
        self._metric = Metric
        if "run" in place.memory:
            self._run = place.memory["run"]
            self._client.update_run(self._run, "RUNNING")
        else:
            made = self._client.create_run(self._experiment(), run_name=place.name)
            self._run = place.memory["run"] = made.info.run_id
            settings = jsonl.flat(jsonl.config_as_read(place.config))
            params = [Param(name, str(value)) for name, value in settings.items()]
            self._client.log_batch(self._run, params=params)
        # A process may have ended between sending a row and making a note of it.
        there = self._client.get_metric_history(self._run, "epoch")
        self._last = max((metric.step for metric in there), default=-1)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        if step <= self._last:
            return
        now = int(1000 * time.time())
        metrics = [self._metric(name, x, now, step) for name, x in scalars.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _sqlite(file: Path) -> str:
    """A database in a file whose path may have any characters, a ? among them.

    With the driver's name: MLflow takes what follows on `sqlite:///` for a path, and
    would make its folder in the current directory.
    """
    from sqlalchemy import URL

    name, query = file.absolute().as_uri(), {"uri": "true"}
    return URL.create("sqlite+pysqlite", database=name, query=query).render_as_string()


TRACKERS: dict[str, Callable[[Place], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def parse(names: str) -> list[str]:
    """The trackers that a setting names, separated by commas.

    Raises:
      ValueError: one is unknown, or its package is not installed.
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise ValueError(f"trackers must be one or more of {known}, got {name!r}")
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ValueError(
                f'trackers: {name} is not installed: pip install -e ".[{name}]"'
            )
    return list(dict.fromkeys(found))


class Trackers:
    """The trackers of a run directory.

    Args:
      path: the directory, which is there.
      names: the trackers, keys of `TRACKERS`.
      config: the settings of the run.
      say: is told, in a line, of what cannot be sent.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        config: Row,
        say: Callable[[str], Any] = print,
    ):
        self._path, self._names, self._config, self._say = path, names, config, say
        self._file = path / "trackers.json"
        self._memory = _read(self._file)
        self._open: dict[str, Tracker] = {}
        self._told: set[str] = set()

    def lack(self, rows: int) -> bool:
        """Whether one that was sent something was not sent as many rows."""
        known = (self._memory.get(name) for name in self._names)
        return any(memory.get("rows", 0) < rows for memory in known if memory)

    def start(self) -> None:
        """Opens all that are not files of our own, before anything is trained.

        Raises:
          ValueError: in a line, why one cannot be opened.
        """
        for name in self._names:
            if name == "tensorboard":  # opened at the step that its first row has
                continue
            try:
                self._opened(name, 0)
            except Exception as error:  # there is no end to what a service raises
                found = in_a_line(error)
                raise ValueError(f"{name} cannot be started: {found}") from None
        self._note()

    def follow(self, metrics: Sequence[Row], decisions: Sequence[Row]) -> None:
        """Sends every tracker the rows that it lacks.

        What cannot be sent now is tried again with the next row.

        Args:
          metrics: all rows of metrics.jsonl.
          decisions: at least the rows of decisions.jsonl that led to them.
        """
        accepted = [row for row in decisions if row["branch"] >= 0]
        for name in self._names:
            memory = self._memory.setdefault(name, {})
            try:
                for i in range(memory.get("rows", 0), len(metrics)):
                    step = metrics[i]["step"]
                    tracker = self._opened(name, step)
                    tracker.log(scalars(metrics[i], accepted[i]), step)
                    memory["rows"] = i + 1
            except Exception as error:
                self._open.pop(name, None)
                self._warn(f"{name}: {in_a_line(error)}")
        self._note()

    def close(self) -> None:
        """Ends all connections."""
        for name, tracker in self._open.items():
            try:
                tracker.close()
            except Exception as error:
                self._warn(f"{name}: {in_a_line(error)}")
        self._open = {}

    def _opened(self, name: str, step: int) -> Tracker:
        if name not in self._open:
            memory = self._memory.setdefault(name, {})
            place = Place(self._path, self._config, memory, step)
            self._open[name] = TRACKERS[name](place)
        return self._open[name]

    def _warn(self, problem: str) -> None:
        if problem not in self._told:
            self._say(f"warning: {problem}")
        self._told.add(problem)

    def _note(self) -> None:
        """Keeps how far each has come."""
        if self._memory:
            content = jsonl.dump(self._memory, indent=1) + "\n"
            jsonl.replace_bytes(self._file, content.encode())


def scalars(metrics: Row, decision: Row) -> dict[str, float]:
    """The numbers of an accepted epoch, by the names that trackers show."""
    others = ("step", "hyperparams", "path", "leading")
    found = {k: v for k, v in metrics.items() if k not in others}
    found |= {f"hyperparams/{k}": v for k, v in metrics["hyperparams"].items()}
    found |= {k: decision[k] for k in ("keep_probability", "extra_steps")}
    return {name: float(value) for name, value in found.items() if value is not None}


def _read(file: Path) -> dict[str, Any]:
    """What trackers kept; without it, or if it is damaged, they start again."""
    try:
        memory = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}
