"""The figures of a report as Matplotlib draws them, for papers and slides."""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from hyperdyn_jax.report import numbers
from hyperdyn_jax.report.numbers import Z90, Row, Run
from hyperdyn_jax.report.svg import Scale

# Ink, grid, and Okabe & Ito's colour-blind-safe colours.
INK, GRID = "#1f2328", "#d5d9de"
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
LINES = ("-", "--", "-.", ":")
Style: TypeAlias = dict[str, Any]  # of what Matplotlib draws
MARKERS = {"accepted": "^", "rejected": "o", "diverged": "x"}


def _positive(values: Any) -> np.ndarray:
    """What a log axis can show; the rest is NaN."""
    values = np.asarray(values, dtype=float)
    return np.where(values > 0, values, np.nan)


def log_axis(axes: Axes) -> None:
    """A log axis with plain numbers, also where it spans less than a decade."""
    low, high = axes.dataLim.minposy, axes.dataLim.y1
    if not np.isfinite(low):  # nothing that a log axis can show
        return
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high > 2 * low else "all"))
    axes.yaxis.set_minor_formatter("{x:g}" if high < 50 * low else "")


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels two beside each other, each of the given height in inches."""
    rows, columns = math.ceil(count / 2), min(count, 2)
    size = (9 if count > 1 else 6.5, height * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[count:]:
        spare.remove()
    return figure, list(grid[:count])


def with_legend(figure: Figure) -> Figure:
    """One legend under all panels, where it hides no data."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    room = int(figure.get_figwidth() * 12 / (max(map(len, entries)) + 6))
    style: Style = {
        "loc": "outside lower center",
        "ncols": min(max(room, 1), len(entries)),
    }
    figure.legend(entries.values(), entries.keys(), **style)
    return figure


def accuracy(runs: Sequence[Run]) -> Figure:
    """Validation accuracy and training loss: left, over the steps of the accepted
    path; right, over all steps that were paid for, every trial in them."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(2, 1))
    for column, steps in enumerate(("step", "total_steps")):
        for i, run in enumerate(runs):
            style = {"marker": ".", "color": f"C{i}", "linestyle": LINES[i % 4]}
            x, score = run.column(steps), run.column("validation_accuracy")
            grid[0, column].plot(x, score, label=run.label, **style)
            grid[1, column].plot(x, _positive(run.column("train_loss")), **style)
        grid[1, column].set_xlim(left=0)
        grid[1, column].xaxis.set_major_formatter(EngFormatter(sep=""))
    log_axis(grid[1, 0])
    grid[0, 0].set_ylabel("validation accuracy (%)")
    grid[1, 0].set_ylabel("training loss (nats)")
    grid[1, 0].set_xlabel("accepted optimizer steps")
    grid[1, 1].set_xlabel("total optimizer steps, trials included")
    return with_legend(figure)


def hyperparameters(runs: Sequence[Run]) -> Figure:
    """Each hyperparameter's accepted path as a line, and as markers every challenger
    that was tried; the shape tells what became of it."""
    names = dict.fromkeys(name for run in runs for name in run.hyperparameters)
    figure, panels = _panels(len(names), 3.4)
    for axes, name in zip(panels, names, strict=True):
        _draw_paths(axes, runs, name)
    style = {"color": matplotlib.rcParams["text.color"], "markerfacecolor": "none"}
    for fate, marker in MARKERS.items():
        panels[-1].plot([], [], marker, label=f"challenger, {fate}", **style)
    return with_legend(figure)


def _draw_paths(axes: Axes, runs: Sequence[Run], name: str) -> None:
    kind = min({run.kind(name) for run in runs} - {"uniform"}, default="uniform")

    def shown(settings: Iterable[Row]) -> np.ndarray:
        x = np.array([setting.get(name) for setting in settings], dtype=float)
        x = 1 - x if kind == "log_complement" else x
        return x if kind == "uniform" else _positive(x)

    for i, run in enumerate(runs):
        path = shown(row["hyperparams"] for row in run.metrics)
        style: Style = {"color": f"C{i}", "linestyle": LINES[i % 4], "label": run.label}
        epochs = run.column("epoch")
        axes.plot(epochs, path, marker=".", ms=4, drawstyle="steps-mid", **style)
        style = {"color": f"C{i}", "markerfacecolor": "none", "alpha": 0.6}
        for fate, marker in MARKERS.items():
            tried = numbers.challengers(run, fate)
            values = shown(setting for _, setting in tried)
            axes.plot([epoch for epoch, _ in tried], values, marker, ms=6, **style)
    text = f"1 − {name}" if kind == "log_complement" else name
    axes.set_ylabel(f"{text} (no unit{'' if kind == 'uniform' else ', log axis'})")
    if kind != "uniform":
        log_axis(axes)
    axes.set_xlabel("accepted epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def gains(runs: Sequence[Run]) -> Figure:
    """Predicted gains against realised ones; an interval that crosses the identity
    line held the realised gain. The recorded standard deviation is that of the latent
    gain; the 90% interval drawn here is the predictive one, in percentage points: it
    adds the fitted noise. Diverged trials have no gain and are left out."""
    shown = [run for run in runs if numbers.predictions(run)] or runs[:1]
    figure, panels = _panels(len(shown), 4.2)
    for axes, run in zip(panels, shown, strict=True):
        for i, (name, marker) in enumerate((("incumbent", "o"), ("challenger", "D"))):
            chosen = [p for p in numbers.predictions(run) if p.challenger == bool(i)]
            x, y = [p.gain for p in chosen], [p.mean for p in chosen]
            style: Style = {
                "color": f"C{i}",
                "mfc": "none" if i else f"C{i}",
                "fmt": marker,
            }
            style |= {"elinewidth": 0.8, "label": f"{name}, 90% interval"}
            axes.errorbar(x, y, [Z90 * p.stddev for p in chosen], **style)
        ink = matplotlib.rcParams["text.color"]
        axes.axline((0, 0), slope=1, color=ink, lw=1, ls="--", label="identity")
        axes.set_title(f"{run.label}\n{numbers.coverage(numbers.predictions(run))}")
        if not numbers.predictions(run):
            axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"realised gain ({numbers.unit(run)})")
        axes.set_ylabel(f"predicted gain ({numbers.unit(run)})")
    return with_legend(figure)


def cost(runs: Sequence[Run]) -> Figure:
    """Cumulative optimizer steps: those of the accepted path, and on top of them those
    of trials. Overhead is total over accepted steps, less one."""
    figure, panels = _panels(len(runs), 3.2)
    for axes, run in zip(panels, runs, strict=True):
        epoch, step, total = map(run.column, ("epoch", "step", "total_steps"))
        edges = np.append(epoch - 0.5, epoch[-1] + 0.5)
        style: Style = {"color": "C1", "alpha": 0.5, "label": "trials beyond it"}
        axes.stairs(step, edges, fill=True, color="C0", label="accepted path")
        axes.stairs(total, edges, baseline=step, fill=True, **style)
        axes.set_title(f"{run.label}\n{numbers.steps(run)}")
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel("cumulative optimizer steps")
        axes.set_xlabel("accepted epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return with_legend(figure)


FIGURES = (accuracy, hyperparameters, gains, cost)
SHOWN = 6  # decisions in the figure of beliefs, evenly spread


def draw_beliefs(what: tuple[Run, Any]) -> Figure:
    """What the model believed before some decisions: the mean of the gain and the
    interval in which it expected 90% of trials, along each axis.

    Args:
      what: a run and its beliefs (`belief.recompute`).
    """
    run, beliefs = what
    count = min(SHOWN, len(beliefs.steps))
    chosen = [
        beliefs.steps[round(i)] for i in np.linspace(0, len(beliefs.steps) - 1, count)
    ]
    size = (2.2 * max(count, 2), 2.4 * len(beliefs.space))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(beliefs.space), count, sharey="col", squeeze=False)
    for step, column in zip(chosen, grid.T, strict=True):
        column[0].set_title(_moment(run, step))
        for i, (axes, name) in enumerate(zip(column, beliefs.space, strict=True)):
            axis = beliefs.space[name]
            scale = Scale(axis.low, axis.high, 0, 1, beliefs.kinds[name])
            _draw_belief(axes, step, i)
            for j, trial in enumerate(_trials_of(run, step)):
                look = {"color": f"C{2 - j % 2}", "ls": "--", "lw": 1}
                axes.axvline(scale(trial[name]), **look)
            ticks = replace(scale, end=100).ticks()
            axes.set_xticks([scale(value) for value, _ in ticks], [x for _, x in ticks])
            axes.set_xlabel(name)
    for row in grid:
        row[0].set_ylabel(f"gain ({numbers.unit(run)})")
    return figure


def _draw_belief(axes: Axes, step: Any, i: int) -> None:
    units = np.linspace(0, 1, step.mean.shape[1])
    half = Z90 * np.hypot(step.stddev[i], step.noise[i])
    axes.plot(units, step.mean[i], color="C0")
    low, high = step.mean[i] - half, step.mean[i] + half
    axes.fill_between(units, low, high, color="C0", alpha=0.2, linewidth=0)


def _trials_of(run: Run, step: Any) -> Sequence[Row]:
    return run.decisions[step.row]["trials"] if step.row < len(run.decisions) else ()


def _moment(run: Run, step: Any) -> str:
    if step.row >= len(run.decisions):
        return "after all probes"
    row = run.decisions[step.row]
    probe = row["branch"] < 0
    return f"probe {step.seen + 1}" if probe else f"epoch {row['epoch']}"


def render(draw: Callable[..., Figure], what: Any) -> bytes:
    """Draws a figure: the bytes of a PNG file, the same for the same run."""
    inked = "text.color axes.labelcolor axes.edgecolor xtick.color ytick.color"
    style: Any = dict.fromkeys(inked.split(), INK)
    style |= {"axes.prop_cycle": rcsetup.cycler(color=COLORS), "grid.color": GRID}
    style |= {"axes.grid": True, "axes.axisbelow": True, "axes.titlesize": "medium"}
    style |= {"savefig.dpi": 150, "legend.frameon": False, "text.parse_math": False}
    buffer = io.BytesIO()
    with matplotlib.rc_context(style):
        draw(what).savefig(buffer, format="png")
    return buffer.getvalue()
