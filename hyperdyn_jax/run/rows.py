"""The rows of a run: what one decision, and one accepted epoch, leave in its logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hyperdyn_jax.run import jsonl
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.tuner.interface import Decision, Trials

LOGS = ("decisions", "metrics")


class Directory(Protocol):
    """Where the rows and the states of a run go; `rows` has those of each log so far,
    as they will be read."""

    rows: dict[str, list[dict[str, Any]]]

    @property
    def path(self) -> Path | None:
        """The run directory; None where there is none."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether states are kept, so that it is worth while to collect them."""
        ...

    def commit(
        self, rows: Mapping[str, Row], arrays: Any, facts: Mapping[str, Any]
    ) -> None:
        """Keeps a state of the run, and the rows that led to it, at most one a log."""
        ...

    def resume(self) -> dict[str, Any] | None:
        """The facts of the newest state; None without one."""
        ...

    def restore(self, like: Any) -> Any:
        """The arrays of that state."""
        ...

    def seconds_since_save(self) -> float:
        """Since the last state was kept."""
        ...


class InMemory:
    """The rows of a run that has no directory, or of a process that is not the one
    that writes it. It leaves the disk alone.

    Args:
      path: the directory that another process writes; None without one.
    """

    keeps = False

    def __init__(self, path: Path | None = None):
        self.path = path
        self.rows: dict[str, list[dict[str, Any]]] = {log: [] for log in LOGS}

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

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
        add(self.rows, rows)


def add(there: Mapping[str, list[dict[str, Any]]], rows: Mapping[str, Row]) -> None:
    """Adds rows as they will be read."""
    for log, row in rows.items():
        there[log].append(jsonl.as_read(row))


def is_finished(rows: Mapping[str, Sequence[Row]]) -> bool:
    """Whether a run of `train_and_evaluate` has ended: its last epoch was tested."""
    return "test_accuracy" in (rows["metrics"] or [{}])[-1]


def decision_row(
    trials: Trials,
    scores: np.ndarray,
    decision: Decision,
    *,
    names: Sequence[str],
    score_before: float,
    extra_steps: int,
    rollback: Row | None,
) -> dict[str, Any]:
    """A row of decisions.jsonl: what was tried, what came of it, and why.

    Args:
      trials, scores, decision: as `Strategy.tell` has them.
      names: the hyperparameters of the model's axes, in their order.
      score_before: the run's score when the trials began.
      extra_steps: optimizer steps that the trials took beside those of the run.
      rollback: as `engine.rollback` has it.
    """
    model: dict[str, Any] = dict(trials.model)
    if "length_scale" in model:
        scales = zip(names, model.pop("length_scale"), strict=True)
        model["length_scales"] = dict(scales)
    return {
        "epoch": decision.epoch,
        "trials": [trials.setting(i) for i in range(len(trials.parents))],
        "scores": scores,
        **_parents(trials, decision),
        "score_before": score_before,
        "branch": decision.branch,
        "kept": decision.kept,
        "keep_probability": decision.keep_probability,
        "draw": decision.draw,
        "posterior_mean": trials.posterior_mean,
        "posterior_stddev": trials.posterior_stddev,
        "expected_improvement": trials.expected_improvement,
        "gp": model or None,
        "extra_steps": extra_steps,
        "rollback": rollback,
        **(decision.verdict or {}),
    }


def _parents(trials: Trials, decision: Decision) -> dict[str, Any]:
    """The held states that trials start from, where there are several, before or after:
    the first round of a race starts from one and ends as many arms."""
    several = np.any(trials.parents) or len(decision.hold) > 1
    return {"parents": trials.parents.tolist()} if several else {}
