"""What a person sees while a run goes on: a line an epoch, and why."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.status import Status

from hyperdyn_jax.run import verdicts
from hyperdyn_jax.run.jsonl import Row


class Display:
    """Lines on a terminal, with a spinner below them; plain lines elsewhere.

    Args:
      epochs: length of the whole run.
      console: the terminal or file to print to; standard output if None.
      quiet: True to print nothing.
    """

    def __init__(
        self, epochs: int, console: Console | None = None, quiet: bool = False
    ):
        self.epochs = epochs
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
        self, rows: Row, metrics: Sequence[Row], images: float, left: int
    ) -> None:
        """The line of a decision.

        Args:
          rows: its row of decisions.jsonl and, if it was accepted, of metrics.jsonl.
          metrics: all rows of metrics.jsonl so far.
          images: trained on a second, in all branches.
          left: optimizer steps of the accepted path that are to come.
        """
        decision = rows["decisions"]
        if "metrics" not in rows:
            self.say(line(decision, None, self.epochs))
            return
        recent = [{"step": 0}, *metrics][-4:]
        steps = max(1, recent[-1]["step"] - recent[0]["step"])
        seconds = sum(row["seconds"] for row in recent[1:])
        told = line(decision, metrics[-1], self.epochs)
        eta = _clock(left * seconds / steps)
        self.say(f"{told}  {images:,.0f} img/s  ETA {eta}")
        if self._status is not None:
            following = min(decision["epoch"] + 1, self.epochs - 1)
            self._status.update(f"epoch {following}/{self.epochs - 1}")

    def summary(self, metrics: Sequence[Row], page: str) -> None:
        """The closing lines of a finished run, and where its report is."""
        last = metrics[-1]
        seconds = sum(row["seconds"] for row in metrics)
        self.say(
            f"validation {last['validation_accuracy']:.2f}%, "
            f"test {last['test_accuracy']:.2f}%{_of_epoch(last)} after "
            f"{_clock(seconds)} (h:mm:ss)\n"
            f"{spent(metrics)}\n"
            f"{page}"
        )


def line(decision: Row, accepted: Row | None, epochs: int) -> str:
    """What a decision was about, in a line.

    Args:
      decision: its row of decisions.jsonl.
      accepted: its row of metrics.jsonl, None where the run stays where it was.
      epochs: length of the whole run.
    """
    last = str(max(epochs - 1, decision["epoch"]))  # an epoch may have two decisions
    number = f"epoch {decision['epoch']:>{len(last)}}/{last}"
    if accepted is None:
        return f"{number}  {_tried(decision)}"
    loss, accuracy = accepted["train_loss"], accepted["validation_accuracy"]
    parts = [] if loss is None else [f"loss {loss:.4f}"]
    if accuracy is None:
        parts.append(f"validation loss {accepted['validation_loss']:.6g}")
    else:
        parts.append(f"validation {accuracy:.2f}%")
    parts += [verdicts.short(accepted["hyperparams"]), why(decision)]
    return "  ".join([number, *filter(None, parts)])


def spent(metrics: Sequence[Row]) -> str:
    """The optimizer steps of a run, and what trials cost of its time.

    Trials are scored as well as trained, so their share of the time is another one.

    Args:
      metrics: its rows of metrics.jsonl.
    """
    step, total = metrics[-1]["step"], metrics[-1]["total_steps"]
    text = (
        f"{step:,} accepted steps, {total:,} total steps with every trial "
        f"({total / step - 1:+.0%})"
    )
    trials = sum(row.get("trial_seconds", 0.0) for row in metrics)
    path = sum(row["seconds"] for row in metrics) - trials
    more = trials > 0 and path > 0
    return f"{text}, {trials / path:+.0%} in time" if more else text


def _of_epoch(last: Row) -> str:
    """Which network was tested, if not the last one."""
    epoch = last.get("best_epoch", last["epoch"])
    return (
        "" if epoch == last["epoch"] else f" (the network of epoch {epoch}, its best)"
    )


def _tried(decision: Row) -> str:
    """What came of trials that leave the run where it was."""
    settings = list(map(verdicts.short, decision["trials"]))
    if verdicts.went_back_to(decision) is not None:
        return f"{verdicts.reason(decision)}; left: {', '.join(settings)}"
    if not verdicts.probed(decision):
        return f"{verdicts.reason(decision)}; diverged: {', '.join(settings)}"
    values = map(verdicts.known, decision["scores"])
    results = "; ".join(
        f"{name}: {'diverged' if value is None else _scored(value, i == 0)}"
        for i, (name, value) in enumerate(zip(settings, values, strict=True))
    )
    return f"probed {results}"


def _scored(value: float, named: bool) -> str:
    """A score; a negative one is minus a loss."""
    if value >= 0:
        return f"score {value:.4g}" if named else f"{value:.4g}"
    return f"validation loss {-value:.4g}" if named else f"{-value:.4g}"


def why(decision: Row) -> str:
    """The verdict, its reason, and the challenger; "" where there was no trial."""
    count = len(decision["trials"])
    if count == 1:
        return ""
    text = f"{verdicts.outcome(decision)}: {verdicts.reason(decision)}"
    expected = verdicts.prediction_of(decision, count - 1)
    if expected is None:
        return text
    gain = verdicts.gain_of(decision, count - 1)
    got = "diverged" if gain is None else f"got {gain:+.1f}"
    mean, stddev = expected
    tried = f"challenger {verdicts.short(decision['trials'][-1])}"
    return f"{text}; {tried}: expected {mean:+.1f} ± {stddev:.1f}, {got}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=math.ceil(seconds)))
