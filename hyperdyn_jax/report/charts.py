"""What the charts of a report show: the page and the PNG files draw the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperdyn_jax.report import numbers
from hyperdyn_jax.report.chart import (
    Chart,
    Drawn,
    Key,
    Panel,
    color_of,
    extent,
    line_keys,
    look_of,
)
from hyperdyn_jax.report.numbers import Z90, Run
from hyperdyn_jax.run.verdicts import number, outcome

DOTTED = 60  # epochs up to which each is a dot of its own
COUNTS = {"step": "accepted steps", "total_steps": "total steps, trials included"}
COLUMNS = {
    "validation_accuracy": "validation accuracy (%)",
    "train_loss": "training loss (nats)",
}
# What became of a setting that was tried: its mark, and its words in a legend; the
# last is drawn over the others.
FATES = {
    "rejected": ("ring", "tried, not taken"),
    "diverged": ("cross", "tried, diverged"),
    "accepted": ("triangle", "tried and taken"),
}


def accuracy(runs: Sequence[Run]) -> Chart:
    """Validation accuracy and training loss over both counts of steps."""
    panels = []
    for column, name in COLUMNS.items():
        kind = "log_uniform" if column == "train_loss" else "uniform"
        up = extent((row[column] for run in runs for row in run.metrics), kind)
        for count, what in COUNTS.items():
            rows = [run.rows_over(count) for run in runs]
            most = max(each[-1][count] for each in rows) or 1
            title = f"{name} over {what}. {_in_words(runs, column, count)}"
            panel = Panel(title, what, name, (0, most * 1.02), up, y_kind=kind)
            for i, each in enumerate(rows):
                x = [row[count] for row in each]
                y = [row[column] for row in each]
                panel.line(x, y, look_of(i))
                if len(x) <= DOTTED:
                    panel.marks("dot", x, y, color_of(i), 2.2)
            panels.append(panel)
    caption = (
        "Accepted steps led to the final weights; total steps are all, those of trials "
        "included. The training loss has a logarithmic axis."
    )
    return Chart(panels, line_keys([run.label for run in runs]), caption)


def _in_words(runs: Sequence[Run], column: str, count: str) -> str:
    return "; ".join(
        f"{run.label}: from {number(rows[0][column])} to "
        f"{number(rows[-1][column])} at {rows[-1][count]:,}"
        for run in runs
        for rows in [run.rows_over(count)]
    )


def hyperparameters(runs: Sequence[Run], beliefs: Any = None) -> Chart:
    """Each hyperparameter over epochs; of a single run over what its model expected."""
    names = dict.fromkeys(name for run in runs for name in run.hyperparameters)
    constant = {name: x for name in names if (x := _constant(runs, name)) is not None}
    if len(constant) == len(names):
        constant = {}
    panels = [_path(runs, name, beliefs) for name in names if name not in constant]
    keys = line_keys([run.label for run in runs]) or [Key("line", "c0", "accepted")]
    fates = [f for f in FATES if any(numbers.challengers(run, f) for run in runs)]
    look = "ink" if runs[1:] else "c1"
    keys += [Key(FATES[fate][0], look, FATES[fate][1]) for fate in fates]
    caption = "Marks are settings that were tried." if fates else ""
    if any(uneven(run) for run in runs):
        caption += (
            " Rounds of a race and pieces of its cooldown count as epochs here, though "
            "they are shorter."
        )
    if any(None in run.settings for run in runs):
        caption += " The line leaves out epochs that were taken back."
    if constant:
        values = ", ".join(f"{name} {number(x)}" for name, x in constant.items())
        caption += f" Never changed: {values}."
    if any(each.values is not None for panel in panels for each in panel.drawn):
        keys.append(Key("shade", "c0", "expected gain"))
        caption += (
            " The background shows the gain that the model expected before each epoch "
            "along this axis, with the other hyperparameters as they were: the deeper "
            "the shade, the larger the gain. Each epoch has a scale of its own."
        )
    return Chart(panels, keys, caption)


def _constant(runs: Sequence[Run], name: str) -> float | None:
    """The value of a hyperparameter that was never tried at another; None if it was."""
    rows = [row["hyperparams"] for run in runs for row in run.metrics]
    rows += [t for run in runs for row in run.decisions for t in row["trials"]]
    values = {row.get(name) for row in rows}
    return values.pop() if len(values) == 1 else None


def uneven(run: Run) -> bool:
    """Whether accepted epochs differ in length, as in a race."""
    return any(outcome(row) == "race" for row in run.decisions)


def _path(runs: Sequence[Run], name: str, beliefs: Any) -> Panel:
    kind = min({run.kind(name) for run in runs} - {"uniform"}, default="uniform")
    trials = [t for run in runs for row in run.decisions for t in row["trials"]]
    paths = [[x.get(name) if x else None for x in run.settings] for run in runs]
    values = [*(trial.get(name) for trial in trials), *(x for p in paths for x in p)]
    up, last = extent(values, kind), max(run.metrics[-1]["epoch"] for run in runs)
    shades = _shades(runs, beliefs, name, kind)
    if shades is not None:
        up = beliefs.space[name].low, beliefs.space[name].high
    known = [[x for x in path if x is not None] for path in paths]
    text = " and ".join(
        f"{run.label} from {number(path[0])} to {number(path[-1])}"
        for run, path in zip(runs, known, strict=True)
    )
    title, ends = f"{name} over accepted epochs: {text}", (-0.5, last + 0.5)
    panel = Panel(title, "accepted epoch", name, ends, up, "whole", kind)
    if shades is not None:
        panel.drawn.append(Drawn("shade", f"shade-{name}", values=shades))
    for i, (run, path) in enumerate(zip(runs, paths, strict=True)):
        epochs = [row["epoch"] for row in run.metrics]
        few = len(epochs) <= DOTTED
        panel.steps(epochs, path, look_of(i))
        if few:
            panel.marks("dot", epochs, path, color_of(i), 2.0)
        for fate, (shape, _) in FATES.items():
            found = numbers.challengers(run, fate)
            x, y = [epoch for epoch, _ in found], [s.get(name) for _, s in found]
            look = color_of(i) if runs[1:] else "c1"
            panel.marks(shape, x, y, look, 3.6 if few else 2.2)
    return panel


def _shades(
    runs: Sequence[Run], beliefs: Any, name: str, kind: str
) -> np.ndarray | None:
    """Where the model of a single run expected the most, f64[grid, epochs] in [0, 1];
    None where it was not asked in any epoch, or on another axis."""
    if beliefs is None or runs[1:] or beliefs.kinds.get(name) != kind:
        return None
    (run,) = runs
    axis, epochs = list(beliefs.space).index(name), len(run.metrics)
    shades = np.zeros((beliefs.steps[0].mean.shape[1], epochs))
    for step in beliefs.steps:
        if run.decisions[step.row]["branch"] < 0:
            continue
        mean, epoch = step.mean[axis], int(run.decisions[step.row]["epoch"])
        width = mean.max() - mean.min()
        if epoch < epochs and width > 0:
            shades[:, epoch] = (mean - mean.min()) / width
    return shades if shades.any() else None


def gains(runs: Sequence[Run]) -> Chart:
    """Predicted over realised gains, with predictive 90% intervals, of the runs that
    have some; an interval that crosses the dashed line held the gain."""
    made = [(run, found) for run in runs if (found := numbers.predictions(run))]
    panels = [_gains(run, found) for run, found in made]
    both = len({p.challenger for _, found in made for p in found}) > 1
    keys = [Key("dot", "c2", "incumbents")] if both else []
    keys.append(Key("triangle", "c1", "challengers" if both else "probes"))
    keys.append(Key("line", "ink thin dashed", "predicted = realised"))
    caption = (
        "A bar that crosses the dashed line held the gain. The intervals are "
        "predictive: they include the fitted noise. Diverged trials have no gain."
    )
    return Chart(panels, keys, caption, size=(4.5, 4.2))


def _gains(run: Run, made: Sequence[numbers.Prediction]) -> Panel:
    ends = [p.mean + sign * Z90 * p.stddev for p in made for sign in (-1, 1)]
    across, up = extent(p.gain for p in made), extent(ends)
    unit, told = numbers.unit(run), numbers.coverage(made)
    panel = Panel(
        f"Predicted over realised gains in {unit}: {told}",
        f"realised gain ({unit})",
        f"predicted gain ({unit})",
        across,
        (min(up[0], across[0]), max(up[1], across[1])),
        head=f"{run.label}\n{told}",
    )
    panel.line(across, across, "ink thin dashed")
    for look, shape, challenger in (("c2", "dot", False), ("c1", "triangle", True)):
        mine = [p for p in made if p.challenger == challenger]
        gains, means = [p.gain for p in mine], [p.mean for p in mine]
        lows = [p.mean - Z90 * p.stddev for p in mine]
        panel.between(
            "bars", gains, lows, [p.mean + Z90 * p.stddev for p in mine], look
        )
        panel.marks(shape, gains, means, look)
    return panel


def cost(runs: Sequence[Run]) -> Chart:
    """Cumulative steps: those of the accepted path, and on top of them the trials'."""
    panels = [_cost(run) for run in runs]
    keys = [Key("band line", "c0", "accepted path")]
    if any(numbers.extra(run) for run in runs):
        keys.append(Key("band line", "c1 dashed", "total, trials included"))
    return Chart(panels, keys, size=(4.5, 3.2))


def _cost(run: Run) -> Panel:
    accepted, total = (
        [0, *(row[key] for row in run.metrics)] for key in ("step", "total_steps")
    )
    epochs = list(range(len(accepted)))
    told = numbers.steps(run)
    panel = Panel(
        f"Cumulative optimizer steps: {told}",
        "accepted epochs",
        "cumulative optimizer steps",
        (0, epochs[-1]),
        (0, (total[-1] or 1) * 1.05),
        "whole",
        head=f"{run.label}\n{told}",
    )
    panel.between("band", epochs, [0] * len(epochs), accepted, "c0")
    if numbers.extra(run):
        panel.between("band", epochs, accepted, total, "c1")
        panel.line(epochs, total, "c1 dashed")
    panel.line(epochs, accepted, "c0")
    return panel


FIGURES = (accuracy, hyperparameters, gains, cost)
