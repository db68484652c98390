"""What the rows of run directories say: outcomes, predictions, comparisons, costs.

Accuracies, scores and gains are in percentage points, 0..100, unless a strategy's
scores are minus a loss, in nats. Steps are optimizer steps and always given in both
counts: of the accepted path, and in total with trials included.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy import stats

from hyperdyn_jax.run.jsonl import Row as Row
from hyperdyn_jax.run.verdicts import (
    entry,
    gain_of,
    has_incumbent,
    prediction_of,
    probed,
    went_back_to,
)
from hyperdyn_jax.strategies.learned_schedule import on_path, path_of

METRICS = "epoch step total_steps train_loss validation_accuracy hyperparams seconds"
DECISIONS = "epoch trials scores score_before branch"
FEW = 5  # predictions, of which no share is told
LEVEL = 0.90  # of the intervals of predictions
Z90 = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Run:
    """One run directory: its config and the rows of its two JSONL files."""

    path: Path
    label: str  # its name in tables and legends
    config: Row
    metrics: tuple[Row, ...]  # one an accepted epoch, at least one
    decisions: tuple[Row, ...]

    def column(self, key: str) -> np.ndarray:
        """Returns one field of the metrics, f64[epochs]; null is NaN."""
        return np.array([row[key] for row in self.metrics], dtype=float)

    def rows_over(self, count: str) -> list[Row]:
        """Rows of the metrics that lie one after the other over a count of steps.

        Over all steps these are all rows; over the accepted ones (`step`) those that
        led to the last.
        """
        if count != "step":
            return list(self.metrics)
        rows = (self.metrics[i] for i in self.on_path)
        return list({row["step"]: row for row in rows}.values())

    @cached_property
    def on_path(self) -> list[int]:
        """The rows of the metrics that led to the last."""
        return on_path(self.metrics)

    @cached_property
    def settings(self) -> list[Row | None]:
        """The setting of the accepted path, as in schedule.json, up to the step of each
        row of the metrics; None of a row that was taken back."""
        path = path_of(self.metrics)
        ends = [step for step, _ in path]
        places = (bisect_left(ends, row["step"]) for row in self.metrics)
        found = [path[min(place, len(path) - 1)][1] for place in places]
        pairs = enumerate(zip(self.metrics, found, strict=True))
        return [None if self._undone(i, row) else x for i, (row, x) in pairs]

    def _undone(self, index: int, metrics: Row) -> bool:
        """Whether the run went back behind a row of the metrics later on."""
        later = (row for row in self.decisions if row["epoch"] > index)
        back = (step for row in later if (step := went_back_to(row)) is not None)
        return any(metrics["step"] > step for step in back)

    def taken(self, row: Row) -> int:
        """The trial of a decision that the run came through; -1 for none. In a race it
        need not be the one that led the round."""
        epoch = row["epoch"]
        if row["branch"] < 0 or epoch >= len(self.metrics) or epoch in self.on_path:
            return int(row["branch"])
        found = (i for i, x in enumerate(row["trials"]) if x == self.settings[epoch])
        return next(found, -1)

    @property
    def hyperparameters(self) -> list[str]:
        """Names of what was set, in order."""
        names = (name for row in self.metrics for name in row["hyperparams"])
        return list(dict.fromkeys(names))

    def kind(self, name: str) -> str:
        """The axis of a hyperparameter: log_uniform, log_complement or uniform."""
        usual = "log_uniform" if name == "learning_rate" else "uniform"
        space = self.config.get("search_space") or {}
        kind = (space.get(name) or {}).get("kind", usual)
        return usual if kind == "uniform" else kind


class Prediction(NamedTuple):
    """A trial's gain as the model foresaw it and as it came, in points."""

    challenger: bool
    mean: float
    stddev: float  # predictive: of the latent gain, with the fitted noise added
    gain: float

    @property
    def held(self) -> bool:
        """Whether the 90% interval held the gain."""
        return abs(self.gain - self.mean) <= Z90 * self.stddev


class Pair(NamedTuple):
    """Both branches of a decision, scored after the same steps on the same batches."""

    epoch: int
    kept: bool
    difference: float  # the challenger's score minus the incumbent's


# Reading -----------------------------------------------------------------------------


def load_run(path: str | Path) -> Run:
    """Reads a run directory; a torn last JSONL line is left out.

    Raises:
      ValueError: naming the file, and what is missing or wrong in it.
    """
    path = Path(path)
    files = [path / f for f in ("config.json", "metrics.jsonl", "decisions.jsonl")]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: missing; is {path} a run directory?")
    config = _parse(files[0].read_text(encoding="utf-8", errors="replace"), files[0])
    metrics = _read_jsonl(files[1], METRICS.split())
    decisions = _read_jsonl(files[2], DECISIONS.split())
    if not metrics:
        raise ValueError(f"{files[1]}: no accepted epoch in it yet")
    label = str(config.get("name") or path.resolve().name)
    # Matplotlib leaves labels with a leading underscore out of a legend.
    return Run(path, label.lstrip("_") or "run", config, metrics, decisions)


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Reads run directories; those of one name are told apart by their folders.

    Raises:
      ValueError: there is none, or one cannot be read.
    """
    if not paths:
        raise ValueError("no run directory given; give at least one")
    runs = [load_run(path) for path in paths]
    if len({run.label for run in runs}) == len(runs):
        return runs
    where = ["/".join(run.path.resolve().parts[-2:]) for run in runs]
    pairs = zip(runs, where, strict=True)
    return [replace(run, label=f"{run.label} ({place})") for run, place in pairs]


def _parse(text: str, where: object) -> Row:
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a JSON object: {text.strip()[:40]!r}")
    return value


def _read_jsonl(path: Path, keys: Sequence[str]) -> tuple[Row, ...]:
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        where = f"{path}, row {number}"
        try:
            row = _parse(line, where)
        except ValueError:
            if number < len(lines):
                raise
            break  # torn: the run was stopped in the middle of writing it
        if missing := [key for key in keys if key not in row]:
            raise ValueError(f"{where}: missing {', '.join(missing)}")
        rows.append(row)
    return tuple(rows)


# Decisions ---------------------------------------------------------------------------


def challengers(run: Run, fate: str) -> list[tuple[float, Row]]:
    """Returns (epoch, setting) of each accepted, rejected or diverged challenger."""
    found = []
    for row in run.decisions:
        went_on = run.taken(row)
        for i in range(has_incumbent(row), len(row["trials"])):
            trial = row["trials"][i]
            taken = i == went_on or (probed(row) and _adopted(run, row, trial))
            diverged = entry(row, "scores", i) is None
            if fate == (
                "diverged" if diverged else "accepted" if taken else "rejected"
            ):
                found.append((row["epoch"], trial))
    return found


def _adopted(run: Run, probe: Row, trial: Row) -> bool:
    """Whether the run went on with a setting after it was probed."""
    after = (row for row in run.metrics if row["epoch"] >= probe["epoch"])
    adopted: Row = next((row["hyperparams"] for row in after), {})
    return all(adopted.get(name) == value for name, value in trial.items())


# Predictions, and what came ----------------------------------------------------------


def predictions(run: Run) -> list[Prediction]:
    """Returns every prediction whose gain came to be known, in order.

    The recorded standard deviation is that of the latent gain; a realised gain has the
    fitted noise in it too, recorded in points.
    """
    made = []
    for row in run.decisions:
        noise = (row.get("gp") or {}).get("noise_stddev") or 0.0
        challenger = not has_incumbent(row)  # the first of a row of probes
        for i in range(len(row["trials"])):
            gain, foreseen = gain_of(row, i), prediction_of(row, i)
            if gain is not None and foreseen is not None:
                spread = math.hypot(foreseen[1], noise)
                made.append(Prediction(challenger or i > 0, foreseen[0], spread, gain))
    return made


def coverage(made: Sequence[Prediction]) -> str:
    """How many 90% intervals held what came, in words."""
    if not made:
        return "no model, no predictions"
    held = sum(p.held for p in made)
    share = f" ({held / len(made):.0%})" if len(made) >= FEW else ""
    return f"90% intervals held {held} of {len(made)} gains{share}"


def pairs(run: Run) -> list[Pair]:
    """Every decision between an incumbent and one challenger, both of which are known.

    Branches of one decision start from the same state, on the same batches and keys.
    """
    found = []
    for row in run.decisions:
        if row["branch"] < 0 or len(row["trials"]) != 2 or not has_incumbent(row):
            continue
        incumbent, challenger = (entry(row, "scores", i) for i in range(2))
        if incumbent is not None and challenger is not None:
            kept = row["branch"] == 0
            found.append(Pair(row["epoch"], kept, challenger - incumbent))
    return found


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half the width of its confidence interval, by Student's t.

    The half width is NaN of fewer than two values.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, math.nan
    quantile = float(stats.t.ppf(0.5 + level / 2, count - 1))
    return mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Mean ± standard deviation."""
    mean = format(np.mean(values), form)
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):{form}}"


def seeds(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"


def overhead(run: Run) -> str:
    """Total over accepted steps, less one; "–" before the first step."""
    step, total = run.metrics[-1]["step"], run.metrics[-1]["total_steps"]
    return f"{total / step - 1:+.1%}" if step else "–"


def extra(run: Run) -> int:
    """Steps of trials beyond the accepted path."""
    return int(run.metrics[-1]["total_steps"] - run.metrics[-1]["step"])


def taken_back(run: Run) -> int:
    """Steps that the run trained and took back, of those beyond the accepted path."""
    back = (row for row in run.decisions if went_back_to(row) is not None)
    return sum(row.get("extra_steps") or 0 for row in back)


def steps(run: Run) -> str:
    """Both counts and the overhead, which never go alone."""
    step, total = run.metrics[-1]["step"], run.metrics[-1]["total_steps"]
    return f"{step:,} accepted / {total:,} total ({overhead(run)})"


def seconds(run: Run) -> float:
    """Of training and deciding in accepted epochs, as far as they are known."""
    return float(np.nansum(run.column("seconds")))


def unit(run: Run) -> str:
    """Of scores and gains: a strategy goes by accuracy, or by minus the loss."""
    before = (row["score_before"] for row in run.decisions)
    loss = any(score is not None and score < 0 for score in before)
    return "nats" if loss else "percentage points"
