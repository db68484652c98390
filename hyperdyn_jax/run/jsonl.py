"""Rows as JSON, and files that are written whole or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperdyn_jax.system import files
from hyperdyn_jax.tuner.interface import Decision, Trials

Row = Mapping[str, Any]


def decision_row(
    trials: Trials,
    scores: np.ndarray,
    decision: Decision,
    *,
    score_before: float,
    extra_steps: int,
    rollback: Row | None,
) -> dict[str, Any]:
    """A row of decisions.jsonl: what was tried, what came of it, and why.

    Args:
      trials, scores, decision: as `Strategy.tell` has them.
      score_before: of the run when the trials began.
      extra_steps: optimizer steps that the trials took beside those of the run.
      rollback: where every branch diverged, what comes next; else None.
    """
    model: dict[str, Any] = dict(trials.model)
    if "length_scale" in model:
        scales = zip(trials.hparams, model.pop("length_scale"), strict=True)
        model["length_scales"] = dict(scales)
    return {
        "epoch": decision.epoch,
        "trials": [trials.setting(i) for i in range(len(trials.parents))],
        "scores": scores,
        "score_before": score_before,
        "branch": decision.branch,
        "kept": decision.kept,
        "keep_probability": decision.keep_probability,
        "draw": decision.draw,
        "posterior_mean": trials.posterior_mean,
        "posterior_stddev": trials.posterior_stddev,
        "expected_improvement": trials.expected_improvement,
        "block": trials.block,
        "p_value": decision.p_value,
        "gp": model or None,
        "extra_steps": extra_steps,
        "rollback": rollback,
    }


def dump(value: Any, indent: int | None = None) -> str:
    """JSON of plain values and arrays; a number that is not finite becomes null."""
    return json.dumps(_plain(value, lambda _: None), indent=indent, allow_nan=False)


def dump_config(config: Row) -> str:
    """The same, but an infinite setting stays what it is, as text."""
    return json.dumps(_plain(config, str), indent=2, allow_nan=False) + "\n"


def as_read(row: Row) -> dict[str, Any]:
    """A row as it will be read."""
    read: dict[str, Any] = json.loads(dump(row))
    return read


def _plain(value: Any, otherwise: Callable[[float], Any]) -> Any:
    """JSON's own types, with something else for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item, otherwise) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), otherwise)
    if isinstance(value, list | tuple):
        return [_plain(item, otherwise) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return otherwise(value)
    return value


def flat(config: Row, prefix: str = "") -> dict[str, Any]:
    """Settings with the names that --config.x=y has for them."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def lines(rows: Sequence[Row]) -> bytes:
    """Rows as a log has them."""
    return "".join(dump(row) + "\n" for row in rows).encode()


def append(file: Path, content: bytes) -> None:
    """Adds to a file, all of it or nothing."""
    size = file.stat().st_size if file.exists() else 0
    try:
        with file.open("ab") as stream:
            stream.write(content)
            stream.flush()
            files.sync(stream.fileno())
    except OSError:
        os.truncate(file, size)
        raise


def replace_bytes(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            files.sync(stream.fileno())
        os.replace(part, file)
    except OSError:
        with contextlib.suppress(OSError):  # the first one is what is told
            part.unlink(missing_ok=True)
        raise
