"""What a person sees while a run goes on: a line an epoch, and why."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.status import Status

Row = Mapping[str, Any]


class Display:
    """Lines on a terminal, with a spinner below them; plain lines elsewhere.

    Args:
      epochs: of the whole run.
      console: where to print; standard output if None.
      quiet: whether nothing is printed there.
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

    def decision(self, rows: Row, metrics: Sequence[Row], images: float) -> None:
        """The line of a decision.

        Args:
          rows: its row of decisions.jsonl and, if it was accepted, of metrics.jsonl.
          metrics: all rows of metrics.jsonl so far.
          images: trained on a second, in all branches.
        """
        decision = rows["decisions"]
        if "metrics" not in rows:
            self.say(line(decision, None, self.epochs))
            return
        recent = [r["seconds"] for r in metrics[-3:]]
        left = (self.epochs - len(metrics)) * sum(recent) / len(recent)
        told = line(decision, metrics[-1], self.epochs)
        self.say(f"{told}  {images:,.0f} img/s  ETA {_clock(left)}")
        if self._status is not None:
            following = min(decision["epoch"] + 1, self.epochs - 1)
            self._status.update(f"epoch {following}/{self.epochs - 1}")

    def summary(self, metrics: Sequence[Row], page: str) -> None:
        """The closing lines of a finished run, and where its report is."""
        last = metrics[-1]
        step, total = last["step"], last["total_steps"]
        seconds = sum(row["seconds"] for row in metrics)
        self.say(
            f"validation {last['validation_accuracy']:.2f}%, "
            f"test {last['test_accuracy']:.2f}%{_of_epoch(last)} after "
            f"{_clock(seconds)} (h:mm:ss)\n"
            f"{step:,} accepted steps, {total:,} total steps with every trial "
            f"({total / step - 1:+.0%})\n"
            f"{page}"
        )


def line(decision: Row, accepted: Row | None, epochs: int) -> str:
    """What a decision was about, in a line.

    Args:
      decision: its row of decisions.jsonl.
      accepted: its row of metrics.jsonl, None where the run stays where it was.
      epochs: of the whole run.
    """
    last = str(epochs - 1)
    number = f"epoch {decision['epoch']:>{len(last)}}/{last}"
    if accepted is None:
        return f"{number}  {_tried(decision)}"
    loss, accuracy = accepted["train_loss"], accepted["validation_accuracy"]
    parts = [] if loss is None else [f"loss {loss:.4f}"]
    if accuracy is None:
        parts.append(f"validation loss {accepted['validation_loss']:.6g}")
    else:
        parts.append(f"validation {accuracy:.2f}%")
    return "  ".join([number, *parts, setting(accepted["hyperparams"]), why(decision)])


def _of_epoch(last: Row) -> str:
    """Which network was tested, if not the last one."""
    epoch = last.get("best_epoch", last["epoch"])
    return (
        "" if epoch == last["epoch"] else f" (the network of epoch {epoch}, its best)"
    )


def _tried(decision: Row) -> str:
    """What came of trials that leave the run where it was."""
    if not any(map(_known, decision["scores"])):
        tried = ", ".join(map(setting, decision["trials"]))
        text = f"every branch diverged at {tried}"
        if not (back := decision.get("rollback")):
            return f"{text}; trying others"
        text += f"; back to before it, attempt {back['attempt']}"
        limit = back["learning_rate_limit"]
        return f"{text}; from now on lr <= {limit:.3g}" if _known(limit) else text
    results = zip(decision["trials"], decision["scores"], strict=True)
    pair = f"pair {decision['block']}: " if decision.get("block") else "probed "
    text = pair + ", ".join(
        f"{setting(trial)}: {score:.4g}" if _known(score) else f"{setting(trial)}: –"
        for trial, score in results
    )
    if _known(decision.get("p_value")):
        text += f"; switch test p {decision['p_value']:.3f}"
    return text


def why(decision: Row) -> str:
    """The reason of a decision in a few words, from its row of decisions.jsonl."""
    probability, count = decision["keep_probability"], len(decision["trials"])
    if not _known(probability):
        return f"best of {count}" if count > 1 else "scheduled"
    kept = decision["branch"] == 0
    text = "kept" if kept else "switched"
    if kept != (decision["draw"] < probability):
        text += ", the other diverged"
    mean, stddev = decision["posterior_mean"][-1], decision["posterior_stddev"][-1]
    score = decision["scores"][-1]
    gain = f"{score - decision['score_before']:+.1f}" if _known(score) else "diverged"
    challenger = setting(decision["trials"][-1])
    return (
        f"{text} (keep p {probability:.2f}; challenger {challenger} "
        f"expected {mean:+.1f} ± {stddev:.1f}, got {gain})"
    )


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def setting(hparams: Row) -> str:
    """Hyperparameters in a few words."""
    return " ".join(f"{_SHORT.get(k, k)} {v:.3g}" for k, v in hparams.items())


_SHORT = {"learning_rate": "lr", "weight_decay": "wd"}


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=math.ceil(seconds)))
