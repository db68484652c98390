"""The learned schedule as a file, and back as Optax schedules."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

Piece = tuple[int, dict[str, float]]


def to_schedule(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The accepted path: what each hyperparameter was, and up to which step.

    Args:
      metrics: rows of metrics.jsonl. One that has a `path` does not follow on the row
        before it, but on another state, to which these settings led up to these steps.

    Returns:
      {"until_step": [n], "hyperparams": {name: [n]}}: value i holds from the step
      that value i - 1 ended at until `until_step[i]`, in optimizer steps.
    """
    path = path_of(metrics)
    names = path[0][1] if path else {}
    return {
        "until_step": [step for step, _ in path],
        "hyperparams": {name: [x[name] for _, x in path] for name in names},
    }


def path_of(metrics: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The accepted path as pieces: the step that each ends at, and its settings."""
    return [[], *_paths(metrics)][-1]


def _paths(metrics: Sequence[Mapping[str, Any]]) -> Iterator[list[Piece]]:
    """The path to the state of each row; the same list as long as rows go on."""
    path: list[Piece] = []
    for row in metrics:
        if "path" in row:
            path = [(step, setting) for step, setting in row["path"]]
        if not path or row["step"] != path[-1][0]:  # a last row may add no step
            path.append((row["step"], row["hyperparams"]))
        yield path


def on_path(metrics: Sequence[Mapping[str, Any]]) -> list[int]:
    """The rows whose states the run came through on its way to that of the last row.

    Others led a race, or were the best of a population, until another was taken; or
    they were taken back.
    """
    whole = path_of(metrics)
    last = max((i for i, row in enumerate(metrics) if "path" in row), default=0)
    each = enumerate(_paths(metrics))
    return [i for i, path in each if i >= last or begins_with(whole, path)]


def begins_with(path: Sequence[Any], start: Sequence[Any]) -> bool:
    """Whether the one path goes through the end of the other: branches of one state
    see the same batches, so that equal settings lead to equal states."""
    if len(start) > len(path):
        return False
    pairs = zip(path, start, strict=False)
    return all(tuple(a) == tuple(b) for a, b in pairs)  # lists, where read from JSON


def load_schedule(path: str | Path) -> dict[str, optax.Schedule]:
    """Optax schedules that replay the hyperparameters of a run, step by step.

    Args:
      path: a schedule.json, or the run directory it is in.

    Returns:
      For every hyperparameter a function of the step, i32[] -> f32[]; after the last
      step the last value stays.

    Raises:
      ValueError: the file is not a schedule.
      OSError: the file cannot be read.
    """
    return _functions(*read_schedule(path))


def schedules(content: Mapping[str, Any]) -> dict[str, optax.Schedule]:
    """The same from the content of a schedule.json, as `to_schedule` makes it.

    Raises:
      ValueError: it is not a schedule.
    """
    return _functions(*_parse(content, "this"))


def read_schedule(path: str | Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pieces of a run's accepted path.

    Args:
      path: a schedule.json, or the run directory it is in.

    Returns:
      i32[n], the step that each piece ends at; and for every hyperparameter f32[n].

    Raises:
      ValueError: the file is not a schedule.
      OSError: the file cannot be read.
    """
    file = Path(path)
    file = file / "schedule.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not a schedule: {error!r}") from None
    return _parse(content, file)


def _parse(content: Any, where: object) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    try:
        ends = np.array(content["until_step"], np.int32)
        values = {
            name: np.array(value, np.float32)
            for name, value in content["hyperparams"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not a schedule: {error!r}") from None
    if not len(ends) or any(v.shape != ends.shape for v in values.values()):
        raise ValueError(f"{where} is not a schedule: it has no or uneven values")
    if np.diff(ends, prepend=np.int32(0)).min() < 1:
        raise ValueError(f"{where} is not a schedule: its steps do not increase")
    if not all(np.isfinite(v).all() for v in values.values()):
        raise ValueError(f"{where} is not a schedule: a value is not a finite number")
    return ends, values


class Difference(NamedTuple):
    """Where one hyperparameter of two schedules is not the same.

    first: the first step at which it is not.
    steps: how many there are, among those that both schedules have.
    most: the step with the largest ratio, or difference where a value is 0.
    values: of both schedules, at the first step and at that one.
    """

    first: int
    steps: int
    most: int
    values: tuple[tuple[float, float], tuple[float, float]]


def differences(a: str | Path, b: str | Path) -> dict[str, Difference | None]:
    """Where two runs' schedules part, and by how much.

    Args:
      a, b: as for `read_schedule`.

    Returns:
      For every hyperparameter that both have; None where they are the same at every
      step that both have.

    Raises:
      ValueError, OSError: as `read_schedule` does.
    """
    (ends, values), (other_ends, other_values) = read_schedule(a), read_schedule(b)
    # Both hold still from one of these steps to the next.
    starts = np.unique([0, *ends, *other_ends])
    starts = starts[starts < min(ends[-1], other_ends[-1])]
    lengths = np.diff(starts, append=min(ends[-1], other_ends[-1]))

    def at(ends: np.ndarray, values: np.ndarray) -> np.ndarray:
        pieces = np.searchsorted(ends, starts, side="right")
        return np.asarray(values[pieces], np.float64)

    return {
        name: _difference(
            at(ends, values[name]), at(other_ends, other_values[name]), starts, lengths
        )
        for name in values
        if name in other_values
    }


def _difference(
    x: np.ndarray, y: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> Difference | None:
    apart = x != y
    if not apart.any():
        return None
    positive = (np.minimum(x, y) > 0).all()
    size = np.abs(np.log(x / y)) if positive else np.abs(x - y)
    first, most = int(np.argmax(apart)), int(np.argmax(size))
    return Difference(
        first=int(starts[first]),
        steps=int(lengths[apart].sum()),
        most=int(starts[most]),
        values=(
            (float(x[first]), float(y[first])),
            (float(x[most]), float(y[most])),
        ),
    )


def _functions(
    ends: np.ndarray, values: Mapping[str, np.ndarray]
) -> dict[str, optax.Schedule]:
    return {name: _piecewise(ends, value) for name, value in values.items()}


def _piecewise(ends: np.ndarray, values: np.ndarray) -> optax.Schedule:
    def schedule(step: Any) -> Any:
        piece = jnp.searchsorted(jnp.asarray(ends), step, side="right")
        return jnp.asarray(values)[jnp.minimum(piece, len(values) - 1)]

    return schedule
