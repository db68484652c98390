"""What a person sees while a run goes on: where it stands after every decision, and
why."""

import contextlib
import itertools
import math
import textwrap
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import numpy as np
from rich.console import Console
from rich.status import Status

from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.strategies.learned_schedule import on_path

WIDTH = 100  # columns that a line has at most, but for those with a path in them
QUIET = 60.0  # seconds after which a file is told how far the training is


class Display:
    """Lines on a terminal, with a spinner below them; plain lines elsewhere.

    Args:
      console: the terminal or file to print to; standard output if None.
      quiet: True to print nothing.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self._console = console or Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._status: Status | None = None
        self._said = time.monotonic()

    def say(self, text: str) -> None:
        """A line as it is: one with a path in it must not be broken."""
        self._console.print(text, markup=False)
        self._said = time.monotonic()

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

    def inside(self, step: int, losses: np.ndarray) -> None:
        """How far the training between two decisions is: below the lines on a terminal;
        elsewhere a line, if there was none for a minute.

        Args:
          step: of the newest losses.
          losses: f32[branches], the training loss of each; NaN of a diverged one.
        """
        text = training(step, losses)
        if self._status is not None:
            self._status.update(text)
        elif time.monotonic() > self._said + QUIET:
            self.say(folded(text))

    def decision(
        self, where: str, rows: Row, metrics: Sequence[Row], images: float, left: int
    ) -> None:
        """What was decided, and where the run stands.

        Args:
          where: the run stands after it (`at_epoch`, `at_step`).
          rows: its row of decisions.jsonl and, if it was accepted, of metrics.jsonl.
          metrics: all rows of metrics.jsonl so far.
          images: trained on a second, in all branches.
          left: optimizer steps of the accepted path that are to come.
        """
        decision = rows["decisions"]
        if "metrics" not in rows:
            self.say(folded(told(where, decision, [])))
            return
        # A race ends soon, and what is to come has no trials.
        race = verdicts.outcome(decision) == "race"
        alone = race or len(decision["trials"]) == 1
        speed = f"{images:,.0f} img/s{remaining(metrics, left, alone=alone)}"
        self.say(folded(told(where, decision, metrics, speed=speed)))
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
        which, more = _of_epoch(metrics, backtracking)
        text = (
            f"validation {last['validation_accuracy']:.2f}%, "
            f"test {last['test_accuracy']:.2f}%{which} after "
            f"{_clock(seconds)} (h:mm:ss){more}\n"
            f"{spent(metrics)}"
        )
        self.say(f"{folded(text)}\n{page}")


NETWORKS, SCORE, LOSS = range(3)  # what scores are called, and their sign
UNDER = "    "  # what belongs to the line above begins with it


def folded(text: str) -> str:
    """A text in lines of `WIDTH` at most, but for a word that is longer."""
    lines = [
        textwrap.fill(
            line, WIDTH, subsequent_indent=UNDER,
            break_long_words=False, break_on_hyphens=False,
        )
        for line in text.splitlines()
    ]  # fmt: skip
    return "\n".join(lines)


def training(step: int, losses: np.ndarray) -> str:
    """How far the training between two decisions is, as `Display.inside` has it."""
    sound = losses[np.isfinite(losses)]
    where = f"training, step {step:,}"
    if len(losses) > 1:
        where = f"training {len(losses)} settings, step {step:,}"
    if not len(sound):
        return f"{where}: diverged"
    if len(sound) == 1:
        return f"{where}: loss {sound[0]:.4f}"
    return f"{where}: losses {sound.min():.4f} to {sound.max():.4f}"


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


def told(
    where: str,
    decision: Row,
    metrics: Sequence[Row],
    words: int = NETWORKS,
    speed: str = "",
) -> str:
    """Where a run stands after a decision; and below it the verdict, if there was a
    choice.

    Args:
      where: `at_step` has it.
      decision: its row of decisions.jsonl.
      metrics: rows of metrics.jsonl, the last of which is its own; none where the run
        stays where it was.
      words: SCORE or LOSS where the user's own function gives the one or the other.
      speed: of the training, if it is known.
    """
    if not metrics:
        return f"{where}  {_tried(decision, words)}"
    accepted = metrics[-1]
    loss, accuracy = accepted["train_loss"], accepted["validation_accuracy"]
    parts = [where] + ([] if loss is None else [f"loss {loss:.4f}"])
    if accuracy is None:
        parts.append(_scored(-accepted["validation_loss"], True, words, ".6g"))
    else:
        parts.append(f"validation {accuracy:.2f}%")
    parts += [verdicts.short(_changed(metrics)) + _how_far(decision)]
    chosen = len(decision["trials"]) > 1
    parts += ["cooldown" if decision.get("cooldown") and not chosen else "", speed]
    lines = ["  ".join(filter(None, parts)), *(_why(decision, words) if chosen else [])]
    return f"\n{UNDER}".join(lines)


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
    share = f"{trials / path:.0%}"
    return f"{text}\n{UNDER}trials added {share} to the time, with compiling"


def besides(metrics: Sequence[Row]) -> str:
    """Which steps are not accepted ones.

    Args:
      metrics: rows of metrics.jsonl.
    """
    pairs = itertools.pairwise(metrics)  # a last row may add no step
    back = any("path" in b and b["step"] <= a["step"] for a, b in pairs)
    return "every trial and what was taken back" if back else "every trial"


def _of_epoch(metrics: Sequence[Row], backtracking: bool) -> tuple[str, str]:
    """Which network was tested, if it isn't the one that was last and best; and why."""
    last = metrics[-1]
    if (epoch := last.get("best_epoch", last["epoch"])) != last["epoch"]:
        return f", of the network of epoch {epoch}, the best,", ""
    if not backtracking:
        return "", ""
    found = [metrics[i]["validation_accuracy"] for i in on_path(metrics)]
    if (best := max(found)) == found[-1]:
        return "", ""
    why = f"the best epoch's validation, {best:.2f}%, is higher by no more than chance"
    return ", of the last network,", f"\n{UNDER}{why}"


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


def _changed(metrics: Sequence[Row]) -> Row:
    """The setting of the last epoch, without what has been the same in every epoch;
    all of it where nothing has changed."""
    last = metrics[-1]["hyperparams"]
    rows = [row["hyperparams"] for row in metrics]
    changed = {
        name: value
        for name, value in last.items()
        if any(row.get(name) != value for row in rows)
    }
    return changed or last


def _how_far(decision: Row) -> str:
    """That the run need not go on at the rate of a row of a race."""
    if decision.get("leading"):
        return " leads so far"
    return " so far" if decision.get("following") else ""


def _why(decision: Row, words: int) -> list[str]:
    """The verdict on several trials with its reason; and the challenger, if any."""
    count = len(decision["trials"])
    text = f"{verdicts.outcome(decision)}: {verdicts.reason(decision)}"
    expected = verdicts.prediction_of(decision, count - 1)
    if expected is None:
        return [text]
    gain = verdicts.gain_of(decision, count - 1)
    got = "diverged" if gain is None else f"got {gain:+.1f}"
    mean, stddev = expected
    tried = f"challenger {verdicts.short(decision['trials'][-1])}"
    unit = " nats" if (decision["score_before"] or 0) < 0 else " points"
    unit = unit if words == NETWORKS else ""
    return [text, f"{tried}: expected {mean:+.1f} ± {stddev:.1f}{unit}, {got}"]


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=math.ceil(seconds)))
