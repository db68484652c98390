"""The README's pictures of a race: what it tried, and the page of its report."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from hyperdyn_jax import report
from hyperdyn_jax.report.chart import Chart, Key, Panel, extent
from hyperdyn_jax.report.numbers import Run

CHOSEN, OWN, DROPPED = "c0", "c1 d1", "soft thin"
WINDOW = {"width": 1000, "height": 660}


def chart(results: Mapping[str, Any]) -> Chart:
    """Learning rates and validation losses of every arm, of the run, and of its base.

    Args:
      results: of the record that `race_example.py` makes.
    """
    metrics, arms = results["metrics"], _arms(results["decisions"], results["metrics"])
    own, alone = results["own"], results["alone"]
    run = metrics[_rounds(results["decisions"]) - 1 :]  # from the arm that won on
    steps = [row["step"] for row in run]
    rates = [row["hyperparams"]["learning_rate"] for row in run]
    losses = [row["validation_loss"] for row in run]
    across = (min(next(iter(arms.values())))[0] * 0.75, alone[-1][0] * 1.1)
    above = min(row[1] for row in alone[:3]) * 1.25  # one that diverges leaves the view
    shown = [loss for arm in arms.values() for _, loss in arm if loss < above]
    left = _panel("learning rate", "rates tried, and the one taken", across)
    left.up = extent([*arms, *rates], "log_uniform")
    right = _panel("validation loss (nats)", "what comes of it", across)
    right.up = extent([*shown, *losses], "log_uniform")
    for rate, path in arms.items():
        xs, ys = zip(*path, strict=True)
        look = OWN if abs(rate / own - 1) < 1e-3 else DROPPED
        left.line([across[0], xs[-1]], [rate, rate], look)
        left.marks("ring", xs, [rate] * len(xs), look.split()[0], 2.5)
        right.line(xs, ys, DROPPED)
        right.marks("ring", xs, ys, look.split()[0], 2.5)
    left.line(steps, rates, CHOSEN)
    right.line(steps, losses, CHOSEN)
    right.line(*zip(*alone, strict=True), OWN)
    keys = [
        Key("line", CHOSEN, "the run"),
        Key("line ring", DROPPED, "rates that race"),
        Key("line ring", OWN, "the rate it was given"),
    ]
    return Chart([left, right], keys, size=(4.2, 3.0))


def _panel(name: str, head: str, across: tuple[float, float]) -> Panel:
    """Empty, over steps; both axes are logarithmic."""
    title = f"{name} over steps, of the arms and of the run"
    kinds = "log_uniform", "log_uniform"
    return Panel(title, "accepted steps", name, across, (0.1, 1.0), *kinds, head)


def _rounds(decisions: list[dict[str, Any]]) -> int:
    """How many decisions are rounds of the race."""
    return next(i for i, row in enumerate(decisions) if len(row["trials"]) == 1)


def _arms(
    decisions: list[dict[str, Any]], metrics: list[dict[str, Any]]
) -> dict[float, list[tuple[int, float]]]:
    """Steps and validation loss after each round, by the arm's learning rate."""
    arms: dict[float, list[tuple[int, float]]] = {}
    for row, accepted in zip(decisions[: _rounds(decisions)], metrics, strict=False):
        for trial, score in zip(row["trials"], row["scores"], strict=True):
            if score is not None:
                rate = trial["learning_rate"]
                arms.setdefault(rate, []).append((accepted["step"], -score))
    return arms


def screenshot(run: Run) -> bytes:
    """The top of a run's page, as PNG: by the chromium that is on PATH."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = report.write_report([run.path], Path(folder) / "page")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page(viewport=WINDOW)
        view.goto(page.as_uri())
        return view.screenshot()
