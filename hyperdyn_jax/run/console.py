"""What a person sees while a run goes on: a line an epoch, and why."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.status import Status

from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.strategies.learned_schedule import on_path


class Display:
    """Lines on a terminal, with a spinner below them; plain lines elsewhere.

    Args:
      console: the terminal or file to print to; standard output if None.
      quiet: True to print nothing.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self._console = console or Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._status: Status | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Says what is going on: below the lines on a terminal, as one elsewhere."""
        if not self._console.is_terminal:
            self.say(f"{what} ...")
            yield
            return
        with self._console.status(what) as self._status:
            yield
        self._status = None

    def decision(
        self, where: str, rows: Row, metrics: Sequence[Row], images: float, left: int
    ) -> None:
        """The line of a decision.

        Args:
          where: the run stands after it (`at_epoch`, `at_step`).
          rows: its row of decisions.jsonl and, if it was accepted, of metrics.jsonl.
          metrics: all rows of metrics.jsonl so far.
          images: trained on a second, in all branches.
          left: optimizer steps of the accepted path that are to come.
        """
        decision = rows["decisions"]
        if "metrics" not in rows:
            self.say(f"{where}  {told(decision, None)}")
            return
        line = f"{where}  {told(decision, metrics[-1])}  {images:,.0f} img/s"
        # A race ends soon, and what is to come has no trials.
        race = verdicts.outcome(decision) == "race"
        alone = race or len(decision["trials"]) == 1
        self.say(line + remaining(metrics, left, alone=alone))
        if self._status is not None:
            self._status.update(f"after {where}")

    def summary(self, metrics: Sequence[Row], page: str, backtracking: bool) -> None:
        """The closing lines of a finished run, and where its report is.

        Args:
          metrics: its rows of metrics.jsonl.
          page: the report.
          backtracking: it would have ended at its best epoch, were that clearly better.
        """
        last = metrics[-1]
        seconds = sum(row["seconds"] for row in metrics)
        which = _of_epoch(metrics, backtracking)
        self.say(
            f"validation {last['validation_accuracy']:.2f}%, "
            f"test {last['test_accuracy']:.2f}%{which} after "
            f"{_clock(seconds)} (h:mm:ss)\n"
            f"{spent(metrics)}\n"
            f"{page}"
        )


NETWORKS, SCORE, LOSS = range(3)  # what scores are called, and their sign


def at_step(step: int, steps: int) -> str:
    """Where a run stands: at a step, of so many."""
    return f"step {step:>{len(str(steps))}}/{steps}"


def remaining(metrics: Sequence[Row], left: int, *, alone: bool) -> str:
    """The time that a run will need, from its last rows; "" after the first, which has
    the compilation in it.

    Args:
      metrics: all rows of metrics.jsonl so far.
      left: optimizer steps of the accepted path that are to come.
      alone: they will be trained without trials beside them.
    """
    pairs = list(itertools.pairwise(metrics))[-3:]
    ahead = [(a, b) for a, b in pairs if b["step"] > a["step"]]  # none taken back
    if not ahead:
        return ""
    steps = sum(b["step"] - a["step"] for a, b in ahead)
    seconds = sum(b["seconds"] - alone * b.get("trial_seconds", 0) for _, b in ahead)
    return f"  ETA {_clock(left * seconds / steps)}"


def told(decision: Row, accepted: Row | None, words: int = NETWORKS) -> str:
    """What a decision was about, without where the run stands.

    Args:
      decision: its row of decisions.jsonl.
      accepted: its row of metrics.jsonl, None where the run stays where it was.
      words: SCORE or LOSS where the user's own function gives the one or the other.
    """
    if accepted is None:
        return _tried(decision, words)
    loss, accuracy = accepted["train_loss"], accepted["validation_accuracy"]
    parts = [] if loss is None else [f"loss {loss:.4f}"]
    if accuracy is None:
        parts.append(_scored(-accepted["validation_loss"], True, words, ".6g"))
    else:
        parts.append(f"validation {accuracy:.2f}%")
    parts += [verdicts.short(accepted["hyperparams"]) + _how_far(decision)]
    parts += [why(decision, words)]
    return "  ".join(filter(None, parts))


def spent(metrics: Sequence[Row]) -> str:
    """The optimizer steps of a run, and what trials cost of its time.

    Trials are scored as well as trained, so their share of the time is another one.

    Args:
      metrics: its rows of metrics.jsonl.
    """
    step, total = metrics[-1]["step"], metrics[-1]["total_steps"]
    text = (
        f"{step:,} accepted steps, {total:,} total steps with {besides(metrics)} "
        f"({total / step - 1:+.0%})"
    )
    trials = sum(row.get("trial_seconds", 0.0) for row in metrics)
    path = sum(row["seconds"] for row in metrics) - trials
    if trials <= 0 or path <= 0:
        return text
    return f"{text}; trials added {trials / path:.0%} to the time, with compiling"


def besides(metrics: Sequence[Row]) -> str:
    """Which steps are not accepted ones.

    Args:
      metrics: rows of metrics.jsonl.
    """
    pairs = itertools.pairwise(metrics)  # a last row may add no step
    back = any("path" in b and b["step"] <= a["step"] for a, b in pairs)
    return "every trial and what was taken back" if back else "every trial"


def _of_epoch(metrics: Sequence[Row], backtracking: bool) -> str:
    """Which network was tested, if it is not the one that was last and best."""
    last = metrics[-1]
    if (epoch := last.get("best_epoch", last["epoch"])) != last["epoch"]:
        return f" (the network of epoch {epoch}, its best)"
    if not backtracking:
        return ""
    found = [metrics[i]["validation_accuracy"] for i in on_path(metrics)]
    if (best := max(found)) == found[-1]:
        return ""
    return (
        f" (the last network: the best, {best:.2f}%, is better by no more than chance)"
    )


def _tried(decision: Row, words: int) -> str:
    """What came of trials that leave the run where it was."""
    settings = list(map(verdicts.short, decision["trials"]))
    if verdicts.went_back_to(decision) is not None:
        return f"{verdicts.reason(decision)}, leaving {', '.join(settings)}"
    if not verdicts.probed(decision):
        return f"{verdicts.reason(decision)}; diverged: {', '.join(settings)}"
    values = map(verdicts.known, decision["scores"])
    results = [
        "diverged" if value is None else _scored(value, i == 0, words)
        for i, value in enumerate(values)
    ]
    if "probe" in decision:
        return f"probe {decision['probe']}: {settings[0]}, {results[0]}"
    return "probed " + "; ".join(map(": ".join, zip(settings, results, strict=True)))


def _scored(value: float, named: bool, words: int, form: str = ".4g") -> str:
    """A score; of a network a negative one is minus a loss."""
    loss = words == LOSS or (words == NETWORKS and value < 0)
    name = "score"
    if loss:
        name, value = "loss" if words == LOSS else "validation loss", -value
    return f"{name} {value:{form}}" if named else f"{value:{form}}"


def _how_far(decision: Row) -> str:
    """That the run need not go on at the rate of a row of a race."""
    if decision.get("leading"):
        return " leads so far"
    return " so far" if decision.get("following") else ""


def why(decision: Row, words: int = NETWORKS) -> str:
    """The verdict, its reason, and the challenger; where there was no trial, whether
    the run is cooling down."""
    count = len(decision["trials"])
    if count == 1:
        return "cooldown" if decision.get("cooldown") else ""
    text = f"{verdicts.outcome(decision)}: {verdicts.reason(decision)}"
    expected = verdicts.prediction_of(decision, count - 1)
    if expected is None:
        return text
    gain = verdicts.gain_of(decision, count - 1)
    got = "diverged" if gain is None else f"got {gain:+.1f}"
    mean, stddev = expected
    tried = f"challenger {verdicts.short(decision['trials'][-1])}"
    unit = " nats" if (decision["score_before"] or 0) < 0 else " points"
    unit = unit if words == NETWORKS else ""
    return f"{text}; {tried}: expected {mean:+.1f} ± {stddev:.1f}{unit}, {got}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=math.ceil(seconds)))
